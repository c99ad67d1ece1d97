// Command mochi is the mochi MQTT library as a broker that lets everybody in,
// for measuring beside ours: see the package above.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	plain := flag.String("plain", "127.0.0.1:1883", "`address` of the plain listener")
	secure := flag.String("tls", "", "`address` of the TLS listener, which asks for a client certificate")
	ca := flag.String("ca", "", "`file` with the roots of client certificates")
	cert := flag.String("cert", "", "`file` with the server's certificate")
	key := flag.String("key", "", "`file` with its key")
	version := flag.Bool("version", false, "print the library's version")
	flag.Parse()
	if *version {
		printVersion()
		return
	}
	if err := run(*plain, *secure, *ca, *cert, *key); err != nil {
		log.Fatal(err)
	}
}

func run(plain, secure, ca, cert, key string) error {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return err
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "plain", Address: plain})); err != nil {
		return err
	}
	if secure != "" {
		conf, err := tlsConfig(ca, cert, key)
		if err != nil {
			return err
		}
		if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "tls", Address: secure, TLSConfig: conf})); err != nil {
			return err
		}
	}
	if err := server.Serve(); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	return server.Close()
}

func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12,
	}, nil
}

func printVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/mochi-mqtt/server/v2" {
			fmt.Println("mochi", m.Version, info.GoVersion)
		}
	}
}

package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/quic-go/quic-go"
)

// TestTransports publishes with one certificate over each listener and reads it
// with a stock client; without a certificate nobody gets in.
func TestTransports(t *testing.T) {
	need(t, "mosquitto", "mosquitto_sub")
	paris := newNetwork(t).addHost("paris")
	paris.up(t, "--site", "paris")
	paris.run(t, "hpmq-enroll", "--out", "pump-7", paris.ticket(t, "enroll", "ticket", "--name", "pump-7", "--role", "sensor"))
	sub := paris.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v")
	eventually(t, 10*time.Second, "the subscriber is there", func() bool { return paris.status(t).Broker["subscriptions"] > 0 })

	conf := paris.clientTLS(t)
	nobody := conf.Clone()
	nobody.Certificates = nil
	for name, dial := range map[string]func(context.Context, *tls.Config) (net.Conn, error){
		"tls": paris.dialTLS, "websocket": paris.dialWebSocket, "quic": paris.dialQUIC,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := publishOver(ctx, dial, conf, "site/paris/pump-7/"+name); err != nil {
				t.Fatal(err)
			}
			sub.waitLine("site/paris/pump-7/"+name+" hello", 10*time.Second)
			if err := publishOver(ctx, dial, nobody, "site/paris/pump-7/x"); err == nil {
				t.Error("a client without a certificate published")
			}
		})
	}
	if lines := strings.Join(sub.output(), "\n"); strings.Contains(lines, "/x ") {
		t.Errorf("published without a certificate: %s", lines)
	}
}

// publishOver connects, publishes with QoS 1 and says goodbye.
func publishOver(ctx context.Context, dial func(context.Context, *tls.Config) (net.Conn, error), conf *tls.Config, topic string) error {
	conn, err := dial(ctx, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn)})
	if _, err := c.Connect(ctx, &paho.Connect{KeepAlive: 10, CleanStart: true}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := c.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte("hello")}); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return c.Disconnect(&paho.Disconnect{})
}

// clientTLS is the configuration of a client with the identity in pump-7.
func (h *host) clientTLS(t *testing.T) *tls.Config {
	t.Helper()
	file := func(name string) string { return filepath.Join(h.home, "pump-7", name) }
	pair, err := tls.LoadX509KeyPair(file("cert.pem"), file("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(file("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
}

func (h *host) dialTLS(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	raw, err := h.dialTCP(ctx, "127.0.0.1:8883")
	if err != nil {
		return nil, err
	}
	return tls.Client(raw, conf), nil
}

func (h *host) dialTCP(ctx context.Context, addr string) (conn net.Conn, err error) {
	err = h.onNetwork(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
		return err
	})
	return conn, err
}

func (h *host) dialWebSocket(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	transport := &http.Transport{
		TLSClientConfig: conf,
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return h.dialTCP(ctx, "127.0.0.1:9001") },
	}
	c, resp, err := websocket.Dial(ctx, "https://localhost:9001/mqtt", &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: transport},
	})
	if resp != nil && resp.Body != nil {
		resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	return websocket.NetConn(context.WithoutCancel(ctx), c, websocket.MessageBinary), nil
}

// quicConn is one stream and its connection.
type quicConn struct {
	*quic.Stream
	conn *quic.Conn
	pc   net.PacketConn
}

func (c quicConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c quicConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

func (c quicConn) Close() error {
	return errors.Join(c.Stream.Close(), c.conn.CloseWithError(0, ""), c.pc.Close())
}

func (h *host) dialQUIC(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	var pc net.PacketConn
	err := h.onNetwork(func() (err error) {
		pc, err = net.ListenPacket("udp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"mqtt"}
	conn, err := quic.Dial(ctx, pc, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 14567}, conf, nil)
	if err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	return quicConn{stream, conn, pc}, nil
}

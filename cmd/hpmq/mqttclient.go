package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

// mqttFlags are the connection flags that pub and sub share. Their letters are
// mosquitto_pub's and mosquitto_sub's.
type mqttFlags struct {
	host, id, unix string
	port           int
	ca, cert, key  string
	user, password string
	topics         []string
	qos            int
	keepAlive      uint16
	verbose        bool
}

func addMQTTFlags(cmd *cobra.Command) *mqttFlags {
	f := &mqttFlags{}
	fl := cmd.Flags()
	fl.Bool("help", false, "help for "+cmd.Name()) // frees -h for the host
	fl.StringVarP(&f.host, "host", "h", "", "broker `host` (default: the node that runs here)")
	fl.IntVarP(&f.port, "port", "p", 0, "broker `port` (default 1883, with --cafile 8883)")
	fl.StringVar(&f.unix, "unix", "", "`path` of a unix socket to connect to instead")
	fl.StringVarP(&f.id, "id", "i", "", "client `id` (default: chosen by the broker)")
	fl.StringVar(&f.ca, "cafile", "", "`file` with the roots that the broker's certificate must lead to; turns TLS on")
	fl.StringVar(&f.cert, "cert", "", "`file` with this client's certificate")
	fl.StringVar(&f.key, "key", "", "`file` with the certificate's key")
	fl.StringVarP(&f.user, "username", "u", "", "user `name`")
	fl.StringVarP(&f.password, "pw", "P", "", "`password`")
	fl.IntVarP(&f.qos, "qos", "q", 1, "quality of service: 0, 1 or 2")
	fl.Uint16VarP(&f.keepAlive, "keepalive", "k", 60, "keep alive in `seconds`")
	fl.StringArrayVarP(&f.topics, "topic", "t", nil, "`topic`, may be repeated in sub")
	return f
}

func (f *mqttFlags) check() error {
	if len(f.topics) == 0 {
		return control.Invalidf("which topic? add -t TOPIC")
	}
	if f.qos < 0 || f.qos > 2 {
		return control.Invalidf("quality of service %d: want 0, 1 or 2", f.qos)
	}
	if (f.cert == "") != (f.key == "") {
		return control.Invalidf("--cert and --key go together")
	}
	if f.cert != "" && f.ca == "" {
		return control.Invalidf("--cert needs --cafile, which turns TLS on")
	}
	if f.unix != "" && (f.host != "" || f.port != 0 || f.ca != "") {
		return control.Invalidf("--unix goes without --host, --port and --cafile")
	}
	return nil
}

// address returns the broker's address: the flags', else the plain listener of
// the node that runs here.
func (f *mqttFlags) address(cmd *cobra.Command) (string, error) {
	if f.unix != "" {
		return f.unix, nil
	}
	port := f.port
	if port == 0 && f.ca != "" {
		port = 8883
	}
	if f.host == "" && f.port == 0 && f.ca == "" && f.user == "" {
		s, err := askNode(cmd, control.GetStatus, control.None{})
		if err != nil {
			return "", err
		}
		for _, l := range s.Listeners {
			if l.Name == control.ListenerPlain {
				return l.Address, nil
			}
		}
		return "", &control.Error{
			Code: control.Unreachable, Err: errors.New("the node has no plain MQTT listener"),
			Hint: "say where: -h localhost -p 8883 --cafile … --cert … --key …",
		}
	}
	if port == 0 {
		port = 1883
	}
	host := f.host
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

func (f *mqttFlags) dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if f.unix != "" {
		return d.DialContext(ctx, "unix", address)
	}
	if f.ca == "" {
		return d.DialContext(ctx, "tcp", address)
	}
	conf, err := f.tlsConfig()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{NetDialer: &d, Config: conf}).DialContext(ctx, "tcp", address)
}

func (f *mqttFlags) tlsConfig() (*tls.Config, error) {
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, control.Invalidf("%s holds no certificate", f.ca)
	}
	conf := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, control.Fail(control.Invalid, "", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// mqttSession is one connection of pub or sub.
type mqttSession struct {
	client *paho.Client
	closed <-chan struct{}
	lost   chan error // the reason, when the broker or the network ended it
}

// connect opens a clean session. onMessage may be nil.
func (f *mqttFlags) connect(cmd *cobra.Command, onMessage func(*paho.Publish)) (*mqttSession, error) {
	address, err := f.address(cmd)
	if err != nil {
		return nil, err
	}
	conn, err := f.dial(cmd.Context(), address)
	if err != nil {
		return nil, control.Fail(control.Unreachable, "is a broker listening on "+address+"?", err)
	}
	s := &mqttSession{lost: make(chan error, 1)}
	report := func(err error) {
		select {
		case s.lost <- err:
		default:
		}
	}
	s.client = paho.NewClient(paho.ClientConfig{
		// One packet takes several writes, and on TLS a ping could come between.
		Conn: packets.NewThreadSafeConn(conn),
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			if onMessage != nil {
				onMessage(p.Packet)
			}
			return true, nil
		}},
		OnClientError:      func(err error) { report(control.Fail(control.Unreachable, "", err)) },
		OnServerDisconnect: func(d *paho.Disconnect) { report(disconnected(d)) },
	})
	connect := &paho.Connect{ClientID: f.id, KeepAlive: f.keepAlive, CleanStart: true}
	if f.user != "" {
		connect.UsernameFlag, connect.Username = true, f.user
		connect.PasswordFlag, connect.Password = f.password != "", []byte(f.password)
	}
	ack, err := s.client.Connect(cmd.Context(), connect)
	if err != nil {
		conn.Close()
		if ack != nil && ack.ReasonCode >= 0x80 {
			return nil, refusedByBroker("connect to "+address, ack.ReasonCode, connackReason(ack))
		}
		return nil, control.Fail(control.Unreachable, "", fmt.Errorf("connect to %s: %w", address, err))
	}
	s.closed = s.client.Done()
	return s, nil
}

func (s *mqttSession) close() {
	_ = s.client.Disconnect(&paho.Disconnect{}) // the broker may be gone already
}

func connackReason(ack *paho.Connack) string {
	if ack.Properties == nil {
		return ""
	}
	return orElsewhere(ack.Properties.ReasonString, ack.Properties.ServerReference)
}

// orElsewhere adds to a reason where the broker sends its clients.
func orElsewhere(reason, reference string) string {
	if reference == "" {
		return reason
	}
	return strings.TrimPrefix(reason+"; use "+reference, "; ")
}

func disconnected(d *paho.Disconnect) error {
	var reason string
	if d.Properties != nil {
		reason = orElsewhere(d.Properties.ReasonString, d.Properties.ServerReference)
	}
	return refusedByBroker("the connection", d.ReasonCode, reason)
}

// refusedByBroker names the refused request and the reason; "not authorized" becomes
// the exit code for a denial.
func refusedByBroker(what string, code byte, reason string) error {
	if reason == "" {
		reason = "no reason given"
	}
	kind := control.Failed
	hint := ""
	if code == 0x87 { // Not authorized
		kind, hint = control.Denied, "ask the policy: hpmq why WHO publish|subscribe TOPIC"
	}
	return &control.Error{Code: kind, Err: fmt.Errorf("%s was refused with 0x%02x: %s", what, code, plainText(reason)), Hint: hint}
}

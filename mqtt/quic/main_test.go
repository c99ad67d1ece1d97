package quic

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long a test waits for events that should take milliseconds.
const limit = 10 * time.Second

func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func start(t testing.TB, opts Options) *Listener {
	t.Helper()
	l, err := Listen("127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{certificate(t)}, ClientAuth: tls.RequestClientCert,
	}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// client is a stock QUIC client with a certificate.
func client(t testing.TB, l *Listener, alpn string) (*quicgo.Conn, error) {
	t.Helper()
	tlsConf := &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{alpn}, Certificates: []tls.Certificate{certificate(t)},
	}
	qc, err := quicgo.DialAddr(timeout(t), l.Addr().String(), tlsConf, nil)
	if err == nil {
		t.Cleanup(func() { _ = qc.CloseWithError(0, "") })
	}
	return qc, err
}

func dial(t testing.TB, l *Listener) *quicgo.Conn {
	t.Helper()
	qc, err := client(t, l, ALPN)
	if err != nil {
		t.Fatal(err)
	}
	return qc
}

// accept takes the next connection or fails the test.
func accept(t testing.TB, l *Listener) net.Conn {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		if nc, err := l.Accept(); err == nil {
			got <- nc
		}
	}()
	select {
	case nc := <-got:
		t.Cleanup(func() { nc.Close() })
		if err := nc.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		return nc
	case <-time.After(limit):
		t.Fatal("nothing to accept")
	}
	panic("unreachable")
}

// connect opens a stream that says hello, on both sides.
func connect(t testing.TB, l *Listener) (*quicgo.Conn, *quicgo.Stream, net.Conn) {
	t.Helper()
	qc := dial(t, l)
	qs := open(t, qc, "hello")
	nc := accept(t, l)
	hello := make([]byte, 5)
	if n, err := nc.Read(hello); string(hello[:n]) != "hello" || err != nil {
		t.Fatalf("%q, %v", hello[:n], err)
	}
	return qc, qs, nc
}

func open(t testing.TB, qc *quicgo.Conn, hello string) *quicgo.Stream {
	t.Helper()
	qs, err := qc.OpenStreamSync(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := qs.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := qs.Write([]byte(hello)); err != nil {
		t.Fatal(err)
	}
	return qs
}

// ended waits for the end of a connection and returns its application error.
func ended(t testing.TB, qc *quicgo.Conn) (quicgo.ApplicationErrorCode, bool) {
	t.Helper()
	select {
	case <-qc.Context().Done():
	case <-time.After(limit):
		t.Fatal("the connection does not end")
	}
	err, ok := context.Cause(qc.Context()).(*quicgo.ApplicationError) //nolint:errorlint // quic-go's own cause
	if !ok {
		t.Errorf("cause %v", context.Cause(qc.Context()))
		return 0, false
	}
	return err.ErrorCode, err.Remote
}

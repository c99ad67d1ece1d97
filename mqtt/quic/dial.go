package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	quicgo "github.com/quic-go/quic-go"
)

// Dial connects to the broker at addr, "host:port", as a client. The server name
// of tlsConf is the host, if it has none.
func Dial(ctx context.Context, addr string, tlsConf *tls.Config) (net.Conn, error) {
	tlsConf = tlsConf.Clone()
	tlsConf.NextProtos = []string{ALPN}
	qc, err := quicgo.DialAddr(ctx, addr, tlsConf, nil)
	if err != nil {
		return nil, err
	}
	qs, err := qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, errors.Join(err, qc.CloseWithError(codeClosed, ""))
	}
	return &clientConn{Stream: qs, qc: qc}, nil
}

// clientConn is a client's one stream and the connection below it.
type clientConn struct {
	*quicgo.Stream
	qc *quicgo.Conn
}

// LocalAddr returns the address of the client's socket.
func (c *clientConn) LocalAddr() net.Addr { return c.qc.LocalAddr() }

// RemoteAddr returns the broker's address.
func (c *clientConn) RemoteAddr() net.Addr { return c.qc.RemoteAddr() }

// Close ends the connection. Data that the broker has not received yet may be lost.
func (c *clientConn) Close() error {
	return errors.Join(c.Stream.Close(), c.qc.CloseWithError(codeClosed, ""))
}

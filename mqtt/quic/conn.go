package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	quicgo "github.com/quic-go/quic-go"
)

// linger is how long the client may take to fetch the rest after Close, and the
// owner to close after the listener.
const linger = time.Second

// maxAhead bounds the bytes that TryWrite queues. quic-go would keep as many as the
// client's window allows, and the client chooses its window. quic-go does not tell
// which bytes it has sent either; but a Write returns only after all earlier bytes were
// sent.
const maxAhead = 32 << 10

// conn is a client's one stream and the connection below it. It has two owners: the
// goroutine that uses the stream, and attend, which ends the connection.
type conn struct {
	qc *quicgo.Conn
	qs *quicgo.Stream

	ahead int // bytes that TryWrite queued since the last Write; of the writing goroutine

	writing sync.Mutex // held by Write
	closing sync.Once
	closed  chan struct{} // closed by Close
	cut     bool          // a Write was under way at Close; set before closed is closed
}

func newConn(qc *quicgo.Conn, qs *quicgo.Stream) *conn {
	return &conn{qc: qc, qs: qs, closed: make(chan struct{})}
}

// attend waits for Close and then ends the connection, but not at once. Ending it drops
// sent data that the client has not received yet, and QUIC does not tell when it has. A
// client usually ends the connection itself when the stream is over.
func (c *conn) attend(ctx context.Context) {
	select {
	case <-c.closed:
	case <-c.qc.Context().Done():
		return
	case <-ctx.Done():
		c.await(c.closed)
	}
	select {
	case <-c.closed:
		if !c.cut {
			c.await(c.qc.Context().Done())
		}
	default: // the owner did not
	}
	c.qc.CloseWithError(codeClosed, "") //nolint:errcheck // always nil
}

// await waits for done, the end of the connection, or linger.
func (c *conn) await(done <-chan struct{}) {
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-done:
	case <-c.qc.Context().Done():
	case <-t.C:
	}
}

// Read implements [net.Conn]. It returns io.EOF once the client closed the
// stream or, with code 0, the connection.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.qs.Read(p)
	return n, c.explain("read", err)
}

// Write implements [net.Conn].
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.qs.Write(p)
	if err == nil {
		c.ahead = 0
	}
	return n, c.explain("write", err)
}

// TryWrite queues all of p for the connection's own goroutine to send, or nothing if
// the client's window or the bytes that wait leave no room for it. It must not be
// called during a Write.
func (c *conn) TryWrite(p []byte) (done bool, err error) {
	if c.ahead+len(p) > maxAhead {
		return false, nil
	}
	switch err := c.qs.TryWriteAll(p); {
	case err == nil:
		c.ahead += len(p)
		return true, nil
	case errors.Is(err, quicgo.ErrWouldBlock):
		return false, nil
	default:
		return false, c.explain("write", err)
	}
}

// explain turns an error of the stream into one of a net.Conn.
func (c *conn) explain(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // the stream returns it bare
		return err
	}
	select {
	case <-c.closed:
		err = net.ErrClosed
	default:
		ended, ok := errors.AsType[*quicgo.ApplicationError](err)
		switch {
		case ok && ended.Remote && ended.ErrorCode == codeClosed && op == "read":
			return io.EOF
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = os.ErrDeadlineExceeded
		}
	}
	return &net.OpError{Op: op, Net: "quic", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close implements [net.Conn]. It does not wait: the client has a moment to receive the
// written data, then the connection ends with code 0. A Write that is under way is cut
// off.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.closing.Do(func() {
		err = nil
		if c.writing.TryLock() {
			_ = c.qs.Close() // fails if the stream is over
			c.writing.Unlock()
		} else {
			c.cut = true
		}
		close(c.closed)
		if c.cut {
			c.qs.CancelWrite(0)
		}
		c.qs.CancelRead(0)
	})
	return err
}

// LocalAddr returns our UDP address.
func (c *conn) LocalAddr() net.Addr { return c.qc.LocalAddr() }

// RemoteAddr returns the UDP address that the client has at the moment.
func (c *conn) RemoteAddr() net.Addr { return c.qc.RemoteAddr() }

// ConnectionState returns the result of the TLS handshake.
func (c *conn) ConnectionState() tls.ConnectionState { return c.qc.ConnectionState().TLS }

// SetDeadline implements [net.Conn].
func (c *conn) SetDeadline(t time.Time) error { return c.qs.SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(t time.Time) error { return c.qs.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(t time.Time) error { return c.qs.SetWriteDeadline(t) }

package socket

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// Quick wraps a socket so that a [Sink] can write to it through TLS without
// blocking: use it below TLS, as in tls.Server(socket.Quick(nc), config). Other
// uses of the connection see no difference. Without it every flush to a TLS
// client takes a goroutine.
func Quick(nc net.Conn) net.Conn {
	if s := newRawSink(nc); s != nil {
		return &Conn{Conn: nc, sink: s}
	}
	return nc
}

// Of returns the socket that nc is or that is below its TLS, or nil if that is
// none of [Quick].
func Of(nc net.Conn) *Conn {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	c, _ := nc.(*Conn)
	return c
}

// Conn is the socket of a connection, below TLS or alone. Once a sink writes through
// its TLS, records gather until that sink writes them. HandOver replaces the
// connection inside.
type Conn struct {
	net.Conn      // guarded by mu
	sink     Sink // belongs to the user of the connection's sink

	mu        sync.Mutex // guards all below
	gathering bool       // records stay in buf
	sealing   bool       // by the tlsSink: the record that comes is not TLS's own
	closed    bool
	buf       []byte
	spare     []byte
}

// maxUnasked is how much TLS may add of its own before the sink writes next. A
// peer that asks for new keys gets a record each time, and may never be written to.
const maxUnasked = 4 << 10

// maxKept is the largest buffer of records that is used again.
const maxKept = 256 << 10

var errUnasked = errors.New("too many TLS records that nobody asked for")

// inner returns the connection inside.
func (c *Conn) inner() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn
}

// Read implements [net.Conn].
func (c *Conn) Read(b []byte) (int, error) { return c.inner().Read(b) }

// Close implements [net.Conn].
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	inner := c.Conn
	c.mu.Unlock()
	return inner.Close()
}

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.inner().SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.inner().SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.inner().SetWriteDeadline(t) }

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.inner().LocalAddr() }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.inner().RemoteAddr() }

// gatherRecords keeps from now on the records that TLS writes, for the tlsSink.
func (c *Conn) gatherRecords() {
	c.mu.Lock()
	c.gathering = true
	c.mu.Unlock()
}

// Write implements [net.Conn].
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.gathering {
		defer c.mu.Unlock()
		if !c.sealing && len(c.buf) > maxUnasked {
			return 0, errUnasked
		}
		c.buf = append(c.buf, b...)
		return len(b), nil
	}
	inner := c.Conn
	c.mu.Unlock()
	return inner.Write(b)
}

func (c *Conn) setSealing(on bool) {
	c.mu.Lock()
	c.sealing = on
	c.mu.Unlock()
}

// takeRecords returns the records that have gathered; they are the caller's until
// reuseRecords.
func (c *Conn) takeRecords() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buf
	c.buf, c.spare = c.spare, nil
	return b
}

// reuseRecords gives the buffer of takeRecords back.
func (c *Conn) reuseRecords(b []byte) {
	if cap(b) > maxKept {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		c.buf = b[:0]
	} else {
		c.spare = b[:0]
	}
}

// tlsSink encrypts a whole flush into as few records as it fills and writes them
// with one system call.
type tlsSink struct {
	tc     *tls.Conn
	below  *Conn
	socket Sink
	sealed []byte
	err    error // of Hold
}

// seal encrypts b.
func (s *tlsSink) seal(b []byte) error {
	s.below.setSealing(true)
	_, err := s.tc.Write(b)
	s.below.setSealing(false)
	if err == nil {
		s.sealed = s.below.takeRecords()
	}
	return err
}

// Try implements [Sink].
func (s *tlsSink) Try(b []byte) (bool, error) {
	if err := s.seal(b); err != nil {
		return false, err
	}
	done, err := s.socket.Try(s.sealed)
	if done {
		s.below.reuseRecords(s.sealed)
	}
	return done, err
}

// Hold implements [Sink].
func (s *tlsSink) Hold(b []byte) {
	if s.err = s.seal(b); s.err == nil {
		s.socket.Hold(s.sealed)
	}
}

// CloseNotify implements [Notifier] (RFC 8446 §6.1).
func (s *tlsSink) CloseNotify() {
	if s.tc.CloseWrite() == nil {
		_, _ = s.socket.Try(s.below.takeRecords())
	}
}

// Patient implements [Sink].
func (s *tlsSink) Patient() bool { return false }

// Drain implements [Sink].
func (s *tlsSink) Drain() error {
	if s.err != nil {
		return s.err
	}
	if err := s.socket.Drain(); err != nil {
		return err
	}
	s.below.reuseRecords(s.sealed)
	return nil
}

package mqtt

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// sink writes to one connection. Its owner is whoever set outbox.busy.
type sink interface {
	// try writes what goes without blocking. If that is not all, done is false
	// and the sink keeps the rest, aliasing b, for drain.
	try(b []byte) (done bool, err error)
	// hold keeps b for drain.
	hold(b []byte)
	// drain blocks until what the sink keeps is written.
	drain() error
	// patient reports whether a rest deserves a moment when the connection ends:
	// where try leaves one though the client reads.
	patient() bool
}

// writeStall is how long a client may take nothing before it is given up.
const writeStall = time.Minute

// drainChunk is written under one deadline, so that a slow client is told from a
// dead one.
const drainChunk = 64 << 10

// TryWriter is a connection that is no socket, such as a stream of QUIC, and can
// write without blocking all the same.
type TryWriter interface {
	net.Conn
	// TryWrite writes all of b, or nothing if it would block.
	TryWrite(b []byte) (done bool, err error)
}

// Framed is a connection whose bytes travel in frames on another one, as those of
// a WebSocket do. The broker shows it how to write to that one without blocking.
type Framed interface {
	net.Conn
	// Below returns the connection that carries the frames.
	Below() net.Conn
	// WriteThrough has try write all frames from now on. What would block it keeps,
	// aliasing b, and takes nothing else until drain returned. No two calls overlap.
	WriteThrough(try func(b []byte) (done bool, err error), drain func() error)
	// TryFrame writes b as one frame. If not all of it goes, done is false and the
	// rest waits for Drain, aliasing b.
	TryFrame(b []byte) (done bool, err error)
	// Drain blocks until that rest is written.
	Drain() error
}

// newSink returns the sink that suits nc.
func newSink(nc net.Conn) sink {
	if f, ok := nc.(Framed); ok {
		if below := quickSink(f.Below()); below != nil {
			f.WriteThrough(below.try, below.drain)
			return &framedSink{nc: f}
		}
	}
	if s := quickSink(nc); s != nil {
		return s
	}
	return &blockingSink{nc: nc}
}

// quickSink returns a sink for a socket, with or without TLS, or nil.
func quickSink(nc net.Conn) sink {
	below := lowest(nc)
	switch tc, sealed := nc.(*tls.Conn); {
	case sealed && below != nil:
		below.take()
		return &tlsSink{tc: tc, below: below, socket: below.socket}
	case below != nil:
		return below.socket
	}
	if s := newSocketSink(nc); s != nil {
		return s
	}
	return nil
}

// blockingSink leaves to drain what the connection does not write at once as a
// [TryWriter], and that is everything if it is none.
type blockingSink struct {
	nc   net.Conn
	rest []byte
}

func (s *blockingSink) try(b []byte) (bool, error) {
	if w, ok := s.nc.(TryWriter); ok {
		if done, err := w.TryWrite(b); done || err != nil {
			return done, err
		}
	}
	s.rest = b
	return false, nil
}

func (s *blockingSink) hold(b []byte) { s.rest = b }

func (s *blockingSink) patient() bool { return true }

func (s *blockingSink) drain() error {
	err := writeAll(s.nc, s.rest)
	s.rest = nil
	return err
}

func writeAll(nc net.Conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), drainChunk)
		if err := nc.SetWriteDeadline(time.Now().Add(writeStall)); err != nil {
			return err
		}
		if _, err := nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nc.SetWriteDeadline(time.Time{}) // it would end the next try of a socketSink
}

// framedSink lets the connection make frames of what it writes.
type framedSink struct {
	nc   Framed
	held []byte
}

func (s *framedSink) try(b []byte) (bool, error) { return s.nc.TryFrame(b) }

func (s *framedSink) hold(b []byte) { s.held = b }

func (s *framedSink) patient() bool { return false }

func (s *framedSink) drain() error {
	if b := s.held; b != nil {
		s.held = nil
		if done, err := s.try(b); done || err != nil {
			return err
		}
	}
	return s.nc.Drain()
}

// socketSink writes to a socket with raw system calls and stops where one would
// block.
type socketSink struct {
	nc      net.Conn
	raw     syscall.RawConn
	rest    []byte
	err     error
	attempt func(fd uintptr) bool // made once: a closure per write would allocate
}

func newSocketSink(nc net.Conn) *socketSink {
	sc, ok := nc.(syscall.Conn)
	if !ok || !canTryWrite {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socketSink{nc: nc, raw: raw}
	s.attempt = s.write
	return s
}

// write is called by RawConn with the socket's descriptor. It always returns
// true: the poller shall not wait.
func (s *socketSink) write(fd uintptr) bool {
	for len(s.rest) > 0 && s.err == nil {
		n, again, err := tryWrite(fd, s.rest)
		s.rest = s.rest[n:]
		s.err = err
		if again {
			break
		}
	}
	return true
}

func (s *socketSink) try(b []byte) (bool, error) {
	s.rest = b
	if err := s.raw.Write(s.attempt); err != nil {
		return false, err
	}
	return len(s.rest) == 0, s.err
}

func (s *socketSink) hold(b []byte) { s.rest = b }

func (s *socketSink) patient() bool { return false }

func (s *socketSink) drain() error {
	err := writeAll(s.nc, s.rest)
	s.rest = nil
	return err
}

// Quick wraps a socket so that the broker can write to it through TLS without
// blocking: use it below TLS, as in tls.Server(mqtt.Quick(nc), config). Other
// uses of the connection see no difference. Without it every flush to a TLS
// client takes a goroutine.
func Quick(nc net.Conn) net.Conn {
	if s := newSocketSink(nc); s != nil {
		return &quickConn{Conn: nc, socket: s}
	}
	return nc
}

// lowest returns the socket that nc is or that is below its TLS, or nil.
func lowest(nc net.Conn) *quickConn {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	q, _ := nc.(*quickConn)
	return q
}

// quickConn is the socket of a connection, below TLS or alone. Once the broker
// took it from TLS, records gather until the tlsSink writes them. An event loop
// may replace what is inside.
type quickConn struct {
	net.Conn      // guarded by mu
	socket   sink // of whoever has the outbox's

	mu      sync.Mutex // guards all below
	taken   bool
	sealing bool // by the tlsSink: what comes is not TLS's own
	closed  bool
	buf     []byte
	spare   []byte
}

// maxUnasked is how much TLS may add of its own before the broker next writes. A
// peer that asks for new keys gets a record each time, and may never be written to.
const maxUnasked = 4 << 10

var errUnasked = errors.New("too many TLS records that nobody asked for")

// inner returns what is inside now.
func (q *quickConn) inner() net.Conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.Conn
}

// Read implements [net.Conn].
func (q *quickConn) Read(b []byte) (int, error) { return q.inner().Read(b) }

// Close implements [net.Conn].
func (q *quickConn) Close() error {
	q.mu.Lock()
	q.closed = true
	inner := q.Conn
	q.mu.Unlock()
	return inner.Close()
}

// SetDeadline implements [net.Conn].
func (q *quickConn) SetDeadline(t time.Time) error { return q.inner().SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (q *quickConn) SetReadDeadline(t time.Time) error { return q.inner().SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (q *quickConn) SetWriteDeadline(t time.Time) error { return q.inner().SetWriteDeadline(t) }

// LocalAddr implements [net.Conn].
func (q *quickConn) LocalAddr() net.Addr { return q.inner().LocalAddr() }

// RemoteAddr implements [net.Conn].
func (q *quickConn) RemoteAddr() net.Addr { return q.inner().RemoteAddr() }

func (q *quickConn) take() {
	q.mu.Lock()
	q.taken = true
	q.mu.Unlock()
}

// Write implements [net.Conn].
func (q *quickConn) Write(b []byte) (int, error) {
	q.mu.Lock()
	if q.taken {
		defer q.mu.Unlock()
		if !q.sealing && len(q.buf) > maxUnasked {
			return 0, errUnasked
		}
		q.buf = append(q.buf, b...)
		return len(b), nil
	}
	inner := q.Conn
	q.mu.Unlock()
	return inner.Write(b)
}

func (q *quickConn) seals(on bool) {
	q.mu.Lock()
	q.sealing = on
	q.mu.Unlock()
}

// records returns what has gathered; it is the caller's until given back.
func (q *quickConn) records() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.buf
	q.buf, q.spare = q.spare, nil
	return b
}

func (q *quickConn) giveBack(b []byte) {
	if cap(b) > keepBuffer {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.buf == nil {
		q.buf = b[:0]
	} else {
		q.spare = b[:0]
	}
}

// tlsSink encrypts a whole flush into as few records as it fills and writes them
// with one system call.
type tlsSink struct {
	tc     *tls.Conn
	below  *quickConn
	socket sink
	sealed []byte
	err    error // of hold
}

// seal encrypts b.
func (s *tlsSink) seal(b []byte) error {
	s.below.seals(true)
	_, err := s.tc.Write(b)
	s.below.seals(false)
	if err == nil {
		s.sealed = s.below.records()
	}
	return err
}

func (s *tlsSink) try(b []byte) (bool, error) {
	if err := s.seal(b); err != nil {
		return false, err
	}
	done, err := s.socket.try(s.sealed)
	if done {
		s.below.giveBack(s.sealed)
	}
	return done, err
}

func (s *tlsSink) hold(b []byte) {
	if s.err = s.seal(b); s.err == nil {
		s.socket.hold(s.sealed)
	}
}

// notify tells the client, as far as that does not block, that nothing is missing
// at the end (RFC 8446 §6.1).
func (s *tlsSink) notify() {
	if s.tc.CloseWrite() == nil {
		_, _ = s.socket.try(s.below.records())
	}
}

func (s *tlsSink) patient() bool { return false }

func (s *tlsSink) drain() error {
	if s.err != nil {
		return s.err
	}
	if err := s.socket.drain(); err != nil {
		return err
	}
	s.below.giveBack(s.sealed)
	return nil
}

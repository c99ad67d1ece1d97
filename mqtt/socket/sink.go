package socket

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"
)

// Sink writes to one connection. It has one user at a time.
type Sink interface {
	// Try writes as much of b as goes without blocking. If that is not all, done is
	// false and the sink keeps the rest, aliasing b, for Drain.
	Try(b []byte) (done bool, err error)
	// Hold keeps b for Drain.
	Hold(b []byte)
	// Drain blocks until the bytes that the sink keeps are written.
	Drain() error
	// Patient reports whether a rest deserves a moment when the connection ends:
	// where Try leaves one though the peer reads.
	Patient() bool
}

// Notifier is a [Sink] that can tell the peer of the connection's end.
type Notifier interface {
	// CloseNotify tells the peer, as far as that does not block, that nothing is
	// missing at the end.
	CloseNotify()
}

// WriteStall is how long a peer may take nothing before it is given up.
const WriteStall = time.Minute

// drainChunk is written under one deadline, so that a slow peer is told from a
// dead one.
const drainChunk = 64 << 10

// TryWriter is a connection that is no socket, such as a stream of QUIC, and can
// write without blocking all the same.
type TryWriter interface {
	net.Conn
	// TryWrite writes all of b, or nothing if it would block.
	TryWrite(b []byte) (done bool, err error)
}

// Framed is a connection whose bytes travel in frames on another one, as the bytes
// of a WebSocket do. The sink shows it how to write to that one without blocking.
type Framed interface {
	net.Conn
	// Below returns the connection that carries the frames.
	Below() net.Conn
	// WriteThrough has try write all frames from now on. It keeps bytes that would block,
	// aliasing b, and takes nothing else until drain returned. No two calls overlap.
	WriteThrough(try func(b []byte) (done bool, err error), drain func() error)
	// TryFrame writes b as one frame. If not all of it goes, done is false and the
	// rest waits for Drain, aliasing b.
	TryFrame(b []byte) (done bool, err error)
	// Drain blocks until that rest is written.
	Drain() error
}

// NewSink returns the sink that suits nc.
func NewSink(nc net.Conn) Sink {
	if f, ok := nc.(Framed); ok {
		if below := quickSink(f.Below()); below != nil {
			f.WriteThrough(below.Try, below.Drain)
			return &framedSink{nc: f}
		}
	}
	if s := quickSink(nc); s != nil {
		return s
	}
	return &blockingSink{nc: nc}
}

// quickSink returns a sink for a socket, with or without TLS, or nil.
func quickSink(nc net.Conn) Sink {
	below := Of(nc)
	switch tc, sealed := nc.(*tls.Conn); {
	case sealed && below != nil:
		below.gatherRecords()
		return &tlsSink{tc: tc, below: below, socket: below.sink}
	case below != nil:
		return below.sink
	}
	if s := newRawSink(nc); s != nil {
		return s
	}
	return nil
}

// blockingSink leaves to Drain the bytes that the connection does not write at once as
// a [TryWriter], and all bytes if it is none.
type blockingSink struct {
	nc   net.Conn
	left []byte
}

// Try implements [Sink].
func (s *blockingSink) Try(b []byte) (bool, error) {
	if w, ok := s.nc.(TryWriter); ok {
		if done, err := w.TryWrite(b); done || err != nil {
			return done, err
		}
	}
	s.left = b
	return false, nil
}

// Hold implements [Sink].
func (s *blockingSink) Hold(b []byte) { s.left = b }

// Patient implements [Sink].
func (s *blockingSink) Patient() bool { return true }

// Drain implements [Sink].
func (s *blockingSink) Drain() error {
	err := writeAll(s.nc, s.left)
	s.left = nil
	return err
}

func writeAll(nc net.Conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), drainChunk)
		if err := nc.SetWriteDeadline(time.Now().Add(WriteStall)); err != nil {
			return err
		}
		if _, err := nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nc.SetWriteDeadline(time.Time{}) // it would end the next Try of a rawSink
}

// framedSink lets the connection make frames of the bytes that it writes.
type framedSink struct {
	nc   Framed
	held []byte
}

// Try implements [Sink].
func (s *framedSink) Try(b []byte) (bool, error) { return s.nc.TryFrame(b) }

// Hold implements [Sink].
func (s *framedSink) Hold(b []byte) { s.held = b }

// Patient implements [Sink].
func (s *framedSink) Patient() bool { return false }

// Drain implements [Sink].
func (s *framedSink) Drain() error {
	if b := s.held; b != nil {
		s.held = nil
		if done, err := s.Try(b); done || err != nil {
			return err
		}
	}
	return s.nc.Drain()
}

// rawSink writes to a socket with raw system calls and stops where one would
// block.
type rawSink struct {
	nc      net.Conn
	raw     syscall.RawConn
	left    []byte
	err     error
	attempt func(fd uintptr) bool // made once: a closure per write would allocate
}

func newRawSink(nc net.Conn) *rawSink {
	sc, ok := nc.(syscall.Conn)
	if !ok || !canTryWrite {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &rawSink{nc: nc, raw: raw}
	s.attempt = s.write
	return s
}

// write is called by RawConn with the socket's descriptor. It always returns
// true: the poller shall not wait.
func (s *rawSink) write(fd uintptr) bool {
	for len(s.left) > 0 && s.err == nil {
		n, again, err := tryWrite(fd, s.left)
		s.left = s.left[n:]
		s.err = err
		if again {
			break
		}
	}
	return true
}

// Try implements [Sink].
func (s *rawSink) Try(b []byte) (bool, error) {
	s.left = b
	if err := s.raw.Write(s.attempt); err != nil {
		return false, err
	}
	return len(s.left) == 0, s.err
}

// Hold implements [Sink].
func (s *rawSink) Hold(b []byte) { s.left = b }

// Patient implements [Sink].
func (s *rawSink) Patient() bool { return false }

// Drain implements [Sink].
func (s *rawSink) Drain() error {
	err := writeAll(s.nc, s.left)
	s.left = nil
	return err
}

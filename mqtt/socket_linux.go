package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a descriptor that an event loop reads. It is a duplicate of that of a
// [net.Conn], which is closed: else the runtime's own poller would be woken by
// each message as well.
//
// As a [net.Conn] it is what a [crypto/tls.Conn] reads from: what the loop read
// before, and then errAgain.
type socket struct {
	fd int

	// Of whoever reads: the loop, or the goroutine that the connection is away with.
	fresh bool // has not been read since it was registered
	over  bool // the end of the stream is to be found
	in    []byte
	inErr error

	away  atomic.Bool // a goroutine has the connection
	stall atomic.Pointer[chan struct{}]

	mu       sync.Mutex // guards the next two: a closed descriptor is another's
	closed   bool
	released bool
}

// takeSocket takes the socket of nc away from the runtime's poller.
func takeSocket(nc net.Conn) (*socket, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	s := &socket{}
	var dupErr error
	err = raw.Control(func(fd uintptr) {
		s.fd, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	return s, nil
}

// receive reads what is there: 0 and no error if that is nothing.
func (s *socket) receive(b []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			s.over = false
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Read implements [net.Conn] for TLS.
func (s *socket) Read(b []byte) (int, error) {
	if len(s.in) > 0 {
		n := copy(b, s.in)
		s.in = s.in[n:]
		return n, nil
	}
	if s.inErr != nil {
		return 0, s.inErr
	}
	return 0, errAgain
}

// Close implements [net.Conn]: it ends the connection, and whoever has it gives
// the descriptor back.
func (s *socket) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // fails if the peer was faster
	}
	s.mu.Unlock()
	s.writable()
	return nil
}

// Write implements [net.Conn]. Nobody writes this way: see loopSink.
func (s *socket) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// SetDeadline implements [net.Conn]. Nothing here blocks.
func (s *socket) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (s *socket) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements [net.Conn]. It is nil: whoever wanted to know asked before
// the loop had the connection, and an idle one shall be small.
func (s *socket) LocalAddr() net.Addr { return nil }

// RemoteAddr implements [net.Conn]. See LocalAddr.
func (s *socket) RemoteAddr() net.Addr { return nil }

func (s *socket) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.released {
		s.closed, s.released = true, true
		unix.Close(s.fd)
	}
}

// writable tells a writer that waits that it may try again.
func (s *socket) writable() {
	if ready := s.stall.Load(); ready != nil {
		select {
		case *ready <- struct{}{}:
		default: // it was told
		}
	}
}

// loopSink writes to a socket that an event loop reads.
type loopSink struct {
	s    *socket
	rest []byte
}

func (k *loopSink) try(b []byte) (bool, error) {
	for len(b) > 0 {
		n, again, err := tryWrite(uintptr(k.s.fd), b)
		if err != nil {
			return false, err
		}
		if b = b[n:]; again {
			k.rest = b
			return false, nil
		}
	}
	k.rest = nil
	return true, nil
}

func (k *loopSink) hold(b []byte) { k.rest = b }

func (k *loopSink) patient() bool { return false }

func (k *loopSink) drain() error {
	ready := make(chan struct{}, 1)
	k.s.stall.Store(&ready) // before the next try, whose end the loop then hears of
	defer k.s.stall.Store(nil)
	stalled := time.NewTimer(writeStall)
	defer stalled.Stop()
	for left := len(k.rest); ; {
		done, err := k.try(k.rest)
		if done || err != nil {
			k.rest = nil
			return err
		}
		if len(k.rest) < left {
			left = len(k.rest)
			stalled.Reset(writeStall)
		}
		select {
		case <-ready:
		case <-stalled.C:
			return fmt.Errorf("write: nothing taken for %v: %w", writeStall, os.ErrDeadlineExceeded)
		}
	}
}

// join gives the connection to an event loop, if its socket is one that a loop
// can have. The reader that calls it reads no more if it did.
func (c *conn) join() (bool, error) {
	if c.low == nil || !c.out.claim() {
		return false, nil
	}
	l := c.b.loops.pick(c.b)
	var s *socket
	var err error
	if l != nil {
		s, err = c.low.handOver()
	}
	if s == nil {
		c.low = nil // nor later
		c.out.yield(nil)
		c.flush()
		return false, err
	}
	c.out.yield(newSink(c.nc))
	c.flush()
	c.keepRest(c.buf[:c.filled])
	c.buf, c.filled = nil, 0
	putTurn(c.turn)
	c.turn, c.looped = l.turn, true
	c.sealed, _ = c.nc.(*tls.Conn)
	c.sock, c.loop = s, l
	c.clients.Add(1)
	unhook := c.unhook // the loop tells c of the listener's end
	c.unhook, c.deadline = nil, nil
	if err := l.add(c); err != nil {
		unhook()
		return false, err
	}
	unhook()
	return true, nil
}

// handOver makes the quickConn one of a socket that an event loop reads. The
// caller has claimed the outbox's sink.
func (q *quickConn) handOver() (*socket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, net.ErrClosed
	}
	s, err := takeSocket(q.Conn)
	if err != nil {
		return nil, err
	}
	q.Conn.Close()
	q.Conn, q.socket = s, &loopSink{s: s}
	return s, nil
}

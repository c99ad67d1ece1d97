package socket

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

// Descriptor is a socket that an event loop reads. It is a duplicate of that of a
// [net.Conn], which is closed: else the runtime's own poller would be woken by
// each message as well.
//
// As a [net.Conn] it gives a [crypto/tls.Conn] the bytes that Fill read before, and
// then errAgain. One goroutine at a time reads: that of the loop, or
// the one that has the connection meanwhile.
type Descriptor struct {
	fd int

	// Of the goroutine that reads.
	ending bool // the end of the stream is to be found
	in     []byte
	inErr  error

	stall atomic.Pointer[chan struct{}]

	mu       sync.Mutex // guards the next two: a closed descriptor is another's
	closed   bool
	released bool
}

// errAgain tells that there is nothing to read now. A [crypto/tls.Conn] goes on
// after it where it was.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// HandOver makes c one of a descriptor that an event loop reads. The caller is the
// one user of the connection's sink: [NewSink] has another for it afterwards.
func (c *Conn) HandOver() (*Descriptor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	d, err := duplicate(c.Conn)
	if err != nil {
		return nil, err
	}
	c.Conn.Close()
	c.Conn, c.sink = d, &descriptorSink{d: d}
	return d, nil
}

func duplicate(nc net.Conn) (*Descriptor, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	d := &Descriptor{}
	var dupErr error
	err = raw.Control(func(fd uintptr) {
		d.fd, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	return d, nil
}

// FD returns the number of the descriptor, which stays the same until Release.
func (d *Descriptor) FD() int { return d.fd }

// ExpectEnd says that the peer has sent all that it will: Fill shall be called until
// it returns that end.
func (d *Descriptor) ExpectEnd() { d.ending = true }

// Ending reports whether Fill shall be called again though nothing else comes.
func (d *Descriptor) Ending() bool { return d.ending }

// Fill reads into dst the bytes that are there: 0 and no error if there are none. more
// tells that there may be more. If tc is not nil, it decrypts them, and they are read
// into scratch.
func (d *Descriptor) Fill(tc *tls.Conn, dst, scratch []byte) (n int, more bool, err error) {
	if tc == nil {
		n, err = d.receive(dst)
		return n, n == len(dst), err
	}
	more = true // unless the socket turns out to be empty
	if len(d.in) == 0 && d.inErr == nil {
		var got int
		got, d.inErr = d.receive(scratch)
		d.in, more = scratch[:got], got == len(scratch)
	}
	for n < len(dst) && err == nil {
		var got int
		got, err = tc.Read(dst[n:])
		n += got
	}
	if errors.Is(err, errAgain) {
		return n, more, nil
	}
	if len(d.in) > 0 { // of the caller's buffer
		d.in = append([]byte(nil), d.in...)
	}
	return n, err == nil, err
}

// receive reads the bytes that are there: 0 and no error if there are none.
func (d *Descriptor) receive(b []byte) (int, error) {
	for {
		n, err := unix.Read(d.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			d.ending = false
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
func (d *Descriptor) Read(b []byte) (int, error) {
	if len(d.in) > 0 {
		n := copy(b, d.in)
		d.in = d.in[n:]
		return n, nil
	}
	if d.inErr != nil {
		return 0, d.inErr
	}
	return 0, errAgain
}

// Close implements [net.Conn]: it ends the connection. The descriptor stays until
// Release.
func (d *Descriptor) Close() error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		_ = unix.Shutdown(d.fd, unix.SHUT_RDWR) // fails if the peer was faster
	}
	d.mu.Unlock()
	d.Writable()
	return nil
}

// Write implements [net.Conn]. Nothing is written this way: see descriptorSink.
func (d *Descriptor) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// SetDeadline implements [net.Conn]. Nothing here blocks.
func (d *Descriptor) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (d *Descriptor) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (d *Descriptor) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements [net.Conn]. It is nil: the addresses are to be asked for
// before HandOver, and an idle connection shall be small.
func (d *Descriptor) LocalAddr() net.Addr { return nil }

// RemoteAddr implements [net.Conn]. See LocalAddr.
func (d *Descriptor) RemoteAddr() net.Addr { return nil }

// Release closes the descriptor. Its number may be another connection's afterwards:
// no goroutine may read it or use its sink any more.
func (d *Descriptor) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.released {
		d.closed, d.released = true, true
		unix.Close(d.fd)
	}
}

// Writable tells a Drain that waits that it may try again.
func (d *Descriptor) Writable() {
	if ready := d.stall.Load(); ready != nil {
		select {
		case *ready <- struct{}{}:
		default: // it was told
		}
	}
}

// descriptorSink writes to a socket that an event loop reads.
type descriptorSink struct {
	d    *Descriptor
	left []byte
}

// Try implements [Sink].
func (s *descriptorSink) Try(b []byte) (bool, error) {
	for len(b) > 0 {
		n, again, err := tryWrite(uintptr(s.d.fd), b)
		if err != nil {
			return false, err
		}
		if b = b[n:]; again {
			s.left = b
			return false, nil
		}
	}
	s.left = nil
	return true, nil
}

// Hold implements [Sink].
func (s *descriptorSink) Hold(b []byte) { s.left = b }

// Patient implements [Sink].
func (s *descriptorSink) Patient() bool { return false }

// Drain implements [Sink].
func (s *descriptorSink) Drain() error {
	ready := make(chan struct{}, 1)
	s.d.stall.Store(&ready) // before the next Try, whose end the loop then hears of
	defer s.d.stall.Store(nil)
	stalled := time.NewTimer(WriteStall)
	defer stalled.Stop()
	for left := len(s.left); ; {
		done, err := s.Try(s.left)
		if done || err != nil {
			s.left = nil
			return err
		}
		if len(s.left) < left {
			left = len(s.left)
			stalled.Reset(WriteStall)
		}
		select {
		case <-ready:
		case <-stalled.C:
			return fmt.Errorf("write: nothing taken for %v: %w", WriteStall, os.ErrDeadlineExceeded)
		}
	}
}

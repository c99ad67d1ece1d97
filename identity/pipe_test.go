package identity_test

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// newPipe returns two ends of a connection in memory that work in a synctest
// bubble. Writes do not wait for a reader, as on a socket; TLS needs that, since
// both ends may write at once, and net.Pipe does not give it.
func newPipe() (a, b net.Conn) {
	there, back := newHalf(), newHalf()
	return &end{in: back, out: there}, &end{in: there, out: back}
}

// half is one direction.
type half struct {
	mu       sync.Mutex // guards the fields below
	changed  *sync.Cond
	data     []byte
	closed   bool // by either end
	deadline time.Time
	wake     *time.Timer
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.data) == 0 {
		if h.closed {
			return 0, io.EOF
		}
		if !h.deadline.IsZero() && !time.Now().Before(h.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
		h.changed.Wait()
	}
	n := copy(p, h.data)
	h.data = h.data[n:]
	return n, nil
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, net.ErrClosed
	}
	h.data = append(h.data, p...)
	h.changed.Broadcast()
	return len(p), nil
}

func (h *half) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.wake != nil {
		h.wake.Stop()
	}
	h.changed.Broadcast()
}

func (h *half) setDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = t
	if h.wake != nil {
		h.wake.Stop()
		h.wake = nil
	}
	if !t.IsZero() && !h.closed {
		h.wake = time.AfterFunc(time.Until(t), h.changed.Broadcast)
	}
	h.changed.Broadcast()
}

type end struct{ in, out *half }

func (e *end) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e *end) Write(p []byte) (int, error) { return e.out.write(p) }

func (e *end) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

func (e *end) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (e *end) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (e *end) SetDeadline(t time.Time) error      { return e.SetReadDeadline(t) }
func (e *end) SetReadDeadline(t time.Time) error  { e.in.setDeadline(t); return nil }
func (e *end) SetWriteDeadline(_ time.Time) error { return nil } // writes never wait

package bench

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hpmq/hpmq/internal/wake"
)

// streamLoop drives connections that only a net.Conn can: each has a goroutine
// that reads and one that writes.
type streamLoop struct {
	// handling is held while handlers run: by a reader, or by the turn's caller between
	// two turns.
	handling sync.Mutex
	touched  []*conn
	err      error

	happened wake.Token // has one entry when something was handled since the last turn
	pumps    sync.WaitGroup
	conns    []*conn
	started  bool
}

func newStreamLoop() *streamLoop {
	s := &streamLoop{happened: wake.NewToken()}
	s.handling.Lock()
	return s
}

// pump carries the bytes of one connection out.
type pump struct {
	nc     net.Conn
	mu     sync.Mutex
	more   *sync.Cond // something to write, or closed
	out    []byte
	closed bool
}

func (s *streamLoop) add(l *link, handle handler) (*conn, error) {
	p := &pump{nc: l.nc}
	p.more = sync.NewCond(&p.mu)
	c := &conn{handle: handle, touched: &s.touched, rest: l.buffered(), receiveMaximum: l.receiveMaximum, pump: p}
	s.conns = append(s.conns, c)
	return c, l.nc.SetDeadline(time.Time{})
}

func (s *streamLoop) turn(wait time.Duration) error {
	if !s.started {
		s.started = true
		for _, c := range s.conns {
			s.pumps.Go(func() { s.read(c) })
			s.pumps.Go(func() { c.pump.run() })
		}
	}
	for _, c := range s.touched {
		c.dirty = false
		_ = s.flush(c) // always nil
	}
	s.touched = s.touched[:0]
	s.handling.Unlock()
	timer := time.NewTimer(wait)
	select {
	case <-s.happened:
	case <-timer.C:
	}
	timer.Stop()
	s.handling.Lock()
	return s.err
}

// flush hands c's bytes to the writer, which may write them together with later ones.
func (s *streamLoop) flush(c *conn) error {
	c.pump.write(c.out)
	c.out = c.out[:0]
	return nil
}

func (s *streamLoop) read(c *conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.pump.nc.Read(buf)
		s.handling.Lock()
		if errors.Is(err, io.EOF) {
			err = errClosed
		}
		if err == nil {
			err = c.take(buf[:n])
		}
		if err != nil && s.err == nil {
			s.err = err
		}
		s.handling.Unlock()
		s.happened.Wake()
		if err != nil {
			return
		}
	}
}

func (p *pump) write(b []byte) {
	p.mu.Lock()
	p.out = append(p.out, b...)
	p.mu.Unlock()
	p.more.Signal()
}

// run writes gathered bytes, in one call, until the pump is closed. A failed write is
// the reader's to report.
func (p *pump) run() {
	var b []byte
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.closed {
			p.more.Wait()
		}
		b, p.out = p.out, b[:0]
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return
		}
		if _, err := p.nc.Write(b); err != nil {
			return
		}
	}
}

func (s *streamLoop) close() {
	s.handling.Unlock()
	for _, c := range s.conns {
		c.pump.mu.Lock()
		c.pump.closed = true
		c.pump.mu.Unlock()
		c.pump.more.Signal()
		c.pump.nc.Close()
	}
	s.pumps.Wait()
	s.handling.Lock()
}

package websocket

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// pipe is the end of a connection that takes as many bytes as it has room for.
type pipe struct {
	mu    sync.Mutex
	more  sync.Cond
	room  int
	err   error
	taken []byte
	rest  []byte
}

func newPipe(room int) (*pipe, *wire) {
	p := &pipe{room: room}
	p.more.L = &p.mu
	w := &newSocket(nil).wire
	w.through(p.try, p.drain)
	return p, w
}

func (p *pipe) try(b []byte) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) > 0 {
		panic("try while there is a rest")
	}
	p.rest = b
	return p.take(), p.err
}

// take takes as many bytes as there is room for. The caller holds mu.
func (p *pipe) take() bool {
	n := min(p.room, len(p.rest))
	p.taken = append(p.taken, p.rest[:n]...)
	p.rest, p.room = p.rest[n:], p.room-n
	return len(p.rest) == 0
}

func (p *pipe) drain() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.take() && p.err == nil {
		p.more.Wait()
	}
	return p.err
}

func (p *pipe) grow(n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room, p.err = p.room+n, err
	p.more.Broadcast()
}

func (p *pipe) wants(t *testing.T, want string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := string(p.taken); got != want {
		t.Errorf("got %.200q, want %.200q", got, want)
	}
}

const (
	ping1     = "\x8a\x01a"
	ping2     = "\x8a\x01b"
	closeOkay = "\x88\x02\x03\xe8"
)

func frameOf(payload string) string {
	return string(appendHeader(nil, len(payload))) + payload
}

// Control frames that are written while a data frame is stuck follow it, wherever the
// socket stopped taking: the latest pong and then the close frame, behind which no data
// comes.
func TestControlFramesFollowStuckData(t *testing.T) {
	for _, size := range []int{1, 125, 126, 1000, wholeFrame, 70_000} {
		payload := strings.Repeat("x", size)
		for room := range 12 {
			p, w := newPipe(room)
			if done, err := w.data([]byte(payload)); done != (room >= len(frameOf(payload))) || err != nil {
				t.Fatalf("%d bytes, room for %d: %v, %v", size, room, done, err)
			}
			if room >= len(frameOf(payload)) {
				continue
			}
			for _, f := range []string{ping1, ping2, closeOkay} {
				if err := w.control([]byte(f)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.data([]byte("late")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("data after the close frame: %v", err)
			}
			p.grow(1<<20, nil)
			if err := w.wait(); err != nil {
				t.Fatal(err)
			}
			p.wants(t, frameOf(payload)+ping2+closeOkay)
		}
	}
}

// A pong that finds no room is drained by its own goroutine, and data wait for it.
func TestDataFollowStuckPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := newPipe(1)
		answered, written := make(chan error, 1), make(chan error, 1)
		go func() { answered <- w.control([]byte(ping1)) }()
		synctest.Wait()
		if done, err := w.data([]byte("data")); done || err != nil {
			t.Fatal(done, err)
		}
		go func() { written <- w.wait() }()
		synctest.Wait()
		p.grow(100, nil)
		if err := errors.Join(<-answered, <-written); err != nil {
			t.Fatal(err)
		}
		p.wants(t, ping1+frameOf("data"))
	})
}

// Once the connection ends, its last frame is not waited for.
func TestLastFrameWaitsForNobody(t *testing.T) {
	p, w := newPipe(1)
	if w.end() {
		t.Error("stuck")
	}
	if err := w.control([]byte(closeOkay)); err != nil {
		t.Fatal(err)
	}
	if !w.end() {
		t.Error("not stuck")
	}
	p.wants(t, closeOkay[:1])
}

// An error that one writer met ends all of them.
func TestErrorEndsWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := newPipe(1)
		answered, written := make(chan error, 1), make(chan error, 1)
		go func() { answered <- w.control([]byte(ping1)) }()
		synctest.Wait()
		if done, err := w.data([]byte("data")); done || err != nil {
			t.Fatal(done, err)
		}
		go func() { written <- w.wait() }()
		synctest.Wait()
		p.grow(0, net.ErrClosed)
		if err := <-answered; !errors.Is(err, net.ErrClosed) {
			t.Errorf("pong: %v", err)
		}
		if err := <-written; !errors.Is(err, net.ErrClosed) {
			t.Errorf("data: %v", err)
		}
		if _, err := w.data([]byte("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("more data: %v", err)
		}
	})
}

func TestFramesDoNotAllocate(t *testing.T) {
	w := &newSocket(nil).wire
	w.through(func([]byte) (bool, error) { return true, nil }, nil)
	payload := make([]byte, 1000)
	got := testing.AllocsPerRun(1000, func() {
		if done, err := w.data(payload); !done || err != nil {
			t.Fatal(done, err)
		}
	})
	if got >= 1 { // under the race detector the pool loses some
		t.Errorf("%v allocations", got)
	}
}

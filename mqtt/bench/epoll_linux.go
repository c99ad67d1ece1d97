package bench

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// epollLoop drives plain sockets from one thread: it reads as much as there is,
// and writes once per connection and turn.
type epollLoop struct {
	epoll, timer int
	conns        []*conn // by their index
	touched      []*conn
	buf          []byte
	events       []unix.EpollEvent
}

const timerEvent = -1 // beside the indexes of conns

// newLoop returns the cheapest loop that can drive l's kind of connection, for
// packets of at most size bytes. Its turns must all be in one goroutine.
func newLoop(l *link, size int) (loop, error) {
	if _, ok := l.nc.(syscall.Conn); !ok {
		return newStreamLoop(), nil
	}
	e := &epollLoop{epoll: -1, timer: -1, buf: make([]byte, max(1<<20, 4*size)), events: make([]unix.EpollEvent, 256)}
	runtime.LockOSThread()
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		e.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	// epoll alone waits whole milliseconds, too coarse for a rate.
	if e.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		e.close()
		return nil, fmt.Errorf("timer: %w", err)
	}
	if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, e.timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: timerEvent}); err != nil {
		e.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return e, nil
}

func (e *epollLoop) add(l *link, handle handler) (*conn, error) {
	defer l.nc.Close() // the loop has a descriptor of its own, which the runtime does not watch
	rc, err := l.nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &conn{handle: handle, touched: &e.touched, rest: l.buffered(), receiveMaximum: l.receiveMaximum}
	dup := func(fd uintptr) { c.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }
	if ctlErr := rc.Control(dup); ctlErr != nil || err != nil {
		return nil, errors.Join(ctlErr, err)
	}
	c.index = int32(len(e.conns))
	e.conns = append(e.conns, c)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index}
	return c, unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, c.fd, &ev)
}

func (e *epollLoop) turn(wait time.Duration) error {
	for _, c := range e.touched {
		c.dirty = false
		if err := e.flush(c); err != nil {
			return err
		}
	}
	e.touched = e.touched[:0]
	n, err := e.wait(wait)
	if err != nil {
		return err
	}
	for _, ev := range e.events[:n] {
		if ev.Fd == timerEvent {
			var expirations [8]byte
			_, _ = unix.Read(e.timer, expirations[:]) // only so that it is not ready any more
			continue
		}
		c := e.conns[ev.Fd]
		if ev.Events&unix.EPOLLOUT != 0 {
			if err := e.flush(c); err != nil {
				return err
			}
		}
		if ev.Events&^unix.EPOLLOUT != 0 {
			if err := e.read(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait returns how many events there are, as soon as there is one.
func (e *epollLoop) wait(d time.Duration) (int, error) {
	n, err := unix.EpollWait(e.epoll, e.events, 0)
	if n != 0 || err != nil || d <= 0 {
		return max(n, 0), interrupted(err)
	}
	if d < time.Millisecond {
		at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
		if err := unix.TimerfdSettime(e.timer, 0, &at, nil); err != nil {
			return 0, err
		}
		n, err = unix.EpollWait(e.epoll, e.events, -1)
	} else {
		n, err = unix.EpollWait(e.epoll, e.events, int(d/time.Millisecond))
	}
	return max(n, 0), interrupted(err)
}

// interrupted drops the error of a call that a signal broke off.
func interrupted(err error) error {
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

func (e *epollLoop) read(c *conn) error {
	kept := copy(e.buf, c.rest)
	n, err := unix.Read(c.fd, e.buf[kept:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errClosed, err)
	case n == 0:
		return errClosed
	}
	rest, err := c.feed(e.buf[:kept+n])
	c.rest = append(c.rest[:0], rest...)
	return err
}

func (e *epollLoop) flush(c *conn) error {
	for c.sent < len(c.out) {
		n, err := unix.Write(c.fd, c.out[c.sent:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return e.block(c, true)
		case err != nil:
			return fmt.Errorf("%w: %w", errClosed, err)
		default:
			c.sent += n
		}
	}
	c.out, c.sent = c.out[:0], 0
	return e.block(c, false)
}

// block turns the wait for room in the socket on or off.
func (e *epollLoop) block(c *conn, on bool) error {
	if c.blocked == on {
		return nil
	}
	c.blocked = on
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index}
	if on {
		ev.Events |= unix.EPOLLOUT
	}
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_MOD, c.fd, &ev)
}

func (e *epollLoop) close() {
	for _, c := range e.conns {
		_ = unix.Close(c.fd) // nothing of it is needed any more
	}
	for _, fd := range []int{e.epoll, e.timer} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	runtime.UnlockOSThread()
}

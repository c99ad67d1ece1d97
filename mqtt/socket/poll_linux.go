package socket

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Poll tells one goroutine which of many descriptors it can read or write. Each is
// registered once, for edges: an event says that something changed, and reading and
// writing find the change.
type Poll struct {
	epoll  int
	wake   int // an eventfd, written to end the waiting
	events []unix.EpollEvent
}

// Event says that something changed about a descriptor.
type Event struct {
	FD   int
	mask uint32
}

// Writable reports whether the descriptor may take more than before.
func (e Event) Writable() bool { return e.mask&^unix.EPOLLIN != 0 }

// Readable reports whether there is something to read, if only an end.
func (e Event) Readable() bool { return e.mask&^unix.EPOLLOUT != 0 }

// Ended reports whether the peer has sent all that it will.
func (e Event) Ended() bool { return e.mask&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 }

// NewPoll returns a Poll that gives at most so many events at once.
func NewPoll(events int) (*Poll, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		unix.Close(wake)
		unix.Close(epoll)
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return &Poll{epoll: epoll, wake: wake, events: make([]unix.EpollEvent, events)}, nil
}

// Wait appends the events since the last Wait to into. With block it waits for one; it
// reports false after Wake.
func (p *Poll) Wait(into []Event, block bool) ([]Event, bool) {
	timeout := 0
	if block {
		timeout = -1
	}
	n, err := unix.EpollWait(p.epoll, p.events, timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		panic(fmt.Sprintf("socket: epoll: %v", err)) // of a descriptor that is ours alone
	}
	for i := range max(n, 0) {
		e := &p.events[i]
		if int(e.Fd) == p.wake {
			return into, false
		}
		into = append(into, Event{int(e.Fd), e.Events})
	}
	return into, true
}

// Pause lets things gather for a moment. A signal may end it early.
func (p *Poll) Pause(d time.Duration) {
	pause := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&pause, nil) // EINTR is no failure
}

// Wake ends the waiting, for good.
func (p *Poll) Wake() {
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	_, _ = unix.Write(p.wake, one[:]) // it cannot be full
}

// Close gives the descriptors of the Poll itself back.
func (p *Poll) Close() {
	unix.Close(p.epoll)
	unix.Close(p.wake)
}

// Add asks for the events of d, the ones that are due included.
func (p *Poll) Add(d *Descriptor) error { return p.register(d, unix.EPOLL_CTL_ADD) }

// Rearm asks again for the events of d that are due.
func (p *Poll) Rearm(d *Descriptor) error { return p.register(d, unix.EPOLL_CTL_MOD) }

func (p *Poll) register(d *Descriptor, op int) error {
	events := uint32(unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xFFFFFFFF)
	if err := unix.EpollCtl(p.epoll, op, d.fd, &unix.EpollEvent{Events: events, Fd: int32(d.fd)}); err != nil {
		return fmt.Errorf("register with epoll: %w", err)
	}
	return nil
}

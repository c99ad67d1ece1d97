package port

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// waitingRoom bounds connections that are not done: with their handshake, or with
// HTTP. When it is full, each newcomer closes one: the oldest of the address that has
// the most. So a client that does its part at once gets in, in spite of many silent
// clients or one busy stranger.
type waitingRoom struct {
	size int

	mu     sync.Mutex // guards the next two
	inside int
	queues map[netip.Addr][]net.Conn // oldest first, none empty
}

func newWaitingRoom(size int) *waitingRoom {
	return &waitingRoom{size: size, queues: make(map[netip.Addr][]net.Conn)}
}

// enter lets conn in.
func (r *waitingRoom) enter(conn net.Conn) {
	r.mu.Lock()
	var out net.Conn
	if r.inside >= r.size {
		out = r.oldest()
		r.remove(out)
	}
	from := address(conn)
	r.queues[from] = append(r.queues[from], conn)
	r.inside++
	r.mu.Unlock()
	if out != nil {
		out.Close()
	}
}

// leave says that conn is done, if it was not closed before.
func (r *waitingRoom) leave(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(conn)
}

func (r *waitingRoom) oldest() net.Conn {
	var longest []net.Conn
	for _, queue := range r.queues {
		if len(queue) > len(longest) {
			longest = queue
		}
	}
	return longest[0]
}

func (r *waitingRoom) remove(conn net.Conn) {
	from := address(conn)
	queue := r.queues[from]
	i := slices.Index(queue, conn)
	if i < 0 {
		return
	}
	r.inside--
	if r.queues[from] = slices.Delete(queue, i, i+1); len(queue) == 1 {
		delete(r.queues, from)
	}
}

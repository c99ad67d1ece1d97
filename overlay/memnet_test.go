package overlay

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// memnet is a network of packet sockets in memory with a delay and a cable that
// can be cut, for tests in a synctest bubble.
type memnet struct {
	delay time.Duration // one way
	mu    sync.Mutex
	cut   bool
	dead  string // address; what is sent there is lost
	ports map[int]*memConn
}

func (m *memnet) setCut(cut bool) {
	m.mu.Lock()
	m.cut = cut
	m.mu.Unlock()
}

func (m *memnet) setDead(addr string) {
	m.mu.Lock()
	m.dead = addr
	m.mu.Unlock()
}

// listen is a replacement for the function of that name.
func (m *memnet) listen(addr string, c *counters) (*socket, error) {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	mc := &memConn{net: m, addr: a, in: make(chan memPacket, 1024), wake: make(chan struct{})}
	m.mu.Lock()
	m.ports[a.Port] = mc
	m.mu.Unlock()
	return &socket{PacketConn: mc, counters: c}, nil
}

// node makes a node on the network.
func (m *memnet) node(t *testing.T, src identity.Source, addr string, edit ...func(*Options)) *Node {
	t.Helper()
	opts := Options{Source: src, Listen: addr}
	for _, f := range edit {
		f(&opts)
	}
	n, err := newNode(opts, m.listen)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

type memPacket struct {
	from net.Addr
	b    []byte
}

type memConn struct {
	net  *memnet
	addr *net.UDPAddr
	in   chan memPacket

	mu      sync.Mutex
	wake    chan struct{} // closed and replaced to end a ReadFrom
	expired bool
	closed  bool
}

func (c *memConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	wake, expired, closed := c.wake, c.expired, c.closed
	c.mu.Unlock()
	if closed {
		return 0, nil, net.ErrClosed
	}
	if expired {
		return 0, nil, os.ErrDeadlineExceeded
	}
	select {
	case p := <-c.in:
		return copy(b, p.b), p.from, nil
	case <-wake:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (c *memConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.net.mu.Lock()
	dst := to.(*net.UDPAddr)
	peer := c.net.ports[dst.Port]
	cut := c.net.cut || dst.String() == c.net.dead || c.net.ports[c.addr.Port] != c // replaced: its process is no more
	c.net.mu.Unlock()
	if peer == nil || cut {
		return len(b), nil
	}
	p := memPacket{c.addr, append([]byte(nil), b...)}
	time.AfterFunc(c.net.delay, func() {
		select {
		case peer.in <- p:
		default:
		}
	})
	return len(b), nil
}

func (c *memConn) interrupt(expired, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired, c.closed = expired, c.closed || closed
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *memConn) Close() error { c.interrupt(true, true); return nil }

// SetReadDeadline knows now and never, as quic-go uses them.
func (c *memConn) SetReadDeadline(d time.Time) error { c.interrupt(!d.IsZero(), false); return nil }

func (c *memConn) SetDeadline(time.Time) error      { return nil }
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memConn) LocalAddr() net.Addr              { return c.addr }

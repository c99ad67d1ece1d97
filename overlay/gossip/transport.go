package gossip

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/overlay"
)

const (
	// Protocol is the name of gossip's overlay streams.
	Protocol = "hpmq-gossip/1"
	// Channel is the overlay datagram channel of gossip's packets.
	Channel = 1

	fakePort = 7844 // memberlist wants a port; it is never dialled
)

var (
	errNoName  = errors.New("gossip: a node has a name, not an address")
	errLeaving = errors.New("gossip: leaving")
)

// transport is a memberlist.NodeAwareTransport over an overlay node: the name of
// a member is the name of a node identity, and that is where packets go.
type transport struct {
	node   *overlay.Node
	domain string
	open   func(peer identity.ID, timeout time.Duration) (*overlay.Stream, error)

	packets chan *memberlist.Packet // drained by memberlist; full drops
	streams chan net.Conn           // taken by memberlist
	closed  chan struct{}
	once    sync.Once

	mu        sync.Mutex
	sealed    bool
	exchanges map[*exchange]struct{}
	under     sync.WaitGroup // counts exchanges
}

// exchange is a stream that memberlist holds until it closes it.
type exchange struct {
	*overlay.Stream
	transport *transport
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(node *overlay.Node, domain string, open func(identity.ID, time.Duration) (*overlay.Stream, error)) *transport {
	return &transport{
		node: node, domain: domain, open: open,
		packets: make(chan *memberlist.Packet, 256),
		streams: make(chan net.Conn),
		closed:  make(chan struct{}),

		exchanges: make(map[*exchange]struct{}),
	}
}

// admit makes a stream an exchange, unless there are to be none.
func (t *transport) admit(s *overlay.Stream) (*exchange, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sealed {
		return nil, false
	}
	e := &exchange{Stream: s, transport: t}
	t.exchanges[e] = struct{}{}
	t.under.Add(1)
	return e, true
}

// Close ends the exchange; only the first call counts.
func (e *exchange) Close() error {
	t := e.transport
	t.mu.Lock()
	if _, ok := t.exchanges[e]; ok {
		delete(t.exchanges, e)
		t.under.Done()
	}
	t.mu.Unlock()
	return e.Stream.Close()
}

// seal breaks off the exchanges under way and admits no more. It returns when
// memberlist has let go of all of them. The reason is a fault of serf's state
// exchange: the state has the Lamport time of a member's last status, but not that
// the status is "leaving". A member that gets our state while we leave takes that
// time for a join's. It then drops our leave message, which has the same time, and
// ends with us as failed.
func (t *transport) seal() {
	t.mu.Lock()
	t.sealed = true
	for e := range t.exchanges {
		e.Reset()
	}
	t.mu.Unlock()
	t.under.Wait()
}

// FinalAdvertiseAddr returns the address that follows from our identity.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return overlay.Address(t.node.ID()).AsSlice(), fakePort, nil
}

// WriteToAddress sends one packet to the node of that name. A node that we have
// no connection to does not get it, without an error: memberlist takes an error for
// our own fault and would never suspect that node.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	id, err := identity.NewID(t.domain, identity.Node, a.Name)
	if err != nil {
		return time.Time{}, err
	}
	err = t.node.SendDatagram(id, Channel, b)
	if errors.Is(err, overlay.ErrNotConnected) {
		err = nil
	}
	return time.Now(), err
}

// DialAddressTimeout opens a stream to the node of that name.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	id, err := identity.NewID(t.domain, identity.Node, a.Name)
	if err != nil {
		return nil, err
	}
	s, err := t.open(id, timeout)
	if err != nil {
		return nil, err
	}
	e, ok := t.admit(s)
	if !ok {
		s.Reset()
		return nil, errLeaving
	}
	return e, nil
}

// WriteTo is not used: every member has a name.
func (t *transport) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errNoName }

// DialTimeout is not used: every member has a name.
func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNoName }

// PacketCh returns where memberlist takes packets from.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns where memberlist takes streams from.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown lets go of the streams that memberlist still reads.
func (t *transport) Shutdown() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// servePacket hands a datagram to memberlist.
func (g *Gossip) servePacket(peer identity.ID, b []byte) {
	r := g.run.Load()
	if r == nil || !g.knows(peer) {
		return
	}
	from := &net.UDPAddr{IP: overlay.Address(peer).AsSlice(), Port: fakePort}
	select {
	case r.transport.packets <- &memberlist.Packet{Buf: b, From: from, Timestamp: time.Now()}:
	default: // memberlist is behind; it expects losses
	}
}

// serveStream hands a stream to memberlist and holds it until memberlist has
// closed it.
func (g *Gossip) serveStream(ctx context.Context, s *overlay.Stream) {
	r := g.run.Load()
	if r == nil || !g.knows(s.PeerID()) {
		s.Reset()
		return
	}
	e, ok := r.transport.admit(s)
	if !ok {
		s.Reset()
		return
	}
	select {
	case r.transport.streams <- e:
	case <-r.transport.closed:
		e.Close()
		return
	case <-ctx.Done():
		e.Close()
		return
	}
	select {
	case <-s.Done():
	case <-r.transport.closed:
	case <-ctx.Done():
	}
}

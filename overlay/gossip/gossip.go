package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

// The limits of an event.
const (
	MaxEventName    = 64
	MaxEventPayload = 512
)

// How long leaving may take. Two messages announce it, and leaveTimeout is for each of
// them. The first is sent four times, 200 ms apart, among up to nine nodes (more often
// among more, as far as the time goes). Then, for leaveLinger, we still answer the
// probes of nodes that have not heard.
const (
	leaveTimeout = time.Second
	leaveLinger  = 200 * time.Millisecond
)

const (
	packetSize     = 1150            // of gossip, within overlay.MaxDatagram
	streamTimeout  = 5 * time.Second // of one exchange of the whole state
	rejoinInterval = 5 * time.Second // between looks for connected nodes that are not members
	siteTag        = "site"
)

// ErrNotRunning is returned before Run and after it.
var ErrNotRunning = errors.New("gossip is not running")

// Options configures a [Gossip].
type Options struct {
	Node *overlay.Node      // carries everything; required
	Site string             // sent to the other members
	Log  logrus.FieldLogger // nil discards

	// Known vouches for a node: claims of other members about it are ignored while
	// Known is false. Nil knows every node of the trust domain.
	Known func(identity.ID) bool

	// OnMember is called with every change of a member, one at a time and in order;
	// the member's Status says which change. OnEvent is called with every event, our
	// own included. Both must not block: gossip waits for them.
	OnMember func(Member)
	OnEvent  func(name string, payload []byte)
}

// Status is a member's state as gossip believes it.
type Status string

// The statuses of a member.
const (
	Alive   Status = "alive"
	Leaving Status = "leaving"
	Left    Status = "left"   // announced that it leaves
	Failed  Status = "failed" // does not answer
)

// A Member is a node as gossip sees it.
type Member struct {
	ID     identity.ID
	Site   string // as the member says
	Status Status
	RTT    time.Duration // estimated from network coordinates, zero while unknown
}

// Gossip is one node's membership of the group of nodes.
type Gossip struct {
	opts Options
	self identity.ID
	run  atomic.Pointer[running] // nil unless Run serves
}

// running is the state that exists only while Run does.
type running struct {
	serf      *serf.Serf
	transport *transport
	events    chan serf.Event // written by serf, which stalls when it is full; drained by dispatch
}

// New registers gossip's protocol and datagram channel with the overlay node,
// so it comes before the node's Run. It starts nothing.
func New(opts Options) (*Gossip, error) {
	if opts.Node == nil {
		return nil, errors.New("gossip: no overlay node")
	}
	opts.Log = logfield.OrSilent(opts.Log)
	g := &Gossip{opts: opts, self: opts.Node.ID()}
	if g.self.Kind != identity.Node {
		return nil, fmt.Errorf("gossip: %s is not a node", g.self.Short())
	}
	opts.Node.Handle(Protocol, g.serveStream)
	opts.Node.HandleDatagram(Channel, g.servePacket)
	return g, nil
}

// Run takes part until ctx is done, which is not an error. Then it leaves the
// group, in a second as a rule and two and a half at most. The overlay must
// outlive it: a node without connections cannot say goodbye and counts as failed.
func (g *Gossip) Run(ctx context.Context) error {
	r := &running{events: make(chan serf.Event, 256)}
	r.transport = newTransport(g.opts.Node, g.self.TrustDomain, func(peer identity.ID, timeout time.Duration) (*overlay.Stream, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return g.opts.Node.Open(ctx, peer, Protocol)
	})
	s, err := serf.Create(g.config(r))
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	r.serf = s
	g.run.Store(r)

	done := make(chan struct{})
	var dispatcher sync.WaitGroup
	dispatcher.Go(func() { g.dispatch(r, done) })
	g.rejoin(ctx, r)

	r.transport.seal()
	if err := s.Leave(); err != nil {
		g.opts.Log.WithError(err).Debug("gossip leave")
	}
	g.run.Store(nil)
	err = s.Shutdown()
	close(done)
	dispatcher.Wait()
	if err != nil {
		return fmt.Errorf("gossip: shut down: %w", err)
	}
	return nil
}

func (g *Gossip) config(r *running) *serf.Config {
	logger := newLogger(g.opts.Log)

	m := memberlist.DefaultLANConfig()
	m.Transport = r.transport
	m.Logger = logger
	m.RequireNodeNames = true // there is no other address
	m.BindPort, m.AdvertisePort = fakePort, fakePort
	m.AdvertiseAddr = overlay.Address(g.self).String()
	m.UDPBufferSize = packetSize
	m.TCPTimeout = streamTimeout
	m.ProbeTimeout = 700 * time.Millisecond
	m.EnableCompression = false // the messages are short
	m.Alive = vouch{g}

	c := serf.DefaultConfig()
	c.Init()
	c.NodeName = g.self.Name
	c.Tags[siteTag] = g.opts.Site
	c.EventCh = r.events
	c.Logger = logger
	c.LogOutput = nil
	c.MemberlistConfig = m
	c.BroadcastTimeout = leaveTimeout
	c.LeavePropagateDelay = leaveLinger
	c.UserEventSizeLimit = MaxEventName + MaxEventPayload + 64 // and its encoding
	c.EnableNameConflictResolution = false                     // a name is a certificate's
	return c
}

// vouch refuses claims of other members about nodes that are not known.
type vouch struct{ g *Gossip }

// NotifyAlive judges one claim that a node is up.
func (v vouch) NotifyAlive(m *memberlist.Node) error {
	id, err := identity.NewID(v.g.self.TrustDomain, identity.Node, m.Name)
	if err != nil {
		return err
	}
	if m.Addr.String() != overlay.Address(id).String() || m.Port != fakePort {
		return fmt.Errorf("%s claimed at %s", id.Short(), m.Address())
	}
	if id != v.g.self && !v.g.knows(id) {
		return fmt.Errorf("%s is not known", id.Short())
	}
	return nil
}

func (g *Gossip) knows(id identity.ID) bool {
	return id.Kind == identity.Node && (g.opts.Known == nil || g.opts.Known(id))
}

// rejoin joins every node that the overlay is connected to and that is unknown
// or failed, at once when a connection comes up and again every few seconds,
// until ctx is done. memberlist by itself never joins after a split. A node that
// left comes back by itself; joining it would disturb its leaving.
func (g *Gossip) rejoin(ctx context.Context, r *running) {
	tick := time.NewTicker(rejoinInterval)
	defer tick.Stop()
	for {
		changed := g.opts.Node.Changed()
		members := r.serf.Members()
		for _, p := range g.opts.Node.Peers() {
			if ctx.Err() == nil && g.knows(p.ID) && missing(members, p.ID.Name) {
				// Serf logs why not; the next round tries again.
				_, _ = r.serf.Join([]string{joinName(p.ID)}, false)
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func missing(members []serf.Member, name string) bool {
	return !slices.ContainsFunc(members, func(m serf.Member) bool {
		return m.Name == name && m.Status != serf.StatusFailed
	})
}

// joinName is memberlist's form of a name with its address.
func joinName(id identity.ID) string {
	return fmt.Sprintf("%s/[%s]:%d", id.Name, overlay.Address(id), fakePort)
}

// Join exchanges the whole state with the given nodes now, instead of when the
// overlay connects to them. It fails if it reached none.
func (g *Gossip) Join(ids ...identity.ID) error {
	r := g.run.Load()
	if r == nil {
		return ErrNotRunning
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = joinName(id)
	}
	if _, err := r.serf.Join(names, false); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Broadcast spreads an event to every member, ourselves included, at most once
// each and in no order. Receivers must treat it as a hint: it has no proof of its
// sender.
func (g *Gossip) Broadcast(name string, payload []byte) error {
	if len(name) > MaxEventName || len(payload) > MaxEventPayload {
		return fmt.Errorf("gossip event %q of %d bytes, at most %d", name, len(payload), MaxEventPayload)
	}
	r := g.run.Load()
	if r == nil {
		return ErrNotRunning
	}
	if err := r.serf.UserEvent(name, payload, false); err != nil {
		return fmt.Errorf("gossip event %q: %w", name, err)
	}
	return nil
}

// Members returns all present and recent members, ourselves included, in the order
// of their names.
func (g *Gossip) Members() []Member {
	r := g.run.Load()
	if r == nil {
		return nil
	}
	var members []Member
	for _, m := range r.serf.Members() {
		members = append(members, g.member(r, m))
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.ID.Name, b.ID.Name) })
	return members
}

func (g *Gossip) member(r *running, m serf.Member) Member {
	out := Member{
		ID:   identity.ID{TrustDomain: g.self.TrustDomain, Kind: identity.Node, Name: m.Name},
		Site: m.Tags[siteTag],
	}
	switch m.Status {
	case serf.StatusAlive:
		out.Status = Alive
	case serf.StatusLeaving:
		out.Status = Leaving
	case serf.StatusLeft:
		out.Status = Left
	case serf.StatusFailed, serf.StatusNone:
		out.Status = Failed
	}
	if own, err := r.serf.GetCoordinate(); err == nil && m.Name != g.self.Name {
		if there, ok := r.serf.GetCachedCoordinate(m.Name); ok {
			out.RTT = own.DistanceTo(there)
		}
	}
	return out
}

// dispatch hands serf's events to the callbacks until done is closed.
func (g *Gossip) dispatch(r *running, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case e := <-r.events:
			switch e := e.(type) {
			case serf.MemberEvent:
				if g.opts.OnMember == nil || e.Type == serf.EventMemberReap {
					continue
				}
				for _, m := range e.Members {
					g.opts.OnMember(g.member(r, m))
				}
			case serf.UserEvent:
				if g.opts.OnEvent != nil {
					g.opts.OnEvent(e.Name, e.Payload)
				}
			}
		}
	}
}

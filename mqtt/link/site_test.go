package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/store"
)

// world is some sites and the streams between them, in memory.
type world struct {
	tb  testing.TB
	ctx context.Context
	wg  sync.WaitGroup

	mu      sync.Mutex
	sites   map[identity.ID]*site
	changed chan struct{}
	cut     bool
	budget  func() int // bytes that a new stream carries before it breaks; nil: no end
	streams map[net.Conn][2]identity.ID
	away    map[identity.ID]bool // nodes that no stream reaches
	extra   []Peer
	hole    atomic.Bool // streams swallow written bytes, both ways
	opened  int
}

// site is a fake broker with links.
type site struct {
	w      *world
	name   string
	id     identity.ID
	store  store.Store
	links  *Links
	cancel context.CancelFunc
	gone   chan struct{}

	mu       sync.Mutex
	filters  map[string]bool
	got      []*store.Message
	held     []func() // calls that Inject makes later
	hold     bool
	draining bool
	fail     func(m *store.Message) error
	rerouted int
}

func nodeOf(name string) identity.ID {
	return identity.ID{TrustDomain: "lab.test", Kind: identity.Node, Name: name}
}

func newWorld(tb testing.TB, names ...string) *world {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{
		tb: tb, ctx: ctx, sites: make(map[identity.ID]*site),
		changed: make(chan struct{}), streams: make(map[net.Conn][2]identity.ID),
		away: make(map[identity.ID]bool),
	}
	tb.Cleanup(func() { cancel(); w.wg.Wait() })
	for _, n := range names {
		w.add(n, Options{})
	}
	return w
}

func (w *world) add(name string, o Options) *site { return w.addNode(name, name, o) }

func (w *world) addNode(name, node string, o Options) *site {
	s := &site{w: w, name: name, id: nodeOf(node), filters: make(map[string]bool)}
	if s.store = o.Store; o.Store == nil {
		s.store = store.NewMemory(store.Limits{})
	}
	o.Site, o.Store, o.Dialer, o.Peers, o.Changed = name, s.store, dialer{s}, w.peers, w.change
	s.links = New(o)
	w.mu.Lock()
	if old := w.sites[s.id]; old != nil {
		s.filters = old.filters // of sessions that outlive it
	}
	w.sites[s.id] = s
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(w.ctx)
	s.cancel, s.gone = cancel, make(chan struct{})
	w.wg.Go(func() {
		defer close(s.gone)
		if err := s.links.Run(ctx, s); err != nil {
			w.tb.Errorf("%s: %v", name, err)
		}
	})
	return s
}

// restart ends the site's process and starts another on the same store.
func (s *site) restart() *site {
	s.cancel()
	<-s.gone
	return s.w.addNode(s.name, s.id.Name, Options{Store: s.store})
}

func (w *world) site(name string) *site {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sites[nodeOf(name)]
}

func (w *world) peers() []Peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.extra)
	for id, s := range w.sites {
		all = append(all, Peer{ID: id, Site: s.name, Connected: !w.cut && !w.away[id]})
	}
	return all
}

func (w *world) change() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// sever breaks all streams and lets none be opened until heal.
func (w *world) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.streams {
		c.Close()
	}
	clear(w.streams)
}

// part breaks the streams of a node and lets none be opened until rejoin.
func (w *world) part(s *site) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away[s.id] = true
	for c, ends := range w.streams {
		if ends[0] == s.id || ends[1] == s.id {
			c.Close()
			delete(w.streams, c)
		}
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) rejoin(s *site) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.away, s.id)
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
	close(w.changed)
	w.changed = make(chan struct{})
}

type dialer struct{ s *site }

func (d dialer) Open(_ context.Context, peer identity.ID) (net.Conn, error) {
	w := d.s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	to := w.sites[peer]
	if w.cut || to == nil || w.away[peer] || w.away[d.s.id] {
		return nil, errors.New("no path")
	}
	w.opened++
	near, far := net.Pipe()
	w.streams[near] = [2]identity.ID{d.s.id, peer}
	w.wg.Go(func() { to.links.Handle(w.ctx, d.s.id, far) })
	f := &frail{Conn: near, hole: &w.hole, left: 1 << 40}
	if w.budget != nil {
		f.left = w.budget()
	}
	return f, nil
}

// frail is a connection that breaks after some bytes, wherever that is.
type frail struct {
	net.Conn
	hole *atomic.Bool
	lost atomic.Bool // it has swallowed something

	mu   sync.Mutex
	left int
}

func (f *frail) swallows() bool {
	if f.hole.Load() {
		f.lost.Store(true)
	}
	return f.lost.Load()
}

func (f *frail) spend(n int) (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, f.left)
	f.left -= n
	return n, f.left > 0
}

func (f *frail) Write(b []byte) (int, error) {
	if f.swallows() {
		return len(b), nil
	}
	n, whole := f.spend(len(b))
	n, err := f.Conn.Write(b[:n])
	if !whole {
		f.Close()
	}
	if err == nil && n < len(b) {
		err = net.ErrClosed
	}
	return n, err
}

func (f *frail) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	for err == nil && f.swallows() {
		n, err = f.Conn.Read(b)
	}
	n, whole := f.spend(n)
	if !whole {
		f.Close()
	}
	return n, err
}

// subscriber is the session of a subscriber that is away, at nodes that were given one:
// the messages in its queue were delivered, kill or not.
var subscriber = store.SessionKey{Identity: "spiffe://lab.test/device/sub", ClientID: "sub"}

// Inject implements [Broker].
func (s *site) Inject(m *store.Message, replayed bool, tx func(store.Tx), done func(error)) {
	do := func() {
		s.mu.Lock()
		fail := s.fail
		s.mu.Unlock()
		if fail != nil {
			if err := fail(m); err != nil {
				done(err)
				return
			}
		}
		s.store.Update(func(t store.Tx) {
			if m.Retain {
				t.Retain(m)
			}
			if tx != nil {
				tx(t)
			}
			t.Enqueue(subscriber, store.Delivery{Message: m, QoS: 1}) // if it has a session
		}, func(err error) {
			if err == nil && (!replayed || !clears(m)) {
				s.mu.Lock()
				s.got = append(s.got, m)
				s.mu.Unlock()
			}
			done(err)
		})
	}
	s.mu.Lock()
	s.held = append(s.held, do)
	s.mu.Unlock()
	s.drain()
}

// drain makes the held calls in their order, one goroutine at a time.
func (s *site) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.hold && !s.draining && len(s.held) > 0 {
		do := s.held[0]
		s.held = s.held[1:]
		s.draining = true
		s.mu.Unlock()
		do()
		s.mu.Lock()
		s.draining = false
	}
}

// Filters implements [Broker].
func (s *site) Filters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for f := range s.filters {
		all = append(all, f)
	}
	return all
}

// Reroute implements [Broker].
func (s *site) Reroute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rerouted++
}

func (s *site) letGo() {
	s.mu.Lock()
	s.hold = false
	s.mu.Unlock()
	s.drain()
}

func (s *site) subscribe(filters ...string) {
	for _, f := range filters {
		s.mu.Lock()
		s.filters[f] = true
		s.mu.Unlock()
		s.links.Subscribed(f)
	}
}

func (s *site) unsubscribe(f string) {
	s.mu.Lock()
	delete(s.filters, f)
	s.mu.Unlock()
	s.links.Unsubscribed(f)
}

// publish handles m as the broker handles a client's message.
func (s *site) publish(m *store.Message) {
	if m.QoS == 0 && !m.Retain {
		if s.links.Wants(m.Topic) {
			s.links.Forward(nil, m)
		}
		return
	}
	s.store.Update(func(tx store.Tx) {
		if m.Retain {
			tx.Retain(m)
		}
		if s.links.Wants(m.Topic) || clears(m) {
			s.links.Forward(tx, m)
		}
	}, nil)
}

func message(name, payload string, qos byte) *store.Message {
	return &store.Message{
		Topic: name, Payload: []byte(payload), QoS: qos, HLC: 1,
		Publisher: "spiffe://lab.test/device/pump-7", ClientID: "c1",
	}
}

func retained(name, payload string, clock uint64) *store.Message {
	m := message(name, payload, 1)
	m.Retain, m.HLC = true, clock
	return m
}

func (s *site) received() []*store.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// texts returns the received messages as "topic payload".
func (s *site) texts() []string {
	var all []string
	for _, m := range s.received() {
		all = append(all, m.Topic+" "+string(m.Payload))
	}
	return all
}

func (s *site) to(name string) PeerStats {
	for _, p := range s.links.Stats() {
		if p.Site == name {
			return p
		}
	}
	s.w.tb.Fatalf("%s knows no site %s", s.name, name)
	return PeerStats{}
}

func (s *site) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := s.texts(); !slices.Equal(got, want) {
		t.Errorf("%s received %q, want %q", s.name, got, want)
	}
}

// bubble runs a test in fake time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// pass lets fake time go by, and all that becomes due by then happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func numbered(topic string, n int) *store.Message {
	return message(topic, fmt.Sprint(n), 1)
}

// These change a site's interest as the keeper of a stream does.

func (p *peer) mustPicture(t testing.TB, filters ...string) {
	t.Helper()
	if err := p.keepPicture(t.Context(), filters, 1); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) mustSubscribe(t testing.TB, filters ...string) {
	t.Helper()
	if _, err := p.subscribe(t.Context(), filters); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) mustUnsubscribe(t testing.TB, filters ...string) {
	t.Helper()
	if err := p.unsubscribe(t.Context(), filters); err != nil {
		t.Fatal(err)
	}
}

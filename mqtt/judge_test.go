package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// Receive looks at the filters that are not granted too.
func (r *ruleRights) Receive(name string) Verdict {
	for _, f := range r.subscribe {
		who, f, mine := strings.Cut(f, "=")
		if !mine {
			who, f = r.who, who
		}
		if who == r.who && topic.Match(f, name) {
			return r.answer([]string{name}, name)
		}
	}
	return r.answer(r.receive, name)
}

// waiting is a client for which messages wait: "1" and "3" of a/open and, between
// them, "2" of a/hide.
type waiting struct {
	*world
	t     *testing.T
	kept  *store.Memory
	chain *chain
	sub   *client
	begun []*packet.Publish // what the client has of them, unacknowledged
	conn  func(*packet.Connect)
	v     packet.Version
}

func (x *waiting) open() {
	w := newWorld(x.t, func(o *Options) {
		o.Store, o.Filter = x.kept, x.chain
		if x.world != nil {
			o.Authorizer = x.rules
		}
	})
	if x.world != nil {
		w.rules = x.rules
	}
	x.world = w
}

func (x *waiting) connectSub(change ...func(*packet.Connect)) {
	x.sub = x.connect(x.v, "sub", append([]func(*packet.Connect){x.conn}, change...)...)
}

func (x *waiting) publishThree(qos byte) {
	pub := x.connect(packet.V5, "pub")
	for i, name := range []string{"a/open", "a/hide", "a/open"} {
		pub.publish(name, fmt.Sprint(i+1), qos, uint16(i+1))
		if qos == 2 {
			pub.send(&packet.Pubrel{PacketID: uint16(i + 1)})
		}
	}
	x.counters() // all is through
	pub.bye()
}

// hold notes what the client gets and acknowledges nothing.
func (x *waiting) hold() {
	for p := x.sub.next(); p != nil; p = x.sub.next() {
		x.begun = append(x.begun, p.(*packet.Publish))
	}
}

// drain returns the payloads that the client gets from now on and finishes every
// exchange. It reports whether the client was sent away meanwhile.
func (x *waiting) drain() (got []string, refused bool) {
	has := make(map[uint16]bool) // of QoS 2
	for _, p := range x.begun {
		has[p.PacketID] = true
	}
	for p := x.sub.next(); p != nil; p = x.sub.next() {
		switch p := p.(type) {
		case *packet.Publish:
			got = append(got, string(p.Payload))
			has[p.PacketID] = true
			x.sub.acknowledge(p)
		case *packet.Pubrel:
			if !has[p.PacketID] {
				x.t.Errorf("PUBREL of %d, which the client does not have", p.PacketID)
			}
			delete(has, p.PacketID)
			x.sub.send(&packet.Pubcomp{PacketID: p.PacketID})
		case *packet.Disconnect:
			refused = true
		}
	}
	return got, refused || x.sub.ended()
}

// acknowledge begins the end of an exchange, see drain.
func (c *client) acknowledge(p *packet.Publish) {
	switch p.QoS {
	case 1:
		c.send(&packet.Puback{PacketID: p.PacketID})
	case 2:
		c.send(&packet.Pubrec{PacketID: p.PacketID})
	}
}

// ways are those in which messages wait.
var ways = []struct {
	name       string
	expiry     uint32
	connected  bool // it waits while its client is here
	away       bool // and while it is not
	begun      int  // how many the client has before the change
	subscribes []packet.Subscription
	fill       func(x *waiting)
	change     []func(*packet.Connect)
}{
	{
		name: "queue", expiry: 1000, away: true, subscribes: []packet.Subscription{filter("a/#", 2)},
		fill: func(x *waiting) { x.sub.close(); x.publishThree(1) },
	},
	{
		name: "queue of QoS 2", expiry: 1000, away: true, subscribes: []packet.Subscription{filter("a/#", 2)},
		fill: func(x *waiting) { x.sub.close(); x.publishThree(2) },
	},
	{
		name: "window", expiry: 1000, connected: true, away: true, begun: 1, subscribes: []packet.Subscription{filter("a/#", 1)},
		fill: func(x *waiting) { x.publishThree(1) }, change: []func(*packet.Connect){quota(1)},
	},
	{
		name: "volatile", connected: true, begun: 1, subscribes: []packet.Subscription{filter("a/#", 1)},
		fill: func(x *waiting) { x.publishThree(1) }, change: []func(*packet.Connect){quota(1)},
	},
	{
		name: "resend of QoS 1", expiry: 1000, away: true, begun: 3, subscribes: []packet.Subscription{filter("a/#", 1)},
		fill: func(x *waiting) { x.publishThree(1) },
	},
	{
		name: "resend of QoS 2", expiry: 1000, away: true, begun: 3, subscribes: []packet.Subscription{filter("a/#", 2)},
		fill: func(x *waiting) { x.publishThree(2) },
	},
	{
		name: "shared", expiry: 1000, away: true, subscribes: []packet.Subscription{filter("$share/g/a/#", 1)},
		fill: func(x *waiting) { x.sub.close(); x.publishThree(1) },
	},
	{
		name: "shared of QoS 2", expiry: 1000, connected: true, away: true, begun: 1, subscribes: []packet.Subscription{filter("$share/g/a/#", 2)},
		fill: func(x *waiting) { x.publishThree(2) }, change: []func(*packet.Connect){quota(1)},
	},
	{
		name: "retained", expiry: 1000, connected: true, away: true, begun: 1,
		fill: func(x *waiting) {
			pub := x.connect(packet.V5, "pub")
			for i, name := range []string{"a/open", "a/hide", "a/zopen"} {
				p := message(name, fmt.Sprint(i+1), 1, uint16(i+1))
				p.Retain = true
				pub.send(p)
				want[*packet.Puback](pub)
			}
			for _, f := range []string{"a/open", "a/hide", "a/zopen"} { // in this order
				x.sub.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{filter(f, 1)}})
				for p := x.sub.next(); p != nil; p = x.sub.next() {
					if p, ok := p.(*packet.Publish); ok {
						x.begun = append(x.begun, p)
					}
				}
			}
			pub.bye()
		}, change: []func(*packet.Connect){quota(1)},
	},
	{
		name: "function", expiry: 1000, connected: true, away: true, subscribes: []packet.Subscription{filter("slow/#", 1), filter("a/#", 1)},
		fill: func(x *waiting) { x.chain.bound["downstream a"] = true; x.publishThree(1) },
	},
	{
		name: "function, volatile", connected: true, subscribes: []packet.Subscription{filter("slow/#", 1), filter("a/#", 1)},
		fill: func(x *waiting) { x.chain.bound["downstream a"] = true; x.publishThree(1) },
	},
	{
		name: "function of a group", connected: true, subscribes: []packet.Subscription{filter("$share/g/a/#", 1)},
		fill: func(x *waiting) { x.chain.bound["downstream a"] = true; x.publishThree(1) },
	},
}

// changesOfPolicy are those that the client has no right to what waits after, or
// has it again.
var changesOfPolicy = []struct {
	name    string
	apply   func(r *rules)
	again   func(r *rules)
	allowed []string
	reason  bool // the client is sent away
}{
	{name: "grant removed", reason: true, apply: func(r *rules) { r.subscribe = []string{"subx=a/#", "subx=a/open", "subx=a/hide", "subx=a/zopen"} }},
	{name: "deny added", allowed: []string{"1", "3"}, apply: func(r *rules) { r.receive = []string{"subx=a/hide"} }},
	{
		name: "given back", allowed: []string{"1", "2", "3"}, reason: true,
		apply: func(r *rules) { r.subscribe = []string{"subx=a/#", "subx=a/open", "subx=a/hide", "subx=a/zopen"} },
		again: func(r *rules) { r.subscribe = nil },
	},
	{name: "of others", allowed: []string{"1", "2", "3"}, apply: func(r *rules) { r.publish = []string{"x"} }},
}

// TestWaitingIsJudgedAgain takes rights away while messages wait.
func TestWaitingIsJudgedAgain(t *testing.T) {
	for _, way := range ways {
		for _, change := range changesOfPolicy {
			for _, state := range []string{"connected", "away", "restarted"} {
				if state == "connected" && !way.connected || state != "connected" && !way.away {
					continue
				}
				if way.name == "function" && state == "restarted" {
					continue // it answers before the broker ends
				}
				t.Run(way.name+"/"+change.name+"/"+state, func(t *testing.T) {
					each(t, func(t *testing.T, w *world, v packet.Version) {
						w.close()
						if v == packet.V311 && slices.Contains([]string{"window", "volatile", "retained", "shared of QoS 2"}, way.name) {
							return // there is no Receive Maximum
						}
						x := &waiting{t: t, v: v, kept: store.NewMemory(store.Limits{}), chain: newChain(), conn: func(p *packet.Connect) {
							p.CleanStart = p.CleanStart && way.expiry == 0
							if v == packet.V5 {
								expiry(way.expiry)(p)
							}
						}}
						x.open()
						defer func() { x.close() }()
						x.connectSub(way.change...)
						if len(way.subscribes) > 0 {
							x.sub.subscribe(way.subscribes...)
						}
						way.fill(x)
						x.hold()
						if len(x.begun) != way.begun {
							t.Fatalf("the client has %d before the change", len(x.begun))
						}
						if state != "connected" {
							x.sub.close()
						}
						if state == "restarted" {
							x.close()
							x.rules.set(change.apply)
							x.open()
						} else {
							x.rules.set(change.apply)
							x.b.Reauthorize()
						}
						if change.again != nil {
							x.rules.set(change.again)
							x.b.Reauthorize()
						}
						for q := x.chain.take(); len(q) > 0; q = x.chain.take() {
							for _, q := range q {
								q.answer(FilterResult{})
							}
						}
						x.finish(state == "connected", way.expiry > 0, strings.HasPrefix(way.name, "shared"), change.reason, change.allowed)
					})
				})
			}
		}
	}
}

// finish has the client get what it may, and compares.
func (x *waiting) finish(connected, persistent, shared, sentAway bool, allowed []string) {
	x.t.Helper()
	waits := []string{"1", "2", "3"}
	if connected && sentAway {
		if _, refused := x.drain(); !refused {
			x.t.Error("the client was not told")
		}
		if !persistent {
			return
		}
	}
	if connected && !sentAway {
		for _, p := range x.begun {
			x.sub.acknowledge(p)
			waits = waits[1:]
		}
		if n := len(x.begun); len(allowed) > 0 {
			allowed = allowed[n:]
		}
	} else {
		x.connectSub(resume)
	}
	got, refused := x.drain()
	if refused {
		x.t.Error("the client was sent away again")
	}
	if !slices.Equal(got, allowed) {
		x.t.Errorf("got %v, want %v", got, allowed)
	}
	denied := len(waits) - len(allowed)
	if shared && len(allowed) == 0 {
		denied = len(x.begun) // the rest waits for a member that wakes
	}
	if got := x.counters().Drops["denied"]; got != uint64(denied) {
		x.t.Errorf("%d counted as denied, want %d", got, denied)
	}
	if n := x.kept.QueueStats(store.SessionKey{Identity: testID("subx").String(), ClientID: "sub"}).Messages; n != 0 {
		x.t.Errorf("%d stay in the queue", n)
	}
}

// TestJudgedAfterCommit changes the policy while a message is on its way to the
// store: neither the session that keeps nothing nor the one that does may have it,
// whatever else has the latter look into its queue meanwhile.
func TestJudgedAfterCommit(t *testing.T) {
	kept := &heldStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		keeps, clean := w.connect(packet.V5, "keeps", expiry(1000)), w.connect(packet.V5, "clean")
		pub := w.connect(packet.V5, "pub")
		keeps.subscribe(filter("a/#", 1))
		clean.subscribe(filter("a/#", 1))
		kept.hold()
		pub.publish("a/hide", "x", 1, 1)
		w.counters()
		w.rules.set(func(r *rules) { r.receive = []string{"a/hide"} })
		w.b.Reauthorize()
		w.counters()
		w.refillAll()
		kept.commit() // visible, but nobody was told
		w.refillAll()
		keeps.silence()
		kept.tell()
		keeps.silence()
		clean.silence()
		if got := w.counters().Drops["denied"]; got != 2 {
			t.Errorf("%d counted, want 2", got)
		}

		w.rules.set(func(r *rules) { r.receive = nil })
		w.b.Reauthorize()
		pub.exchange("a/open", "y", 1)
		for _, c := range []*client{keeps, clean} {
			c.finish(c.wantMessage("y"))
		}
		for _, s := range w.b.allSessions() {
			s.mu.Lock()
			if s.judging != 0 && s.key.ClientID == "keeps" {
				t.Error("still asks about each message")
			}
			s.mu.Unlock()
		}
	})
}

// TestLateIdentifiersAreJudged changes the policy while the store keeps the
// identifier of a message of QoS 2 that was about to be sent.
func TestLateIdentifiersAreJudged(t *testing.T) {
	kept := &heldStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub", expiry(1000)), w.connect(packet.V5, "pub")
		sub.subscribe(filter("a/#", 2))
		kept.hold()
		pub.publish("a/hide", "1", 2, 1)
		kept.commit()
		kept.tellOnly() // it is in the queue
		w.rules.set(func(r *rules) { r.receive = []string{"a/hide"} })
		w.b.Reauthorize()
		w.refillAll()
		kept.commit()
		kept.tell()
		want[*packet.Pubrec](pub)
		pub.exchange("a/open", "2", 1)
		sub.finish(sub.wantMessage("2"))
		sub.silence()
		if c := w.counters(); c.Drops["denied"] != 1 || c.Store.Queued != 0 {
			t.Errorf("dropped %v, %d stay", c.Drops, c.Store.Queued)
		}
	})
}

// refillAll has each session look for what waits.
func (w *world) refillAll() {
	synctest.Wait()
	for _, s := range w.b.allSessions() {
		s.refill()
	}
	synctest.Wait()
}

// TestRoutedBefore delivers a message that found its receivers just before a change.
func TestRoutedBefore(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub", quota(1)), w.connect(packet.V5, "pub")
		sub.subscribe(filter("a/#", 1))
		pub.exchange("a/open", "1", 1)
		first := sub.wantMessage("1")
		var from *session
		for _, s := range w.b.allSessions() {
			if s.key.ClientID == "pub" {
				from = s
			}
		}
		var cache routeCache
		r := cache.get(w.b, "a/hide", from)
		w.rules.set(func(r *rules) { r.receive = []string{"a/hide"} })
		w.b.Reauthorize()
		w.refillAll()
		bt := getBatch(w.b)
		bt.out.setPublish(&packet.Publish{TopicName: []byte("a/hide"), Payload: []byte("2"), QoS: 1}, r, from)
		bt.fanOut(r, 1, false)
		bt.done()
		sub.finish(first)
		sub.silence()
		if got := w.counters().Drops["denied"]; got != 1 {
			t.Errorf("%d counted, want 1", got)
		}
	})
}

// TestSentBeforeIsNotSentAgain ends a connection, after a change, that has messages
// from before it. A message of QoS 2 comes once, also when the right is given back
// and the broker is killed.
func TestSentBeforeIsNotSentAgain(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		j := &journal{Memory: store.NewMemory(store.Limits{})}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Store = j })
			sub, pub := w.connect(packet.V5, "sub", expiry(1000)), w.connect(packet.V5, "pub")
			sub.subscribe(filter("a/#", qos))
			pub.exchange("a/hide", "x", qos)
			sub.wantMessage("x")
			w.rules.set(func(r *rules) { r.receive = []string{"a/hide"} })
			w.b.Reauthorize()
			w.refillAll() // nothing waits
			sub.close()
			sub = w.connect(packet.V5, "sub", expiry(1000), resume)
			if qos == 2 {
				want[*packet.Pubrel](sub) // which has the client forget the identifier
			}
			sub.silence()
			kept := j.killed(len(j.all))
			w.close()

			w = newWorld(t, func(o *Options) { o.Store = kept }) // the right is given back
			defer w.close()
			sub = w.connect(packet.V5, "sub", expiry(1000), resume)
			if qos == 2 {
				want[*packet.Pubrel](sub)
			}
			sub.silence()
		})
	}
}

// TestReplayIsJudged changes the policy while retained messages wait behind what
// their subscriber has published.
func TestReplayIsJudged(t *testing.T) {
	f := newChain("upstream slow")
	bubble(t, filtered1(f), func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub")
		for _, name := range []string{"a/hide", "a/open"} {
			p := message(name, name, 0, 0)
			p.Retain = true
			pub.send(p)
		}
		sub := w.connect(packet.V5, "sub")
		sub.publish("slow/x", "x", 0, 0)
		sub.subscribe(filter("a/#", 1))
		w.rules.set(func(r *rules) { r.receive = []string{"a/hide"} })
		w.b.Reauthorize()
		for _, q := range f.take() {
			q.answer(FilterResult{})
		}
		sub.wantMessage("a/open")
		sub.silence()
		if got := w.counters().Drops["denied"]; got != 1 {
			t.Errorf("%d counted, want 1", got)
		}
	})
}

// TestDerivedIsJudged: what a function made of a message goes with it.
func TestDerivedIsJudged(t *testing.T) {
	for _, session := range kinds {
		f := newChain("downstream a")
		bubble(t, filtered1(f), func(t *testing.T, w *world) {
			sub, pub := w.connect(packet.V5, "sub", expiry(session)), w.connect(packet.V5, "pub")
			sub.subscribe(filter("a/#", 1))
			pub.publish("a/hide", "1", 1, 1)
			pub.publish("a/open", "2", 1, 2)
			q := f.take()
			w.rules.set(func(r *rules) { r.receive = []string{"a/hide"} })
			w.b.Reauthorize()
			for _, q := range q {
				q.answer(emit("derived", string(q.m.Payload)))
			}
			sub.finish(sub.wantMessage("2"))
			sub.silence()
			if got := w.counters().Drops["denied"]; got != 1 {
				t.Errorf("%d counted, want 1", got)
			}
		})
	}
}

// TestMovedIsJudged changes the policy while the store makes a message of QoS 2 a
// persistent member's own.
func TestMovedIsJudged(t *testing.T) {
	kept := &heldStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub", expiry(1000)), w.connect(packet.V5, "pub")
		sub.subscribe(filter("$share/g/a", 2))
		kept.hold()
		pub.publish("a", "x", 2, 1)
		kept.commit()
		kept.tellOnly() // it is in the group's queue, and on its way to the member's
		w.rules.set(func(r *rules) { r.receive = []string{"subx=a"} })
		w.b.Reauthorize()
		w.refillAll()
		kept.commit()
		kept.tell()
		sub.silence()
		if c := w.counters(); c.Drops["denied"] != 1 || c.Store.Queued != 0 {
			t.Errorf("dropped %v, %d stay", c.Drops, c.Store.Queued)
		}
	})
}

// TestSharedMoveIsJudged changes the policy while the store makes a message of QoS
// 2 a member's own: a member that keeps nothing leaves it to another.
func TestSharedMoveIsJudged(t *testing.T) {
	kept := &heldStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		clean, keeps := w.connect(packet.V5, "clean"), w.connect(packet.V5, "keeps", expiry(1000))
		pub := w.connect(packet.V5, "pub")
		clean.subscribe(filter("$share/g/a", 2))
		keeps.subscribe(filter("$share/g/a", 2))
		keeps.close()
		pub.publish("a", "x", 2, 1)
		pub.next() // PUBREC
		if p := clean.next(); p == nil {
			t.Fatal("nothing came")
		}
		kept.hold()
		pub.publish("a", "y", 2, 2)
		kept.commit()
		kept.tellOnly() // it is in the group's queue, and on its way to the member's
		w.rules.set(func(r *rules) { r.receive = []string{"cleanx=a"} })
		w.b.Reauthorize()
		kept.commit()
		kept.tell()
		for p := clean.next(); p != nil; p = clean.next() {
			t.Errorf("got %s", show(p))
		}
		keeps = w.connect(packet.V5, "keeps", resume, expiry(1000))
		keeps.finish(keeps.wantMessage("y"))
	})
}

// heldStore is a store that a test has commit, and tell so, when it likes.
type heldStore struct {
	*store.Memory

	mu    sync.Mutex // guards all below
	held  bool
	jobs  []*job
	tells []*job
}

func (s *heldStore) Update(add func(store.Tx), done func(error)) {
	s.mu.Lock()
	held := s.held
	if held {
		s.jobs = append(s.jobs, &job{add: add, done: done})
	}
	s.mu.Unlock()
	if !held {
		s.Memory.Update(add, done)
	}
}

// hold comes after all that was sent before.
func (s *heldStore) hold() {
	synctest.Wait()
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
}

// commit makes visible what waits.
func (s *heldStore) commit() {
	synctest.Wait()
	s.mu.Lock()
	jobs := s.jobs
	s.tells, s.jobs = append(s.tells, jobs...), nil
	s.mu.Unlock()
	for _, j := range jobs {
		s.Memory.Update(j.add, func(err error) { j.err = err })
	}
}

// tellOnly tells of what was committed.
func (s *heldStore) tellOnly() {
	s.mu.Lock()
	tells := s.tells
	s.tells = nil
	s.mu.Unlock()
	for _, j := range tells {
		if j.done != nil {
			j.done(j.err)
		}
	}
	synctest.Wait()
}

// tell ends hold.
func (s *heldStore) tell() {
	s.mu.Lock()
	s.held = false
	s.mu.Unlock()
	s.commit()
	s.tellOnly()
}

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

// waitingClient is a client for which messages wait: "1" and "3" of a/open and, between
// them, "2" of a/hide.
type waitingClient struct {
	*testServer
	t              *testing.T
	kept           *store.Memory
	chain          *fakeFilter
	sub            *client
	unacknowledged []*packet.Publish // messages that the client has and did not acknowledge
	connectOption  func(*packet.Connect)
	v              packet.Version
}

// startServer starts a broker over the stored messages, with the policy of the
// broker before.
func (x *waitingClient) startServer() {
	srv := startServer(x.t, func(o *Options) {
		o.Store, o.Filter = x.kept, x.chain
		if x.testServer != nil {
			o.Authorizer = x.denied
		}
	})
	if x.testServer != nil {
		srv.denied = x.denied
	}
	x.testServer = srv
}

// connectSub connects the client for which the messages wait.
func (x *waitingClient) connectSub(change ...func(*packet.Connect)) {
	x.sub = x.connect(x.v, "sub", append([]func(*packet.Connect){x.connectOption}, change...)...)
}

// publishThree publishes the three messages.
func (x *waitingClient) publishThree(qos byte) {
	pub := x.connect(packet.V5, "pub")
	for i, name := range []string{"a/open", "a/hide", "a/open"} {
		pub.publish(name, fmt.Sprint(i+1), qos, uint16(i+1))
		if qos == 2 {
			pub.send(&packet.Pubrel{PacketID: uint16(i + 1)})
		}
	}
	x.counters() // all is through
	pub.disconnect()
}

// readUnacknowledged reads the messages that the client is sent and acknowledges
// none.
func (x *waitingClient) readUnacknowledged() {
	for p := x.sub.nextPacket(); p != nil; p = x.sub.nextPacket() {
		x.unacknowledged = append(x.unacknowledged, p.(*packet.Publish))
	}
}

// readRest reads and acknowledges all further packets. It returns the payloads
// and whether the broker closed the connection meanwhile.
func (x *waitingClient) readRest() (got []string, refused bool) {
	has := make(map[uint16]bool) // of QoS 2
	for _, p := range x.unacknowledged {
		has[p.PacketID] = true
	}
	for p := x.sub.nextPacket(); p != nil; p = x.sub.nextPacket() {
		switch p := p.(type) {
		case *packet.Publish:
			got = append(got, string(p.Payload))
			has[p.PacketID] = true
			x.sub.sendFirstAck(p)
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
	return got, refused || x.sub.closedByServer()
}

// sendFirstAck sends PUBACK or PUBREC for a message that arrived, see readRest.
func (c *client) sendFirstAck(p *packet.Publish) {
	switch p.QoS {
	case 1:
		c.send(&packet.Puback{PacketID: p.PacketID})
	case 2:
		c.send(&packet.Pubrec{PacketID: p.PacketID})
	}
}

// waitingWays are the ways in which messages wait.
var waitingWays = []struct {
	name       string
	expiry     uint32
	connected  bool // it waits while its client is here
	away       bool // and while it is not
	begun      int  // how many the client has before the change
	subscribes []packet.Subscription
	fill       func(x *waitingClient)
	change     []func(*packet.Connect)
}{
	{
		name: "queue", expiry: 1000, away: true, subscribes: []packet.Subscription{subscribeTo("a/#", 2)},
		fill: func(x *waitingClient) { x.sub.dropConnection(); x.publishThree(1) },
	},
	{
		name: "queue of QoS 2", expiry: 1000, away: true, subscribes: []packet.Subscription{subscribeTo("a/#", 2)},
		fill: func(x *waitingClient) { x.sub.dropConnection(); x.publishThree(2) },
	},
	{
		name: "window", expiry: 1000, connected: true, away: true, begun: 1, subscribes: []packet.Subscription{subscribeTo("a/#", 1)},
		fill: func(x *waitingClient) { x.publishThree(1) }, change: []func(*packet.Connect){receiveMaximum(1)},
	},
	{
		name: "volatile", connected: true, begun: 1, subscribes: []packet.Subscription{subscribeTo("a/#", 1)},
		fill: func(x *waitingClient) { x.publishThree(1) }, change: []func(*packet.Connect){receiveMaximum(1)},
	},
	{
		name: "resend of QoS 1", expiry: 1000, away: true, begun: 3, subscribes: []packet.Subscription{subscribeTo("a/#", 1)},
		fill: func(x *waitingClient) { x.publishThree(1) },
	},
	{
		name: "resend of QoS 2", expiry: 1000, away: true, begun: 3, subscribes: []packet.Subscription{subscribeTo("a/#", 2)},
		fill: func(x *waitingClient) { x.publishThree(2) },
	},
	{
		name: "shared", expiry: 1000, away: true, subscribes: []packet.Subscription{subscribeTo("$share/g/a/#", 1)},
		fill: func(x *waitingClient) { x.sub.dropConnection(); x.publishThree(1) },
	},
	{
		name: "shared of QoS 2", expiry: 1000, connected: true, away: true, begun: 1, subscribes: []packet.Subscription{subscribeTo("$share/g/a/#", 2)},
		fill: func(x *waitingClient) { x.publishThree(2) }, change: []func(*packet.Connect){receiveMaximum(1)},
	},
	{
		name: "retained", expiry: 1000, connected: true, away: true, begun: 1,
		fill: func(x *waitingClient) {
			pub := x.connect(packet.V5, "pub")
			for i, name := range []string{"a/open", "a/hide", "a/zopen"} {
				p := publishPacket(name, fmt.Sprint(i+1), 1, uint16(i+1))
				p.Retain = true
				pub.send(p)
				wantPacket[*packet.Puback](pub)
			}
			for _, f := range []string{"a/open", "a/hide", "a/zopen"} { // in this order
				x.sub.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{subscribeTo(f, 1)}})
				for p := x.sub.nextPacket(); p != nil; p = x.sub.nextPacket() {
					if p, ok := p.(*packet.Publish); ok {
						x.unacknowledged = append(x.unacknowledged, p)
					}
				}
			}
			pub.disconnect()
		}, change: []func(*packet.Connect){receiveMaximum(1)},
	},
	{
		name: "function", expiry: 1000, connected: true, away: true, subscribes: []packet.Subscription{subscribeTo("slow/#", 1), subscribeTo("a/#", 1)},
		fill: func(x *waitingClient) { x.chain.bound["downstream a"] = true; x.publishThree(1) },
	},
	{
		name: "function, volatile", connected: true, subscribes: []packet.Subscription{subscribeTo("slow/#", 1), subscribeTo("a/#", 1)},
		fill: func(x *waitingClient) { x.chain.bound["downstream a"] = true; x.publishThree(1) },
	},
	{
		name: "function of a group", connected: true, subscribes: []packet.Subscription{subscribeTo("$share/g/a/#", 1)},
		fill: func(x *waitingClient) { x.chain.bound["downstream a"] = true; x.publishThree(1) },
	},
}

// changesOfPolicy are those that the client has no right to what waits after, or
// has it again.
var changesOfPolicy = []struct {
	name    string
	apply   func(d *denyList)
	again   func(d *denyList)
	allowed []string
	reason  bool // the client is sent away
}{
	{name: "grant removed", reason: true, apply: func(d *denyList) { d.subscribe = []string{"subx=a/#", "subx=a/open", "subx=a/hide", "subx=a/zopen"} }},
	{name: "deny added", allowed: []string{"1", "3"}, apply: func(d *denyList) { d.receive = []string{"subx=a/hide"} }},
	{
		name: "given back", allowed: []string{"1", "2", "3"}, reason: true,
		apply: func(d *denyList) { d.subscribe = []string{"subx=a/#", "subx=a/open", "subx=a/hide", "subx=a/zopen"} },
		again: func(d *denyList) { d.subscribe = nil },
	},
	{name: "of others", allowed: []string{"1", "2", "3"}, apply: func(d *denyList) { d.publish = []string{"x"} }},
}

// TestWaitingIsJudgedAgain takes rights away while messages wait.
func TestWaitingIsJudgedAgain(t *testing.T) {
	for _, way := range waitingWays {
		for _, change := range changesOfPolicy {
			for _, state := range []string{"connected", "away", "restarted"} {
				if state == "connected" && !way.connected || state != "connected" && !way.away {
					continue
				}
				if way.name == "function" && state == "restarted" {
					continue // it answers before the broker ends
				}
				t.Run(way.name+"/"+change.name+"/"+state, func(t *testing.T) {
					runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
						srv.close()
						if v == packet.V311 && slices.Contains([]string{"window", "volatile", "retained", "shared of QoS 2"}, way.name) {
							return // there is no Receive Maximum
						}
						x := &waitingClient{t: t, v: v, kept: store.NewMemory(store.Limits{}), chain: newFakeFilter(), connectOption: func(p *packet.Connect) {
							p.CleanStart = p.CleanStart && way.expiry == 0
							if v == packet.V5 {
								sessionExpiry(way.expiry)(p)
							}
						}}
						x.startServer()
						defer func() { x.close() }()
						x.connectSub(way.change...)
						if len(way.subscribes) > 0 {
							x.sub.subscribe(way.subscribes...)
						}
						way.fill(x)
						x.readUnacknowledged()
						if len(x.unacknowledged) != way.begun {
							t.Fatalf("the client has %d before the change", len(x.unacknowledged))
						}
						if state != "connected" {
							x.sub.dropConnection()
						}
						if state == "restarted" {
							x.close()
							x.denied.change(change.apply)
							x.startServer()
						} else {
							x.denied.change(change.apply)
							x.broker.Reauthorize()
						}
						if change.again != nil {
							x.denied.change(change.again)
							x.broker.Reauthorize()
						}
						for q := x.chain.takeQuestions(); len(q) > 0; q = x.chain.takeQuestions() {
							for _, q := range q {
								q.answer(FilterResult{})
							}
						}
						x.checkRest(state == "connected", way.expiry > 0, strings.HasPrefix(way.name, "shared"), change.reason, change.allowed)
					})
				})
			}
		}
	}
}

// checkRest compares the messages that the client still receives with the allowed
// ones.
func (x *waitingClient) checkRest(connected, persistent, shared, sentAway bool, allowed []string) {
	x.t.Helper()
	waits := []string{"1", "2", "3"}
	if connected && sentAway {
		if _, refused := x.readRest(); !refused {
			x.t.Error("the client was not told")
		}
		if !persistent {
			return
		}
	}
	if connected && !sentAway {
		for _, p := range x.unacknowledged {
			x.sub.sendFirstAck(p)
			waits = waits[1:]
		}
		if n := len(x.unacknowledged); len(allowed) > 0 {
			allowed = allowed[n:]
		}
	} else {
		x.connectSub(resumeSession)
	}
	got, refused := x.readRest()
	if refused {
		x.t.Error("the client was sent away again")
	}
	if !slices.Equal(got, allowed) {
		x.t.Errorf("got %v, want %v", got, allowed)
	}
	denied := len(waits) - len(allowed)
	if shared && len(allowed) == 0 {
		denied = len(x.unacknowledged) // the rest waits for a member that wakes
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
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		keeps, clean := srv.connect(packet.V5, "keeps", sessionExpiry(1000)), srv.connect(packet.V5, "clean")
		pub := srv.connect(packet.V5, "pub")
		keeps.subscribe(subscribeTo("a/#", 1))
		clean.subscribe(subscribeTo("a/#", 1))
		kept.holdCommits()
		pub.publish("a/hide", "x", 1, 1)
		srv.counters()
		srv.denied.change(func(d *denyList) { d.receive = []string{"a/hide"} })
		srv.broker.Reauthorize()
		srv.counters()
		srv.refillSessions()
		kept.commitHeld() // visible, but nobody was told
		srv.refillSessions()
		keeps.wantNothing()
		kept.releaseCommits()
		keeps.wantNothing()
		clean.wantNothing()
		if got := srv.counters().Drops["denied"]; got != 2 {
			t.Errorf("%d counted, want 2", got)
		}

		srv.denied.change(func(d *denyList) { d.receive = nil })
		srv.broker.Reauthorize()
		pub.publishAndWait("a/open", "y", 1)
		for _, c := range []*client{keeps, clean} {
			c.acknowledge(c.wantMessage("y"))
		}
		for _, s := range srv.broker.allSessions() {
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
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("a/#", 2))
		kept.holdCommits()
		pub.publish("a/hide", "1", 2, 1)
		kept.commitHeld()
		kept.reportCommits() // it is in the queue
		srv.denied.change(func(d *denyList) { d.receive = []string{"a/hide"} })
		srv.broker.Reauthorize()
		srv.refillSessions()
		kept.commitHeld()
		kept.releaseCommits()
		wantPacket[*packet.Pubrec](pub)
		pub.publishAndWait("a/open", "2", 1)
		sub.acknowledge(sub.wantMessage("2"))
		sub.wantNothing()
		if c := srv.counters(); c.Drops["denied"] != 1 || c.Store.Queued != 0 {
			t.Errorf("dropped %v, %d stay", c.Drops, c.Store.Queued)
		}
	})
}

// refillSessions has each session look into its queue.
func (s *testServer) refillSessions() {
	synctest.Wait()
	for _, session := range s.broker.allSessions() {
		session.refill()
	}
	synctest.Wait()
}

// TestRoutedBefore delivers a message that found its receivers just before a change.
func TestRoutedBefore(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", receiveMaximum(1)), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("a/#", 1))
		pub.publishAndWait("a/open", "1", 1)
		first := sub.wantMessage("1")
		var from *session
		for _, s := range srv.broker.allSessions() {
			if s.key.ClientID == "pub" {
				from = s
			}
		}
		var cache routeCache
		r := cache.get(srv.broker, "a/hide", from)
		srv.denied.change(func(d *denyList) { d.receive = []string{"a/hide"} })
		srv.broker.Reauthorize()
		srv.refillSessions()
		bt := getBatch(srv.broker)
		bt.out.setPublish(&packet.Publish{TopicName: []byte("a/hide"), Payload: []byte("2"), QoS: 1}, r, from)
		bt.fanOut(r, 1, false)
		bt.done()
		sub.acknowledge(first)
		sub.wantNothing()
		if got := srv.counters().Drops["denied"]; got != 1 {
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
			srv := startServer(t, func(o *Options) { o.Store = j })
			sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
			sub.subscribe(subscribeTo("a/#", qos))
			pub.publishAndWait("a/hide", "x", qos)
			sub.wantMessage("x")
			srv.denied.change(func(d *denyList) { d.receive = []string{"a/hide"} })
			srv.broker.Reauthorize()
			srv.refillSessions() // nothing waits
			sub.dropConnection()
			sub = srv.connect(packet.V5, "sub", sessionExpiry(1000), resumeSession)
			if qos == 2 {
				wantPacket[*packet.Pubrel](sub) // which has the client forget the identifier
			}
			sub.wantNothing()
			kept := j.contentAfter(len(j.all))
			srv.close()

			srv = startServer(t, func(o *Options) { o.Store = kept }) // the right is given back
			defer srv.close()
			sub = srv.connect(packet.V5, "sub", sessionExpiry(1000), resumeSession)
			if qos == 2 {
				wantPacket[*packet.Pubrel](sub)
			}
			sub.wantNothing()
		})
	}
}

// TestReplayIsJudged changes the policy while retained messages wait behind what
// their subscriber has published.
func TestReplayIsJudged(t *testing.T) {
	f := newFakeFilter("upstream slow")
	runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		for _, name := range []string{"a/hide", "a/open"} {
			p := publishPacket(name, name, 0, 0)
			p.Retain = true
			pub.send(p)
		}
		sub := srv.connect(packet.V5, "sub")
		sub.publish("slow/x", "x", 0, 0)
		sub.subscribe(subscribeTo("a/#", 1))
		srv.denied.change(func(d *denyList) { d.receive = []string{"a/hide"} })
		srv.broker.Reauthorize()
		for _, q := range f.takeQuestions() {
			q.answer(FilterResult{})
		}
		sub.wantMessage("a/open")
		sub.wantNothing()
		if got := srv.counters().Drops["denied"]; got != 1 {
			t.Errorf("%d counted, want 1", got)
		}
	})
}

// TestDerivedIsJudged: what a function made of a message goes with it.
func TestDerivedIsJudged(t *testing.T) {
	for _, session := range sessionKinds {
		f := newFakeFilter("downstream a")
		runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
			sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V5, "pub")
			sub.subscribe(subscribeTo("a/#", 1))
			pub.publish("a/hide", "1", 1, 1)
			pub.publish("a/open", "2", 1, 2)
			q := f.takeQuestions()
			srv.denied.change(func(d *denyList) { d.receive = []string{"a/hide"} })
			srv.broker.Reauthorize()
			for _, q := range q {
				q.answer(publishResult("derived", string(q.m.Payload)))
			}
			sub.acknowledge(sub.wantMessage("2"))
			sub.wantNothing()
			if got := srv.counters().Drops["denied"]; got != 1 {
				t.Errorf("%d counted, want 1", got)
			}
		})
	}
}

// TestMovedIsJudged changes the policy while the store makes a message of QoS 2 a
// persistent member's own.
func TestMovedIsJudged(t *testing.T) {
	kept := &heldStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("$share/g/a", 2))
		kept.holdCommits()
		pub.publish("a", "x", 2, 1)
		kept.commitHeld()
		kept.reportCommits() // it is in the group's queue, and on its way to the member's
		srv.denied.change(func(d *denyList) { d.receive = []string{"subx=a"} })
		srv.broker.Reauthorize()
		srv.refillSessions()
		kept.commitHeld()
		kept.releaseCommits()
		sub.wantNothing()
		if c := srv.counters(); c.Drops["denied"] != 1 || c.Store.Queued != 0 {
			t.Errorf("dropped %v, %d stay", c.Drops, c.Store.Queued)
		}
	})
}

// TestSharedMoveIsJudged changes the policy while the store makes a message of QoS
// 2 a member's own: a member that keeps nothing leaves it to another.
func TestSharedMoveIsJudged(t *testing.T) {
	kept := &heldStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		clean, keeps := srv.connect(packet.V5, "clean"), srv.connect(packet.V5, "keeps", sessionExpiry(1000))
		pub := srv.connect(packet.V5, "pub")
		clean.subscribe(subscribeTo("$share/g/a", 2))
		keeps.subscribe(subscribeTo("$share/g/a", 2))
		keeps.dropConnection()
		pub.publish("a", "x", 2, 1)
		pub.nextPacket() // PUBREC
		if p := clean.nextPacket(); p == nil {
			t.Fatal("nothing came")
		}
		kept.holdCommits()
		pub.publish("a", "y", 2, 2)
		kept.commitHeld()
		kept.reportCommits() // it is in the group's queue, and on its way to the member's
		srv.denied.change(func(d *denyList) { d.receive = []string{"cleanx=a"} })
		srv.broker.Reauthorize()
		kept.commitHeld()
		kept.releaseCommits()
		for p := clean.nextPacket(); p != nil; p = clean.nextPacket() {
			t.Errorf("got %s", describePacket(p))
		}
		keeps = srv.connect(packet.V5, "keeps", resumeSession, sessionExpiry(1000))
		keeps.acknowledge(keeps.wantMessage("y"))
	})
}

// heldStore is a store whose commits and callbacks happen when the test says so.
type heldStore struct {
	*store.Memory

	mu        sync.Mutex // guards all below
	held      bool
	jobs      []*storeJob // not committed
	committed []*storeJob // callback not called
}

func (s *heldStore) Update(add func(store.Tx), done func(error)) {
	s.mu.Lock()
	held := s.held
	if held {
		s.jobs = append(s.jobs, &storeJob{add: add, done: done})
	}
	s.mu.Unlock()
	if !held {
		s.Memory.Update(add, done)
	}
}

// holdCommits waits until the broker is idle and holds all later transactions.
func (s *heldStore) holdCommits() {
	synctest.Wait()
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
}

// commitHeld commits the held transactions without calling their callbacks.
func (s *heldStore) commitHeld() {
	synctest.Wait()
	s.mu.Lock()
	jobs := s.jobs
	s.committed, s.jobs = append(s.committed, jobs...), nil
	s.mu.Unlock()
	for _, j := range jobs {
		s.Memory.Update(j.add, func(err error) { j.err = err })
	}
}

// reportCommits calls the callbacks of the committed transactions.
func (s *heldStore) reportCommits() {
	s.mu.Lock()
	tells := s.committed
	s.committed = nil
	s.mu.Unlock()
	for _, j := range tells {
		if j.done != nil {
			j.done(j.err)
		}
	}
	synctest.Wait()
}

// releaseCommits commits and reports the held transactions and holds no more.
func (s *heldStore) releaseCommits() {
	s.mu.Lock()
	s.held = false
	s.mu.Unlock()
	s.commitHeld()
	s.reportCommits()
}

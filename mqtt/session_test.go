package mqtt

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestSessionResumes(t *testing.T) { // [MQTT-3.1.2-5] [MQTT-3.2.2-3] [MQTT-4.5.0-1]
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		keep := sessionExpiry(1000)
		if v == packet.V311 {
			keep = resumeSession
		}
		sub, ack := srv.connectAck(v, "sub", keep)
		if ack.SessionPresent {
			t.Error("a new session is present")
		}
		sub.subscribe(subscribeTo("a", 2))
		sub.dropConnection()
		pub := srv.connect(v, "pub")
		for i := range 100 {
			pub.publishAndWait("a", fmt.Sprint(i), byte(i%3))
		}
		sub, ack = srv.connectAck(v, "sub", resumeSession, keep)
		if !ack.SessionPresent {
			t.Error("the session is not present")
		}
		for i := range 100 {
			if i%3 > 0 { // QoS 0 is not kept for who is away
				sub.acknowledge(sub.wantMessage(fmt.Sprint(i)))
			}
		}
		sub.wantNothing()
		sub.disconnect()
		sub, ack = srv.connectAck(v, "sub") // [MQTT-3.1.2-4] [MQTT-3.2.2-2]
		if ack.SessionPresent {
			t.Error("clean start kept the session")
		}
		pub.publishAndWait("a", "x", 1)
		sub.wantNothing()
	})
}

func TestSessionExpires(t *testing.T) { // [MQTT-3.1.2-23] [MQTT-4.1.0-2]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sessionPresentAfter := func(after time.Duration, seconds uint32, disconnect func(c *client)) bool {
			c := srv.connect(packet.V5, "c", sessionExpiry(seconds))
			disconnect(c)
			advanceTime(after)
			c, ack := srv.connectAck(packet.V5, "c", resumeSession)
			c.disconnect()
			return ack.SessionPresent
		}
		loseConnection := func(c *client) { c.dropConnection() }
		disconnectWithExpiry := func(seconds uint32) func(c *client) {
			return func(c *client) {
				p := &packet.Disconnect{}
				p.Properties.SetSessionExpiryInterval(seconds)
				c.send(p)
				c.dropConnection()
			}
		}
		for _, tt := range []struct {
			name       string
			after      time.Duration
			seconds    uint32
			disconnect func(c *client)
			want       bool
		}{
			{"before", 9 * time.Second, 10, loseConnection, true},
			{"after", 11 * time.Second, 10, loseConnection, false},
			{"none", 0, 0, loseConnection, false},
			{"shortened", 6 * time.Second, 100, disconnectWithExpiry(5), false},
			{"lengthened", 60 * time.Second, 5, disconnectWithExpiry(100), true},
			{"dropped", 0, 100, disconnectWithExpiry(0), false},
		} {
			if got := sessionPresentAfter(tt.after, tt.seconds, tt.disconnect); got != tt.want {
				t.Errorf("%s: present %v", tt.name, got)
			}
		}
		if got := srv.counters(); got.Sessions != 0 || got.Store.Sessions != 0 {
			t.Errorf("%d sessions stay, %d in the store", got.Sessions, got.Store.Sessions)
		}
	})
}

func TestSessionExpiryIsCapped(t *testing.T) {
	runWithServer(t, func(o *Options) { o.SessionExpiry = time.Minute }, func(t *testing.T, srv *testServer) {
		for asked, told := range map[uint32]uint32{0: 0, 60: 0, 61: 60, never: 60} {
			c, ack := srv.connectAck(packet.V5, "c", sessionExpiry(asked))
			if got := ack.Properties.SessionExpiryInterval; got != told || ack.Properties.Has(packet.PropSessionExpiryInterval) != (told > 0) {
				t.Errorf("asked for %d s, told %d s, want %d", asked, got, told)
			}
			c.dropConnection()
			advanceTime(time.Minute)
			if got := srv.counters().Sessions; got != 0 {
				t.Errorf("asked for %d s: the session is still there", asked)
			}
		}
		srv.connect(packet.V311, "c", resumeSession).dropConnection()
		advanceTime(time.Minute)
		if got := srv.counters().Sessions; got != 0 {
			t.Error("3.1.1: the session is still there")
		}
	})
}

func TestRedelivery(t *testing.T) { // [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1] [MQTT-4.3.3-6]
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		keep := sessionExpiry(1000)
		if v == packet.V311 {
			keep = resumeSession
		}
		sub := srv.connect(v, "sub", keep)
		sub.subscribe(subscribeTo("a", 2))
		pub := srv.connect(v, "pub")
		ids := map[string]uint16{}
		for i := range 9 {
			payload := fmt.Sprint(i)
			pub.publishAndWait("a", payload, 1+byte(i%2))
			p := sub.wantMessage(payload)
			ids[payload] = p.PacketID
			switch i {
			case 0: // done with
				sub.send(&packet.Puback{PacketID: p.PacketID})
			case 1: // half done
				sub.send(&packet.Pubrec{PacketID: p.PacketID})
				wantPacket[*packet.Pubrel](sub)
			case 3: // refused: over [MQTT-4.4.0-2]
				refused := &packet.Pubrec{PacketID: p.PacketID}
				if v == packet.V5 {
					refused.ReasonCode = packet.QuotaExceeded
					sub.send(refused)
				} else {
					sub.send(refused)
					wantPacket[*packet.Pubrel](sub)
					sub.send(&packet.Pubcomp{PacketID: p.PacketID})
				}
			}
		}
		sub.dropConnection()
		pub.publishAndWait("a", "9", 1)
		sub = srv.connect(v, "sub", resumeSession, keep)
		if got := wantPacket[*packet.Pubrel](sub); got.PacketID != ids["1"] {
			t.Errorf("PUBREL %d, want %d", got.PacketID, ids["1"])
		}
		sub.send(&packet.Pubcomp{PacketID: ids["1"]})
		for _, payload := range []string{"2", "4", "5", "6", "7", "8"} {
			p := sub.wantMessage(payload)
			if !p.Dup || p.PacketID != ids[payload] {
				t.Errorf("%s: DUP %v, identifier %d, want %d", payload, p.Dup, p.PacketID, ids[payload])
			}
			sub.acknowledge(p)
		}
		p := sub.wantMessage("9")
		if p.Dup {
			t.Error("first send with DUP") // [MQTT-4.3.2-2]
		}
		sub.acknowledge(p)
		sub.wantNothing()
		if got := srv.counters().Store.Queued; got != 0 {
			t.Errorf("%d messages stay queued", got)
		}
	})
}

func TestRedeliveryUnderSmallerQuota(t *testing.T) { // [MQTT-4.9.0-1]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub", sessionExpiry(1000))
		sub.subscribe(subscribeTo("a", 1))
		pub := srv.connect(packet.V5, "pub")
		for i := range 6 {
			pub.publishAndWait("a", fmt.Sprint(i), 1)
			sub.wantMessage(fmt.Sprint(i))
		}
		sub.dropConnection()
		sub = srv.connect(packet.V5, "sub", resumeSession, sessionExpiry(1000), receiveMaximum(2))
		first, second := sub.wantMessage("0"), sub.wantMessage("1")
		sub.wantNothing()
		sub.acknowledge(second)
		sub.acknowledge(sub.wantMessage("2"))
		sub.acknowledge(first)
		for i := 3; i < 6; i++ {
			sub.acknowledge(sub.wantMessage(fmt.Sprint(i)))
		}
		sub.wantNothing()
	})
}

func TestQueueIsBounded(t *testing.T) {
	limits := store.Limits{Queue: store.QueueLimit{Messages: 5, Bytes: 1 << 20}}
	runWithServer(t, func(o *Options) {
		o.Store = store.NewMemory(limits)
		o.Queue = limits.Queue
	}, func(t *testing.T, srv *testServer) {
		away, slow := srv.connect(packet.V5, "away", sessionExpiry(100)), srv.connect(packet.V5, "slow", receiveMaximum(1))
		away.subscribe(subscribeTo("a", 1))
		slow.subscribe(subscribeTo("a", 1))
		away.dropConnection()
		pub := srv.connect(packet.V5, "pub")
		for i := range 20 {
			pub.publishAndWait("a", fmt.Sprint(i), 1)
		}
		away = srv.connect(packet.V5, "away", resumeSession)
		for i := range 5 {
			away.acknowledge(away.wantMessage(fmt.Sprint(i)))
		}
		away.wantNothing()
		for i := range 6 {
			slow.acknowledge(slow.wantMessage(fmt.Sprint(i)))
		}
		slow.wantNothing()
		for _, s := range srv.broker.Sessions() {
			if wantLost := map[string]uint64{"away": 15, "slow": 14}[s.ClientID]; s.Dropped != wantLost {
				t.Errorf("%s lost %d, want %d", s.ClientID, s.Dropped, wantLost)
			}
		}
	})
}

// connectDeadClient connects a client that subscribes and never reads, as a dead
// peer does.
func (s *testServer) connectDeadClient(id string, subs ...packet.Subscription) {
	s.t.Helper()
	nc, err := s.listener.Dial()
	if err != nil {
		s.t.Fatal(err)
	}
	buf := append([]byte("dead\n"), connectPacket(id).Append(nil, packet.V5)...)
	buf = (&packet.Subscribe{PacketID: 1, Subscriptions: subs}).Append(buf, packet.V5)
	if _, err := nc.Write(buf); err != nil {
		s.t.Error(err)
	}
}

func TestSlowReceiverHurtsNobodyElse(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Outbox = 10_000 }, func(t *testing.T, srv *testServer) {
		srv.connectDeadClient("dead", subscribeTo("#", 0))
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("#", 1))
		for i := range 1000 {
			payload := fmt.Sprintf("%0100d", i)
			pub.publishAndWait("a", payload, 1)
			sub.acknowledge(sub.wantMessage(payload))
		}
		if got := srv.counters().MessagesDropped; got < 900 || got > 1000 {
			t.Errorf("dropped %d, want what passes 10,000 bytes", got)
		}
		advanceTime(2 * socket.WriteStall)
		if got := srv.counters().Clients; got != 2 {
			t.Errorf("%d clients, want the dead one gone", got)
		}
	})
}

func TestSubscriptionsOverlap(t *testing.T) { // [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.8.4-3]
	for _, session := range []uint32{0, 100} {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V5, "pub")
			ask := func(f string, qos byte, id uint32) {
				p := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo(f, qos)}}
				if id > 0 {
					p.Properties.SubscriptionIDs = []uint32{id}
				}
				sub.send(p)
				wantPacket[*packet.Suback](sub)
			}
			ask("a/#", 0, 1)
			ask("a/+", 1, 2)
			ask("+/b", 0, 0)
			ask("x", 1, 9)
			pub.publishAndWait("a/b", "x", 2)
			p := sub.wantMessage("x")
			slices.Sort(p.Properties.SubscriptionIDs)
			if p.QoS != 1 || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{1, 2}) {
				t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
			}
			sub.acknowledge(p)
			ask("a/+", 0, 3) // replaces
			pub.publishAndWait("a/b", "y", 1)
			p = sub.wantMessage("y")
			slices.Sort(p.Properties.SubscriptionIDs)
			if p.QoS != 0 || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{1, 3}) {
				t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
			}
			sub.wantNothing()
		})
	}
}

func TestUnsubscribe(t *testing.T) { // [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.11.3-1]
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		c := srv.connect(v, "c")
		c.subscribe(subscribeTo("a", 0), subscribeTo("b", 0))
		c.send(&packet.Unsubscribe{PacketID: 4, TopicFilters: []string{"a", "c"}})
		got := wantPacket[*packet.Unsuback](c)
		if v == packet.V5 && !slices.Equal(got.ReasonCodes, []packet.ReasonCode{packet.Success, packet.NoSubscriptionExisted}) {
			t.Errorf("got %v", got.ReasonCodes)
		}
		c.publish("a", "x", 0, 0)
		c.publish("b", "y", 0, 0)
		c.wantMessage("y")
		c.wantNothing()
	})
}

func TestNoLocal(t *testing.T) { // [MQTT-3.8.3-3]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a"), srv.connect(packet.V5, "b")
		for _, c := range []*client{a, b} {
			c.subscribe(packet.Subscription{TopicFilter: "t", NoLocal: true, QoS: 1})
		}
		for qos := range byte(3) {
			a.publishAndWait("t", "x", qos)
			b.acknowledge(b.wantMessage("x"))
		}
		retained := publishPacket("t", "r", 0, 0)
		retained.Retain = true
		a.send(retained)
		b.wantMessage("r")
		a.wantNothing()
	})
}

func TestSharedSubscription(t *testing.T) { // [MQTT-4.8.2-1] [MQTT-4.8.2-3]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(100)), srv.connect(packet.V5, "b")
		plain, pub := srv.connect(packet.V5, "plain"), srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t/+", 1))
		b.subscribe(subscribeTo("$share/g/t/+", 0))
		plain.subscribe(subscribeTo("t/#", 0))
		count := func(c *client) (n int) {
			for p := c.nextPacket(); p != nil; p = c.nextPacket() {
				c.acknowledge(p.(*packet.Publish))
				n++
			}
			return n
		}
		for range 10 {
			pub.publishAndWait("t/1", "x", 1)
		}
		if x, y, z := count(a), count(b), count(plain); x != 5 || y != 5 || z != 10 {
			t.Errorf("members got %d and %d of 10, a plain subscription %d", x, y, z)
		}
		a.dropConnection() // the one who is there gets all
		for range 10 {
			pub.publishAndWait("t/1", "x", 1)
		}
		if got := count(b); got != 10 {
			t.Errorf("the member that is connected got %d of 10", got)
		}
		b.dropConnection() // nobody is there: a's session keeps them
		for range 10 {
			pub.publishAndWait("t/1", "x", 1)
		}
		a = srv.connect(packet.V5, "a", resumeSession)
		if got := count(a); got != 10 {
			t.Errorf("the member that returned got %d of 10", got)
		}
		if got := srv.broker.Filters(); !slices.Contains(got, "t/+") {
			t.Errorf("filters %v", got)
		}
		a.disconnect()
		plain.disconnect()
		if got := srv.broker.Filters(); len(got) != 0 {
			t.Errorf("filters %v stay", got)
		}
	})
}

func TestSubscriptionLimit(t *testing.T) {
	runWithServer(t, func(o *Options) { o.SubscriptionsPerSession = 2 }, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		got := c.subscribe(subscribeTo("a", 0), subscribeTo("b", 1), subscribeTo("c", 1), subscribeTo("a", 1))
		if !slices.Equal(got, []packet.ReasonCode{0, 1, packet.QuotaExceeded, 1}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestRestart(t *testing.T) {
	kept := store.NewMemory(store.Limits{})
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000), receiveMaximum(2)), srv.connect(packet.V5, "pub", sessionExpiry(1000))
		sub.subscribe(subscribeTo("a", 2), subscribeTo("$share/g/b", 1))
		for i := range 4 {
			pub.publishAndWait("a", fmt.Sprint(i), 2)
		}
		p := sub.wantMessage("0")
		sub.wantMessage("1")
		sub.send(&packet.Pubrec{PacketID: p.PacketID})
		wantPacket[*packet.Pubrel](sub)
		pub.publish("a", "4", 2, 99)
		wantPacket[*packet.Pubrec](pub)
		srv.stop()
		wantPacket[*packet.Disconnect](pub)
	})
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		sub, ack := srv.connectAck(packet.V5, "sub", resumeSession, sessionExpiry(1000))
		if !ack.SessionPresent {
			t.Fatal("session lost")
		}
		sub.send(&packet.Pubcomp{PacketID: wantPacket[*packet.Pubrel](sub).PacketID})
		if p := sub.wantMessage("1"); !p.Dup {
			t.Error("resend without DUP")
		} else {
			sub.acknowledge(p)
		}
		pub := srv.connect(packet.V5, "pub", resumeSession, sessionExpiry(1000))
		pub.publish("a", "4", 2, 99) // again: it was taken before
		wantPacket[*packet.Pubrec](pub)
		pub.send(&packet.Pubrel{PacketID: 99})
		wantPacket[*packet.Pubcomp](pub)
		pub.publishAndWait("b", "shared", 1)
		for _, payload := range []string{"2", "3", "4", "shared"} {
			sub.acknowledge(sub.wantMessage(payload))
		}
		sub.wantNothing()
	})
}

// TestRestartResends kills the broker, or stops it, while messages are in flight.
func TestRestartResends(t *testing.T) { // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			kept := store.NewMemory(store.Limits{})
			var ids []uint16
			runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
				sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
				sub.subscribe(subscribeTo("a", 2))
				for i := range 4 {
					pub.publishAndWait("a", fmt.Sprint(i), 1+byte(i%2))
				}
				for i := range 4 {
					ids = append(ids, sub.wantMessage(fmt.Sprint(i)).PacketID)
				}
				if killed {
					crashed := store.NewMemory(store.Limits{})
					copyStore(kept, crashed)
					kept = crashed
				}
				srv.stop()
			})
			runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
				pub := srv.connect(packet.V5, "pub")
				pub.publishAndWait("a", "new", 1)
				sub := srv.connect(packet.V5, "sub", resumeSession)
				got := map[string]*packet.Publish{}
				for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
					m := p.(*packet.Publish)
					got[string(m.Payload)] = m
					sub.acknowledge(m)
				}
				for i, id := range ids {
					p := got[fmt.Sprint(i)]
					known := !killed || i%2 == 1 // a killed broker does not know those of QoS 1
					if p == nil || !p.Dup || known && p.PacketID != id {
						t.Errorf("%d: %+v, want DUP and identifier %d", i, p, id)
					}
				}
				if p := got["new"]; p == nil || p.Dup {
					t.Errorf("first send: %+v", p)
				}
			})
		})
	}
}

// TestRestartWithFullWindow restarts a broker with as much in flight to a client
// as it takes: what the client then finishes is not sent again, though the store
// still has it.
func TestRestartWithFullWindow(t *testing.T) { // [MQTT-4.3.3-6] [MQTT-4.4.0-1]
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			kept := store.NewMemory(store.Limits{})
			runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
				sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000), receiveMaximum(2)), srv.connect(packet.V5, "pub")
				sub.subscribe(subscribeTo("a", qos))
				for i := range 4 {
					pub.publishAndWait("a", fmt.Sprint(i), qos)
				}
				sub.wantMessage("0")
				sub.wantMessage("1")
			})
			runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
				sub := srv.connect(packet.V5, "sub", sessionExpiry(1000), receiveMaximum(2), resumeSession)
				first, second := sub.wantMessage("0"), sub.wantMessage("1")
				sub.acknowledge(first)
				third := sub.wantMessage("2")
				sub.acknowledge(second)
				sub.acknowledge(third)
				sub.acknowledge(sub.wantMessage("3"))
				sub.wantNothing()
			})
		})
	}
}

// TestSubscriptionsEndOnce has a subscription end, by its session's end or by the
// client, while it is on its way to where messages are matched.
func TestSubscriptionsEndOnce(t *testing.T) {
	b := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
	var s *session
	old := &subscription{Subscription: store.Subscription{Filter: "a"}, filter: "a"}
	for _, tt := range []struct {
		name        string
		before      bool
		change, end func(sub *subscription)
	}{
		{"session ends", false, func(sub *subscription) { s.subscribe(sub) }, func(*subscription) { s.endSession(false, 0) }},
		{"client unsubscribes", true, func(sub *subscription) {
			s.subscribing.Lock()
			defer s.subscribing.Unlock()
			s.replaceSubscription(sub)
		}, func(*subscription) { s.unsubscribe("a") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				s = newSession(b, Principal{ID: testID("x")}, store.SessionKey{ClientID: "c"})
				sub := &subscription{Subscription: old.Subscription, session: s, filter: "a"}
				if old.session = s; tt.before {
					s.subscribe(old)
				}
				here := func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.subs["a"] == sub
				}
				b.interestMu.Lock()
				var done sync.WaitGroup
				done.Go(func() { tt.change(sub) })
				for !here() {
					runtime.Gosched()
				}
				b.interestMu.Unlock()
				tt.end(sub) // is most often faster than who waits
				done.Wait()
				if n := b.tree.Len(); n != 0 {
					t.Fatalf("%d subscriptions stay", n)
				}
			}
		})
	}
}

// copyStore writes the sessions of one store to an empty store.
func copyStore(from, to store.Store) {
	for _, s := range from.Sessions() {
		to.Update(func(tx store.Tx) {
			tx.PutSession(s)
			for _, sub := range s.Subscriptions {
				tx.Subscribe(s.Key, sub)
			}
			all, _ := from.Queue(s.Key, 0, make([]store.Entry, 0, 100))
			for i, e := range all {
				tx.Enqueue(s.Key, e.Delivery)
				if e.PacketID != 0 {
					tx.Inflight(s.Key, uint64(i+1), store.Sent{PacketID: e.PacketID, Released: e.Released})
				}
			}
		}, nil)
	}
}

// hookError is an error of the store that calls a function when it is told.
type hookError struct{ told func() }

func (e hookError) Error() string {
	e.told()
	return "no"
}

// TestRepeatedWhileRefused has a client send a message of QoS 2 again at the moment
// in which the store's refusal becomes its answer: it is not told of success.
func TestRepeatedWhileRefused(t *testing.T) {
	held := &holdingStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = held }, func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub", sessionExpiry(100))
		held.hold = true
		pub.publish("a", "x", 2, 7)
		pub.wantNothing()
		s := srv.broker.allSessions()[0]
		held.done[0](hookError{func() {
			c := s.conn.Load()
			s.answerRepeated(c, 7)
			c.batch.flush()
		}})
		if rec := wantPacket[*packet.Pubrec](pub); rec.ReasonCode != packet.UnspecifiedError {
			t.Errorf("got %s", rec.ReasonCode)
		}
		pub.wantNothing()
		pub.publish("a", "x", 2, 7)
		pub.wantNothing()
		held.done[1](nil)
		if rec := wantPacket[*packet.Pubrec](pub); rec.ReasonCode.Failed() {
			t.Errorf("got %s", rec.ReasonCode)
		}
	})
}

// TestLateKeepsOrder has the store answer for the identifiers of two messages of
// QoS 2 while the first does not fit into the outbox: the second waits for it.
func TestLateKeepsOrder(t *testing.T) {
	held := &holdingStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store, o.Outbox = held, 1000 }, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub", sessionExpiry(100))
		sub.subscribe(subscribeTo("a", 2), subscribeTo("before", 0))
		pub := srv.connect(packet.V5, "pub")
		var identifiers []func(error)
		held.hold = true
		large := strings.Repeat("x", 900)
		for i, payload := range []string{large, "small"} {
			pub.publish("a", payload, 2, uint16(i+1))
			synctest.Wait()
			enqueued := held.done[0]
			held.done = nil
			enqueued(nil)
			identifiers = append(identifiers, held.done...)
			held.done = nil
		}
		if len(identifiers) != 2 {
			t.Fatalf("%d transactions for identifiers", len(identifiers))
		}
		c := srv.broker.sessions[store.SessionKey{Identity: testID("subx").String(), ClientID: "sub"}].conn.Load()
		if !c.out.claimSink() { // as if somebody was writing
			t.Fatal("the outbox is busy")
		}
		before := strings.Repeat("x", 200)
		pub.publish("before", before, 0, 0)
		synctest.Wait()
		for _, done := range identifiers {
			done(nil)
		}
		c.out.yieldSink(nil)
		c.flush()
		sub.wantMessage(before)
		sub.wantMessage(large)
		sub.wantMessage("small")
	})
}

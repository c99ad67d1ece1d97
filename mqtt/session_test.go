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
	each(t, func(t *testing.T, w *world, v packet.Version) {
		keep := expiry(1000)
		if v == packet.V311 {
			keep = resume
		}
		sub, ack := w.connectAck(v, "sub", keep)
		if ack.SessionPresent {
			t.Error("a new session is present")
		}
		sub.subscribe(filter("a", 2))
		sub.close()
		pub := w.connect(v, "pub")
		for i := range 100 {
			pub.exchange("a", fmt.Sprint(i), byte(i%3))
		}
		sub, ack = w.connectAck(v, "sub", resume, keep)
		if !ack.SessionPresent {
			t.Error("the session is not present")
		}
		for i := range 100 {
			if i%3 > 0 { // QoS 0 is not kept for who is away
				sub.finish(sub.wantMessage(fmt.Sprint(i)))
			}
		}
		sub.silence()
		sub.bye()
		sub, ack = w.connectAck(v, "sub") // [MQTT-3.1.2-4] [MQTT-3.2.2-2]
		if ack.SessionPresent {
			t.Error("clean start kept the session")
		}
		pub.exchange("a", "x", 1)
		sub.silence()
	})
}

func TestSessionExpires(t *testing.T) { // [MQTT-3.1.2-23] [MQTT-4.1.0-2]
	bubble(t, nil, func(t *testing.T, w *world) {
		present := func(after time.Duration, seconds uint32, disconnect func(c *client)) bool {
			c := w.connect(packet.V5, "c", expiry(seconds))
			disconnect(c)
			wait(after)
			c, ack := w.connectAck(packet.V5, "c", resume)
			c.bye()
			return ack.SessionPresent
		}
		lost := func(c *client) { c.close() }
		said := func(seconds uint32) func(c *client) {
			return func(c *client) {
				p := &packet.Disconnect{}
				p.Properties.SetSessionExpiryInterval(seconds)
				c.send(p)
				c.close()
			}
		}
		for _, tt := range []struct {
			name       string
			after      time.Duration
			seconds    uint32
			disconnect func(c *client)
			want       bool
		}{
			{"before", 9 * time.Second, 10, lost, true},
			{"after", 11 * time.Second, 10, lost, false},
			{"none", 0, 0, lost, false},
			{"shortened", 6 * time.Second, 100, said(5), false},
			{"lengthened", 60 * time.Second, 5, said(100), true},
			{"dropped", 0, 100, said(0), false},
		} {
			if got := present(tt.after, tt.seconds, tt.disconnect); got != tt.want {
				t.Errorf("%s: present %v", tt.name, got)
			}
		}
		if got := w.counters(); got.Sessions != 0 || got.Store.Sessions != 0 {
			t.Errorf("%d sessions stay, %d in the store", got.Sessions, got.Store.Sessions)
		}
	})
}

func TestSessionExpiryIsCapped(t *testing.T) {
	bubble(t, func(o *Options) { o.SessionExpiry = time.Minute }, func(t *testing.T, w *world) {
		for asked, told := range map[uint32]uint32{0: 0, 60: 0, 61: 60, never: 60} {
			c, ack := w.connectAck(packet.V5, "c", expiry(asked))
			if got := ack.Properties.SessionExpiryInterval; got != told || ack.Properties.Has(packet.PropSessionExpiryInterval) != (told > 0) {
				t.Errorf("asked for %d s, told %d s, want %d", asked, got, told)
			}
			c.close()
			wait(time.Minute)
			if got := w.counters().Sessions; got != 0 {
				t.Errorf("asked for %d s: the session is still there", asked)
			}
		}
		w.connect(packet.V311, "c", resume).close()
		wait(time.Minute)
		if got := w.counters().Sessions; got != 0 {
			t.Error("3.1.1: the session is still there")
		}
	})
}

func TestRedelivery(t *testing.T) { // [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1] [MQTT-4.3.3-6]
	each(t, func(t *testing.T, w *world, v packet.Version) {
		keep := expiry(1000)
		if v == packet.V311 {
			keep = resume
		}
		sub := w.connect(v, "sub", keep)
		sub.subscribe(filter("a", 2))
		pub := w.connect(v, "pub")
		ids := map[string]uint16{}
		for i := range 9 {
			payload := fmt.Sprint(i)
			pub.exchange("a", payload, 1+byte(i%2))
			p := sub.wantMessage(payload)
			ids[payload] = p.PacketID
			switch i {
			case 0: // done with
				sub.send(&packet.Puback{PacketID: p.PacketID})
			case 1: // half done
				sub.send(&packet.Pubrec{PacketID: p.PacketID})
				want[*packet.Pubrel](sub)
			case 3: // refused: over [MQTT-4.4.0-2]
				refused := &packet.Pubrec{PacketID: p.PacketID}
				if v == packet.V5 {
					refused.ReasonCode = packet.QuotaExceeded
					sub.send(refused)
				} else {
					sub.send(refused)
					want[*packet.Pubrel](sub)
					sub.send(&packet.Pubcomp{PacketID: p.PacketID})
				}
			}
		}
		sub.close()
		pub.exchange("a", "9", 1)
		sub = w.connect(v, "sub", resume, keep)
		if got := want[*packet.Pubrel](sub); got.PacketID != ids["1"] {
			t.Errorf("PUBREL %d, want %d", got.PacketID, ids["1"])
		}
		sub.send(&packet.Pubcomp{PacketID: ids["1"]})
		for _, payload := range []string{"2", "4", "5", "6", "7", "8"} {
			p := sub.wantMessage(payload)
			if !p.Dup || p.PacketID != ids[payload] {
				t.Errorf("%s: DUP %v, identifier %d, want %d", payload, p.Dup, p.PacketID, ids[payload])
			}
			sub.finish(p)
		}
		p := sub.wantMessage("9")
		if p.Dup {
			t.Error("first send with DUP") // [MQTT-4.3.2-2]
		}
		sub.finish(p)
		sub.silence()
		if got := w.counters().Store.Queued; got != 0 {
			t.Errorf("%d messages stay queued", got)
		}
	})
}

func TestRedeliveryUnderSmallerQuota(t *testing.T) { // [MQTT-4.9.0-1]
	bubble(t, nil, func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub", expiry(1000))
		sub.subscribe(filter("a", 1))
		pub := w.connect(packet.V5, "pub")
		for i := range 6 {
			pub.exchange("a", fmt.Sprint(i), 1)
			sub.wantMessage(fmt.Sprint(i))
		}
		sub.close()
		sub = w.connect(packet.V5, "sub", resume, expiry(1000), quota(2))
		first, second := sub.wantMessage("0"), sub.wantMessage("1")
		sub.silence()
		sub.finish(second)
		sub.finish(sub.wantMessage("2"))
		sub.finish(first)
		for i := 3; i < 6; i++ {
			sub.finish(sub.wantMessage(fmt.Sprint(i)))
		}
		sub.silence()
	})
}

func TestQueueIsBounded(t *testing.T) {
	limits := store.Limits{Queue: store.QueueLimit{Messages: 5, Bytes: 1 << 20}}
	bubble(t, func(o *Options) {
		o.Store = store.NewMemory(limits)
		o.Queue = limits.Queue
	}, func(t *testing.T, w *world) {
		away, slow := w.connect(packet.V5, "away", expiry(100)), w.connect(packet.V5, "slow", quota(1))
		away.subscribe(filter("a", 1))
		slow.subscribe(filter("a", 1))
		away.close()
		pub := w.connect(packet.V5, "pub")
		for i := range 20 {
			pub.exchange("a", fmt.Sprint(i), 1)
		}
		away = w.connect(packet.V5, "away", resume)
		for i := range 5 {
			away.finish(away.wantMessage(fmt.Sprint(i)))
		}
		away.silence()
		for i := range 6 {
			slow.finish(slow.wantMessage(fmt.Sprint(i)))
		}
		slow.silence()
		for _, s := range w.b.Sessions() {
			if wantLost := map[string]uint64{"away": 15, "slow": 14}[s.ClientID]; s.Dropped != wantLost {
				t.Errorf("%s lost %d, want %d", s.ClientID, s.Dropped, wantLost)
			}
		}
	})
}

// stopReading makes a client that takes nothing, as a dead peer does.
func (w *world) stopReading(id string, subs ...packet.Subscription) {
	w.t.Helper()
	nc, err := w.l.Dial()
	if err != nil {
		w.t.Fatal(err)
	}
	buf := append([]byte("dead\n"), connectPacket(id).Append(nil, packet.V5)...)
	buf = (&packet.Subscribe{PacketID: 1, Subscriptions: subs}).Append(buf, packet.V5)
	if _, err := nc.Write(buf); err != nil {
		w.t.Error(err)
	}
}

func TestSlowReceiverHurtsNobodyElse(t *testing.T) {
	bubble(t, func(o *Options) { o.Outbox = 10_000 }, func(t *testing.T, w *world) {
		w.stopReading("dead", filter("#", 0))
		sub, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "pub")
		sub.subscribe(filter("#", 1))
		for i := range 1000 {
			payload := fmt.Sprintf("%0100d", i)
			pub.exchange("a", payload, 1)
			sub.finish(sub.wantMessage(payload))
		}
		if got := w.counters().MessagesDropped; got < 900 || got > 1000 {
			t.Errorf("dropped %d, want what passes 10,000 bytes", got)
		}
		wait(2 * socket.WriteStall)
		if got := w.counters().Clients; got != 2 {
			t.Errorf("%d clients, want the dead one gone", got)
		}
	})
}

func TestSubscriptionsOverlap(t *testing.T) { // [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.8.4-3]
	for _, session := range []uint32{0, 100} {
		bubble(t, nil, func(t *testing.T, w *world) {
			sub, pub := w.connect(packet.V5, "sub", expiry(session)), w.connect(packet.V5, "pub")
			ask := func(f string, qos byte, id uint32) {
				p := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter(f, qos)}}
				if id > 0 {
					p.Properties.SubscriptionIDs = []uint32{id}
				}
				sub.send(p)
				want[*packet.Suback](sub)
			}
			ask("a/#", 0, 1)
			ask("a/+", 1, 2)
			ask("+/b", 0, 0)
			ask("x", 1, 9)
			pub.exchange("a/b", "x", 2)
			p := sub.wantMessage("x")
			slices.Sort(p.Properties.SubscriptionIDs)
			if p.QoS != 1 || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{1, 2}) {
				t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
			}
			sub.finish(p)
			ask("a/+", 0, 3) // replaces
			pub.exchange("a/b", "y", 1)
			p = sub.wantMessage("y")
			slices.Sort(p.Properties.SubscriptionIDs)
			if p.QoS != 0 || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{1, 3}) {
				t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
			}
			sub.silence()
		})
	}
}

func TestUnsubscribe(t *testing.T) { // [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.11.3-1]
	each(t, func(t *testing.T, w *world, v packet.Version) {
		c := w.connect(v, "c")
		c.subscribe(filter("a", 0), filter("b", 0))
		c.send(&packet.Unsubscribe{PacketID: 4, TopicFilters: []string{"a", "c"}})
		got := want[*packet.Unsuback](c)
		if v == packet.V5 && !slices.Equal(got.ReasonCodes, []packet.ReasonCode{packet.Success, packet.NoSubscriptionExisted}) {
			t.Errorf("got %v", got.ReasonCodes)
		}
		c.publish("a", "x", 0, 0)
		c.publish("b", "y", 0, 0)
		c.wantMessage("y")
		c.silence()
	})
}

func TestNoLocal(t *testing.T) { // [MQTT-3.8.3-3]
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a"), w.connect(packet.V5, "b")
		for _, c := range []*client{a, b} {
			c.subscribe(packet.Subscription{TopicFilter: "t", NoLocal: true, QoS: 1})
		}
		for qos := range byte(3) {
			a.exchange("t", "x", qos)
			b.finish(b.wantMessage("x"))
		}
		retained := message("t", "r", 0, 0)
		retained.Retain = true
		a.send(retained)
		b.wantMessage("r")
		a.silence()
	})
}

func TestSharedSubscription(t *testing.T) { // [MQTT-4.8.2-1] [MQTT-4.8.2-3]
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a", expiry(100)), w.connect(packet.V5, "b")
		plain, pub := w.connect(packet.V5, "plain"), w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t/+", 1))
		b.subscribe(filter("$share/g/t/+", 0))
		plain.subscribe(filter("t/#", 0))
		count := func(c *client) (n int) {
			for p := c.next(); p != nil; p = c.next() {
				c.finish(p.(*packet.Publish))
				n++
			}
			return n
		}
		for range 10 {
			pub.exchange("t/1", "x", 1)
		}
		if x, y, z := count(a), count(b), count(plain); x != 5 || y != 5 || z != 10 {
			t.Errorf("members got %d and %d of 10, a plain subscription %d", x, y, z)
		}
		a.close() // the one who is there gets all
		for range 10 {
			pub.exchange("t/1", "x", 1)
		}
		if got := count(b); got != 10 {
			t.Errorf("the member that is connected got %d of 10", got)
		}
		b.close() // nobody is there: a's session keeps them
		for range 10 {
			pub.exchange("t/1", "x", 1)
		}
		a = w.connect(packet.V5, "a", resume)
		if got := count(a); got != 10 {
			t.Errorf("the member that returned got %d of 10", got)
		}
		if got := w.b.Filters(); !slices.Contains(got, "t/+") {
			t.Errorf("filters %v", got)
		}
		a.bye()
		plain.bye()
		if got := w.b.Filters(); len(got) != 0 {
			t.Errorf("filters %v stay", got)
		}
	})
}

func TestSubscriptionLimit(t *testing.T) {
	bubble(t, func(o *Options) { o.SubscriptionsPerSession = 2 }, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c")
		got := c.subscribe(filter("a", 0), filter("b", 1), filter("c", 1), filter("a", 1))
		if !slices.Equal(got, []packet.ReasonCode{0, 1, packet.QuotaExceeded, 1}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestRestart(t *testing.T) {
	kept := store.NewMemory(store.Limits{})
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub", expiry(1000), quota(2)), w.connect(packet.V5, "pub", expiry(1000))
		sub.subscribe(filter("a", 2), filter("$share/g/b", 1))
		for i := range 4 {
			pub.exchange("a", fmt.Sprint(i), 2)
		}
		p := sub.wantMessage("0")
		sub.wantMessage("1")
		sub.send(&packet.Pubrec{PacketID: p.PacketID})
		want[*packet.Pubrel](sub)
		pub.publish("a", "4", 2, 99)
		want[*packet.Pubrec](pub)
		w.stop()
		want[*packet.Disconnect](pub)
	})
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		sub, ack := w.connectAck(packet.V5, "sub", resume, expiry(1000))
		if !ack.SessionPresent {
			t.Fatal("session lost")
		}
		sub.send(&packet.Pubcomp{PacketID: want[*packet.Pubrel](sub).PacketID})
		if p := sub.wantMessage("1"); !p.Dup {
			t.Error("resend without DUP")
		} else {
			sub.finish(p)
		}
		pub := w.connect(packet.V5, "pub", resume, expiry(1000))
		pub.publish("a", "4", 2, 99) // again: it was taken before
		want[*packet.Pubrec](pub)
		pub.send(&packet.Pubrel{PacketID: 99})
		want[*packet.Pubcomp](pub)
		pub.exchange("b", "shared", 1)
		for _, payload := range []string{"2", "3", "4", "shared"} {
			sub.finish(sub.wantMessage(payload))
		}
		sub.silence()
	})
}

// TestRestartResends kills the broker, or stops it, while messages are in flight.
func TestRestartResends(t *testing.T) { // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			kept := store.NewMemory(store.Limits{})
			var ids []uint16
			bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
				sub, pub := w.connect(packet.V5, "sub", expiry(1000)), w.connect(packet.V5, "pub")
				sub.subscribe(filter("a", 2))
				for i := range 4 {
					pub.exchange("a", fmt.Sprint(i), 1+byte(i%2))
				}
				for i := range 4 {
					ids = append(ids, sub.wantMessage(fmt.Sprint(i)).PacketID)
				}
				if killed {
					crashed := store.NewMemory(store.Limits{})
					copyStore(kept, crashed)
					kept = crashed
				}
				w.stop()
			})
			bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
				pub := w.connect(packet.V5, "pub")
				pub.exchange("a", "new", 1)
				sub := w.connect(packet.V5, "sub", resume)
				got := map[string]*packet.Publish{}
				for p := sub.next(); p != nil; p = sub.next() {
					m := p.(*packet.Publish)
					got[string(m.Payload)] = m
					sub.finish(m)
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
			bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
				sub, pub := w.connect(packet.V5, "sub", expiry(1000), quota(2)), w.connect(packet.V5, "pub")
				sub.subscribe(filter("a", qos))
				for i := range 4 {
					pub.exchange("a", fmt.Sprint(i), qos)
				}
				sub.wantMessage("0")
				sub.wantMessage("1")
			})
			bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
				sub := w.connect(packet.V5, "sub", expiry(1000), quota(2), resume)
				first, second := sub.wantMessage("0"), sub.wantMessage("1")
				sub.finish(first)
				third := sub.wantMessage("2")
				sub.finish(second)
				sub.finish(third)
				sub.finish(sub.wantMessage("3"))
				sub.silence()
			})
		})
	}
}

// TestSubscriptionsEndOnce has a subscription end, by its session's end or by the
// client, while it is on its way to where messages are matched.
func TestSubscriptionsEndOnce(t *testing.T) {
	b := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &rules{}})
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

// copyStore writes what from keeps of its sessions to an empty store.
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
	bubble(t, func(o *Options) { o.Store = held }, func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub", expiry(100))
		held.hold = true
		pub.publish("a", "x", 2, 7)
		pub.silence()
		s := w.b.allSessions()[0]
		held.done[0](hookError{func() {
			c := s.conn.Load()
			s.answerRepeated(c, 7)
			c.batch.flush()
		}})
		if rec := want[*packet.Pubrec](pub); rec.ReasonCode != packet.UnspecifiedError {
			t.Errorf("got %s", rec.ReasonCode)
		}
		pub.silence()
		pub.publish("a", "x", 2, 7)
		pub.silence()
		held.done[1](nil)
		if rec := want[*packet.Pubrec](pub); rec.ReasonCode.Failed() {
			t.Errorf("got %s", rec.ReasonCode)
		}
	})
}

// TestLateKeepsOrder has the store answer for the identifiers of two messages of
// QoS 2 while the first does not fit into the outbox: the second waits for it.
func TestLateKeepsOrder(t *testing.T) {
	held := &holdingStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store, o.Outbox = held, 1000 }, func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub", expiry(100))
		sub.subscribe(filter("a", 2), filter("before", 0))
		pub := w.connect(packet.V5, "pub")
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
		c := w.b.sessions[store.SessionKey{Identity: testID("subx").String(), ClientID: "sub"}].conn.Load()
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

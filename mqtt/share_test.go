package mqtt

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// received returns the payloads of what came, acknowledged if ack says so.
func (c *client) received(ack bool) (payloads []string) {
	for p := c.next(); p != nil; p = c.next() {
		m, ok := p.(*packet.Publish)
		if !ok {
			c.t.Fatalf("got %s", show(p))
		}
		if ack {
			c.finish(m)
		}
		payloads = append(payloads, string(m.Payload))
	}
	return payloads
}

func numbers(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func (c *client) publishAll(qos byte, from, to int) {
	for i := from; i < to; i++ {
		c.exchange("t", fmt.Sprint(i), qos)
	}
}

// kinds are the sessions that a member of a group may have.
var kinds = []uint32{0, 100}

func TestSharedGoesToAnotherMember(t *testing.T) {
	for _, leaves := range kinds {
		for _, stays := range kinds {
			t.Run(fmt.Sprintf("leaves=%d/stays=%d", leaves, stays), func(t *testing.T) {
				bubble(t, nil, func(t *testing.T, w *world) {
					a, b := w.connect(packet.V5, "a", expiry(leaves)), w.connect(packet.V5, "b", expiry(stays))
					pub := w.connect(packet.V5, "pub")
					a.subscribe(filter("$share/g/t", 1))
					b.subscribe(filter("$share/g/t", 1))
					pub.publishAll(1, 0, 10)
					lent, got := a.received(false), b.received(true)
					if len(lent) != 5 || len(got) != 5 {
						t.Fatalf("%d and %d of 10", len(lent), len(got))
					}
					a.close()
					var again []string
					for p := b.next(); p != nil; p = b.next() {
						m := p.(*packet.Publish)
						if m.Dup {
							t.Error("DUP for a client that never had it") // [MQTT-4.3.2-2]
						}
						b.finish(m)
						again = append(again, string(m.Payload))
					}
					if !slices.Equal(again, lent) {
						t.Errorf("given again %v, want %v", again, lent)
					}
					if leaves > 0 {
						a = w.connect(packet.V5, "a", resume, expiry(leaves))
						a.silence()
					}
					if c := w.counters(); c.Redispatched != 5 || c.Store.Queued != 0 || c.SharedWaiting != 0 {
						t.Errorf("redispatched %d, queued %d, waiting %d", c.Redispatched, c.Store.Queued, c.SharedWaiting)
					}
				})
			})
		}
	}
}

func TestSharedWaitsWhileAllAreAway(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a", expiry(100)), w.connect(packet.V5, "b", expiry(100))
		pub := w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 1))
		b.subscribe(filter("$share/g/t", 1))
		a.close()
		b.close()
		pub.publishAll(1, 0, 20)
		if got := w.counters().SharedWaiting; got != 20 {
			t.Errorf("%d wait", got)
		}
		b = w.connect(packet.V5, "b", resume, expiry(100)) // whoever comes first has all
		if got := b.received(true); !slices.Equal(got, numbers(0, 20)) {
			t.Errorf("got %v", got)
		}
		a = w.connect(packet.V5, "a", resume, expiry(100))
		a.silence()
		c := w.connect(packet.V5, "c") // as does one that is new
		b.close()
		a.close()
		pub.publishAll(1, 20, 25)
		c.subscribe(filter("$share/g/t", 1))
		if got := c.received(false); !slices.Equal(got, numbers(20, 25)) {
			t.Errorf("got %v", got)
		}
		c.close() // without acknowledging: they are not lost with its session
		a = w.connect(packet.V5, "a", resume)
		if got := a.received(true); !slices.Equal(got, numbers(20, 25)) {
			t.Errorf("got %v", got)
		}
		if got := w.counters(); got.Store.Queued != 0 {
			t.Errorf("%d stay", got.Store.Queued)
		}
	})
}

func TestSharedPrefersRoom(t *testing.T) {
	for _, session := range kinds {
		bubble(t, nil, func(t *testing.T, w *world) {
			slow, fast := w.connect(packet.V5, "slow", quota(1), expiry(session)), w.connect(packet.V5, "fast", expiry(session))
			pub := w.connect(packet.V5, "pub")
			slow.subscribe(filter("$share/g/t", 1))
			fast.subscribe(filter("$share/g/t", 1))
			pub.publishAll(1, 0, 10)
			if x, y := slow.received(false), fast.received(true); len(x) != 1 || len(y) != 9 {
				t.Errorf("%d and %d of 10", len(x), len(y))
			}
			fast.close()
			pub.publishAll(1, 10, 13)
			slow.silence()
			slow.send(&packet.Puback{PacketID: 1})
			if got := slow.received(true); !slices.Equal(got, numbers(10, 13)) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestSharedKeepsOrderWithoutStore has the one member leave for whose sake the
// store keeps the queue.
func TestSharedKeepsOrderWithoutStore(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		lasting, passing := w.connect(packet.V5, "lasting", expiry(100)), w.connect(packet.V5, "passing", quota(1))
		lasting.subscribe(filter("$share/g/t", 1))
		passing.subscribe(filter("$share/g/t", 1))
		lasting.close()
		pub := w.connect(packet.V5, "pub")
		pub.publishAll(1, 0, 3)
		w.connect(packet.V5, "lasting") // a clean start ends the session
		pub.publishAll(1, 3, 6)
		if got := passing.received(true); !slices.Equal(got, numbers(0, 6)) {
			t.Errorf("got %v", got)
		}
	})
}

// TestSharedSkipsFullOutbox gives a group a message of QoS 2 while its one member
// takes nothing: the message waits for another member, and the publisher for nobody.
func TestSharedSkipsFullOutbox(t *testing.T) {
	bubble(t, func(o *Options) { o.Outbox = 1000 }, func(t *testing.T, w *world) {
		deaf := w.connect(packet.V5, "deaf")
		deaf.subscribe(filter("a", 0), filter("$share/g/t", 2))
		c := w.b.allSessions()[0].conn.Load()
		if !c.out.claimSink() { // as if somebody was writing
			t.Fatal("the outbox is busy")
		}
		pub := w.connect(packet.V5, "pub")
		payload := strings.Repeat("x", 600)
		pub.publish("a", payload, 0, 0)
		pub.exchange("t", payload, 2)
		other := w.connect(packet.V5, "other")
		other.subscribe(filter("$share/g/t", 2))
		other.finish(other.wantMessage(payload))
		c.out.yieldSink(nil)
		c.flush()
		deaf.wantMessage(payload)
		deaf.silence()
	})
}

func TestSharedQoS2StaysWithItsMember(t *testing.T) { // [MQTT-4.8.2-4] [MQTT-4.8.2-5]
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a", expiry(100)), w.connect(packet.V5, "b", expiry(100))
		pub := w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 2))
		b.subscribe(filter("$share/g/t", 2))
		pub.publishAll(2, 0, 2)
		p := want[*packet.Publish](a)
		b.finish(want[*packet.Publish](b))
		a.close()
		b.silence()
		a = w.connect(packet.V5, "a", resume, expiry(100))
		if again := want[*packet.Publish](a); !again.Dup || again.PacketID != p.PacketID {
			t.Errorf("DUP %v, identifier %d, want %d", again.Dup, again.PacketID, p.PacketID)
		}
		a.close()
		a = w.connect(packet.V5, "a") // a clean start ends the session
		a.silence()
		b.silence()
		if got := w.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
		b.close()
		pub.publishAll(2, 2, 5) // not sent to anybody: the group's still
		c := w.connect(packet.V5, "c")
		c.subscribe(filter("$share/g/t", 2))
		if got := c.received(true); !slices.Equal(got, numbers(2, 5)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestSharedRefusalEndsMessage(t *testing.T) { // [MQTT-4.8.2-6]
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a", expiry(100)), w.connect(packet.V5, "b", expiry(100))
		pub := w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 2))
		pub.publishAll(1, 0, 1)
		pub.publishAll(2, 1, 2)
		b.subscribe(filter("$share/g/t", 2))
		a.send(&packet.Puback{PacketID: a.wantMessage("0").PacketID, ReasonCode: packet.QuotaExceeded})
		a.send(&packet.Pubrec{PacketID: a.wantMessage("1").PacketID, ReasonCode: packet.QuotaExceeded})
		a.close()
		b.silence()
		if got := w.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
	})
}

func TestSharedGrantedQoS(t *testing.T) { // [MQTT-4.8.2-3]
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a"), w.connect(packet.V5, "b", expiry(100))
		pub := w.connect(packet.V5, "pub")
		ask := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("$share/g/t", 0)}}
		ask.Properties.SubscriptionIDs = []uint32{7}
		a.send(ask)
		want[*packet.Suback](a)
		b.subscribe(filter("$share/g/t", 1))
		pub.publishAll(2, 0, 2)
		if p := want[*packet.Publish](a); p.QoS != 0 || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{7}) {
			t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
		}
		if p := want[*packet.Publish](b); p.QoS != 1 || p.Properties.SubscriptionIDs != nil {
			t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
		} else {
			b.finish(p)
		}
		pub.publishAll(0, 2, 4)
		if x, y := a.received(false), b.received(false); len(x) != 1 || len(y) != 1 {
			t.Errorf("%v and %v of 2", x, y)
		}
		if got := w.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
	})
}

func TestSharedOverRestart(t *testing.T) {
	kept := store.NewMemory(store.Limits{})
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a", expiry(1000)), w.connect(packet.V5, "b")
		pub := w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 1))
		a.close()
		pub.publishAll(1, 0, 3)
		b.subscribe(filter("$share/g/t", 1))
		if got := b.received(false); !slices.Equal(got, numbers(0, 3)) {
			t.Errorf("got %v", got)
		}
		w.connect(packet.V5, "gone", expiry(1)).subscribe(filter("$share/other/t", 1))
	})
	bubble(t, func(o *Options) { o.Store = kept }, func(t *testing.T, w *world) {
		wait(2 * time.Second)
		pub := w.connect(packet.V5, "pub")
		pub.publishAll(1, 3, 5)
		a := w.connect(packet.V5, "a", resume)
		if got := a.received(true); !slices.Equal(got, numbers(0, 5)) {
			t.Errorf("got %v", got)
		}
		a.bye() // the last member takes the queue with it
		if got := kept.Sessions(); len(got) != 0 {
			t.Errorf("the store keeps %v", got)
		}
	})
}

func TestSharedQueueIsBounded(t *testing.T) {
	limits := store.Limits{Queue: store.QueueLimit{Messages: 5, Bytes: 1 << 20}}
	for _, session := range kinds {
		bubble(t, func(o *Options) {
			o.Store = store.NewMemory(limits)
			o.Queue = limits.Queue
		}, func(t *testing.T, w *world) {
			a, pub := w.connect(packet.V5, "a", quota(1), expiry(session)), w.connect(packet.V5, "pub")
			a.subscribe(filter("$share/g/t", 1))
			pub.publishAll(1, 0, 20)
			want := 6 // one is lent
			if session > 0 {
				want = 5 // and still in the store's queue
			}
			if got := a.received(true); !slices.Equal(got, numbers(0, want)) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestSharedEndForgets gives back to a group that has ended, as a store does that
// answers late.
func TestSharedEndForgets(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		g := newGroup(w.b, groupKey{"g", "t"}, false, "")
		before := w.held()
		l := &loan{Delivery: store.Delivery{Message: &store.Message{Topic: "t", QoS: 2}, QoS: 2}, group: g}
		g.endGroup()
		g.giveBackLoans(l)
		g.untakeLoan(l)
		if got := w.held(); got != before || g.inMemoryCount() != 0 {
			t.Errorf("holds %d bytes, %d messages", got-before, g.inMemoryCount())
		}
	})
}

func TestSharedLeavesOutWhoCannotTakeIt(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		small := func(p *packet.Connect) { p.Properties.SetMaximumPacketSize(50) }
		a, b := w.connect(packet.V5, "a", small), w.connect(packet.V5, "b")
		pub := w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 1))
		b.subscribe(filter("$share/g/t", 1))
		large := fmt.Sprintf("%0100d", 0)
		for range 4 {
			pub.exchange("t", large, 1)
			b.finish(b.wantMessage(large))
		}
		b.close()
		pub.exchange("t", large, 1) // for nobody, and nothing waits behind it
		pub.exchange("t", "x", 1)
		a.finish(a.wantMessage("x"))

		w.rules.set(func(r *rules) { r.receive = []string{"dx=u"} })
		d, e := w.connect(packet.V5, "d"), w.connect(packet.V5, "e", expiry(100))
		d.subscribe(filter("$share/h/u", 1))
		e.subscribe(filter("$share/h/u", 1))
		pub.exchange("u", "denied", 1)
		e.finish(e.wantMessage("denied"))
		e.close()
		pub.exchange("u", "later", 1)
		d.silence()
		e = w.connect(packet.V5, "e", resume)
		e.finish(e.wantMessage("later"))
	})
}

func TestSharedMessageExpires(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		a, pub := w.connect(packet.V5, "a", quota(1)), w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 1))
		short := message("t", "short", 1, 1)
		short.Properties.SetMessageExpiryInterval(5)
		pub.exchange("t", "first", 1)
		pub.send(short)
		want[*packet.Puback](pub)
		pub.exchange("t", "last", 1)
		wait(6 * time.Second)
		a.finish(a.wantMessage("first"))
		a.finish(a.wantMessage("last"))
	})
}

func TestSharedThroughFunctions(t *testing.T) {
	for _, session := range kinds {
		f := newChain("downstream t")
		bubble(t, filtered1(f), func(t *testing.T, w *world) {
			a, b := w.connect(packet.V5, "a", expiry(session)), w.connect(packet.V5, "b", expiry(session))
			pub := w.connect(packet.V5, "pub")
			a.subscribe(filter("$share/g/t", 2))
			pub.exchange("t", "1", 1)
			pub.exchange("t", "2", 1)
			f.take()[0].answer(emit("t", "changed"))
			if got := a.received(false); !slices.Equal(got, []string{"changed"}) {
				t.Errorf("got %v", got)
			}
			b.subscribe(filter("$share/g/t", 2))
			f.take()[0].answer(FilterResult{Outcome: Drop})
			a.close() // another member's functions see the original
			f.take()[0].answer(FilterResult{})
			b.finish(b.wantMessage("1"))
			pub.exchange("t", "3", 2)
			f.take()[0].answer(FilterResult{})
			b.finish(b.wantMessage("3"))
			pub.exchange("t", "4", 1)
			two := emit("t", "4a")
			two.Messages = append(two.Messages, emit("t", "4b").Messages...)
			f.take()[0].answer(two)
			b.finish(b.wantMessage("4a"))
			b.finish(b.wantMessage("4b"))
			want := []string{"downstream a t=1", "downstream a t=2", "downstream b t=1", "downstream b t=3", "downstream b t=4"}
			if !slices.Equal(f.seen, want) {
				t.Errorf("functions saw %v", f.seen)
			}
			if got := w.counters().Store.Queued; got != 0 {
				t.Errorf("%d stay", got)
			}
		})
	}
}

// TestSharedLosesNothing has members of all kinds come and go while messages
// pass. Whatever was acknowledged to the publisher is acknowledged by a member.
func TestSharedLosesNothing(t *testing.T) {
	late := newLateStore()
	bubble(t, func(o *Options) { o.Store = late }, func(t *testing.T, w *world) {
		defer late.run(w)()
		const n = 600
		pub := w.connect(packet.V5, "pub")
		anchor := w.connect(packet.V5, "anchor", expiry(1000))
		anchor.subscribe(filter("$share/g/t", 1))
		anchor.close()
		var mu sync.Mutex
		acked := map[string]bool{}
		var members sync.WaitGroup
		for i := range 4 {
			members.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 7))
				for range 12 {
					c := w.dial(packet.V5, "m")
					c.try(connectPacket(fmt.Sprint("m", i), resume, expiry(uint32(i%2*100)), quota(5)))
					c.try(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{filter("$share/g/t", 1)}})
					for left := rnd.IntN(60); left > 0; left-- {
						select {
						case p := <-c.got:
							if m, ok := p.(*packet.Publish); ok && rnd.IntN(3) > 0 {
								mu.Lock()
								acked[string(m.Payload)] = true
								mu.Unlock()
								c.try(&packet.Puback{PacketID: m.PacketID})
							}
						case <-time.After(time.Millisecond):
						}
					}
					c.nc.Close()
					c.done.Wait()
				}
			})
		}
		pub.publishAll(1, 0, n)
		members.Wait()
		synctest.Wait()
		anchor = w.connect(packet.V5, "anchor", resume, expiry(1000))
		for _, payload := range anchor.received(true) {
			acked[payload] = true
		}
		if len(acked) != n {
			t.Errorf("%d of %d were acknowledged by a member", len(acked), n)
		}
		if got := w.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
	})
}

// TestSharedFunctionKeepsReceiveMaximum: a member at QoS 2 whose messages pass a
// function has no more in flight than its Receive Maximum [MQTT-3.3.4-9].
func TestSharedFunctionKeepsReceiveMaximum(t *testing.T) {
	for _, session := range kinds {
		f := newChain("downstream t")
		bubble(t, filtered1(f), func(t *testing.T, w *world) {
			a, pub := w.connect(packet.V5, "a", expiry(session), quota(1)), w.connect(packet.V5, "pub")
			a.subscribe(filter("$share/g/t", 2))
			for _, payload := range []string{"1", "2", "3"} {
				pub.exchange("t", payload, 2)
			}
			for _, payload := range []string{"1", "2", "3"} {
				for q := f.take(); len(q) > 0; q = f.take() {
					for _, call := range q {
						call.answer(FilterResult{})
					}
					synctest.Wait()
				}
				m := a.wantMessage(payload)
				a.silence()
				a.finish(m)
			}
			a.silence()
		})
	}
}

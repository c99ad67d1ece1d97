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

// receivePayloads reads all messages that came and returns their payloads. It
// acknowledges the messages if ack is set.
func (c *client) receivePayloads(ack bool) (payloads []string) {
	for p := c.nextPacket(); p != nil; p = c.nextPacket() {
		m, ok := p.(*packet.Publish)
		if !ok {
			c.t.Fatalf("got %s", describePacket(p))
		}
		if ack {
			c.acknowledge(m)
		}
		payloads = append(payloads, string(m.Payload))
	}
	return payloads
}

// numberPayloads returns the numbers from one to the one before the other, as
// payloads.
func numberPayloads(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// publishNumbers publishes numbered messages on topic t and waits for each
// acknowledgement.
func (c *client) publishNumbers(qos byte, from, to int) {
	for i := from; i < to; i++ {
		c.publishAndWait("t", fmt.Sprint(i), qos)
	}
}

// sessionKinds are the sessions that a member of a group may have.
var sessionKinds = []uint32{0, 100}

func TestSharedGoesToAnotherMember(t *testing.T) {
	for _, leaves := range sessionKinds {
		for _, stays := range sessionKinds {
			t.Run(fmt.Sprintf("leaves=%d/stays=%d", leaves, stays), func(t *testing.T) {
				runWithServer(t, nil, func(t *testing.T, srv *testServer) {
					a, b := srv.connect(packet.V5, "a", sessionExpiry(leaves)), srv.connect(packet.V5, "b", sessionExpiry(stays))
					pub := srv.connect(packet.V5, "pub")
					a.subscribe(subscribeTo("$share/g/t", 1))
					b.subscribe(subscribeTo("$share/g/t", 1))
					pub.publishNumbers(1, 0, 10)
					lent, got := a.receivePayloads(false), b.receivePayloads(true)
					if len(lent) != 5 || len(got) != 5 {
						t.Fatalf("%d and %d of 10", len(lent), len(got))
					}
					a.dropConnection()
					var again []string
					for p := b.nextPacket(); p != nil; p = b.nextPacket() {
						m := p.(*packet.Publish)
						if m.Dup {
							t.Error("DUP for a client that never had it") // [MQTT-4.3.2-2]
						}
						b.acknowledge(m)
						again = append(again, string(m.Payload))
					}
					if !slices.Equal(again, lent) {
						t.Errorf("given again %v, want %v", again, lent)
					}
					if leaves > 0 {
						a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(leaves))
						a.wantNothing()
					}
					if c := srv.counters(); c.Redispatched != 5 || c.Store.Queued != 0 || c.SharedWaiting != 0 {
						t.Errorf("redispatched %d, queued %d, waiting %d", c.Redispatched, c.Store.Queued, c.SharedWaiting)
					}
				})
			})
		}
	}
}

func TestSharedWaitsWhileAllAreAway(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(100)), srv.connect(packet.V5, "b", sessionExpiry(100))
		pub := srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 1))
		b.subscribe(subscribeTo("$share/g/t", 1))
		a.dropConnection()
		b.dropConnection()
		pub.publishNumbers(1, 0, 20)
		if got := srv.counters().SharedWaiting; got != 20 {
			t.Errorf("%d wait", got)
		}
		b = srv.connect(packet.V5, "b", resumeSession, sessionExpiry(100)) // whoever comes first has all
		if got := b.receivePayloads(true); !slices.Equal(got, numberPayloads(0, 20)) {
			t.Errorf("got %v", got)
		}
		a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(100))
		a.wantNothing()
		c := srv.connect(packet.V5, "c") // as does one that is new
		b.dropConnection()
		a.dropConnection()
		pub.publishNumbers(1, 20, 25)
		c.subscribe(subscribeTo("$share/g/t", 1))
		if got := c.receivePayloads(false); !slices.Equal(got, numberPayloads(20, 25)) {
			t.Errorf("got %v", got)
		}
		c.dropConnection() // without acknowledging: they are not lost with its session
		a = srv.connect(packet.V5, "a", resumeSession)
		if got := a.receivePayloads(true); !slices.Equal(got, numberPayloads(20, 25)) {
			t.Errorf("got %v", got)
		}
		if got := srv.counters(); got.Store.Queued != 0 {
			t.Errorf("%d stay", got.Store.Queued)
		}
	})
}

func TestSharedPrefersRoom(t *testing.T) {
	for _, session := range sessionKinds {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			slow, fast := srv.connect(packet.V5, "slow", receiveMaximum(1), sessionExpiry(session)), srv.connect(packet.V5, "fast", sessionExpiry(session))
			pub := srv.connect(packet.V5, "pub")
			slow.subscribe(subscribeTo("$share/g/t", 1))
			fast.subscribe(subscribeTo("$share/g/t", 1))
			pub.publishNumbers(1, 0, 10)
			if x, y := slow.receivePayloads(false), fast.receivePayloads(true); len(x) != 1 || len(y) != 9 {
				t.Errorf("%d and %d of 10", len(x), len(y))
			}
			fast.dropConnection()
			pub.publishNumbers(1, 10, 13)
			slow.wantNothing()
			slow.send(&packet.Puback{PacketID: 1})
			if got := slow.receivePayloads(true); !slices.Equal(got, numberPayloads(10, 13)) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestSharedKeepsOrderWithoutStore has the one member leave for whose sake the
// store keeps the queue.
func TestSharedKeepsOrderWithoutStore(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		lasting, passing := srv.connect(packet.V5, "lasting", sessionExpiry(100)), srv.connect(packet.V5, "passing", receiveMaximum(1))
		lasting.subscribe(subscribeTo("$share/g/t", 1))
		passing.subscribe(subscribeTo("$share/g/t", 1))
		lasting.dropConnection()
		pub := srv.connect(packet.V5, "pub")
		pub.publishNumbers(1, 0, 3)
		srv.connect(packet.V5, "lasting") // a clean start ends the session
		pub.publishNumbers(1, 3, 6)
		if got := passing.receivePayloads(true); !slices.Equal(got, numberPayloads(0, 6)) {
			t.Errorf("got %v", got)
		}
	})
}

// TestSharedSkipsFullOutbox gives a group a message of QoS 2 while its one member
// takes nothing: the message waits for another member, and the publisher for nobody.
func TestSharedSkipsFullOutbox(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Outbox = 1000 }, func(t *testing.T, srv *testServer) {
		deaf := srv.connect(packet.V5, "deaf")
		deaf.subscribe(subscribeTo("a", 0), subscribeTo("$share/g/t", 2))
		c := srv.broker.allSessions()[0].conn.Load()
		if !c.out.claimSink() { // as if somebody was writing
			t.Fatal("the outbox is busy")
		}
		pub := srv.connect(packet.V5, "pub")
		payload := strings.Repeat("x", 600)
		pub.publish("a", payload, 0, 0)
		pub.publishAndWait("t", payload, 2)
		other := srv.connect(packet.V5, "other")
		other.subscribe(subscribeTo("$share/g/t", 2))
		other.acknowledge(other.wantMessage(payload))
		c.out.yieldSink(nil)
		c.flush()
		deaf.wantMessage(payload)
		deaf.wantNothing()
	})
}

func TestSharedQoS2StaysWithItsMember(t *testing.T) { // [MQTT-4.8.2-4] [MQTT-4.8.2-5]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(100)), srv.connect(packet.V5, "b", sessionExpiry(100))
		pub := srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 2))
		b.subscribe(subscribeTo("$share/g/t", 2))
		pub.publishNumbers(2, 0, 2)
		p := wantPacket[*packet.Publish](a)
		b.acknowledge(wantPacket[*packet.Publish](b))
		a.dropConnection()
		b.wantNothing()
		a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(100))
		if again := wantPacket[*packet.Publish](a); !again.Dup || again.PacketID != p.PacketID {
			t.Errorf("DUP %v, identifier %d, want %d", again.Dup, again.PacketID, p.PacketID)
		}
		a.dropConnection()
		a = srv.connect(packet.V5, "a") // a clean start ends the session
		a.wantNothing()
		b.wantNothing()
		if got := srv.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
		b.dropConnection()
		pub.publishNumbers(2, 2, 5) // not sent to anybody: the group's still
		c := srv.connect(packet.V5, "c")
		c.subscribe(subscribeTo("$share/g/t", 2))
		if got := c.receivePayloads(true); !slices.Equal(got, numberPayloads(2, 5)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestSharedRefusalEndsMessage(t *testing.T) { // [MQTT-4.8.2-6]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(100)), srv.connect(packet.V5, "b", sessionExpiry(100))
		pub := srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 2))
		pub.publishNumbers(1, 0, 1)
		pub.publishNumbers(2, 1, 2)
		b.subscribe(subscribeTo("$share/g/t", 2))
		a.send(&packet.Puback{PacketID: a.wantMessage("0").PacketID, ReasonCode: packet.QuotaExceeded})
		a.send(&packet.Pubrec{PacketID: a.wantMessage("1").PacketID, ReasonCode: packet.QuotaExceeded})
		a.dropConnection()
		b.wantNothing()
		if got := srv.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
	})
}

func TestSharedGrantedQoS(t *testing.T) { // [MQTT-4.8.2-3]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a"), srv.connect(packet.V5, "b", sessionExpiry(100))
		pub := srv.connect(packet.V5, "pub")
		ask := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("$share/g/t", 0)}}
		ask.Properties.SubscriptionIDs = []uint32{7}
		a.send(ask)
		wantPacket[*packet.Suback](a)
		b.subscribe(subscribeTo("$share/g/t", 1))
		pub.publishNumbers(2, 0, 2)
		if p := wantPacket[*packet.Publish](a); p.QoS != 0 || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{7}) {
			t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
		}
		if p := wantPacket[*packet.Publish](b); p.QoS != 1 || p.Properties.SubscriptionIDs != nil {
			t.Errorf("QoS %d, identifiers %v", p.QoS, p.Properties.SubscriptionIDs)
		} else {
			b.acknowledge(p)
		}
		pub.publishNumbers(0, 2, 4)
		if x, y := a.receivePayloads(false), b.receivePayloads(false); len(x) != 1 || len(y) != 1 {
			t.Errorf("%v and %v of 2", x, y)
		}
		if got := srv.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
	})
}

func TestSharedOverRestart(t *testing.T) {
	kept := store.NewMemory(store.Limits{})
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(1000)), srv.connect(packet.V5, "b")
		pub := srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 1))
		a.dropConnection()
		pub.publishNumbers(1, 0, 3)
		b.subscribe(subscribeTo("$share/g/t", 1))
		if got := b.receivePayloads(false); !slices.Equal(got, numberPayloads(0, 3)) {
			t.Errorf("got %v", got)
		}
		srv.connect(packet.V5, "gone", sessionExpiry(1)).subscribe(subscribeTo("$share/other/t", 1))
	})
	runWithServer(t, func(o *Options) { o.Store = kept }, func(t *testing.T, srv *testServer) {
		advanceTime(2 * time.Second)
		pub := srv.connect(packet.V5, "pub")
		pub.publishNumbers(1, 3, 5)
		a := srv.connect(packet.V5, "a", resumeSession)
		if got := a.receivePayloads(true); !slices.Equal(got, numberPayloads(0, 5)) {
			t.Errorf("got %v", got)
		}
		a.disconnect() // the last member takes the queue with it
		if got := kept.Sessions(); len(got) != 0 {
			t.Errorf("the store keeps %v", got)
		}
	})
}

func TestSharedQueueIsBounded(t *testing.T) {
	limits := store.Limits{Queue: store.QueueLimit{Messages: 5, Bytes: 1 << 20}}
	for _, session := range sessionKinds {
		runWithServer(t, func(o *Options) {
			o.Store = store.NewMemory(limits)
			o.Queue = limits.Queue
		}, func(t *testing.T, srv *testServer) {
			a, pub := srv.connect(packet.V5, "a", receiveMaximum(1), sessionExpiry(session)), srv.connect(packet.V5, "pub")
			a.subscribe(subscribeTo("$share/g/t", 1))
			pub.publishNumbers(1, 0, 20)
			want := 6 // one is lent
			if session > 0 {
				want = 5 // and still in the store's queue
			}
			if got := a.receivePayloads(true); !slices.Equal(got, numberPayloads(0, want)) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestSharedEndForgets gives back to a group that has ended, as a store does that
// answers late.
func TestSharedEndForgets(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		g := newGroup(srv.broker, groupKey{"g", "t"}, false, "")
		before := srv.memoryHeld()
		l := &loan{Delivery: store.Delivery{Message: &store.Message{Topic: "t", QoS: 2}, QoS: 2}, group: g}
		g.endGroup()
		g.giveBackLoans(l)
		g.untakeLoan(l)
		if got := srv.memoryHeld(); got != before || g.inMemoryCount() != 0 {
			t.Errorf("holds %d bytes, %d messages", got-before, g.inMemoryCount())
		}
	})
}

func TestSharedLeavesOutWhoCannotTakeIt(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		small := func(p *packet.Connect) { p.Properties.SetMaximumPacketSize(50) }
		a, b := srv.connect(packet.V5, "a", small), srv.connect(packet.V5, "b")
		pub := srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 1))
		b.subscribe(subscribeTo("$share/g/t", 1))
		large := fmt.Sprintf("%0100d", 0)
		for range 4 {
			pub.publishAndWait("t", large, 1)
			b.acknowledge(b.wantMessage(large))
		}
		b.dropConnection()
		pub.publishAndWait("t", large, 1) // for nobody, and nothing waits behind it
		pub.publishAndWait("t", "x", 1)
		a.acknowledge(a.wantMessage("x"))

		srv.denied.change(func(d *denyList) { d.receive = []string{"dx=u"} })
		d, e := srv.connect(packet.V5, "d"), srv.connect(packet.V5, "e", sessionExpiry(100))
		d.subscribe(subscribeTo("$share/h/u", 1))
		e.subscribe(subscribeTo("$share/h/u", 1))
		pub.publishAndWait("u", "denied", 1)
		e.acknowledge(e.wantMessage("denied"))
		e.dropConnection()
		pub.publishAndWait("u", "later", 1)
		d.wantNothing()
		e = srv.connect(packet.V5, "e", resumeSession)
		e.acknowledge(e.wantMessage("later"))
	})
}

func TestSharedMessageExpires(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, pub := srv.connect(packet.V5, "a", receiveMaximum(1)), srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 1))
		short := publishPacket("t", "short", 1, 1)
		short.Properties.SetMessageExpiryInterval(5)
		pub.publishAndWait("t", "first", 1)
		pub.send(short)
		wantPacket[*packet.Puback](pub)
		pub.publishAndWait("t", "last", 1)
		advanceTime(6 * time.Second)
		a.acknowledge(a.wantMessage("first"))
		a.acknowledge(a.wantMessage("last"))
	})
}

func TestSharedThroughFunctions(t *testing.T) {
	for _, session := range sessionKinds {
		f := newFakeFilter("downstream t")
		runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
			a, b := srv.connect(packet.V5, "a", sessionExpiry(session)), srv.connect(packet.V5, "b", sessionExpiry(session))
			pub := srv.connect(packet.V5, "pub")
			a.subscribe(subscribeTo("$share/g/t", 2))
			pub.publishAndWait("t", "1", 1)
			pub.publishAndWait("t", "2", 1)
			f.takeQuestions()[0].answer(publishResult("t", "changed"))
			if got := a.receivePayloads(false); !slices.Equal(got, []string{"changed"}) {
				t.Errorf("got %v", got)
			}
			b.subscribe(subscribeTo("$share/g/t", 2))
			f.takeQuestions()[0].answer(FilterResult{Outcome: Drop})
			a.dropConnection() // another member's functions see the original
			f.takeQuestions()[0].answer(FilterResult{})
			b.acknowledge(b.wantMessage("1"))
			pub.publishAndWait("t", "3", 2)
			f.takeQuestions()[0].answer(FilterResult{})
			b.acknowledge(b.wantMessage("3"))
			pub.publishAndWait("t", "4", 1)
			two := publishResult("t", "4a")
			two.Messages = append(two.Messages, publishResult("t", "4b").Messages...)
			f.takeQuestions()[0].answer(two)
			b.acknowledge(b.wantMessage("4a"))
			b.acknowledge(b.wantMessage("4b"))
			want := []string{"downstream a t=1", "downstream a t=2", "downstream b t=1", "downstream b t=3", "downstream b t=4"}
			if !slices.Equal(f.submitted, want) {
				t.Errorf("functions saw %v", f.submitted)
			}
			if got := srv.counters().Store.Queued; got != 0 {
				t.Errorf("%d stay", got)
			}
		})
	}
}

// TestSharedLosesNothing has members of all kinds come and go while messages
// pass. Whatever was acknowledged to the publisher is acknowledged by a member.
func TestSharedLosesNothing(t *testing.T) {
	late := newLateStore()
	runWithServer(t, func(o *Options) { o.Store = late }, func(t *testing.T, srv *testServer) {
		defer late.commitUntilStopped(srv)()
		const n = 600
		pub := srv.connect(packet.V5, "pub")
		anchor := srv.connect(packet.V5, "anchor", sessionExpiry(1000))
		anchor.subscribe(subscribeTo("$share/g/t", 1))
		anchor.dropConnection()
		var mu sync.Mutex
		acked := map[string]bool{}
		var members sync.WaitGroup
		for i := range 4 {
			members.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 7))
				for range 12 {
					c := srv.dial(packet.V5, "m")
					c.trySend(connectPacket(fmt.Sprint("m", i), resumeSession, sessionExpiry(uint32(i%2*100)), receiveMaximum(5)))
					c.trySend(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{subscribeTo("$share/g/t", 1)}})
					for left := rnd.IntN(60); left > 0; left-- {
						select {
						case p := <-c.packets:
							if m, ok := p.(*packet.Publish); ok && rnd.IntN(3) > 0 {
								mu.Lock()
								acked[string(m.Payload)] = true
								mu.Unlock()
								c.trySend(&packet.Puback{PacketID: m.PacketID})
							}
						case <-time.After(time.Millisecond):
						}
					}
					c.nc.Close()
					c.done.Wait()
				}
			})
		}
		pub.publishNumbers(1, 0, n)
		members.Wait()
		synctest.Wait()
		anchor = srv.connect(packet.V5, "anchor", resumeSession, sessionExpiry(1000))
		for _, payload := range anchor.receivePayloads(true) {
			acked[payload] = true
		}
		if len(acked) != n {
			t.Errorf("%d of %d were acknowledged by a member", len(acked), n)
		}
		if got := srv.counters().Store.Queued; got != 0 {
			t.Errorf("%d stay", got)
		}
	})
}

// TestSharedFunctionKeepsReceiveMaximum: a member at QoS 2 whose messages pass a
// function has no more in flight than its Receive Maximum [MQTT-3.3.4-9].
func TestSharedFunctionKeepsReceiveMaximum(t *testing.T) {
	for _, session := range sessionKinds {
		f := newFakeFilter("downstream t")
		runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
			a, pub := srv.connect(packet.V5, "a", sessionExpiry(session), receiveMaximum(1)), srv.connect(packet.V5, "pub")
			a.subscribe(subscribeTo("$share/g/t", 2))
			for _, payload := range []string{"1", "2", "3"} {
				pub.publishAndWait("t", payload, 2)
			}
			for _, payload := range []string{"1", "2", "3"} {
				for q := f.takeQuestions(); len(q) > 0; q = f.takeQuestions() {
					for _, call := range q {
						call.answer(FilterResult{})
					}
					synctest.Wait()
				}
				m := a.wantMessage(payload)
				a.wantNothing()
				a.acknowledge(m)
			}
			a.wantNothing()
		})
	}
}

package mqtt

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// fullStore is a store that refuses all transactions with a callback while it is full.
type fullStore struct {
	*store.Memory
	full atomic.Bool
}

func (f *fullStore) Update(add func(store.Tx), done func(error)) {
	if f.full.Load() && done != nil {
		done(store.ErrFull)
		return
	}
	f.Memory.Update(add, done)
}

// TestConnectOnFullStore connects while nothing can be kept: a session that is
// new or changes is refused and leaves nothing behind, one that is as it was can
// empty its queue.
func TestConnectOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub", sessionExpiry(100))
		sub.subscribe(subscribeTo("a", 1))
		sub.dropConnection()
		srv.connect(packet.V5, "pub").publishAndWait("a", "kept", 1)

		full.full.Store(true)
		for _, tt := range []struct {
			id     string
			change []func(*packet.Connect)
		}{
			{"sub2", []func(*packet.Connect){sessionExpiry(100)}},
			{"sub", []func(*packet.Connect){resumeSession, sessionExpiry(200)}},
			{"sub", []func(*packet.Connect){resumeSession, sessionExpiry(100), withWill("a", "of a refused client", 0)}},
		} {
			if _, ack := srv.connectAck(packet.V5, tt.id, tt.change...); ack.ReasonCode != packet.ServerUnavailable {
				t.Errorf("%s: %v", tt.id, ack.ReasonCode)
			}
		}
		again, ack := srv.connectAck(packet.V5, "sub", resumeSession, sessionExpiry(100))
		if !ack.SessionPresent {
			t.Fatalf("the session is gone: %v", ack.ReasonCode)
		}
		again.acknowledge(again.wantMessage("kept"))
		again.wantNothing()
		again.dropConnection()

		full.full.Store(false)
		if _, ack := srv.connectAck(packet.V5, "sub2", resumeSession, sessionExpiry(100)); ack.SessionPresent {
			t.Error("a session that was refused is there")
		}
	})
}

// TestSubscribeOnFullStore subscribes while nothing can be kept: what is refused
// is not in force, and what was in force before stays so.
func TestSubscribeOnFullStore(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		full := &fullStore{Memory: store.NewMemory(store.Limits{})}
		runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
			srv.denied.change(func(d *denyList) { d.subscribe = []string{"denied"} })
			lasting := sessionExpiry(100)
			if v == packet.V311 {
				lasting = resumeSession
			}
			sub := srv.connect(v, "sub", lasting)
			sub.subscribe(subscribeTo("a", 1))
			full.full.Store(true)
			sub.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{subscribeTo("a", 0), subscribeTo("denied", 1), subscribeTo("b", 1)}})
			wantCodes := []packet.ReasonCode{packet.QuotaExceeded, packet.NotAuthorized, packet.QuotaExceeded}
			if v == packet.V311 {
				wantCodes = []packet.ReasonCode{0x80, 0x80, 0x80}
			}
			if ack := wantPacket[*packet.Suback](sub); !slices.Equal(ack.ReasonCodes, wantCodes) {
				t.Errorf("%v: SUBACK %v", v, ack.ReasonCodes)
			}
			pub := srv.connect(packet.V5, "pub")
			pub.publish("b", "refused", 0, 0)
			pub.publish("a", "as before", 0, 0)
			sub.wantMessage("as before")
			sub.wantNothing()
			sub.send(&packet.Unsubscribe{PacketID: 10, TopicFilters: []string{"a", "b"}})
			if v == packet.V311 {
				if !sub.closedByServer() {
					t.Error("the connection goes on without an answer")
				}
				return
			}
			ack := wantPacket[*packet.Unsuback](sub)
			if !slices.Equal(ack.ReasonCodes, []packet.ReasonCode{packet.UnspecifiedError, packet.UnspecifiedError}) {
				t.Errorf("UNSUBACK %v", ack.ReasonCodes)
			}
			pub.publish("a", "still", 0, 0)
			sub.wantMessage("still")
		})
	}
}

// TestExchangeOnFullStore goes on with exchanges of QoS 2 while nothing can be
// kept: the connection ends, and the next one finishes them.
func TestExchangeOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(100)), srv.connect(packet.V5, "pub", sessionExpiry(100))
		sub.subscribe(subscribeTo("a", 2))
		pub.publish("a", "once", 2, 7)
		wantPacket[*packet.Pubrec](pub)
		p := sub.wantMessage("once")

		full.full.Store(true)
		pub.send(&packet.Pubrel{PacketID: 7})
		sub.send(&packet.Pubrec{PacketID: p.PacketID})
		for _, c := range []*client{sub, pub} {
			if p := wantPacket[*packet.Disconnect](c); p.ReasonCode != packet.UnspecifiedError || !c.closedByServer() {
				t.Errorf("got %s", describePacket(p))
			}
		}
		full.full.Store(false)

		pub = srv.connect(packet.V5, "pub", resumeSession, sessionExpiry(100))
		pub.publish("a", "once", 2, 7) // known: PUBREL did not count
		wantPacket[*packet.Pubrec](pub)
		pub.send(&packet.Pubrel{PacketID: 7})
		if got := wantPacket[*packet.Pubcomp](pub); got.ReasonCode != packet.Success {
			t.Errorf("PUBCOMP %s", got.ReasonCode)
		}
		sub = srv.connect(packet.V5, "sub", resumeSession, sessionExpiry(100))
		if p = sub.wantMessage("once"); !p.Dup {
			t.Error("sent as new")
		}
		sub.acknowledge(p)
		sub.wantNothing()
		for _, s := range full.Sessions() {
			if len(s.Received) > 0 || full.QueueStats(s.Key).Messages > 0 {
				t.Errorf("left: %+v", s)
			}
		}
	})
}

// TestWillOnFullStore has a will become due while nothing can be kept: it waits for
// room, unless its client comes back before.
func TestWillOnFullStore(t *testing.T) {
	for _, back := range []bool{false, true} {
		full := &fullStore{Memory: store.NewMemory(store.Limits{})}
		runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
			away := srv.connect(packet.V5, "away", sessionExpiry(1000))
			away.subscribe(subscribeTo("w", 1))
			away.dropConnection()
			c := srv.connect(packet.V5, "c", sessionExpiry(1000), withWill("w", "gone", 0))
			full.full.Store(true)
			c.dropConnection()
			advanceTime(3 * willRetry)
			if back {
				srv.connect(packet.V5, "c", resumeSession, sessionExpiry(1000))
			}
			full.full.Store(false)
			advanceTime(willRetry)
			away = srv.connect(packet.V5, "away", resumeSession, sessionExpiry(1000))
			if !back {
				away.acknowledge(away.wantMessage("gone"))
			}
			away.wantNothing()
		})
	}
}

// TestSharedOnFullStore has a group's message refused by the store on its way to a
// member: it goes there once there is room, though nothing else happens.
func TestSharedOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c", sessionExpiry(1000))
		c.subscribe(subscribeTo("$share/g/a", 2))
		c.dropConnection()
		srv.connect(packet.V5, "pub").publishAndWait("a", "kept", 2)
		full.full.Store(true)
		c = srv.connect(packet.V5, "c", resumeSession, sessionExpiry(1000))
		c.wantNothing()
		advanceTime(statusInterval)
		full.full.Store(false)
		advanceTime(statusInterval)
		c.acknowledge(c.wantMessage("kept"))
		c.wantNothing()
	})
}

// TestGroupsComeWhileRefused has groups begin while the refused ones are looked for.
func TestGroupsComeWhileRefused(t *testing.T) {
	runWithServer(t, nil, func(_ *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		var looking sync.WaitGroup
		for range 2 {
			looking.Go(func() {
				for range 20_000 {
					srv.broker.pumpRefused()
				}
			})
		}
		for i := range 1000 {
			c.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{subscribeTo(fmt.Sprint("$share/g/", i), 1)}})
		}
		looking.Wait()
	})
}

// TestRefusedLeavesWill has a client come back that the store refuses, again and
// again: the will of before comes when it was due.
func TestRefusedLeavesWill(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		watcher := srv.connect(packet.V5, "watcher")
		watcher.subscribe(subscribeTo("w", 0))
		c := srv.connect(packet.V5, "c", sessionExpiry(1000), withWill("w", "gone", 100))
		c.dropConnection()
		full.full.Store(true)
		for range 9 {
			advanceTime(10 * time.Second)
			_, ack := srv.connectAck(packet.V5, "c", resumeSession, sessionExpiry(1000), withWill("w", "of a refused client", 0))
			if ack.ReasonCode != packet.ServerUnavailable {
				t.Fatalf("got %v", ack.ReasonCode)
			}
		}
		full.full.Store(false)
		watcher.wantNothing()
		advanceTime(10 * time.Second)
		watcher.wantMessage("gone")
		advanceTime(901 * time.Second)
		if n := len(srv.broker.sessions); n != 1 {
			t.Errorf("%d sessions after the expiry, want the watcher's", n)
		}
	})
}

// TestUnfinishedOnFullStore loses a connection with a will and a message in flight
// while nothing can be kept: the message keeps its identifier all the same.
func TestUnfinishedOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c", sessionExpiry(1000), withWill("w", "gone", 0))
		c.subscribe(subscribeTo("a", 1))
		srv.connect(packet.V5, "pub").publishAndWait("a", "sent", 1)
		p := c.wantMessage("sent")
		full.full.Store(true)
		c.dropConnection()
		advanceTime(3 * willRetry)
		key := store.SessionKey{Identity: testID("cx").String(), ClientID: "c"}
		kept, _ := full.Queue(key, 0, make([]store.Entry, 0, 2))
		if len(kept) != 1 || kept[0].PacketID != p.PacketID {
			t.Errorf("kept %+v, want identifier %d", kept, p.PacketID)
		}
	})
}

// TestIdentifiersOnFullStore has the store refuse identifiers of QoS 2: nothing is
// sent under one that is not kept, and all is sent in its order once there is room,
// though nothing else happens.
func TestIdentifiersOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c", sessionExpiry(1000))
		c.subscribe(subscribeTo("a", 2))
		c.dropConnection()
		pub := srv.connect(packet.V5, "pub")
		for i := range 3 {
			pub.publishAndWait("a", fmt.Sprint(i), byte(2-i%2))
		}
		full.full.Store(true)
		c = srv.connect(packet.V5, "c", resumeSession, sessionExpiry(1000))
		advanceTime(lateRetry)
		c.wantNothing()
		full.full.Store(false)
		advanceTime(lateRetry)
		for i := range 3 {
			c.acknowledge(c.wantMessage(fmt.Sprint(i)))
		}
		c.wantNothing()
	})
}

// TestRefusedKeepsExchange refuses a message of QoS 1 whose identifier an exchange
// of QoS 2 has: that goes on, and its message comes once.
func TestRefusedKeepsExchange(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	runWithServer(t, func(o *Options) { o.Store = full }, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(100)), srv.connect(packet.V311, "pub")
		sub.subscribe(subscribeTo("a", 1))
		pub.publish("a", "once", 2, 7)
		wantPacket[*packet.Pubrec](pub)
		sub.acknowledge(sub.wantMessage("once"))
		full.full.Store(true)
		pub.publish("a", "refused", 1, 7)
		pub.wantNothing()
		full.full.Store(false)
		pub.publish("a", "once", 2, 7)
		wantPacket[*packet.Pubrec](pub)
		sub.wantNothing()
	})
}

// unreadableStore is one whose disk cannot be read now and then.
type unreadableStore struct {
	*store.Memory
	unreadable atomic.Bool
}

func (u *unreadableStore) Queue(k store.SessionKey, after uint64, dst []store.Entry) ([]store.Entry, error) {
	if u.unreadable.Load() {
		return dst, io.ErrUnexpectedEOF
	}
	return u.Memory.Queue(k, after, dst)
}

// TestUnreadableQueue has a client come back, perhaps with a message in flight, while
// its queue cannot be read: all come in their order once it can, though nothing else
// happens.
func TestUnreadableQueue(t *testing.T) {
	for _, tt := range []struct {
		filter   string
		inFlight bool
	}{{"a", true}, {"a", false}, {"$share/g/a", false}} {
		disk := &unreadableStore{Memory: store.NewMemory(store.Limits{})}
		runWithServer(t, func(o *Options) { o.Store = disk }, func(t *testing.T, srv *testServer) {
			c := srv.connect(packet.V5, "c", sessionExpiry(1000))
			c.subscribe(subscribeTo(tt.filter, 1))
			pub := srv.connect(packet.V5, "pub")
			pub.publishAndWait("a", "first", 1)
			first := c.wantMessage("first")
			if !tt.inFlight {
				c.acknowledge(first)
			}
			c.dropConnection()
			disk.unreadable.Store(true)
			pub.publishAndWait("a", "queued", 1)
			c = srv.connect(packet.V5, "c", resumeSession, sessionExpiry(1000))
			pub.publishAndWait("a", "last", 1)
			advanceTime(2 * statusInterval)
			c.wantNothing()
			disk.unreadable.Store(false)
			advanceTime(statusInterval)
			if tt.inFlight {
				c.acknowledge(c.wantMessage("first"))
			}
			for _, want := range []string{"queued", "last"} {
				c.acknowledge(c.wantMessage(want))
			}
			c.wantNothing()
		})
	}
}

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

// fullStore refuses what somebody waits for.
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
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub", expiry(100))
		sub.subscribe(filter("a", 1))
		sub.close()
		w.connect(packet.V5, "pub").exchange("a", "kept", 1)

		full.full.Store(true)
		for _, tt := range []struct {
			id     string
			change []func(*packet.Connect)
		}{
			{"sub2", []func(*packet.Connect){expiry(100)}},
			{"sub", []func(*packet.Connect){resume, expiry(200)}},
			{"sub", []func(*packet.Connect){resume, expiry(100), withWill("a", "of a refused client", 0)}},
		} {
			if _, ack := w.connectAck(packet.V5, tt.id, tt.change...); ack.ReasonCode != packet.ServerUnavailable {
				t.Errorf("%s: %v", tt.id, ack.ReasonCode)
			}
		}
		again, ack := w.connectAck(packet.V5, "sub", resume, expiry(100))
		if !ack.SessionPresent {
			t.Fatalf("the session is gone: %v", ack.ReasonCode)
		}
		again.finish(again.wantMessage("kept"))
		again.silence()
		again.close()

		full.full.Store(false)
		if _, ack := w.connectAck(packet.V5, "sub2", resume, expiry(100)); ack.SessionPresent {
			t.Error("a session that was refused is there")
		}
	})
}

// TestSubscribeOnFullStore subscribes while nothing can be kept: what is refused
// is not in force, and what was in force before stays so.
func TestSubscribeOnFullStore(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		full := &fullStore{Memory: store.NewMemory(store.Limits{})}
		bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
			w.rules.set(func(r *rules) { r.subscribe = []string{"denied"} })
			lasting := expiry(100)
			if v == packet.V311 {
				lasting = resume
			}
			sub := w.connect(v, "sub", lasting)
			sub.subscribe(filter("a", 1))
			full.full.Store(true)
			sub.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{filter("a", 0), filter("denied", 1), filter("b", 1)}})
			wantCodes := []packet.ReasonCode{packet.QuotaExceeded, packet.NotAuthorized, packet.QuotaExceeded}
			if v == packet.V311 {
				wantCodes = []packet.ReasonCode{0x80, 0x80, 0x80}
			}
			if ack := want[*packet.Suback](sub); !slices.Equal(ack.ReasonCodes, wantCodes) {
				t.Errorf("%v: SUBACK %v", v, ack.ReasonCodes)
			}
			pub := w.connect(packet.V5, "pub")
			pub.publish("b", "refused", 0, 0)
			pub.publish("a", "as before", 0, 0)
			sub.wantMessage("as before")
			sub.silence()
			sub.send(&packet.Unsubscribe{PacketID: 10, TopicFilters: []string{"a", "b"}})
			if v == packet.V311 {
				if !sub.ended() {
					t.Error("the connection goes on without an answer")
				}
				return
			}
			if ack := want[*packet.Unsuback](sub); !slices.Equal(ack.ReasonCodes, []packet.ReasonCode{packet.UnspecifiedError, packet.UnspecifiedError}) {
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
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub", expiry(100)), w.connect(packet.V5, "pub", expiry(100))
		sub.subscribe(filter("a", 2))
		pub.publish("a", "once", 2, 7)
		want[*packet.Pubrec](pub)
		p := sub.wantMessage("once")

		full.full.Store(true)
		pub.send(&packet.Pubrel{PacketID: 7})
		sub.send(&packet.Pubrec{PacketID: p.PacketID})
		for _, c := range []*client{sub, pub} {
			if p := want[*packet.Disconnect](c); p.ReasonCode != packet.UnspecifiedError || !c.ended() {
				t.Errorf("got %s", show(p))
			}
		}
		full.full.Store(false)

		pub = w.connect(packet.V5, "pub", resume, expiry(100))
		pub.publish("a", "once", 2, 7) // known: PUBREL did not count
		want[*packet.Pubrec](pub)
		pub.send(&packet.Pubrel{PacketID: 7})
		if got := want[*packet.Pubcomp](pub); got.ReasonCode != packet.Success {
			t.Errorf("PUBCOMP %s", got.ReasonCode)
		}
		sub = w.connect(packet.V5, "sub", resume, expiry(100))
		if p = sub.wantMessage("once"); !p.Dup {
			t.Error("sent as new")
		}
		sub.finish(p)
		sub.silence()
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
		bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
			away := w.connect(packet.V5, "away", expiry(1000))
			away.subscribe(filter("w", 1))
			away.close()
			c := w.connect(packet.V5, "c", expiry(1000), withWill("w", "gone", 0))
			full.full.Store(true)
			c.close()
			wait(3 * willRetry)
			if back {
				w.connect(packet.V5, "c", resume, expiry(1000))
			}
			full.full.Store(false)
			wait(willRetry)
			away = w.connect(packet.V5, "away", resume, expiry(1000))
			if !back {
				away.finish(away.wantMessage("gone"))
			}
			away.silence()
		})
	}
}

// TestSharedOnFullStore has a group's message refused by the store on its way to a
// member: it goes there once there is room, though nothing else happens.
func TestSharedOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c", expiry(1000))
		c.subscribe(filter("$share/g/a", 2))
		c.close()
		w.connect(packet.V5, "pub").exchange("a", "kept", 2)
		full.full.Store(true)
		c = w.connect(packet.V5, "c", resume, expiry(1000))
		c.silence()
		wait(statusInterval)
		full.full.Store(false)
		wait(statusInterval)
		c.finish(c.wantMessage("kept"))
		c.silence()
	})
}

// TestGroupsComeWhileRefused has groups begin while the refused ones are looked for.
func TestGroupsComeWhileRefused(t *testing.T) {
	bubble(t, nil, func(_ *testing.T, w *world) {
		c := w.connect(packet.V5, "c")
		var looking sync.WaitGroup
		for range 2 {
			looking.Go(func() {
				for range 20_000 {
					w.b.pumpRefused()
				}
			})
		}
		for i := range 1000 {
			c.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{filter(fmt.Sprint("$share/g/", i), 1)}})
		}
		looking.Wait()
	})
}

// TestRefusedLeavesWill has a client come back that the store refuses, again and
// again: the will of before comes when it was due.
func TestRefusedLeavesWill(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		watcher := w.connect(packet.V5, "watcher")
		watcher.subscribe(filter("w", 0))
		c := w.connect(packet.V5, "c", expiry(1000), withWill("w", "gone", 100))
		c.close()
		full.full.Store(true)
		for range 9 {
			wait(10 * time.Second)
			if _, ack := w.connectAck(packet.V5, "c", resume, expiry(1000), withWill("w", "of a refused client", 0)); ack.ReasonCode != packet.ServerUnavailable {
				t.Fatalf("got %v", ack.ReasonCode)
			}
		}
		full.full.Store(false)
		watcher.silence()
		wait(10 * time.Second)
		watcher.wantMessage("gone")
		wait(901 * time.Second)
		if n := len(w.b.sessions); n != 1 {
			t.Errorf("%d sessions after the expiry, want the watcher's", n)
		}
	})
}

// TestUnfinishedOnFullStore loses a connection with a will and a message in flight
// while nothing can be kept: the message keeps its identifier all the same.
func TestUnfinishedOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c", expiry(1000), withWill("w", "gone", 0))
		c.subscribe(filter("a", 1))
		w.connect(packet.V5, "pub").exchange("a", "sent", 1)
		p := c.wantMessage("sent")
		full.full.Store(true)
		c.close()
		wait(3 * willRetry)
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
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c", expiry(1000))
		c.subscribe(filter("a", 2))
		c.close()
		pub := w.connect(packet.V5, "pub")
		for i := range 3 {
			pub.exchange("a", fmt.Sprint(i), byte(2-i%2))
		}
		full.full.Store(true)
		c = w.connect(packet.V5, "c", resume, expiry(1000))
		wait(lateRetry)
		c.silence()
		full.full.Store(false)
		wait(lateRetry)
		for i := range 3 {
			c.finish(c.wantMessage(fmt.Sprint(i)))
		}
		c.silence()
	})
}

// TestRefusedKeepsExchange refuses a message of QoS 1 whose identifier an exchange
// of QoS 2 has: that goes on, and its message comes once.
func TestRefusedKeepsExchange(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub", expiry(100)), w.connect(packet.V311, "pub")
		sub.subscribe(filter("a", 1))
		pub.publish("a", "once", 2, 7)
		want[*packet.Pubrec](pub)
		sub.finish(sub.wantMessage("once"))
		full.full.Store(true)
		pub.publish("a", "refused", 1, 7)
		pub.silence()
		full.full.Store(false)
		pub.publish("a", "once", 2, 7)
		want[*packet.Pubrec](pub)
		sub.silence()
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
		bubble(t, func(o *Options) { o.Store = disk }, func(t *testing.T, w *world) {
			c := w.connect(packet.V5, "c", expiry(1000))
			c.subscribe(filter(tt.filter, 1))
			pub := w.connect(packet.V5, "pub")
			pub.exchange("a", "first", 1)
			first := c.wantMessage("first")
			if !tt.inFlight {
				c.finish(first)
			}
			c.close()
			disk.unreadable.Store(true)
			pub.exchange("a", "queued", 1)
			c = w.connect(packet.V5, "c", resume, expiry(1000))
			pub.exchange("a", "last", 1)
			wait(2 * statusInterval)
			c.silence()
			disk.unreadable.Store(false)
			wait(statusInterval)
			if tt.inFlight {
				c.finish(c.wantMessage("first"))
			}
			for _, want := range []string{"queued", "last"} {
				c.finish(c.wantMessage(want))
			}
			c.silence()
		})
	}
}

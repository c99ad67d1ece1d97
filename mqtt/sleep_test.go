package mqtt

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// TestSubscriptionSleeps takes the grant of a subscription away and puts it back:
// the client need not subscribe again.
func TestSubscriptionSleeps(t *testing.T) {
	for _, v := range versions {
		for _, f := range []string{"b/#", "$share/g/b/#"} {
			for _, connected := range []bool{true, false} {
				for _, restarted := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/%s/connected=%t/restarted=%t", v, f, connected, restarted), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							x := &waiting{t: t, v: v, kept: store.NewMemory(store.Limits{}), chain: newChain(), conn: func(p *packet.Connect) {
								if v == packet.V5 {
									expiry(1000)(p)
								}
							}}
							x.sleep(f, connected, restarted)
						})
					})
				}
			}
		}
	}
}

func (x *waiting) sleep(f string, connected, restarted bool) {
	t := x.t
	x.open()
	defer func() { x.close() }()
	x.connectSub(resume)
	x.sub.subscribe(filter(f, 1), filter("c", 1))
	if !connected {
		x.sub.close()
	}
	x.rules.set(func(r *rules) { r.subscribe = []string{"b/#"} })
	x.b.Reauthorize()
	if connected {
		if _, refused := x.drain(); !refused {
			t.Error("the client was not told")
		}
	}
	if restarted {
		x.close()
		x.open()
	}
	x.wantAsleep(1)
	if connected {
		x.resumeSub()
		x.b.Reauthorize()
		x.sub.silence()
	}
	pub := x.connect(packet.V5, "pub")
	if code := pub.exchange("b/1", "while it slept", 1); code != packet.NoMatchingSubscribers {
		t.Errorf("a subscription that sleeps took it: %s", code)
	}
	pub.exchange("c", "awake", 1)
	x.rules.set(func(r *rules) { r.subscribe = nil })
	x.b.Reauthorize()
	x.wantAsleep(0)
	if code := pub.exchange("b/2", "woken", 1); code != packet.Success {
		t.Errorf("published: %s", code)
	}
	if !connected {
		x.resumeSub()
	}
	got := map[string]bool{}
	for range 2 { // the group's may come first
		p := want[*packet.Publish](x.sub)
		x.sub.finish(p)
		got[string(p.Payload)] = true
	}
	if !got["awake"] || !got["woken"] {
		t.Errorf("got %v", got)
	}
	x.sub.silence()
}

// resumeSub has the client come back to a session that is there.
func (x *waiting) resumeSub() {
	x.t.Helper()
	c, ack := x.connectAck(x.v, "sub", x.conn, resume)
	if !ack.SessionPresent {
		x.t.Fatalf("got %s, session present %t", show(ack), ack.SessionPresent)
	}
	x.sub = c
}

// wantAsleep compares how many of the client's two subscriptions sleep, and what
// other sites are told.
func (x *waiting) wantAsleep(n int) {
	x.t.Helper()
	synctest.Wait()
	for _, s := range x.b.Sessions() {
		if s.ClientID == "sub" && (s.Asleep != n || len(s.Subscriptions) != 2) {
			x.t.Errorf("%d of %v sleep, want %d", s.Asleep, s.Subscriptions, n)
		}
	}
	if got := x.b.Filters(); len(got) != 2-n {
		x.t.Errorf("other sites are told %v", got)
	}
}

// TestSubscriptionAsleep: what a client does with one that sleeps.
func TestSubscriptionAsleep(t *testing.T) {
	for _, f := range []string{"b/#", "$share/g/b/#"} {
		each(t, func(t *testing.T, w *world, v packet.Version) {
			conn := func(p *packet.Connect) {
				if v == packet.V5 {
					expiry(1000)(p)
				}
			}
			sub, pub := w.connect(v, "sub", conn, resume), w.connect(packet.V5, "pub")
			sub.subscribe(filter(f, 0))
			w.rules.set(func(r *rules) { r.subscribe = []string{"b/#"} })
			w.b.Reauthorize()
			sub.close()
			sub = w.connect(v, "sub", conn, resume)
			if got := sub.subscribe(filter(f, 1)); !got[0].Failed() {
				t.Errorf("subscribed without a grant: %s", got[0])
			}
			w.rules.set(func(r *rules) { r.subscribe = nil })
			w.b.Reauthorize()
			pub.exchange("b/1", "as before the refusal", 1)
			if p := sub.wantMessage("as before the refusal"); p.QoS != 0 {
				t.Errorf("a refused SUBSCRIBE changed it to QoS %d", p.QoS)
			}

			w.rules.set(func(r *rules) { r.subscribe = []string{"b/#"} })
			w.b.Reauthorize()
			sub.close()
			sub = w.connect(v, "sub", conn, resume)
			sub.send(&packet.Unsubscribe{PacketID: 4, TopicFilters: []string{f}})
			if ack := want[*packet.Unsuback](sub); v == packet.V5 && ack.ReasonCodes[0] != packet.Success {
				t.Errorf("UNSUBACK %s", ack.ReasonCodes[0])
			}
			w.rules.set(func(r *rules) { r.subscribe = nil })
			w.b.Reauthorize()
			if code := pub.exchange("b/1", "over", 1); code != packet.NoMatchingSubscribers {
				t.Errorf("published: %s", code)
			}
			sub.silence()
			for _, kept := range w.b.opts.Store.Sessions() {
				if len(kept.Subscriptions) > 0 || kept.Key.Identity == shareIdentity {
					t.Errorf("the store keeps %+v", kept)
				}
			}
			if held := len(w.b.allGroups()); held != 0 {
				t.Errorf("%d groups stay", held)
			}
		})
	}
}

// TestSleepIsLogged: an operator hears of a change that has many subscriptions sleep
// in one line, once.
func TestSleepIsLogged(t *testing.T) {
	log, hook := recordedLog()
	bubble(t, func(o *Options) { o.Log = log }, func(t *testing.T, w *world) {
		for _, who := range []string{"a", "b"} {
			c := w.connect(packet.V5, who, expiry(1000))
			c.subscribe(filter("b/#", 1), filter("c", 1))
			c.close()
		}
		w.rules.set(func(r *rules) { r.subscribe = []string{"b/#"} })
		w.b.Reauthorize()
		w.b.Reauthorize()
		lines := 0
		for _, e := range hook.AllEntries() {
			if n, ok := e.Data[logfield.Asleep]; ok {
				if lines++; n != 2 {
					t.Errorf("%v began to sleep, want 2", n)
				}
			}
		}
		if lines != 1 {
			t.Errorf("%d lines", lines)
		}
	})
}

// TestReceiversAsleep: an operator who asks who gets a topic is told who sleeps.
func TestReceiversAsleep(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub", expiry(1000))
		sub.subscribe(filter("b/#", 1))
		sub.close()
		w.rules.set(func(r *rules) { r.subscribe = []string{"b/#"} })
		w.b.Reauthorize()
		if got := w.b.Receivers("b/1"); len(got) != 1 || got[0].Gets || got[0].Why == "" {
			t.Errorf("got %+v", got)
		}
		if got := w.b.Receivers("c"); len(got) != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestSharedWaitsWhileAllSleep: what a group has waiting outlives the sleep of its
// members.
func TestSharedWaitsWhileAllSleep(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		bubble(t, nil, func(t *testing.T, w *world) {
			a, b := w.connect(packet.V5, "a", expiry(1000)), w.connect(packet.V5, "b", expiry(1000))
			a.subscribe(filter("$share/g/t", qos))
			b.subscribe(filter("$share/g/t", qos))
			a.close()
			b.close()
			pub := w.connect(packet.V5, "pub")
			pub.publishAll(qos, 0, 3)
			w.rules.set(func(r *rules) { r.subscribe = []string{"t"} })
			w.b.Reauthorize()
			a = w.connect(packet.V5, "a", resume, expiry(1000))
			a.silence()
			if got := w.counters().SharedWaiting; got != 3 {
				t.Errorf("%d wait", got)
			}
			w.rules.set(func(r *rules) { r.subscribe = []string{"bx=t"} })
			w.b.Reauthorize()
			if got := a.received(true); len(got) != 3 {
				t.Errorf("got %v", got)
			}
			if c := w.counters(); c.Store.Queued != 0 || c.MessagesDropped != 0 {
				t.Errorf("%d stay, dropped %v", c.Store.Queued, c.Drops)
			}
		})
	}
}

// TestLentWhileAllSleep: what a member did not acknowledge waits for one that wakes.
func TestLentWhileAllSleep(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		a, pub := w.connect(packet.V5, "a", expiry(1000)), w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 1))
		pub.publishAll(1, 0, 3)
		if got := a.received(false); len(got) != 3 {
			t.Fatalf("got %v", got)
		}
		w.rules.set(func(r *rules) { r.subscribe = []string{"t"} })
		w.b.Reauthorize()
		w.counters()
		a = w.connect(packet.V5, "a", resume, expiry(1000))
		a.silence()
		w.rules.set(func(r *rules) { r.subscribe = nil })
		w.b.Reauthorize()
		if got := a.received(true); !slices.Equal(got, numbers(0, 3)) {
			t.Errorf("got %v", got)
		}
		if c := w.counters(); c.MessagesDropped != 0 {
			t.Errorf("dropped %v", c.Drops)
		}
	})
}

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
							x := &waitingClient{t: t, v: v, kept: store.NewMemory(store.Limits{}), chain: newFakeFilter(), connectOption: func(p *packet.Connect) {
								if v == packet.V5 {
									sessionExpiry(1000)(p)
								}
							}}
							x.testSleep(f, connected, restarted)
						})
					})
				}
			}
		}
	}
}

func (x *waitingClient) testSleep(f string, connected, restarted bool) {
	t := x.t
	x.startServer()
	defer func() { x.close() }()
	x.connectSub(resumeSession)
	x.sub.subscribe(subscribeTo(f, 1), subscribeTo("c", 1))
	if !connected {
		x.sub.dropConnection()
	}
	x.denied.change(func(d *denyList) { d.subscribe = []string{"b/#"} })
	x.broker.Reauthorize()
	if connected {
		if _, refused := x.readRest(); !refused {
			t.Error("the client was not told")
		}
	}
	if restarted {
		x.close()
		x.startServer()
	}
	x.wantAsleep(1)
	if connected {
		x.resumeSub()
		x.broker.Reauthorize()
		x.sub.wantNothing()
	}
	pub := x.connect(packet.V5, "pub")
	if code := pub.publishAndWait("b/1", "while it slept", 1); code != packet.NoMatchingSubscribers {
		t.Errorf("a subscription that sleeps took it: %s", code)
	}
	pub.publishAndWait("c", "awake", 1)
	x.denied.change(func(d *denyList) { d.subscribe = nil })
	x.broker.Reauthorize()
	x.wantAsleep(0)
	if code := pub.publishAndWait("b/2", "woken", 1); code != packet.Success {
		t.Errorf("published: %s", code)
	}
	if !connected {
		x.resumeSub()
	}
	got := map[string]bool{}
	for range 2 { // the group's may come first
		p := wantPacket[*packet.Publish](x.sub)
		x.sub.acknowledge(p)
		got[string(p.Payload)] = true
	}
	if !got["awake"] || !got["woken"] {
		t.Errorf("got %v", got)
	}
	x.sub.wantNothing()
}

// resumeSub has the client come back to a session that is there.
func (x *waitingClient) resumeSub() {
	x.t.Helper()
	c, ack := x.connectAck(x.v, "sub", x.connectOption, resumeSession)
	if !ack.SessionPresent {
		x.t.Fatalf("got %s, session present %t", describePacket(ack), ack.SessionPresent)
	}
	x.sub = c
}

// wantAsleep compares how many of the client's two subscriptions sleep, and what
// other sites are told.
func (x *waitingClient) wantAsleep(n int) {
	x.t.Helper()
	synctest.Wait()
	for _, s := range x.broker.Sessions() {
		if s.ClientID == "sub" && (s.Asleep != n || len(s.Subscriptions) != 2) {
			x.t.Errorf("%d of %v sleep, want %d", s.Asleep, s.Subscriptions, n)
		}
	}
	if got := x.broker.Filters(); len(got) != 2-n {
		x.t.Errorf("other sites are told %v", got)
	}
}

// TestSubscriptionAsleep: what a client does with one that sleeps.
func TestSubscriptionAsleep(t *testing.T) {
	for _, f := range []string{"b/#", "$share/g/b/#"} {
		runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
			conn := func(p *packet.Connect) {
				if v == packet.V5 {
					sessionExpiry(1000)(p)
				}
			}
			sub, pub := srv.connect(v, "sub", conn, resumeSession), srv.connect(packet.V5, "pub")
			sub.subscribe(subscribeTo(f, 0))
			srv.denied.change(func(d *denyList) { d.subscribe = []string{"b/#"} })
			srv.broker.Reauthorize()
			sub.dropConnection()
			sub = srv.connect(v, "sub", conn, resumeSession)
			if got := sub.subscribe(subscribeTo(f, 1)); !got[0].Failed() {
				t.Errorf("subscribed without a grant: %s", got[0])
			}
			srv.denied.change(func(d *denyList) { d.subscribe = nil })
			srv.broker.Reauthorize()
			pub.publishAndWait("b/1", "as before the refusal", 1)
			if p := sub.wantMessage("as before the refusal"); p.QoS != 0 {
				t.Errorf("a refused SUBSCRIBE changed it to QoS %d", p.QoS)
			}

			srv.denied.change(func(d *denyList) { d.subscribe = []string{"b/#"} })
			srv.broker.Reauthorize()
			sub.dropConnection()
			sub = srv.connect(v, "sub", conn, resumeSession)
			sub.send(&packet.Unsubscribe{PacketID: 4, TopicFilters: []string{f}})
			if ack := wantPacket[*packet.Unsuback](sub); v == packet.V5 && ack.ReasonCodes[0] != packet.Success {
				t.Errorf("UNSUBACK %s", ack.ReasonCodes[0])
			}
			srv.denied.change(func(d *denyList) { d.subscribe = nil })
			srv.broker.Reauthorize()
			if code := pub.publishAndWait("b/1", "over", 1); code != packet.NoMatchingSubscribers {
				t.Errorf("published: %s", code)
			}
			sub.wantNothing()
			for _, kept := range srv.broker.opts.Store.Sessions() {
				if len(kept.Subscriptions) > 0 || kept.Key.Identity == shareIdentity {
					t.Errorf("the store keeps %+v", kept)
				}
			}
			if held := len(srv.broker.allGroups()); held != 0 {
				t.Errorf("%d groups stay", held)
			}
		})
	}
}

// TestSleepIsLogged: an operator hears of a change that has many subscriptions sleep
// in one line, once.
func TestSleepIsLogged(t *testing.T) {
	log, hook := recordedLog()
	runWithServer(t, func(o *Options) { o.Log = log }, func(t *testing.T, srv *testServer) {
		for _, who := range []string{"a", "b"} {
			c := srv.connect(packet.V5, who, sessionExpiry(1000))
			c.subscribe(subscribeTo("b/#", 1), subscribeTo("c", 1))
			c.dropConnection()
		}
		srv.denied.change(func(d *denyList) { d.subscribe = []string{"b/#"} })
		srv.broker.Reauthorize()
		srv.broker.Reauthorize()
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
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub", sessionExpiry(1000))
		sub.subscribe(subscribeTo("b/#", 1))
		sub.dropConnection()
		srv.denied.change(func(d *denyList) { d.subscribe = []string{"b/#"} })
		srv.broker.Reauthorize()
		if got := srv.broker.Receivers("b/1"); len(got) != 1 || got[0].Gets || got[0].Why == "" {
			t.Errorf("got %+v", got)
		}
		if got := srv.broker.Receivers("c"); len(got) != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestSharedWaitsWhileAllSleep: what a group has waiting outlives the sleep of its
// members.
func TestSharedWaitsWhileAllSleep(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			a, b := srv.connect(packet.V5, "a", sessionExpiry(1000)), srv.connect(packet.V5, "b", sessionExpiry(1000))
			a.subscribe(subscribeTo("$share/g/t", qos))
			b.subscribe(subscribeTo("$share/g/t", qos))
			a.dropConnection()
			b.dropConnection()
			pub := srv.connect(packet.V5, "pub")
			pub.publishNumbers(qos, 0, 3)
			srv.denied.change(func(d *denyList) { d.subscribe = []string{"t"} })
			srv.broker.Reauthorize()
			a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(1000))
			a.wantNothing()
			if got := srv.counters().SharedWaiting; got != 3 {
				t.Errorf("%d wait", got)
			}
			srv.denied.change(func(d *denyList) { d.subscribe = []string{"bx=t"} })
			srv.broker.Reauthorize()
			if got := a.receivePayloads(true); len(got) != 3 {
				t.Errorf("got %v", got)
			}
			if c := srv.counters(); c.Store.Queued != 0 || c.MessagesDropped != 0 {
				t.Errorf("%d stay, dropped %v", c.Store.Queued, c.Drops)
			}
		})
	}
}

// TestLentWhileAllSleep: what a member did not acknowledge waits for one that wakes.
func TestLentWhileAllSleep(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, pub := srv.connect(packet.V5, "a", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 1))
		pub.publishNumbers(1, 0, 3)
		if got := a.receivePayloads(false); len(got) != 3 {
			t.Fatalf("got %v", got)
		}
		srv.denied.change(func(d *denyList) { d.subscribe = []string{"t"} })
		srv.broker.Reauthorize()
		srv.counters()
		a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(1000))
		a.wantNothing()
		srv.denied.change(func(d *denyList) { d.subscribe = nil })
		srv.broker.Reauthorize()
		if got := a.receivePayloads(true); !slices.Equal(got, numberPayloads(0, 3)) {
			t.Errorf("got %v", got)
		}
		if c := srv.counters(); c.MessagesDropped != 0 {
			t.Errorf("dropped %v", c.Drops)
		}
	})
}

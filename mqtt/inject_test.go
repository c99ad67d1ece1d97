package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// peerSite is a Forwarder that stands for one other site.
type peerSite struct {
	mu            sync.Mutex
	wants         string
	forwarded     []string // topics of the messages that come without a transaction
	subscriptions []string // filters that began (+) and ended (-)
	refusal       error    // if not nil, the site refuses every message
}

func (f *peerSite) Refuses(*store.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refusal
}

func (f *peerSite) Wants(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wants != "" && topic.Match(f.wants, name)
}

func (f *peerSite) Forward(tx store.Tx, m *store.Message) {
	if tx != nil {
		tx.Outbound("far", m)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forwarded = append(f.forwarded, m.Topic)
}

func (f *peerSite) Subscribed(filter string)   { f.noteSubscription("+" + filter) }
func (f *peerSite) Unsubscribed(filter string) { f.noteSubscription("-" + filter) }

// noteSubscription records a filter that began (+) or ended (-) to have
// subscribers.
func (f *peerSite) noteSubscription(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscriptions = append(f.subscriptions, s)
}

func TestForward(t *testing.T) {
	far := &peerSite{}
	runWithServer(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		if code := pub.publishAndWait("a", "0", 1); code != packet.NoMatchingSubscribers {
			t.Errorf("got %s", code)
		}
		far.mu.Lock()
		far.wants = "+"
		far.mu.Unlock()
		srv.broker.Reroute()
		for qos := range byte(3) {
			if code := pub.publishAndWait("a", fmt.Sprint(qos), qos); code != packet.Success {
				t.Errorf("got %s", code)
			}
		}
		srv.broker.Publish(&store.Message{Topic: "b", QoS: 1}, nil)
		srv.broker.Inject(&store.Message{Topic: "a", QoS: 1}, false, nil, nil) // goes no further
		got := srv.broker.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10))
		if len(got) != 3 || got[0].Message.QoS != 1 || got[1].Message.QoS != 2 || got[2].Message.Topic != "b" || !slices.Equal(far.forwarded, []string{"a"}) {
			t.Errorf("log %v, QoS 0 %v", got, far.forwarded)
		}
		select {
		case <-srv.broker.opts.Store.Committed("far"):
		default:
			t.Error("the link was not woken")
		}
	})
}

// A message that the way to other sites does not take goes nowhere, and its publisher
// is told.
func TestForwarderRefuses(t *testing.T) {
	far := &peerSite{wants: "+", refusal: errors.New("nobody knows what lyon wants")}
	runWithServer(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub")
		sub.subscribe(packet.Subscription{TopicFilter: "#", QoS: 1})
		pub, old := srv.connect(packet.V5, "pub"), srv.connect(packet.V311, "old")
		for qos := byte(1); qos < 3; qos++ {
			if code := pub.publishAndWait("a", "x", qos); code != packet.UnspecifiedError {
				t.Errorf("QoS %d: got %s", qos, code)
			}
		}
		old.send(&packet.Publish{TopicName: []byte("a"), QoS: 1, PacketID: 1, Payload: []byte("x")})
		old.wantNothing() // it keeps the message
		if code := pub.publishAndWait("a/b", "near", 1); code != packet.Success {
			t.Errorf("a topic that stays here: got %s", code)
		}
		srv.broker.Publish(&store.Message{Topic: "b", QoS: 1}, nil)
		if m := sub.wantMessage("near"); string(m.TopicName) != "a/b" {
			t.Errorf("got %s", m.TopicName)
		}
		if got := srv.broker.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10)); len(got) != 1 || got[0].Message.Topic != "b" {
			t.Errorf("log %v", got)
		}
	})
}

func TestInterest(t *testing.T) {
	far := &peerSite{}
	runWithServer(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a"), srv.connect(packet.V5, "b")
		a.subscribe(subscribeTo("x", 1), subscribeTo("$SYS/#", 0), subscribeTo("$hpmq/me/denied", 0))
		for p := a.nextPacket(); p != nil; p = a.nextPacket() {
			continue
		}
		b.subscribe(subscribeTo("x", 1), subscribeTo("$share/g/x", 1), subscribeTo("$share/g/y", 1))
		b.subscribe(subscribeTo("x", 2))
		a.disconnect()
		b.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"x"}})
		wantPacket[*packet.Unsuback](b)
		if got := srv.broker.Filters(); len(got) != 2 {
			t.Errorf("filters %v", got)
		}
		b.disconnect()
		slices.Sort(far.subscriptions[2:])
		if want := []string{"+x", "+y", "-x", "-y"}; !slices.Equal(far.subscriptions, want) {
			t.Errorf("told %v, want %v", far.subscriptions, want)
		}
	})
}

func TestInject(t *testing.T) {
	f := newFakeFilter("downstream slow")
	runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub", sessionExpiry(100))
		sub.subscribe(subscribeTo("#", 1))
		var done []int
		inject := func(i int, lane uint16, topic string, retain bool) {
			m := &store.Message{
				Topic: topic, Payload: []byte(fmt.Sprint(i)), QoS: 1, Retain: retain, HLC: 1 << 40,
				Origin: store.Origin{Site: "far", Epoch: 1, Lane: lane, Seq: uint64(i)},
			}
			srv.broker.Inject(m, false, func(tx store.Tx) { tx.Floor(m.Origin) }, func(err error) {
				if err != nil {
					t.Error(err)
				}
				done = append(done, i)
			})
		}
		inject(1, 0, "slow", false)
		inject(2, 0, "fast", true)
		inject(3, 7, "fast", false)
		for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
			sub.acknowledge(p.(*packet.Publish))
		}
		for _, q := range f.takeQuestions() {
			q.answer(FilterResult{})
		}
		if i, j := slices.Index(done, 1), slices.Index(done, 2); len(done) != 3 || i > j {
			t.Errorf("done in order %v", done)
		}
		if _, seq := srv.broker.opts.Store.Floor("far", 0); seq != 2 {
			t.Errorf("floor %d", seq)
		}
		if got := srv.broker.opts.Store.Retained("#"); len(got) != 1 || string(got[0].Payload) != "2" {
			t.Errorf("retained %v", got)
		}
	})
}

// A retained message that another site sends because somebody here subscribed
// arrives as one: with RETAIN, and not at shared subscriptions.
func TestInjectReplayed(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub, shared := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "shared")
		sub.subscribe(subscribeTo("a", 1))
		shared.subscribe(subscribeTo("$share/g/a", 1))
		for i, replayed := range []bool{true, false} {
			m := &store.Message{Topic: "a", Payload: []byte(fmt.Sprint(i)), Retain: true, HLC: 1<<40 + uint64(i)}
			srv.broker.Inject(m, replayed, nil, nil)
			if p := sub.wantMessage(fmt.Sprint(i)); p.Retain != replayed {
				t.Errorf("replayed %v: RETAIN %v", replayed, p.Retain)
			}
			if got := shared.nextPacket() != nil; got == replayed {
				t.Errorf("replayed %v: the shared subscription got it: %v", replayed, got)
			}
		}
	})
}

// A clear goes to all sites, since any may have a copy. One that a site tells late
// is nobody's news where there was nothing to clear.
func TestClearsAreForwarded(t *testing.T) {
	far := &peerSite{}
	runWithServer(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, srv *testServer) {
		pub, sub := srv.connect(packet.V5, "pub"), srv.connect(packet.V5, "sub")
		sub.subscribe(packet.Subscription{TopicFilter: "#", QoS: 1})
		pub.send(&packet.Publish{TopicName: []byte("r"), QoS: 1, PacketID: 1, Retain: true, Payload: []byte("x")})
		pub.nextPacket()
		pub.send(&packet.Publish{TopicName: []byte("r"), QoS: 1, PacketID: 2, Retain: true})
		pub.nextPacket()
		got := srv.broker.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10))
		if len(got) != 1 || len(got[0].Message.Payload) != 0 {
			t.Errorf("log %v", got)
		}
		sub.wantMessage("x")
		sub.wantMessage("")
		gone := &store.Message{Topic: "s", QoS: 1, Retain: true, HLC: 1, Origin: store.Origin{Site: "far"}}
		srv.broker.Inject(gone, true, nil, nil)
		sub.wantNothing()
		if srv.broker.opts.Store.Tombstone("s") == nil {
			t.Error("no tombstone")
		}
		srv.broker.Inject(gone, false, nil, nil)
		sub.wantMessage("")
	})
}

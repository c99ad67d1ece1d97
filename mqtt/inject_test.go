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

// farSite is a Forwarder with one peer.
type farSite struct {
	mu    sync.Mutex
	wants string
	lost  []string // without a transaction
	told  []string
	full  error // why it takes nothing
}

func (f *farSite) Refuses(*store.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full
}

func (f *farSite) Wants(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wants != "" && topic.Match(f.wants, name)
}

func (f *farSite) Forward(tx store.Tx, m *store.Message) {
	if tx != nil {
		tx.Outbound("far", m)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = append(f.lost, m.Topic)
}

func (f *farSite) Subscribed(filter string)   { f.tell("+" + filter) }
func (f *farSite) Unsubscribed(filter string) { f.tell("-" + filter) }

func (f *farSite) tell(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, s)
}

func TestForward(t *testing.T) {
	far := &farSite{}
	bubble(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub")
		if code := pub.exchange("a", "0", 1); code != packet.NoMatchingSubscribers {
			t.Errorf("got %s", code)
		}
		far.mu.Lock()
		far.wants = "+"
		far.mu.Unlock()
		w.b.Reroute()
		for qos := range byte(3) {
			if code := pub.exchange("a", fmt.Sprint(qos), qos); code != packet.Success {
				t.Errorf("got %s", code)
			}
		}
		w.b.Publish(&store.Message{Topic: "b", QoS: 1}, nil)
		w.b.Inject(&store.Message{Topic: "a", QoS: 1}, false, nil, nil) // goes no further
		got := w.b.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10))
		if len(got) != 3 || got[0].Message.QoS != 1 || got[1].Message.QoS != 2 || got[2].Message.Topic != "b" || !slices.Equal(far.lost, []string{"a"}) {
			t.Errorf("log %v, QoS 0 %v", got, far.lost)
		}
		select {
		case <-w.b.opts.Store.Committed("far"):
		default:
			t.Error("the link was not woken")
		}
	})
}

// A message that the way to other sites does not take goes nowhere, and its publisher
// is told.
func TestForwarderRefuses(t *testing.T) {
	far := &farSite{wants: "+", full: errors.New("nobody knows what lyon wants")}
	bubble(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub")
		sub.subscribe(packet.Subscription{TopicFilter: "#", QoS: 1})
		pub, old := w.connect(packet.V5, "pub"), w.connect(packet.V311, "old")
		for qos := byte(1); qos < 3; qos++ {
			if code := pub.exchange("a", "x", qos); code != packet.UnspecifiedError {
				t.Errorf("QoS %d: got %s", qos, code)
			}
		}
		old.send(&packet.Publish{TopicName: []byte("a"), QoS: 1, PacketID: 1, Payload: []byte("x")})
		old.silence() // it keeps the message
		if code := pub.exchange("a/b", "near", 1); code != packet.Success {
			t.Errorf("a topic that stays here: got %s", code)
		}
		w.b.Publish(&store.Message{Topic: "b", QoS: 1}, nil)
		if m := sub.wantMessage("near"); string(m.TopicName) != "a/b" {
			t.Errorf("got %s", m.TopicName)
		}
		if got := w.b.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10)); len(got) != 1 || got[0].Message.Topic != "b" {
			t.Errorf("log %v", got)
		}
	})
}

func TestInterest(t *testing.T) {
	far := &farSite{}
	bubble(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a"), w.connect(packet.V5, "b")
		a.subscribe(filter("x", 1), filter("$SYS/#", 0), filter("$hpmq/me/denied", 0))
		for p := a.next(); p != nil; p = a.next() {
			continue
		}
		b.subscribe(filter("x", 1), filter("$share/g/x", 1), filter("$share/g/y", 1))
		b.subscribe(filter("x", 2))
		a.bye()
		b.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"x"}})
		want[*packet.Unsuback](b)
		if got := w.b.Filters(); len(got) != 2 {
			t.Errorf("filters %v", got)
		}
		b.bye()
		slices.Sort(far.told[2:])
		if want := []string{"+x", "+y", "-x", "-y"}; !slices.Equal(far.told, want) {
			t.Errorf("told %v, want %v", far.told, want)
		}
	})
}

func TestInject(t *testing.T) {
	f := newChain("downstream slow")
	bubble(t, filtered1(f), func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub", expiry(100))
		sub.subscribe(filter("#", 1))
		var done []int
		inject := func(i int, lane uint16, topic string, retain bool) {
			m := &store.Message{
				Topic: topic, Payload: []byte(fmt.Sprint(i)), QoS: 1, Retain: retain, HLC: 1 << 40,
				Origin: store.Origin{Site: "far", Epoch: 1, Lane: lane, Seq: uint64(i)},
			}
			w.b.Inject(m, false, func(tx store.Tx) { tx.Floor(m.Origin) }, func(err error) {
				if err != nil {
					t.Error(err)
				}
				done = append(done, i)
			})
		}
		inject(1, 0, "slow", false)
		inject(2, 0, "fast", true)
		inject(3, 7, "fast", false)
		for p := sub.next(); p != nil; p = sub.next() {
			sub.finish(p.(*packet.Publish))
		}
		for _, q := range f.take() {
			q.answer(FilterResult{})
		}
		if i, j := slices.Index(done, 1), slices.Index(done, 2); len(done) != 3 || i > j {
			t.Errorf("done in order %v", done)
		}
		if _, seq := w.b.opts.Store.Floor("far", 0); seq != 2 {
			t.Errorf("floor %d", seq)
		}
		if got := w.b.opts.Store.Retained("#"); len(got) != 1 || string(got[0].Payload) != "2" {
			t.Errorf("retained %v", got)
		}
	})
}

// A retained message that another site sends because somebody here subscribed
// arrives as one: with RETAIN, and not at shared subscriptions.
func TestInjectReplayed(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		sub, shared := w.connect(packet.V5, "sub"), w.connect(packet.V5, "shared")
		sub.subscribe(filter("a", 1))
		shared.subscribe(filter("$share/g/a", 1))
		for i, replayed := range []bool{true, false} {
			m := &store.Message{Topic: "a", Payload: []byte(fmt.Sprint(i)), Retain: true, HLC: 1<<40 + uint64(i)}
			w.b.Inject(m, replayed, nil, nil)
			if p := sub.wantMessage(fmt.Sprint(i)); p.Retain != replayed {
				t.Errorf("replayed %v: RETAIN %v", replayed, p.Retain)
			}
			if got := shared.next() != nil; got == replayed {
				t.Errorf("replayed %v: the shared subscription got it: %v", replayed, got)
			}
		}
	})
}

// A clear goes to all sites, since any may have a copy. One that a site tells late
// is nobody's news where there was nothing to clear.
func TestClearsAreForwarded(t *testing.T) {
	far := &farSite{}
	bubble(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, w *world) {
		pub, sub := w.connect(packet.V5, "pub"), w.connect(packet.V5, "sub")
		sub.subscribe(packet.Subscription{TopicFilter: "#", QoS: 1})
		pub.send(&packet.Publish{TopicName: []byte("r"), QoS: 1, PacketID: 1, Retain: true, Payload: []byte("x")})
		pub.next()
		pub.send(&packet.Publish{TopicName: []byte("r"), QoS: 1, PacketID: 2, Retain: true})
		pub.next()
		got := w.b.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10))
		if len(got) != 1 || len(got[0].Message.Payload) != 0 {
			t.Errorf("log %v", got)
		}
		sub.wantMessage("x")
		sub.wantMessage("")
		gone := &store.Message{Topic: "s", QoS: 1, Retain: true, HLC: 1, Origin: store.Origin{Site: "far"}}
		w.b.Inject(gone, true, nil, nil)
		sub.silence()
		if w.b.opts.Store.Tombstone("s") == nil {
			t.Error("no tombstone")
		}
		w.b.Inject(gone, false, nil, nil)
		sub.wantMessage("")
	})
}

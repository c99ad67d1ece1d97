package mqtt

import (
	"slices"
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func retained(topic, payload string) *packet.Publish {
	p := message(topic, payload, 0, 0)
	p.Retain = true
	return p
}

// retainedNow returns what a new client finds retained under filter.
func (w *world) retainedNow(v packet.Version, f string) (payloads []string) {
	w.t.Helper()
	c := w.connect(v, "looker")
	defer c.bye()
	c.subscribe(filter(f, 0))
	for p := c.next(); p != nil; p = c.next() {
		if got := p.(*packet.Publish); got.Retain {
			payloads = append(payloads, string(got.Payload))
		}
	}
	return payloads
}

// testRetainedMessage wants the last message with RETAIN to be the retained one,
// and an empty one to remove it.
func testRetainedMessage(t *testing.T, w *world, v packet.Version) {
	pub, live := w.connect(v, "pub"), w.connect(v, "live")
	live.subscribe(filter("#", 0))
	for i, step := range []struct {
		p    *packet.Publish
		want []string
	}{
		{retained("a/b", "1"), []string{"1"}},
		{retained("a/b", "2"), []string{"2"}},
		{message("a/b", "live", 0, 0), []string{"2"}},
		{message("a/b", "", 0, 0), []string{"2"}},
		{retained("a/b", ""), nil},
		{retained("a/b", ""), nil},
	} {
		pub.send(step.p)
		if got := live.wantMessage(string(step.p.Payload)); got.Retain {
			t.Errorf("step %d: live message with RETAIN", i)
		}
		if got := w.retainedNow(v, "a/+"); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %q are retained, want %q", i, got, step.want)
		}
	}
	if got := w.counters().Store.Retained; got != 0 {
		t.Errorf("%d messages stay retained", got)
	}
}

// testRetainedForEachSubscribe wants the retained message for each SUBSCRIBE, in
// both versions.
func testRetainedForEachSubscribe(t *testing.T, w *world, v packet.Version) {
	sub, pub := w.connect(v, "sub"), w.connect(v, "pub")
	pub.send(retained("a", "kept"))
	for range 2 {
		sub.subscribe(filter("a", 0))
		if p := sub.wantMessage("kept"); !p.Retain {
			t.Error("a retained message without RETAIN")
		}
	}
}

// testRetainHandling subscribes with a Retain Handling to a topic with a retained
// message and wants it as often as it says.
func testRetainHandling(t *testing.T, w *world, handling byte, wanted [3]int) {
	sub, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "pub")
	pub.send(retained("a", "kept"))
	countRetained := func() (n int) {
		sub.subscribe(packet.Subscription{TopicFilter: "a", RetainHandling: handling})
		for p := sub.next(); p != nil; p = sub.next() {
			n++
		}
		return n
	}
	got := [3]int{countRetained(), countRetained()}
	sub.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a"}})
	want[*packet.Unsuback](sub)
	if got[2] = countRetained(); got != wanted {
		t.Errorf("new, again, after unsubscribing: %v retained messages, want %v", got, wanted)
	}
}

// testRetainAsPublished wants RETAIN in a live message if the publisher set it and
// the subscription asks for it.
func testRetainAsPublished(t *testing.T, w *world, asked bool) {
	for _, session := range []uint32{0, 100} {
		sub, pub := w.connect(packet.V5, "sub", expiry(session)), w.connect(packet.V5, "pub")
		sub.subscribe(packet.Subscription{TopicFilter: "a", QoS: 2, RetainAsPublished: asked, RetainHandling: 2})
		for qos := range byte(3) {
			for _, retain := range []bool{false, true} {
				p := message("a", "x", qos, 1)
				p.Retain = retain
				pub.send(p)
				pub.next()
				pub.send(&packet.Pubrel{PacketID: 1})
				pub.next()
				got := sub.wantMessage("x")
				if got.Retain != (retain && asked) {
					t.Errorf("QoS %d, RETAIN %v came with RETAIN %v", qos, retain, got.Retain)
				}
				sub.finish(got)
			}
		}
		sub.close()
	}
}

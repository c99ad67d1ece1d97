package mqtt

import (
	"slices"
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// retainedPacket returns a PUBLISH of QoS 0 with RETAIN.
func retainedPacket(topic, payload string) *packet.Publish {
	p := publishPacket(topic, payload, 0, 0)
	p.Retain = true
	return p
}

// readRetained subscribes to f as a new client and returns the payloads of the
// retained messages.
func (s *testServer) readRetained(v packet.Version, f string) (payloads []string) {
	s.t.Helper()
	c := s.connect(v, "looker")
	defer c.disconnect()
	c.subscribe(subscribeTo(f, 0))
	for p := c.nextPacket(); p != nil; p = c.nextPacket() {
		if got := p.(*packet.Publish); got.Retain {
			payloads = append(payloads, string(got.Payload))
		}
	}
	return payloads
}

// testRetainedMessage wants the last message with RETAIN to be the retained one,
// and an empty one to remove it.
func testRetainedMessage(t *testing.T, srv *testServer, v packet.Version) {
	pub, live := srv.connect(v, "pub"), srv.connect(v, "live")
	live.subscribe(subscribeTo("#", 0))
	for i, step := range []struct {
		p    *packet.Publish
		want []string
	}{
		{retainedPacket("a/b", "1"), []string{"1"}},
		{retainedPacket("a/b", "2"), []string{"2"}},
		{publishPacket("a/b", "live", 0, 0), []string{"2"}},
		{publishPacket("a/b", "", 0, 0), []string{"2"}},
		{retainedPacket("a/b", ""), nil},
		{retainedPacket("a/b", ""), nil},
	} {
		pub.send(step.p)
		if got := live.wantMessage(string(step.p.Payload)); got.Retain {
			t.Errorf("step %d: live message with RETAIN", i)
		}
		if got := srv.readRetained(v, "a/+"); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %q are retained, want %q", i, got, step.want)
		}
	}
	if got := srv.counters().Store.Retained; got != 0 {
		t.Errorf("%d messages stay retained", got)
	}
}

// testRetainedForEachSubscribe wants the retained message for each SUBSCRIBE, in
// both versions.
func testRetainedForEachSubscribe(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub"), srv.connect(v, "pub")
	pub.send(retainedPacket("a", "kept"))
	for range 2 {
		sub.subscribe(subscribeTo("a", 0))
		if p := sub.wantMessage("kept"); !p.Retain {
			t.Error("a retained message without RETAIN")
		}
	}
}

// testRetainHandling subscribes with a Retain Handling to a topic with a retained
// message and wants it as often as it says.
func testRetainHandling(t *testing.T, srv *testServer, handling byte, wanted [3]int) {
	sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
	pub.send(retainedPacket("a", "kept"))
	countRetained := func() (n int) {
		sub.subscribe(packet.Subscription{TopicFilter: "a", RetainHandling: handling})
		for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
			n++
		}
		return n
	}
	got := [3]int{countRetained(), countRetained()}
	sub.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a"}})
	wantPacket[*packet.Unsuback](sub)
	if got[2] = countRetained(); got != wanted {
		t.Errorf("new, again, after unsubscribing: %v retained messages, want %v", got, wanted)
	}
}

// testRetainAsPublished wants RETAIN in a live message if the publisher set it and
// the subscription asks for it.
func testRetainAsPublished(t *testing.T, srv *testServer, asked bool) {
	for _, session := range []uint32{0, 100} {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V5, "pub")
		sub.subscribe(packet.Subscription{TopicFilter: "a", QoS: 2, RetainAsPublished: asked, RetainHandling: 2})
		for qos := range byte(3) {
			for _, retain := range []bool{false, true} {
				p := publishPacket("a", "x", qos, 1)
				p.Retain = retain
				pub.send(p)
				pub.nextPacket()
				pub.send(&packet.Pubrel{PacketID: 1})
				pub.nextPacket()
				got := sub.wantMessage("x")
				if got.Retain != (retain && asked) {
					t.Errorf("QoS %d, RETAIN %v came with RETAIN %v", qos, retain, got.Retain)
				}
				sub.acknowledge(got)
			}
		}
		sub.dropConnection()
	}
}

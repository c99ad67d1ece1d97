package mqtt

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func (c *client) unsubscribe(filters ...string) *packet.Unsuback {
	c.t.Helper()
	c.send(&packet.Unsubscribe{PacketID: 11, TopicFilters: filters})
	return want[*packet.Unsuback](c)
}

func TestSubscribeStatements(t *testing.T) {
	prove5(t, "3.8.3-3", testNoLocal)
	prove(t, "2.2.1-6 3.8.4-1 3.8.4-2 3.10.4-4 3.10.4-5", testSubscribeIdentifiers)
	prove(t, "3.8.4-3 3.8.4-4", testReplacedSubscription)
	prove(t, "3.8.4-5 3.8.4-6 3.8.4-7 3.9.3-1 3.9.3-2 3.2.2-10", testCodePerSubscription)
	prove(t, "3.8.4-8", testGrantedQoS)
	prove5(t, "3.9.2-1 3.9.2-2 3.11.2-1 3.11.2-2", testSubackWithinPacketSize)
}

// testNoLocal wants no message of its own for a client that subscribed with No
// Local.
func testNoLocal(t *testing.T, w *world) {
	for _, session := range []uint32{0, 100} {
		a, b := w.connect(packet.V5, "a", expiry(session)), w.connect(packet.V5, "b", expiry(session))
		for _, c := range []*client{a, b} {
			c.subscribe(packet.Subscription{TopicFilter: "t", NoLocal: true, QoS: 2}, filter("u", 0))
		}
		for qos := range byte(3) {
			a.exchange("t", "x", qos)
			b.finish(b.wantMessage("x"))
			a.silence()
		}
		a.publish("u", "y", 0, 0) // the other subscription has no such option
		a.wantMessage("y")
		b.wantMessage("y")
		a.bye()
		b.bye()
	}
}

// testSubscribeIdentifiers wants SUBACK and UNSUBACK to have the identifiers of
// their requests.
func testSubscribeIdentifiers(t *testing.T, w *world, v packet.Version) {
	c := w.connect(v, "c")
	for _, id := range []uint16{1, 255, 256, 65535} {
		c.send(&packet.Subscribe{PacketID: id, Subscriptions: []packet.Subscription{filter("a", 0)}})
		if got := want[*packet.Suback](c); got.PacketID != id {
			t.Errorf("SUBACK %d, want %d", got.PacketID, id)
		}
		for range 2 { // the second ends nothing
			c.send(&packet.Unsubscribe{PacketID: id, TopicFilters: []string{"a"}})
			if got := want[*packet.Unsuback](c); got.PacketID != id {
				t.Errorf("UNSUBACK %d, want %d", got.PacketID, id)
			}
		}
	}
}

// testCodePerSubscription wants a reason code for each subscription of a
// SUBSCRIBE, in their order, and only the granted ones in force.
func testCodePerSubscription(t *testing.T, w *world, v packet.Version) {
	w.rules.set(func(r *rules) { r.subscribe = []string{"secret"} })
	sub, pub := w.connect(v, "sub"), w.connect(v, "pub")
	got := sub.subscribe(filter("a", 0), filter("secret", 1), filter("b", 2), filter("bad#", 1), filter("c", 1))
	wanted := []packet.ReasonCode{0, packet.NotAuthorized, 2, packet.TopicFilterInvalid, 1}
	if v == packet.V311 {
		wanted[1], wanted[3] = packet.UnspecifiedError, packet.UnspecifiedError
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("got %v, want %v", got, wanted)
	}
	for topic, qos := range map[string]byte{"a": 0, "b": 2, "c": 1} {
		pub.exchange(topic, topic, 2)
		p := sub.wantMessage(topic)
		if p.QoS != qos {
			t.Errorf("%s came with QoS %d, want %d", topic, p.QoS, qos)
		}
		sub.finish(p)
	}
	pub.exchange("secret", "x", 1)
	sub.silence()
}

// testGrantedQoS wants each message at the lower of its QoS and the granted one.
func testGrantedQoS(t *testing.T, w *world, v packet.Version) {
	sub, pub := w.connect(v, "sub", kept(v)), w.connect(v, "pub")
	for granted := range byte(3) {
		f := fmt.Sprint("t/", granted)
		sub.subscribe(filter(f, granted))
		for qos := range byte(3) {
			pub.exchange(f, "x", qos)
			p := sub.wantMessage("x")
			if p.QoS != min(qos, granted) {
				t.Errorf("published at %d, granted %d, came with %d", qos, granted, p.QoS)
			}
			sub.finish(p)
		}
	}
}

// testSubackWithinPacketSize wants SUBACK and UNSUBACK without properties that
// the client has no room for.
func testSubackWithinPacketSize(t *testing.T, w *world) {
	w.rules.set(func(r *rules) { r.subscribe = []string{"secret"} })
	c := w.connect(packet.V5, "c", maxPacketSize(25))
	c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("secret", 0)}})
	if got := want[*packet.Suback](c); got.Properties.Has(packet.PropReasonString) || got.ReasonCodes[0] != packet.NotAuthorized {
		t.Errorf("SUBACK %v with reason %q", got.ReasonCodes, got.Properties.ReasonString)
	}
	if got := c.unsubscribe("secret"); got.Size(packet.V5) > 25 || got.Properties.Present != 0 {
		t.Errorf("UNSUBACK of %d bytes", got.Size(packet.V5))
	}
}

// testReplacedSubscription subscribes again and again with other QoS, and wants the
// retained message each time and one copy of each new message, at the new QoS.
func testReplacedSubscription(t *testing.T, w *world, v packet.Version) {
	sub, pub := w.connect(v, "sub"), w.connect(v, "pub")
	pub.send(retained("a", "kept"))
	for i, qos := range []byte{0, 2, 1} {
		sub.subscribe(filter("a", qos))
		p := sub.wantMessage("kept")
		if sub.silence(); !p.Retain {
			t.Error("retained message without RETAIN")
		}
		pub.exchange("a", fmt.Sprint(i), 2)
		p = sub.wantMessage(fmt.Sprint(i)) // one copy, at the new QoS
		if p.QoS != qos {
			t.Errorf("QoS %d, want %d", p.QoS, qos)
		}
		sub.finish(p)
		sub.silence()
	}
	testNoLossWhileReplaced(t, sub, pub)
}

// testNoLossWhileReplaced replaces a subscription between any two messages and wants
// all of them.
func testNoLossWhileReplaced(t *testing.T, sub, pub *client) {
	sub.subscribe(filter("b", 1))
	const n = 200
	for i := range n { // a message between any two goes through
		pub.exchange("b", fmt.Sprint(i), 1)
		sub.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("b", byte(1+i%2))}})
	}
	next := 0
	for p := sub.next(); p != nil; p = sub.next() {
		if m, ok := p.(*packet.Publish); ok {
			if string(m.Payload) != fmt.Sprint(next) {
				t.Fatalf("got %s, want %d", m.Payload, next)
			}
			next++
		}
	}
	if next != n {
		t.Errorf("%d of %d messages arrived", next, n)
	}
}

func TestUnsubscribeStatements(t *testing.T) {
	prove(t, "3.10.4-1 4.7.3-4", testUnsubscribeSameFilter)
	prove(t, "3.10.4-2 3.10.4-3", testUnsubscribeKeepsDeliveries)
	prove5(t, "3.10.4-6 3.11.3-1 3.11.3-2", testCodePerUnsubscribe)
}

// testUnsubscribeSameFilter wants UNSUBSCRIBE to end the subscription with the
// very same filter, character by character, and no other.
func testUnsubscribeSameFilter(t *testing.T, w *world, v packet.Version) {
	c := w.connect(v, "c")
	composed, decomposed := "caf\u00e9", "cafe\u0301"
	c.subscribe(filter("a/b", 0), filter("$share/g/a/b", 0), filter(composed, 0))
	for _, f := range []string{"A/b", "a/+", "a/#", "a/b/", "/a/b", "$share/h/a/b", decomposed} {
		got := c.unsubscribe(f)
		if v == packet.V5 && got.ReasonCodes[0] != packet.NoSubscriptionExisted {
			t.Errorf("%s: %v", f, got.ReasonCodes)
		}
	}
	c.publish("a/b", "x", 0, 0)
	c.wantMessage("x")
	c.wantMessage("x") // of the shared one
	c.publish(decomposed, "x", 0, 0)
	c.silence()
	c.publish(composed, "x", 0, 0)
	c.wantMessage("x")
	got := c.unsubscribe("a/b", "$share/g/a/b", composed)
	if v == packet.V5 && !slices.Equal(got.ReasonCodes, []packet.ReasonCode{0, 0, 0}) {
		t.Errorf("got %v", got.ReasonCodes)
	}
	c.publish("a/b", "x", 0, 0)
	c.publish(composed, "x", 0, 0)
	c.silence()
}

// testUnsubscribeKeepsDeliveries wants UNSUBSCRIBE to stop new messages and to
// leave the deliveries that had begun.
func testUnsubscribeKeepsDeliveries(t *testing.T, w *world, v packet.Version) {
	sub, pub := w.connect(v, "sub", kept(v)), w.connect(v, "pub")
	sub.subscribe(filter("a", 2))
	pub.exchange("a", "1", 1)
	pub.exchange("a", "2", 2)
	pub.exchange("a", "3", 2)
	one, two, three := sub.wantMessage("1"), sub.wantMessage("2"), sub.wantMessage("3")
	sub.send(&packet.Pubrec{PacketID: two.PacketID})
	want[*packet.Pubrel](sub)
	sub.unsubscribe("a")
	for qos := range byte(3) {
		pub.exchange("a", "new", qos)
	}
	sub.silence()
	sub.close()
	sub = w.connect(v, "sub", resume, kept(v))
	open := map[uint16]bool{}
	for p := sub.next(); p != nil; p = sub.next() {
		switch p := p.(type) {
		case *packet.Publish:
			open[p.PacketID] = true
			sub.finish(p)
		case *packet.Pubrel:
			open[p.PacketID] = true
			sub.send(&packet.Pubcomp{PacketID: p.PacketID})
		}
	}
	if len(open) != 3 || !open[one.PacketID] || !open[two.PacketID] || !open[three.PacketID] {
		t.Errorf("deliveries %v were finished", open)
	}
}

// testCodePerUnsubscribe wants a reason code for each filter of an UNSUBSCRIBE,
// in their order.
func testCodePerUnsubscribe(t *testing.T, w *world) {
	c := w.connect(packet.V5, "c")
	c.subscribe(filter("a", 0), filter("b", 1), filter("c", 2))
	got := c.unsubscribe("x", "a", "c", "a", "y")
	const none = packet.NoSubscriptionExisted
	if !slices.Equal(got.ReasonCodes, []packet.ReasonCode{none, 0, 0, none, none}) {
		t.Errorf("got %v", got.ReasonCodes)
	}
	for _, topic := range []string{"a", "b", "c"} {
		c.publish(topic, topic, 0, 0)
	}
	c.wantMessage("b")
	c.silence()
}

func TestSharedStatements(t *testing.T) {
	prove(t, "4.8.2-1 4.8.2-2", testShareNames)
	prove(t, "4.8.2-3", testSharedQoS)
	prove(t, "4.8.2-4", testSharedMessageWaitsForMember)
	prove(t, "4.8.2-5", testSharedMessageEndsWithMember)
	prove5(t, "4.8.2-6", testSharedMessageRefused)
}

// testShareNames wants malformed shared subscriptions to be refused and unusual
// but valid ones to work.
func testShareNames(t *testing.T, w *world, v packet.Version) {
	c, pub := w.connect(v, "c"), w.connect(v, "pub")
	for _, f := range []string{"$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/#/a", "$share/g+/a", "$share/g/a#", "$share"} {
		if got := c.subscribe(filter(f, 0))[0]; !got.Failed() {
			t.Errorf("%s was granted: %s", f, got)
		}
	}
	for f, topic := range map[string]string{"$share/g/a/+": "a/b", "$share/a b/é//": "é//", "$share/$share/$x/#": "$x/y"} {
		if got := c.subscribe(filter(f, 0))[0]; got.Failed() {
			t.Errorf("%s: %s", f, got)
		}
		pub.publish(topic, f, 0, 0)
		c.wantMessage(f)
	}
}

// testSharedQoS wants each member of a share to receive at the QoS that it was
// granted.
func testSharedQoS(t *testing.T, w *world, v packet.Version) {
	pub := w.connect(v, "pub")
	members := map[byte]*client{}
	for qos := range byte(3) {
		members[qos] = w.connect(v, fmt.Sprint("m", qos), kept(v))
		members[qos].subscribe(filter("$share/g/a", qos))
	}
	for range 6 {
		pub.exchange("a", "x", 2)
	}
	for qos, c := range members {
		for range 2 {
			p := c.wantMessage("x")
			if p.QoS != qos {
				t.Errorf("granted %d, came with %d", qos, p.QoS)
			}
			c.finish(p)
		}
		c.silence()
	}
}

// testSharedMessageWaitsForMember wants a message that was sent to one member to
// wait for that member while its session lasts.
func testSharedMessageWaitsForMember(t *testing.T, w *world, v packet.Version) {
	a, b, pub := w.connect(v, "a", kept(v)), w.connect(v, "b", kept(v)), w.connect(v, "pub")
	a.subscribe(filter("$share/g/t", 2))
	pub.exchange("t", "x", 2)
	first := a.wantMessage("x")
	b.subscribe(filter("$share/g/t", 2))
	a.close()
	wait(time.Minute)
	b.silence() // it is a's, who is only away
	a = w.connect(v, "a", resume, kept(v))
	if again := a.wantMessage("x"); again.PacketID != first.PacketID || !again.Dup {
		t.Errorf("identifier %d, DUP %v; was %d", again.PacketID, again.Dup, first.PacketID)
	} else {
		a.finish(again)
	}
	b.silence()
}

// testSharedMessageEndsWithMember wants a message that was sent to one member to
// end with that member's session.
func testSharedMessageEndsWithMember(t *testing.T, w *world, v packet.Version) {
	a, b, pub := w.connect(v, "a", kept(v)), w.connect(v, "b", kept(v)), w.connect(v, "pub")
	a.subscribe(filter("$share/g/t", 2))
	pub.exchange("t", "x", 2)
	a.wantMessage("x")
	b.subscribe(filter("$share/g/t", 2))
	a.close()
	w.connect(v, "a").bye() // its session ends
	wait(2000 * time.Second)
	b.silence()
}

// testSharedMessageRefused wants a message that one member refused to be sent to
// no other.
func testSharedMessageRefused(t *testing.T, w *world) {
	for qos := byte(1); qos < 3; qos++ {
		a, b, pub := w.connect(packet.V5, "a", expiry(100)), w.connect(packet.V5, "b"), w.connect(packet.V5, "pub")
		a.subscribe(filter("$share/g/t", 2))
		pub.exchange("t", "x", qos)
		p := a.wantMessage("x")
		b.subscribe(filter("$share/g/t", 2))
		if qos == 1 {
			a.send(&packet.Puback{PacketID: p.PacketID, ReasonCode: packet.UnspecifiedError})
		} else {
			a.send(&packet.Pubrec{PacketID: p.PacketID, ReasonCode: packet.UnspecifiedError})
		}
		a.silence()
		b.silence()
		a.close()
		a = w.connect(packet.V5, "a", resume, expiry(100))
		a.silence()
		b.silence()
		a.bye()
		w.connect(packet.V5, "a").bye()
		b.silence()
		b.bye()
	}
}

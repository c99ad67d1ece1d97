package mqtt

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// unsubscribe sends UNSUBSCRIBE and returns UNSUBACK.
func (c *client) unsubscribe(filters ...string) *packet.Unsuback {
	c.t.Helper()
	c.send(&packet.Unsubscribe{PacketID: 11, TopicFilters: filters})
	return wantPacket[*packet.Unsuback](c)
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
func testNoLocal(t *testing.T, srv *testServer) {
	for _, session := range []uint32{0, 100} {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(session)), srv.connect(packet.V5, "b", sessionExpiry(session))
		for _, c := range []*client{a, b} {
			c.subscribe(packet.Subscription{TopicFilter: "t", NoLocal: true, QoS: 2}, subscribeTo("u", 0))
		}
		for qos := range byte(3) {
			a.publishAndWait("t", "x", qos)
			b.acknowledge(b.wantMessage("x"))
			a.wantNothing()
		}
		a.publish("u", "y", 0, 0) // the other subscription has no such option
		a.wantMessage("y")
		b.wantMessage("y")
		a.disconnect()
		b.disconnect()
	}
}

// testSubscribeIdentifiers wants SUBACK and UNSUBACK to have the identifiers of
// their requests.
func testSubscribeIdentifiers(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	for _, id := range []uint16{1, 255, 256, 65535} {
		c.send(&packet.Subscribe{PacketID: id, Subscriptions: []packet.Subscription{subscribeTo("a", 0)}})
		if got := wantPacket[*packet.Suback](c); got.PacketID != id {
			t.Errorf("SUBACK %d, want %d", got.PacketID, id)
		}
		for range 2 { // the second ends nothing
			c.send(&packet.Unsubscribe{PacketID: id, TopicFilters: []string{"a"}})
			if got := wantPacket[*packet.Unsuback](c); got.PacketID != id {
				t.Errorf("UNSUBACK %d, want %d", got.PacketID, id)
			}
		}
	}
}

// testCodePerSubscription wants a reason code for each subscription of a
// SUBSCRIBE, in their order, and only the granted ones in force.
func testCodePerSubscription(t *testing.T, srv *testServer, v packet.Version) {
	srv.denied.change(func(d *denyList) { d.subscribe = []string{"secret"} })
	sub, pub := srv.connect(v, "sub"), srv.connect(v, "pub")
	got := sub.subscribe(subscribeTo("a", 0), subscribeTo("secret", 1), subscribeTo("b", 2), subscribeTo("bad#", 1), subscribeTo("c", 1))
	wanted := []packet.ReasonCode{0, packet.NotAuthorized, 2, packet.TopicFilterInvalid, 1}
	if v == packet.V311 {
		wanted[1], wanted[3] = packet.UnspecifiedError, packet.UnspecifiedError
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("got %v, want %v", got, wanted)
	}
	for topic, qos := range map[string]byte{"a": 0, "b": 2, "c": 1} {
		pub.publishAndWait(topic, topic, 2)
		p := sub.wantMessage(topic)
		if p.QoS != qos {
			t.Errorf("%s came with QoS %d, want %d", topic, p.QoS, qos)
		}
		sub.acknowledge(p)
	}
	pub.publishAndWait("secret", "x", 1)
	sub.wantNothing()
}

// testGrantedQoS wants each message at the lower of its QoS and the granted one.
func testGrantedQoS(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub", keepSession(v)), srv.connect(v, "pub")
	for granted := range byte(3) {
		f := fmt.Sprint("t/", granted)
		sub.subscribe(subscribeTo(f, granted))
		for qos := range byte(3) {
			pub.publishAndWait(f, "x", qos)
			p := sub.wantMessage("x")
			if p.QoS != min(qos, granted) {
				t.Errorf("published at %d, granted %d, came with %d", qos, granted, p.QoS)
			}
			sub.acknowledge(p)
		}
	}
}

// testSubackWithinPacketSize wants SUBACK and UNSUBACK without properties that
// the client has no room for.
func testSubackWithinPacketSize(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.subscribe = []string{"secret"} })
	c := srv.connect(packet.V5, "c", maxPacketSize(25))
	c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("secret", 0)}})
	if got := wantPacket[*packet.Suback](c); got.Properties.Has(packet.PropReasonString) || got.ReasonCodes[0] != packet.NotAuthorized {
		t.Errorf("SUBACK %v with reason %q", got.ReasonCodes, got.Properties.ReasonString)
	}
	if got := c.unsubscribe("secret"); got.Size(packet.V5) > 25 || got.Properties.Present != 0 {
		t.Errorf("UNSUBACK of %d bytes", got.Size(packet.V5))
	}
}

// testReplacedSubscription subscribes again and again with other QoS, and wants the
// retained message each time and one copy of each new message, at the new QoS.
func testReplacedSubscription(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub"), srv.connect(v, "pub")
	pub.send(retainedPacket("a", "kept"))
	for i, qos := range []byte{0, 2, 1} {
		sub.subscribe(subscribeTo("a", qos))
		p := sub.wantMessage("kept")
		if sub.wantNothing(); !p.Retain {
			t.Error("retained message without RETAIN")
		}
		pub.publishAndWait("a", fmt.Sprint(i), 2)
		p = sub.wantMessage(fmt.Sprint(i)) // one copy, at the new QoS
		if p.QoS != qos {
			t.Errorf("QoS %d, want %d", p.QoS, qos)
		}
		sub.acknowledge(p)
		sub.wantNothing()
	}
	testNoLossWhileReplaced(t, sub, pub)
}

// testNoLossWhileReplaced replaces a subscription between any two messages and wants
// all of them.
func testNoLossWhileReplaced(t *testing.T, sub, pub *client) {
	sub.subscribe(subscribeTo("b", 1))
	const n = 200
	for i := range n { // a message between any two goes through
		pub.publishAndWait("b", fmt.Sprint(i), 1)
		sub.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("b", byte(1+i%2))}})
	}
	next := 0
	for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
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
func testUnsubscribeSameFilter(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	composed, decomposed := "caf\u00e9", "cafe\u0301"
	c.subscribe(subscribeTo("a/b", 0), subscribeTo("$share/g/a/b", 0), subscribeTo(composed, 0))
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
	c.wantNothing()
	c.publish(composed, "x", 0, 0)
	c.wantMessage("x")
	got := c.unsubscribe("a/b", "$share/g/a/b", composed)
	if v == packet.V5 && !slices.Equal(got.ReasonCodes, []packet.ReasonCode{0, 0, 0}) {
		t.Errorf("got %v", got.ReasonCodes)
	}
	c.publish("a/b", "x", 0, 0)
	c.publish(composed, "x", 0, 0)
	c.wantNothing()
}

// testUnsubscribeKeepsDeliveries wants UNSUBSCRIBE to stop new messages and to
// leave the deliveries that had begun.
func testUnsubscribeKeepsDeliveries(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub", keepSession(v)), srv.connect(v, "pub")
	sub.subscribe(subscribeTo("a", 2))
	pub.publishAndWait("a", "1", 1)
	pub.publishAndWait("a", "2", 2)
	pub.publishAndWait("a", "3", 2)
	one, two, three := sub.wantMessage("1"), sub.wantMessage("2"), sub.wantMessage("3")
	sub.send(&packet.Pubrec{PacketID: two.PacketID})
	wantPacket[*packet.Pubrel](sub)
	sub.unsubscribe("a")
	for qos := range byte(3) {
		pub.publishAndWait("a", "new", qos)
	}
	sub.wantNothing()
	sub.dropConnection()
	sub = srv.connect(v, "sub", resumeSession, keepSession(v))
	open := map[uint16]bool{}
	for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
		switch p := p.(type) {
		case *packet.Publish:
			open[p.PacketID] = true
			sub.acknowledge(p)
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
func testCodePerUnsubscribe(t *testing.T, srv *testServer) {
	c := srv.connect(packet.V5, "c")
	c.subscribe(subscribeTo("a", 0), subscribeTo("b", 1), subscribeTo("c", 2))
	got := c.unsubscribe("x", "a", "c", "a", "y")
	const none = packet.NoSubscriptionExisted
	if !slices.Equal(got.ReasonCodes, []packet.ReasonCode{none, 0, 0, none, none}) {
		t.Errorf("got %v", got.ReasonCodes)
	}
	for _, topic := range []string{"a", "b", "c"} {
		c.publish(topic, topic, 0, 0)
	}
	c.wantMessage("b")
	c.wantNothing()
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
func testShareNames(t *testing.T, srv *testServer, v packet.Version) {
	c, pub := srv.connect(v, "c"), srv.connect(v, "pub")
	for _, f := range []string{"$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/#/a", "$share/g+/a", "$share/g/a#", "$share"} {
		wanted := packet.TopicFilterInvalid
		if f == "$share" {
			wanted = packet.NotAuthorized // valid as an ordinary filter, and reserved
		}
		got := c.subscribe(subscribeTo(f, 0))[0]
		if !got.Failed() || v == packet.V5 && got != wanted {
			t.Errorf("%s: %s, want %s", f, got, wanted)
		}
	}
	for f, topic := range map[string]string{"$share/g/a/+": "a/b", "$share/a b/é//": "é//", "$share/$share/$x/#": "$x/y"} {
		if got := c.subscribe(subscribeTo(f, 0))[0]; got.Failed() {
			t.Errorf("%s: %s", f, got)
		}
		pub.publish(topic, f, 0, 0)
		c.wantMessage(f)
	}
}

// testSharedQoS wants each member of a share to receive at the QoS that it was
// granted.
func testSharedQoS(t *testing.T, srv *testServer, v packet.Version) {
	pub := srv.connect(v, "pub")
	members := map[byte]*client{}
	for qos := range byte(3) {
		members[qos] = srv.connect(v, fmt.Sprint("m", qos), keepSession(v))
		members[qos].subscribe(subscribeTo("$share/g/a", qos))
	}
	for range 6 {
		pub.publishAndWait("a", "x", 2)
	}
	for qos, c := range members {
		for range 2 {
			p := c.wantMessage("x")
			if p.QoS != qos {
				t.Errorf("granted %d, came with %d", qos, p.QoS)
			}
			c.acknowledge(p)
		}
		c.wantNothing()
	}
}

// testSharedMessageWaitsForMember wants a message that was sent to one member to
// wait for that member while its session lasts.
func testSharedMessageWaitsForMember(t *testing.T, srv *testServer, v packet.Version) {
	a, b, pub := srv.connect(v, "a", keepSession(v)), srv.connect(v, "b", keepSession(v)), srv.connect(v, "pub")
	a.subscribe(subscribeTo("$share/g/t", 2))
	pub.publishAndWait("t", "x", 2)
	first := a.wantMessage("x")
	b.subscribe(subscribeTo("$share/g/t", 2))
	a.dropConnection()
	advanceTime(time.Minute)
	b.wantNothing() // it is a's, who is only away
	a = srv.connect(v, "a", resumeSession, keepSession(v))
	if again := a.wantMessage("x"); again.PacketID != first.PacketID || !again.Dup {
		t.Errorf("identifier %d, DUP %v; was %d", again.PacketID, again.Dup, first.PacketID)
	} else {
		a.acknowledge(again)
	}
	b.wantNothing()
}

// testSharedMessageEndsWithMember wants a message that was sent to one member to
// end with that member's session.
func testSharedMessageEndsWithMember(t *testing.T, srv *testServer, v packet.Version) {
	a, b, pub := srv.connect(v, "a", keepSession(v)), srv.connect(v, "b", keepSession(v)), srv.connect(v, "pub")
	a.subscribe(subscribeTo("$share/g/t", 2))
	pub.publishAndWait("t", "x", 2)
	a.wantMessage("x")
	b.subscribe(subscribeTo("$share/g/t", 2))
	a.dropConnection()
	srv.connect(v, "a").disconnect() // its session ends
	advanceTime(2000 * time.Second)
	b.wantNothing()
}

// testSharedMessageRefused wants a message that one member refused to be sent to
// no other.
func testSharedMessageRefused(t *testing.T, srv *testServer) {
	for qos := byte(1); qos < 3; qos++ {
		a, b, pub := srv.connect(packet.V5, "a", sessionExpiry(100)), srv.connect(packet.V5, "b"), srv.connect(packet.V5, "pub")
		a.subscribe(subscribeTo("$share/g/t", 2))
		pub.publishAndWait("t", "x", qos)
		p := a.wantMessage("x")
		b.subscribe(subscribeTo("$share/g/t", 2))
		if qos == 1 {
			a.send(&packet.Puback{PacketID: p.PacketID, ReasonCode: packet.UnspecifiedError})
		} else {
			a.send(&packet.Pubrec{PacketID: p.PacketID, ReasonCode: packet.UnspecifiedError})
		}
		a.wantNothing()
		b.wantNothing()
		a.dropConnection()
		a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(100))
		a.wantNothing()
		b.wantNothing()
		a.disconnect()
		srv.connect(packet.V5, "a").disconnect()
		b.wantNothing()
		b.disconnect()
	}
}

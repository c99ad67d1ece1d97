package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestPublishStatements(t *testing.T) {
	prove(t, "3.3.1-1 3.3.1-3 4.3.2-2 4.3.3-2", testDup)
	prove(t, "2.2.1-2 3.3.1-2 4.3.1-1", testQoS0OnTheWire)
	prove(t, "3.3.1-5 3.3.1-6 3.3.1-7 3.3.1-8", testRetainedMessage)
	for _, tt := range []struct {
		statement string
		handling  byte
		wanted    [3]int // for a new subscription, the same again, and a new one after UNSUBSCRIBE
	}{
		{"3.3.1-9", 0, [3]int{1, 1, 1}},
		{"3.3.1-10", 1, [3]int{1, 0, 1}},
		{"3.3.1-11", 2, [3]int{0, 0, 0}},
	} {
		prove5(t, tt.statement, func(t *testing.T, srv *testServer) { testRetainHandling(t, srv, tt.handling, tt.wanted) })
	}
	prove(t, "3.3.1-9 3.1.1", testRetainedForEachSubscribe)
	prove5(t, "3.3.1-12", func(t *testing.T, srv *testServer) { testRetainAsPublished(t, srv, false) })
	prove5(t, "3.3.1-13", func(t *testing.T, srv *testServer) { testRetainAsPublished(t, srv, true) })
	prove(t, "3.3.2-2 4.7.0-1 4.7.1-1 4.7.1-2 3.3.2-3", testWildcards)
	prove5(t, "3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20", testForwardedProperties)
	prove5(t, "3.3.2-5 3.3.2-6", testMessageExpiry)
	prove5(t, "3.3.2-7 3.3.2-12", testTopicAlias)
	prove(t, "3.3.4-1 2.2.1-5", testAcknowledgedIdentifiers)
	prove5(t, "3.3.4-2 3.3.4-3 3.3.4-4 3.3.4-5", testOverlap)
	prove5With(t, "3.3.4-7 3.3.4-8", func(o *Options) { o.ReceiveMaximum = 2 }, testReceiveMaximum)
	prove5(t, "3.3.4-9 3.3.4-10 4.9.0-1 4.9.0-2 4.9.0-3", testSendQuota)
}

// testDup wants DUP in redeliveries alone, whether the publisher set it or not.
func testDup(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub", keepSession(v)), srv.connect(v, "pub")
	sub.subscribe(subscribeTo("a", 2))
	for qos := byte(1); qos < 3; qos++ {
		p := publishPacket("a", "x", qos, uint16(qos))
		p.Dup = true // the publisher's, and of no concern to others
		pub.send(p)
		pub.nextPacket()
		if got := sub.wantMessage("x"); got.Dup {
			t.Errorf("QoS %d: first delivery with DUP", qos)
		}
	}
	sub.dropConnection()
	sub = srv.connect(v, "sub", keepSession(v), resumeSession)
	for qos := byte(1); qos < 3; qos++ {
		got := sub.wantMessage("x")
		if !got.Dup {
			t.Errorf("QoS %d: redelivery without DUP", qos)
		}
		sub.acknowledge(got)
	}
}

// testQoS0OnTheWire wants a message of QoS 0 without packet identifier and
// without DUP, byte by byte.
func testQoS0OnTheWire(t *testing.T, srv *testServer, v packet.Version) {
	nc, err := srv.listener.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b := connectPacket("sub").Append([]byte("sub\n"), v)
	b = (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("a", 2)}}).Append(b, v)
	go func() { _, _ = nc.Write(b) }()
	srv.readShortPackets(nc, 2)
	srv.connect(v, "pub").publish("a", "xyz", 0, 0)
	wire := rawPacket(0x30, "\x00\x01axyz")
	if v == packet.V5 {
		wire = rawPacket(0x30, "\x00\x01a\x00xyz")
	}
	if got := srv.readShortPackets(nc, 1); got != wire {
		t.Errorf("got % x, want % x", got, wire)
	}
}

// testWildcards wants each wildcard filter to match the topics that the
// specification says, and misplaced wildcards to be refused.
func testWildcards(t *testing.T, srv *testServer, v packet.Version) {
	pub := srv.connect(v, "pub")
	for f, topics := range map[string]string{
		"#": "a a/b a/b/c /", "+": "a", "a/#": "a a/b a/b/c", "a/+": "a/b", "+/+": "a/b /", "+/b/#": "a/b a/b/c", "/+": "/",
	} {
		sub := srv.connect(v, "sub")
		if got := sub.subscribe(subscribeTo(f, 0)); got[0] != 0 {
			t.Errorf("%s: %v", f, got)
		}
		var got []string
		for _, topic := range []string{"a", "a/b", "a/b/c", "/"} {
			pub.publish(topic, topic, 0, 0)
			if p := sub.nextPacket(); p != nil {
				got = append(got, string(p.(*packet.Publish).TopicName))
			}
		}
		if strings.Join(got, " ") != topics {
			t.Errorf("%s got %v, want %s", f, got, topics)
		}
		sub.disconnect()
	}
	c := srv.connect(v, "c")
	for _, f := range []string{"a#", "#/a", "a/#/b", "a/b#", "##", "a+", "+a", "a/+b/c", "++"} {
		got := c.subscribe(subscribeTo(f, 0))[0]
		if !got.Failed() || v == packet.V5 && got != packet.TopicFilterInvalid {
			t.Errorf("%s: %s", f, got)
		}
	}
}

// testTopicAlias wants all aliases up to the announced maximum to hold for their
// connection and for no other.
func testTopicAlias(t *testing.T, srv *testServer) {
	sub := srv.connect(packet.V5, "sub")
	sub.subscribe(subscribeTo("#", 0))
	pub, ack := srv.connectAck(packet.V5, "pub", sessionExpiry(100))
	send := func(c *client, topic string, alias uint16) {
		p := publishPacket(topic, "x", 0, 0)
		p.Properties.SetTopicAlias(alias)
		c.send(p)
	}
	highest := ack.Properties.TopicAliasMaximum
	for alias := uint16(1); alias <= highest; alias++ {
		send(pub, fmt.Sprint("t/", alias), alias)
		sub.wantMessage("x")
	}
	other := srv.connect(packet.V5, "other") // who has aliases of its own
	send(other, "other", 1)
	sub.wantMessage("x")
	for alias := uint16(1); alias <= highest; alias++ {
		send(pub, "", alias)
		if got := sub.wantMessage("x"); string(got.TopicName) != fmt.Sprint("t/", alias) || got.Properties.Has(packet.PropTopicAlias) {
			t.Errorf("alias %d went to %s", alias, got.TopicName)
		}
	}
	pub.dropConnection()
	pub = srv.connect(packet.V5, "pub", resumeSession, sessionExpiry(100))
	send(pub, "", 1)
	if got := wantPacket[*packet.Disconnect](pub); got.ReasonCode != packet.ProtocolError || !pub.closedByServer() {
		t.Errorf("an alias of the connection before: %s", describePacket(got))
	}
	sub.wantNothing()
}

// testAcknowledgedIdentifiers wants each acknowledgement to be of the type that
// the QoS asks for and to have the identifier of its message.
func testAcknowledgedIdentifiers(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	c.publish("a", "x", 0, 0)
	c.wantNothing()
	for _, id := range []uint16{1, 256, 65535} {
		c.publish("a", "x", 1, id)
		if got := wantPacket[*packet.Puback](c); got.PacketID != id {
			t.Errorf("PUBACK %d, want %d", got.PacketID, id)
		}
		c.publish("a", "x", 2, id)
		if got := wantPacket[*packet.Pubrec](c); got.PacketID != id {
			t.Errorf("PUBREC %d, want %d", got.PacketID, id)
		}
		c.send(&packet.Pubrel{PacketID: id})
		if got := wantPacket[*packet.Pubcomp](c); got.PacketID != id {
			t.Errorf("PUBCOMP %d, want %d", got.PacketID, id)
		}
	}
	c.subscribe(subscribeTo("a", 2))
	c.publish("a", "x", 2, 9)
	var id uint16
	for range 2 {
		if p, ok := c.nextPacket().(*packet.Publish); ok {
			id = p.PacketID
		}
	}
	c.send(&packet.Pubrec{PacketID: id})
	if got := wantPacket[*packet.Pubrel](c); got.PacketID != id {
		t.Errorf("PUBREL %d, want %d", got.PacketID, id)
	}
}

// testReceiveMaximum wants a client that sends more unacknowledged messages than
// the Receive Maximum to be closed, and one that sends as many to be served.
func testReceiveMaximum(t *testing.T, srv *testServer) {
	for qos := byte(1); qos < 3; qos++ {
		c, ack := srv.connectAck(packet.V5, "c")
		if ack.Properties.ReceiveMaximum != 2 {
			t.Errorf("announced %d", ack.Properties.ReceiveMaximum)
		}
		for id := range uint16(2) {
			c.publish("a", "x", 2, id+1)
			wantPacket[*packet.Pubrec](c)
		}
		c.publish("a", "x", 0, 0)           // QoS 0 and all else go on
		c.subscribe(subscribeTo("none", 0)) //
		c.send(&packet.Pingreq{})           //
		wantPacket[*packet.Pingresp](c)
		c.send(&packet.Pubrel{PacketID: 1})
		wantPacket[*packet.Pubcomp](c)
		c.publish("a", "x", 2, 1) // the room that PUBCOMP left
		wantPacket[*packet.Pubrec](c)
		c.publish("a", "x", qos, 3)
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.ReceiveMaximumExceeded || !c.closedByServer() {
			t.Errorf("QoS %d: %s", qos, describePacket(got))
		}
	}
}

// readShortPackets reads n packets of less than 130 bytes from nc and returns the
// bytes of the last.
func (s *testServer) readShortPackets(nc interface{ Read([]byte) (int, error) }, n int) string {
	s.t.Helper()
	var got []byte
	for range n {
		got = make([]byte, 2)
		for i := range got {
			if _, err := nc.Read(got[i : i+1]); err != nil {
				s.t.Fatal(err)
			}
		}
		for range got[1] { // short packets: their length is of one byte
			one := make([]byte, 1)
			if _, err := nc.Read(one); err != nil {
				s.t.Fatal(err)
			}
			got = append(got, one[0])
		}
	}
	return string(got)
}

// testForwardedProperties sends properties on each of the ways that a message can
// take: at once, through a queue, and retained.
func testForwardedProperties(t *testing.T, srv *testServer) {
	for _, way := range []string{"live", "queued", "retained"} {
		for qos := range byte(3) {
			if way == "queued" && qos == 0 {
				continue
			}
			sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(100)), srv.connect(packet.V5, "pub")
			p := publishPacket("a", "x", qos, 1)
			p.Retain = way == "retained"
			p.Properties.SetPayloadFormatIndicator(1)
			p.Properties.SetContentType("text/plain; charset=utf-8\uFEFF")
			p.Properties.SetResponseTopic("answers/1")
			p.Properties.SetCorrelationData([]byte{0, 1, 255})
			p.Properties.User = []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "1"}, {Key: "", Value: ""}}
			switch way {
			case "live":
				sub.subscribe(subscribeTo("a", 2))
				pub.send(p)
			case "queued":
				sub.subscribe(subscribeTo("a", 2))
				sub.dropConnection()
				pub.send(p)
				sub = srv.connect(packet.V5, "sub", resumeSession, sessionExpiry(100))
			case "retained":
				pub.send(p)
				sub.subscribe(subscribeTo("a", 2))
			}
			m := sub.wantMessage("x")
			got := m.Properties
			if got.PayloadFormatIndicator != 1 || !got.Has(packet.PropPayloadFormatIndicator) || got.ContentType != p.Properties.ContentType ||
				got.ResponseTopic != "answers/1" || string(got.CorrelationData) != "\x00\x01\xff" || !slices.Equal(got.User, p.Properties.User) {
				t.Errorf("%s, QoS %d: %+v", way, qos, got)
			}
			if got.Has(packet.PropMessageExpiryInterval) || got.Has(packet.PropTopicAlias) || got.Has(packet.PropSubscriptionIdentifier) {
				t.Errorf("%s, QoS %d: properties that nobody set: %+v", way, qos, got)
			}
			sub.acknowledge(m)
			sub.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a"}})
			wantPacket[*packet.Unsuback](sub)
			sub.disconnect()
			pub.disconnect()
		}
	}
}

// testMessageExpiry counts down what waits: behind a full window, in a session's
// queue, as a retained message, and in a shared subscription.
func testMessageExpiry(t *testing.T, srv *testServer) {
	testExpiryBehindWindow(srv)
	testExpiryInQueue(t, srv)
	testExpiryInShare(t, srv)
}

// publishExpiring publishes a message at QoS 1 with a Message Expiry Interval.
func (c *client) publishExpiring(topic, payload string, seconds uint32, retain bool) {
	c.t.Helper()
	p := publishPacket(topic, payload, 1, 1)
	p.Retain = retain
	p.Properties.SetMessageExpiryInterval(seconds)
	c.send(p)
	wantPacket[*packet.Puback](c)
}

// wantTimeLeft receives a message, which must have as many seconds left.
func (c *client) wantTimeLeft(payload string, seconds uint32) {
	c.t.Helper()
	p := c.wantMessage(payload)
	if got := p.Properties; !got.Has(packet.PropMessageExpiryInterval) || got.MessageExpiryInterval != seconds {
		c.t.Errorf("%s: %d s left, want %d", payload, got.MessageExpiryInterval, seconds)
	}
	c.acknowledge(p)
}

// testExpiryBehindWindow has messages wait for a client whose window is full.
func testExpiryBehindWindow(srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	for _, session := range []uint32{0, 1000} {
		slow := srv.connect(packet.V5, "slow", receiveMaximum(1), sessionExpiry(session))
		slow.subscribe(subscribeTo("a", 1))
		pub.publishAndWait("a", "first", 1)
		first := slow.wantMessage("first")
		pub.publishExpiring("a", "over", 5, false)
		pub.publishExpiring("a", "long", 60, false)
		advanceTime(4*time.Second + 500*time.Millisecond)
		pub.publishExpiring("a", "live", 7, false)
		advanceTime(6*time.Second + 500*time.Millisecond)
		slow.acknowledge(first)
		slow.wantTimeLeft("long", 49)
		slow.wantTimeLeft("live", 1) // half a second, and 0 would be over
		slow.wantNothing()
		slow.disconnect()
	}
}

// testExpiryInQueue has messages wait for a client that is away, and then as
// retained messages. None stays in the store after its time.
func testExpiryInQueue(t *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	away := srv.connect(packet.V5, "away", sessionExpiry(1000))
	away.subscribe(subscribeTo("a", 1))
	pub.publishExpiring("a", "at once", 30, false)
	away.wantTimeLeft("at once", 30)
	away.dropConnection()
	pub.publishExpiring("a", "over", 5, false)
	pub.publishExpiring("a", "long", 60, false)
	advanceTime(20 * time.Second)
	away = srv.connect(packet.V5, "away", resumeSession, sessionExpiry(1000))
	away.wantTimeLeft("long", 40)
	away.wantNothing()
	away.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a"}})
	wantPacket[*packet.Unsuback](away)

	pub.publishExpiring("r/over", "over", 5, true)
	pub.publishExpiring("r/long", "long", 60, true)
	advanceTime(20 * time.Second)
	away.subscribe(subscribeTo("r/#", 1))
	away.wantTimeLeft("long", 40)
	away.wantNothing()
	away.dropConnection()
	pub.publishExpiring("r/over", "over", 5, false)
	advanceTime(2 * time.Minute) // nobody comes for it
	if got := srv.counters().Store.Queued; got != 0 {
		t.Errorf("%d expired messages wait for a session", got)
	}
	advanceTime(time.Hour)
	if got := srv.counters().Store; got.Retained != 0 || got.Queued != 0 {
		t.Errorf("%d retained and %d queued messages outlive their time", got.Retained, got.Queued)
	}
}

// testExpiryInShare has a message wait for the only member of a share.
func testExpiryInShare(t *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	member := srv.connect(packet.V5, "member", receiveMaximum(1), sessionExpiry(1000))
	member.subscribe(subscribeTo("$share/g/s", 1))
	pub.publishAndWait("s", "first", 1)
	first := member.wantMessage("first")
	pub.publishExpiring("s", "over", 5, false)
	advanceTime(6 * time.Second)
	before := srv.counters().Drops["expired"]
	member.acknowledge(first)
	member.wantNothing()
	if got := srv.counters(); got.Drops["expired"] != before+1 || got.Store.Queued != 0 {
		t.Errorf("a shared subscription dropped %d and keeps %d", got.Drops["expired"]-before, got.Store.Queued)
	}
}

// testOverlap wants one copy of a message for all ordinary subscriptions that match,
// at their highest QoS and with the identifiers of all, and one for each shared one.
func testOverlap(t *testing.T, srv *testServer) {
	for _, session := range []uint32{0, 100} {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V5, "pub")
		ask := func(f string, qos byte, id uint32) {
			p := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo(f, qos)}}
			if id > 0 {
				p.Properties.SubscriptionIDs = []uint32{id}
			}
			sub.send(p)
			wantPacket[*packet.Suback](sub)
		}
		ask("a/#", 0, 1)
		ask("a/+", 2, 268_435_455)
		ask("+/b", 1, 0)
		ask("other", 2, 9)
		for qos := range byte(3) {
			pub.publishAndWait("a/b", "x", qos)
			p := sub.wantMessage("x")
			slices.Sort(p.Properties.SubscriptionIDs)
			if p.QoS != qos || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{1, 268_435_455}) {
				t.Errorf("QoS %d came with %d, identifiers %v", qos, p.QoS, p.Properties.SubscriptionIDs)
			}
			sub.acknowledge(p)
			sub.wantNothing() // one copy
		}
		ask("$share/g/a/b", 1, 5) // a shared subscription has copies of its own
		pub.publishAndWait("a/b", "x", 1)
		copies := map[string]int{}
		for range 2 {
			p := sub.wantMessage("x")
			slices.Sort(p.Properties.SubscriptionIDs)
			copies[fmt.Sprint(p.Properties.SubscriptionIDs)]++
			sub.acknowledge(p)
		}
		if sub.wantNothing(); copies["[5]"] != 1 || copies["[1 268435455]"] != 1 {
			t.Errorf("copies with identifiers %v", copies)
		}
		sub.send(&packet.Disconnect{})
		sub.dropConnection()
		srv.connect(packet.V5, "sub").disconnect()
	}
}

// testSendQuota fills the client's window: only PUBLISH above QoS 0 waits, and a
// new connection has a whole window again.
func testSendQuota(t *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	for _, session := range []uint32{0, 100} {
		sub := srv.connect(packet.V5, "sub", receiveMaximum(2), sessionExpiry(session))
		sub.subscribe(subscribeTo("a", 2), subscribeTo("zero", 0))
		for i := range 6 {
			pub.publishAndWait("a", fmt.Sprint(i), 1+byte(i%2))
		}
		first, second := sub.wantMessage("0"), sub.wantMessage("1")
		sub.wantNothing()
		pub.publish("zero", "z", 0, 0)
		sub.wantMessage("z")
		sub.subscribe(subscribeTo("more", 0))
		sub.publish("b", "x", 2, 5)
		wantPacket[*packet.Pubrec](sub)
		sub.send(&packet.Pubrel{PacketID: 5})
		wantPacket[*packet.Pubcomp](sub)
		sub.send(&packet.Pubrec{PacketID: second.PacketID}) // PUBREL goes out,
		wantPacket[*packet.Pubrel](sub)
		sub.wantNothing() // and the window is still full
		sub.send(&packet.Pubcomp{PacketID: second.PacketID})
		third := sub.wantMessage("2")
		sub.wantNothing()
		if session > 0 {
			sub.dropConnection()
			sub = srv.connect(packet.V5, "sub", receiveMaximum(1), sessionExpiry(session), resumeSession)
			first = sub.wantMessage("0")
			sub.wantNothing()
			sub.acknowledge(first)
			third = sub.wantMessage("2")
			sub.wantNothing()
			sub.acknowledge(third)
		} else {
			sub.acknowledge(first)
			sub.acknowledge(third)
		}
		for i := 3; i < 6; i++ {
			sub.acknowledge(sub.wantMessage(fmt.Sprint(i)))
		}
		sub.wantNothing()
		sub.disconnect()
		srv.connect(packet.V5, "sub").disconnect()
	}
}

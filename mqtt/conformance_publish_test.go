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
		prove5(t, tt.statement, func(t *testing.T, w *world) { testRetainHandling(t, w, tt.handling, tt.wanted) })
	}
	prove(t, "3.3.1-9 3.1.1", testRetainedForEachSubscribe)
	prove5(t, "3.3.1-12", func(t *testing.T, w *world) { testRetainAsPublished(t, w, false) })
	prove5(t, "3.3.1-13", func(t *testing.T, w *world) { testRetainAsPublished(t, w, true) })
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
func testDup(t *testing.T, w *world, v packet.Version) {
	sub, pub := w.connect(v, "sub", kept(v)), w.connect(v, "pub")
	sub.subscribe(filter("a", 2))
	for qos := byte(1); qos < 3; qos++ {
		p := message("a", "x", qos, uint16(qos))
		p.Dup = true // the publisher's, and of no concern to others
		pub.send(p)
		pub.next()
		if got := sub.wantMessage("x"); got.Dup {
			t.Errorf("QoS %d: first delivery with DUP", qos)
		}
	}
	sub.close()
	sub = w.connect(v, "sub", kept(v), resume)
	for qos := byte(1); qos < 3; qos++ {
		got := sub.wantMessage("x")
		if !got.Dup {
			t.Errorf("QoS %d: redelivery without DUP", qos)
		}
		sub.finish(got)
	}
}

// testQoS0OnTheWire wants a message of QoS 0 without packet identifier and
// without DUP, byte by byte.
func testQoS0OnTheWire(t *testing.T, w *world, v packet.Version) {
	nc, err := w.l.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b := connectPacket("sub").Append([]byte("sub\n"), v)
	b = (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("a", 2)}}).Append(b, v)
	go func() { _, _ = nc.Write(b) }()
	w.skip(nc, 2)
	w.connect(v, "pub").publish("a", "xyz", 0, 0)
	wire := raw(0x30, "\x00\x01axyz")
	if v == packet.V5 {
		wire = raw(0x30, "\x00\x01a\x00xyz")
	}
	if got := w.skip(nc, 1); got != wire {
		t.Errorf("got % x, want % x", got, wire)
	}
}

// testWildcards wants each wildcard filter to match the topics that the
// specification says, and misplaced wildcards to be refused.
func testWildcards(t *testing.T, w *world, v packet.Version) {
	pub := w.connect(v, "pub")
	for f, topics := range map[string]string{
		"#": "a a/b a/b/c /", "+": "a", "a/#": "a a/b a/b/c", "a/+": "a/b", "+/+": "a/b /", "+/b/#": "a/b a/b/c", "/+": "/",
	} {
		sub := w.connect(v, "sub")
		if got := sub.subscribe(filter(f, 0)); got[0] != 0 {
			t.Errorf("%s: %v", f, got)
		}
		var got []string
		for _, topic := range []string{"a", "a/b", "a/b/c", "/"} {
			pub.publish(topic, topic, 0, 0)
			if p := sub.next(); p != nil {
				got = append(got, string(p.(*packet.Publish).TopicName))
			}
		}
		if strings.Join(got, " ") != topics {
			t.Errorf("%s got %v, want %s", f, got, topics)
		}
		sub.bye()
	}
	c := w.connect(v, "c")
	for _, f := range []string{"a#", "#/a", "a/#/b", "a/b#", "##", "a+", "+a", "a/+b/c", "++"} {
		got := c.subscribe(filter(f, 0))[0]
		if !got.Failed() || v == packet.V5 && got != packet.TopicFilterInvalid {
			t.Errorf("%s: %s", f, got)
		}
	}
}

// testTopicAlias wants all aliases up to the announced maximum to hold for their
// connection and for no other.
func testTopicAlias(t *testing.T, w *world) {
	sub := w.connect(packet.V5, "sub")
	sub.subscribe(filter("#", 0))
	pub, ack := w.connectAck(packet.V5, "pub", expiry(100))
	send := func(c *client, topic string, alias uint16) {
		p := message(topic, "x", 0, 0)
		p.Properties.SetTopicAlias(alias)
		c.send(p)
	}
	highest := ack.Properties.TopicAliasMaximum
	for alias := uint16(1); alias <= highest; alias++ {
		send(pub, fmt.Sprint("t/", alias), alias)
		sub.wantMessage("x")
	}
	other := w.connect(packet.V5, "other") // who has aliases of its own
	send(other, "other", 1)
	sub.wantMessage("x")
	for alias := uint16(1); alias <= highest; alias++ {
		send(pub, "", alias)
		if got := sub.wantMessage("x"); string(got.TopicName) != fmt.Sprint("t/", alias) || got.Properties.Has(packet.PropTopicAlias) {
			t.Errorf("alias %d went to %s", alias, got.TopicName)
		}
	}
	pub.close()
	pub = w.connect(packet.V5, "pub", resume, expiry(100))
	send(pub, "", 1)
	if got := want[*packet.Disconnect](pub); got.ReasonCode != packet.ProtocolError || !pub.ended() {
		t.Errorf("an alias of the connection before: %s", show(got))
	}
	sub.silence()
}

// testAcknowledgedIdentifiers wants each acknowledgement to be of the type that
// the QoS asks for and to have the identifier of its message.
func testAcknowledgedIdentifiers(t *testing.T, w *world, v packet.Version) {
	c := w.connect(v, "c")
	c.publish("a", "x", 0, 0)
	c.silence()
	for _, id := range []uint16{1, 256, 65535} {
		c.publish("a", "x", 1, id)
		if got := want[*packet.Puback](c); got.PacketID != id {
			t.Errorf("PUBACK %d, want %d", got.PacketID, id)
		}
		c.publish("a", "x", 2, id)
		if got := want[*packet.Pubrec](c); got.PacketID != id {
			t.Errorf("PUBREC %d, want %d", got.PacketID, id)
		}
		c.send(&packet.Pubrel{PacketID: id})
		if got := want[*packet.Pubcomp](c); got.PacketID != id {
			t.Errorf("PUBCOMP %d, want %d", got.PacketID, id)
		}
	}
	c.subscribe(filter("a", 2))
	c.publish("a", "x", 2, 9)
	var id uint16
	for range 2 {
		if p, ok := c.next().(*packet.Publish); ok {
			id = p.PacketID
		}
	}
	c.send(&packet.Pubrec{PacketID: id})
	if got := want[*packet.Pubrel](c); got.PacketID != id {
		t.Errorf("PUBREL %d, want %d", got.PacketID, id)
	}
}

// testReceiveMaximum wants a client that sends more unacknowledged messages than
// the Receive Maximum to be closed, and one that sends as many to be served.
func testReceiveMaximum(t *testing.T, w *world) {
	for qos := byte(1); qos < 3; qos++ {
		c, ack := w.connectAck(packet.V5, "c")
		if ack.Properties.ReceiveMaximum != 2 {
			t.Errorf("announced %d", ack.Properties.ReceiveMaximum)
		}
		for id := range uint16(2) {
			c.publish("a", "x", 2, id+1)
			want[*packet.Pubrec](c)
		}
		c.publish("a", "x", 0, 0)      // QoS 0 and all else go on
		c.subscribe(filter("none", 0)) //
		c.send(&packet.Pingreq{})      //
		want[*packet.Pingresp](c)
		c.send(&packet.Pubrel{PacketID: 1})
		want[*packet.Pubcomp](c)
		c.publish("a", "x", 2, 1) // the room that PUBCOMP left
		want[*packet.Pubrec](c)
		c.publish("a", "x", qos, 3)
		if got := want[*packet.Disconnect](c); got.ReasonCode != packet.ReceiveMaximumExceeded || !c.ended() {
			t.Errorf("QoS %d: %s", qos, show(got))
		}
	}
}

// skip reads n packets from nc and returns the last.
func (w *world) skip(nc interface{ Read([]byte) (int, error) }, n int) string {
	w.t.Helper()
	var got []byte
	for range n {
		got = make([]byte, 2)
		for i := range got {
			if _, err := nc.Read(got[i : i+1]); err != nil {
				w.t.Fatal(err)
			}
		}
		for range got[1] { // short packets: their length is of one byte
			one := make([]byte, 1)
			if _, err := nc.Read(one); err != nil {
				w.t.Fatal(err)
			}
			got = append(got, one[0])
		}
	}
	return string(got)
}

// testForwardedProperties sends properties on each of the ways that a message can
// take: at once, through a queue, and retained.
func testForwardedProperties(t *testing.T, w *world) {
	for _, way := range []string{"live", "queued", "retained"} {
		for qos := range byte(3) {
			if way == "queued" && qos == 0 {
				continue
			}
			sub, pub := w.connect(packet.V5, "sub", expiry(100)), w.connect(packet.V5, "pub")
			p := message("a", "x", qos, 1)
			p.Retain = way == "retained"
			p.Properties.SetPayloadFormatIndicator(1)
			p.Properties.SetContentType("text/plain; charset=utf-8\uFEFF")
			p.Properties.SetResponseTopic("answers/1")
			p.Properties.SetCorrelationData([]byte{0, 1, 255})
			p.Properties.User = []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "1"}, {Key: "", Value: ""}}
			switch way {
			case "live":
				sub.subscribe(filter("a", 2))
				pub.send(p)
			case "queued":
				sub.subscribe(filter("a", 2))
				sub.close()
				pub.send(p)
				sub = w.connect(packet.V5, "sub", resume, expiry(100))
			case "retained":
				pub.send(p)
				sub.subscribe(filter("a", 2))
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
			sub.finish(m)
			sub.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a"}})
			want[*packet.Unsuback](sub)
			sub.bye()
			pub.bye()
		}
	}
}

// testMessageExpiry counts down what waits: behind a full window, in a session's
// queue, as a retained message, and in a shared subscription.
func testMessageExpiry(t *testing.T, w *world) {
	testExpiryBehindWindow(w)
	testExpiryInQueue(t, w)
	testExpiryInShare(t, w)
}

// publishExpiring publishes a message at QoS 1 with a Message Expiry Interval.
func (c *client) publishExpiring(topic, payload string, seconds uint32, retain bool) {
	c.t.Helper()
	p := message(topic, payload, 1, 1)
	p.Retain = retain
	p.Properties.SetMessageExpiryInterval(seconds)
	c.send(p)
	want[*packet.Puback](c)
}

// wantTimeLeft receives a message, which must have as many seconds left.
func (c *client) wantTimeLeft(payload string, seconds uint32) {
	c.t.Helper()
	p := c.wantMessage(payload)
	if got := p.Properties; !got.Has(packet.PropMessageExpiryInterval) || got.MessageExpiryInterval != seconds {
		c.t.Errorf("%s: %d s left, want %d", payload, got.MessageExpiryInterval, seconds)
	}
	c.finish(p)
}

// testExpiryBehindWindow has messages wait for a client whose window is full.
func testExpiryBehindWindow(w *world) {
	pub := w.connect(packet.V5, "pub")
	for _, session := range []uint32{0, 1000} {
		slow := w.connect(packet.V5, "slow", quota(1), expiry(session))
		slow.subscribe(filter("a", 1))
		pub.exchange("a", "first", 1)
		first := slow.wantMessage("first")
		pub.publishExpiring("a", "over", 5, false)
		pub.publishExpiring("a", "long", 60, false)
		wait(4*time.Second + 500*time.Millisecond)
		pub.publishExpiring("a", "live", 7, false)
		wait(6*time.Second + 500*time.Millisecond)
		slow.finish(first)
		slow.wantTimeLeft("long", 49)
		slow.wantTimeLeft("live", 1) // half a second, and 0 would be over
		slow.silence()
		slow.bye()
	}
}

// testExpiryInQueue has messages wait for a client that is away, and then as
// retained messages. None stays in the store after its time.
func testExpiryInQueue(t *testing.T, w *world) {
	pub := w.connect(packet.V5, "pub")
	away := w.connect(packet.V5, "away", expiry(1000))
	away.subscribe(filter("a", 1))
	pub.publishExpiring("a", "at once", 30, false)
	away.wantTimeLeft("at once", 30)
	away.close()
	pub.publishExpiring("a", "over", 5, false)
	pub.publishExpiring("a", "long", 60, false)
	wait(20 * time.Second)
	away = w.connect(packet.V5, "away", resume, expiry(1000))
	away.wantTimeLeft("long", 40)
	away.silence()
	away.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a"}})
	want[*packet.Unsuback](away)

	pub.publishExpiring("r/over", "over", 5, true)
	pub.publishExpiring("r/long", "long", 60, true)
	wait(20 * time.Second)
	away.subscribe(filter("r/#", 1))
	away.wantTimeLeft("long", 40)
	away.silence()
	away.close()
	pub.publishExpiring("r/over", "over", 5, false)
	wait(2 * time.Minute) // nobody comes for it
	if got := w.counters().Store.Queued; got != 0 {
		t.Errorf("%d expired messages wait for a session", got)
	}
	wait(time.Hour)
	if got := w.counters().Store; got.Retained != 0 || got.Queued != 0 {
		t.Errorf("%d retained and %d queued messages outlive their time", got.Retained, got.Queued)
	}
}

// testExpiryInShare has a message wait for the only member of a share.
func testExpiryInShare(t *testing.T, w *world) {
	pub := w.connect(packet.V5, "pub")
	member := w.connect(packet.V5, "member", quota(1), expiry(1000))
	member.subscribe(filter("$share/g/s", 1))
	pub.exchange("s", "first", 1)
	first := member.wantMessage("first")
	pub.publishExpiring("s", "over", 5, false)
	wait(6 * time.Second)
	before := w.counters().Drops["expired"]
	member.finish(first)
	member.silence()
	if got := w.counters(); got.Drops["expired"] != before+1 || got.Store.Queued != 0 {
		t.Errorf("a shared subscription dropped %d and keeps %d", got.Drops["expired"]-before, got.Store.Queued)
	}
}

// testOverlap wants one copy of a message for all ordinary subscriptions that match,
// at their highest QoS and with the identifiers of all, and one for each shared one.
func testOverlap(t *testing.T, w *world) {
	for _, session := range []uint32{0, 100} {
		sub, pub := w.connect(packet.V5, "sub", expiry(session)), w.connect(packet.V5, "pub")
		ask := func(f string, qos byte, id uint32) {
			p := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter(f, qos)}}
			if id > 0 {
				p.Properties.SubscriptionIDs = []uint32{id}
			}
			sub.send(p)
			want[*packet.Suback](sub)
		}
		ask("a/#", 0, 1)
		ask("a/+", 2, 268_435_455)
		ask("+/b", 1, 0)
		ask("other", 2, 9)
		for qos := range byte(3) {
			pub.exchange("a/b", "x", qos)
			p := sub.wantMessage("x")
			slices.Sort(p.Properties.SubscriptionIDs)
			if p.QoS != qos || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{1, 268_435_455}) {
				t.Errorf("QoS %d came with %d, identifiers %v", qos, p.QoS, p.Properties.SubscriptionIDs)
			}
			sub.finish(p)
			sub.silence() // one copy
		}
		ask("$share/g/a/b", 1, 5) // a shared subscription has copies of its own
		pub.exchange("a/b", "x", 1)
		copies := map[string]int{}
		for range 2 {
			p := sub.wantMessage("x")
			slices.Sort(p.Properties.SubscriptionIDs)
			copies[fmt.Sprint(p.Properties.SubscriptionIDs)]++
			sub.finish(p)
		}
		if sub.silence(); copies["[5]"] != 1 || copies["[1 268435455]"] != 1 {
			t.Errorf("copies with identifiers %v", copies)
		}
		sub.send(&packet.Disconnect{})
		sub.close()
		w.connect(packet.V5, "sub").bye()
	}
}

// testSendQuota fills the client's window: only PUBLISH above QoS 0 waits, and a
// new connection has a whole window again.
func testSendQuota(t *testing.T, w *world) {
	pub := w.connect(packet.V5, "pub")
	for _, session := range []uint32{0, 100} {
		sub := w.connect(packet.V5, "sub", quota(2), expiry(session))
		sub.subscribe(filter("a", 2), filter("zero", 0))
		for i := range 6 {
			pub.exchange("a", fmt.Sprint(i), 1+byte(i%2))
		}
		first, second := sub.wantMessage("0"), sub.wantMessage("1")
		sub.silence()
		pub.publish("zero", "z", 0, 0)
		sub.wantMessage("z")
		sub.subscribe(filter("more", 0))
		sub.publish("b", "x", 2, 5)
		want[*packet.Pubrec](sub)
		sub.send(&packet.Pubrel{PacketID: 5})
		want[*packet.Pubcomp](sub)
		sub.send(&packet.Pubrec{PacketID: second.PacketID}) // PUBREL goes out,
		want[*packet.Pubrel](sub)
		sub.silence() // and the window is still full
		sub.send(&packet.Pubcomp{PacketID: second.PacketID})
		third := sub.wantMessage("2")
		sub.silence()
		if session > 0 {
			sub.close()
			sub = w.connect(packet.V5, "sub", quota(1), expiry(session), resume)
			first = sub.wantMessage("0")
			sub.silence()
			sub.finish(first)
			third = sub.wantMessage("2")
			sub.silence()
			sub.finish(third)
		} else {
			sub.finish(first)
			sub.finish(third)
		}
		for i := 3; i < 6; i++ {
			sub.finish(sub.wantMessage(fmt.Sprint(i)))
		}
		sub.silence()
		sub.bye()
		w.connect(packet.V5, "sub").bye()
	}
}

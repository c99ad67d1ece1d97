package mqtt

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestFormatStatements(t *testing.T) {
	prove(t, "1.5.4-3", testByteOrderMark)
	prove(t, "1.5.4-1 4.7.3-3", testUnusualTopics)
	prove(t, "2.2.1-4 4.3.2-1 4.3.3-1", testPacketIdentifiers)
	prove5(t, "2.2.2-1", testPropertyLengths)
}

// testByteOrderMark wants U+FEFF to be a character like any other.
func testByteOrderMark(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	c.subscribe(subscribeTo("\uFEFFa", 0), subscribeTo("a", 0))
	c.publish("\uFEFFa", "with", 0, 0)
	if got := c.wantMessage("with"); string(got.TopicName) != "\uFEFFa" {
		t.Errorf("topic % x", got.TopicName)
	}
	c.wantNothing() // "a" is another topic
}

// testUnusualTopics wants the edges of what UTF-8 and a topic may be to go
// through.
func testUnusualTopics(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	for _, topic := range []string{"\u0001", "\uD7FF\uE000", "\U0010FFFF", "\uFFFE", strings.Repeat("é", 32767) + "x"} {
		if got := c.subscribe(subscribeTo(topic, 0))[0]; got != 0 {
			t.Errorf("%.20q: %s", topic, got)
		}
		c.publish(topic, "x", 0, 0)
		if got := c.wantMessage("x"); string(got.TopicName) != topic {
			t.Errorf("topic %.20q", got.TopicName)
		}
	}
}

// testPropertyLengths has a client take packets of several types. It refuses one
// without property length.
func testPropertyLengths(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.will = []string{"no"} })
	c := srv.connect(packet.V5, "c")
	c.subscribe(subscribeTo("a", 2))
	c.publish("a", "x", 0, 0)
	c.wantMessage("x")
	c.unsubscribe("a")
}

// testPacketIdentifiers sends more messages than there are identifiers while one
// stays unacknowledged.
func testPacketIdentifiers(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub"), srv.connect(v, "pub")
	sub.subscribe(subscribeTo("a", 2))
	held := map[uint16]bool{}
	for i := range 5 {
		pub.publishAndWait("a", "held", 1+byte(i%2))
		held[sub.wantMessage("held").PacketID] = true
	}
	if len(held) != 5 || held[0] {
		t.Fatalf("identifiers %v", held)
	}
	srv.setNextPacketID(65_530)
	for i := range 20 {
		pub.publishAndWait("a", "x", 1+byte(i%2))
		p := sub.wantMessage("x")
		if p.PacketID == 0 || held[p.PacketID] {
			t.Errorf("identifier %d is 0 or in use", p.PacketID)
		}
		sub.acknowledge(p)
	}
}

// setNextPacketID has all sessions continue with the Packet Identifier after id,
// as if so many messages had been sent.
func (s *testServer) setNextPacketID(id uint16) {
	for _, session := range s.broker.allSessions() {
		session.mu.Lock()
		session.window.next = id
		session.mu.Unlock()
	}
}

func TestSessionStatements(t *testing.T) {
	prove5(t, "4.1.0-1", testSessionOfConnection)
	prove5(t, "3.1.2-23 4.1.0-2", testSessionExpiry)
}

// testSessionOfConnection wants a session without expiry to last as long as its
// connection.
func testSessionOfConnection(t *testing.T, srv *testServer) {
	sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
	sub.subscribe(subscribeTo("a", 1))
	advanceTime(1000 * time.Second)
	pub.publishAndWait("a", "x", 1)
	sub.wantMessage("x")
}

// testSessionExpiry wants a session to last for its expiry interval after the
// connection's end, and no longer.
func testSessionExpiry(t *testing.T, srv *testServer) {
	for _, tt := range []struct {
		expiry uint32
		after  time.Duration
		want   bool
	}{
		{10, 10*time.Second - time.Millisecond, true},
		{10, 10 * time.Second, false},
		{0, 0, false},
		{0xFFFFFFFF, 20 * time.Hour, true},
	} {
		c := srv.connect(packet.V5, "c", sessionExpiry(tt.expiry))
		c.subscribe(subscribeTo("a", 1))
		advanceTime(time.Hour) // does not count
		c.dropConnection()
		advanceTime(tt.after)
		c, ack := srv.connectAck(packet.V5, "c", resumeSession)
		if ack.SessionPresent != tt.want {
			t.Errorf("expiry %d s, after %v: present %v", tt.expiry, tt.after, ack.SessionPresent)
		}
		c.disconnect()
	}
	if got := srv.counters(); got.Sessions != 0 || got.Store.Sessions != 0 || got.Subscriptions != 0 {
		t.Errorf("%d sessions, %d stored and %d subscriptions stay", got.Sessions, got.Store.Sessions, got.Subscriptions)
	}
}

func TestDeliveryStatements(t *testing.T) {
	prove(t, "4.3.2-3 4.3.3-3 4.4.0-1", testRedelivery)
	prove(t, "4.3.2-4 4.3.2-5 4.3.3-8 4.3.3-11 4.3.3-12", testReusedPacketIdentifier)
	prove5With(t, "4.3.2-4 4.3.3-8", noRoomForRetained, testNoAcknowledgementOfLoss)
	prove(t, "4.3.3-4 4.3.3-5 4.3.3-6", testPubrelUntilPubcomp)
	prove5(t, "4.3.3-7", testNoExpiryOnceSent)
	prove5(t, "4.3.3-9", testIdentifierOfRefusedMessage)
	prove(t, "4.3.3-10", testDuplicateBeforePubrel)
	prove5(t, "4.3.3-13", testNoExpiryOnceReceived)
	prove5(t, "4.4.0-2", testDeliveryRefusedByClient)
	prove(t, "4.5.0-1", testEverySessionReceives)
	prove(t, "4.6.0-1 4.6.0-4", testPubrelOrder)
	prove(t, "4.6.0-2 4.6.0-3", testAcknowledgementOrder)
	prove(t, "4.6.0-5 4.6.0-6", testOrder)
}

// testRedelivery wants unacknowledged messages again, with DUP and their
// identifiers, on each new connection and only there.
func testRedelivery(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub", keepSession(v)), srv.connect(v, "pub")
	sub.subscribe(subscribeTo("a", 2))
	ids := map[string]uint16{}
	for i := range 4 {
		pub.publishAndWait("a", fmt.Sprint(i), 1+byte(i%2))
		ids[fmt.Sprint(i)] = sub.wantMessage(fmt.Sprint(i)).PacketID
	}
	advanceTime(time.Hour)
	sub.wantNothing() // nothing is sent again on the same connection
	for range 3 {
		sub.dropConnection()
		sub = srv.connect(v, "sub", resumeSession, keepSession(v))
		for i := range 4 {
			if p := sub.wantMessage(fmt.Sprint(i)); p.PacketID != ids[fmt.Sprint(i)] || !p.Dup {
				t.Errorf("%d: identifier %d, DUP %v; was %d", i, p.PacketID, p.Dup, ids[fmt.Sprint(i)])
			}
		}
		sub.wantNothing()
	}
}

// testReusedPacketIdentifier wants a message under the identifier of an
// acknowledged one to be a new message, DUP or not.
func testReusedPacketIdentifier(t *testing.T, srv *testServer, v packet.Version) {
	for i, change := range []func(*packet.Connect){func(*packet.Connect) {}, keepSession(v)} {
		sub, pub := srv.connect(v, "sub"), srv.connect(v, fmt.Sprint("pub", i), change)
		sub.subscribe(subscribeTo("a", 0))
		for i := range 3 { // the same identifier each time
			pub.publishAndWait("a", fmt.Sprint(i), 1)
			sub.wantMessage(fmt.Sprint(i))
			pub.publishAndWait("a", fmt.Sprint(i), 2)
			sub.wantMessage(fmt.Sprint(i))
		}
		again := publishPacket("a", "new", 1, 7) // DUP does not make it an old one
		again.Dup = true
		pub.send(again)
		wantPacket[*packet.Puback](pub)
		sub.wantMessage("new")
		sub.wantNothing()
	}
}

// testPubrelUntilPubcomp wants PUBREL for PUBREC, again on each new connection
// until PUBCOMP, and the message never again.
func testPubrelUntilPubcomp(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub", keepSession(v)), srv.connect(v, "pub")
	sub.subscribe(subscribeTo("a", 2))
	pub.publishAndWait("a", "x", 2)
	id := sub.wantMessage("x").PacketID
	for range 2 {
		sub.send(&packet.Pubrec{PacketID: id})
		if got := wantPacket[*packet.Pubrel](sub); got.PacketID != id || got.ReasonCode.Failed() {
			t.Errorf("PUBREL %d %s, want %d", got.PacketID, got.ReasonCode, id)
		}
	}
	for range 3 {
		sub.dropConnection()
		sub = srv.connect(v, "sub", resumeSession, keepSession(v))
		if got := wantPacket[*packet.Pubrel](sub); got.PacketID != id {
			t.Errorf("PUBREL %d, want %d", got.PacketID, id)
		}
		sub.wantNothing() // never PUBLISH again
	}
	sub.send(&packet.Pubcomp{PacketID: id})
	sub.dropConnection()
	sub = srv.connect(v, "sub", resumeSession, keepSession(v))
	sub.wantNothing()
}

// testNoExpiryOnceSent wants a message of QoS 2 that was sent once to be sent
// again although it has expired since.
func testNoExpiryOnceSent(t *testing.T, srv *testServer) {
	sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
	sub.subscribe(subscribeTo("a", 2))
	p := publishPacket("a", "x", 2, 1)
	p.Properties.SetMessageExpiryInterval(5)
	pub.send(p)
	wantPacket[*packet.Pubrec](pub)
	first := sub.wantMessage("x")
	sub.dropConnection()
	advanceTime(5 * time.Minute)
	sub = srv.connect(packet.V5, "sub", sessionExpiry(1000), resumeSession)
	again := sub.wantMessage("x")
	if again.PacketID != first.PacketID || !again.Dup {
		t.Errorf("identifier %d, DUP %v", again.PacketID, again.Dup)
	}
	sub.acknowledge(again)
}

// testIdentifierOfRefusedMessage wants the identifier of a message that PUBREC
// refused to be free for a new message.
func testIdentifierOfRefusedMessage(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.publish = []string{"secret"} })
	sub := srv.connect(packet.V5, "sub")
	sub.subscribe(subscribeTo("#", 0))
	for _, session := range []uint32{0, 100} {
		pub := srv.connect(packet.V5, "pub", sessionExpiry(session))
		for range 2 {
			pub.publish("secret", "x", 2, 5)
			if got := wantPacket[*packet.Pubrec](pub); got.ReasonCode != packet.NotAuthorized {
				t.Errorf("got %s", got.ReasonCode)
			}
		}
		pub.publish("open", "y", 2, 5)
		if got := wantPacket[*packet.Pubrec](pub); got.ReasonCode.Failed() {
			t.Errorf("got %s", got.ReasonCode)
		}
		sub.wantMessage("y")
		sub.wantNothing()
		pub.disconnect()
	}
}

// testDuplicateBeforePubrel sends a message of QoS 2 again and again before
// PUBREL and wants it delivered once.
func testDuplicateBeforePubrel(t *testing.T, srv *testServer, v packet.Version) {
	sub := srv.connect(v, "sub")
	sub.subscribe(subscribeTo("a", 0))
	for i, change := range []func(*packet.Connect){func(*packet.Connect) {}, keepSession(v)} {
		pub := srv.connect(v, "pub", change)
		for round := range 3 {
			for repeat := range 5 {
				p := publishPacket("a", fmt.Sprint(round), 2, 5)
				p.Dup = repeat > 0
				pub.send(p)
				wantPacket[*packet.Pubrec](pub)
				if i > 0 {
					pub.dropConnection()
					pub = srv.connect(v, "pub", resumeSession, keepSession(v))
				}
			}
			sub.wantMessage(fmt.Sprint(round))
			sub.wantNothing()
			pub.send(&packet.Pubrel{PacketID: 5})
			wantPacket[*packet.Pubcomp](pub)
		}
		pub.disconnect()
	}
}

// testNoExpiryOnceReceived wants a message of QoS 2 to be completed although it
// has expired since the broker received it.
func testNoExpiryOnceReceived(t *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub", sessionExpiry(1000))
	p := publishPacket("a", "x", 2, 5)
	p.Properties.SetMessageExpiryInterval(1)
	pub.send(p)
	wantPacket[*packet.Pubrec](pub)
	advanceTime(5 * time.Minute)
	pub.send(p) // again: still the same message
	wantPacket[*packet.Pubrec](pub)
	pub.send(&packet.Pubrel{PacketID: 5})
	if got := wantPacket[*packet.Pubcomp](pub); got.ReasonCode != packet.Success {
		t.Errorf("got %s", got.ReasonCode)
	}
}

// testDeliveryRefusedByClient wants a message that the client refused to be over:
// no PUBREL, no redelivery, and room for the next.
func testDeliveryRefusedByClient(t *testing.T, srv *testServer) {
	sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000), receiveMaximum(1)), srv.connect(packet.V5, "pub")
	sub.subscribe(subscribeTo("a", 2))
	for qos := byte(1); qos < 3; qos++ {
		pub.publishAndWait("a", "refused", qos)
		p := sub.wantMessage("refused")
		if qos == 1 {
			sub.send(&packet.Puback{PacketID: p.PacketID, ReasonCode: packet.QuotaExceeded})
		} else {
			sub.send(&packet.Pubrec{PacketID: p.PacketID, ReasonCode: packet.QuotaExceeded})
		}
		sub.wantNothing() // no PUBREL
		pub.publishAndWait("a", "next", qos)
		sub.acknowledge(sub.wantMessage("next")) // the window has room again
		sub.dropConnection()
		sub = srv.connect(packet.V5, "sub", sessionExpiry(1000), resumeSession, receiveMaximum(1))
		sub.wantNothing()
	}
	if got := srv.counters().Store.Queued; got != 0 {
		t.Errorf("%d messages stay queued", got)
	}
}

// testEverySessionReceives wants one copy for each session with a matching
// subscription, connected or not, shared or not.
func testEverySessionReceives(t *testing.T, srv *testServer, v packet.Version) {
	away := srv.connect(v, "away", keepSession(v))
	away.subscribe(subscribeTo("a/+", 1))
	away.dropConnection()
	pub, here, shared := srv.connect(v, "pub"), srv.connect(v, "here"), srv.connect(v, "shared")
	here.subscribe(subscribeTo("a/#", 1), subscribeTo("+/b", 0))
	shared.subscribe(subscribeTo("$share/g/#", 1))
	pub.publishAndWait("a/b", "x", 1)
	away = srv.connect(v, "away", keepSession(v), resumeSession)
	for _, c := range []*client{away, here, shared} {
		c.acknowledge(c.wantMessage("x"))
		c.wantNothing()
	}
}

// testPubrelOrder wants PUBRELs in the order of the PUBRECs and redeliveries in
// the order of the messages.
func testPubrelOrder(t *testing.T, srv *testServer, v packet.Version) {
	sub, pub := srv.connect(v, "sub", keepSession(v)), srv.connect(v, "pub")
	sub.subscribe(subscribeTo("a", 2))
	const n = 40
	ids := make([]uint16, n)
	srv.setNextPacketID(65_520) // the identifiers begin anew on the way
	for i := range n {
		pub.publishAndWait("a", fmt.Sprint(i), 2)
		ids[i] = sub.wantMessage(fmt.Sprint(i)).PacketID
	}
	for i := range n / 2 {
		sub.send(&packet.Pubrec{PacketID: ids[i]})
	}
	for i := range n / 2 { // PUBRELs in the order of the PUBRECs
		if got := wantPacket[*packet.Pubrel](sub); got.PacketID != ids[i] {
			t.Errorf("PUBREL %d, want %d", got.PacketID, ids[i])
		}
	}
	sub.dropConnection()
	sub = srv.connect(v, "sub", keepSession(v), resumeSession)
	for i := range n / 2 {
		if got := wantPacket[*packet.Pubrel](sub); got.PacketID != ids[i] {
			t.Errorf("PUBREL %d again, want %d", got.PacketID, ids[i])
		}
	}
	for i := n / 2; i < n; i++ {
		sub.wantMessage(fmt.Sprint(i))
	}
}

// testAcknowledgementOrder wants acknowledgements in the order of the messages,
// whatever becomes of each message.
func testAcknowledgementOrder(t *testing.T, srv *testServer, v packet.Version) {
	srv.denied.change(func(d *denyList) { d.publish = []string{"denied"} })
	away := srv.connect(v, "away", keepSession(v))
	away.subscribe(subscribeTo("kept", 2))
	pub := srv.connect(v, "pub", keepSession(v))
	topics := []string{"kept", "denied", "nobody", "retained"}
	var acks []uint16
	for i := range uint16(60) { // each topic takes another way through the broker
		p := publishPacket(topics[int(i)%len(topics)], "x", 1+byte(i/4%2), i+1)
		p.Retain = i%4 == 3
		pub.send(p)
	}
	for p := pub.nextPacket(); p != nil; p = pub.nextPacket() {
		switch p := p.(type) {
		case *packet.Puback:
			acks = append(acks, p.PacketID)
		case *packet.Pubrec:
			acks = append(acks, p.PacketID)
		}
	}
	if len(acks) != 60 || !slices.IsSorted(acks) {
		t.Errorf("acknowledged in the order %v", acks)
	}
}

// noRoomForRetained has the store keep retained messages of one byte at most.
func noRoomForRetained(o *Options) {
	o.Store = store.NewMemory(store.Limits{Retained: store.QueueLimit{Messages: 1, Bytes: 1}})
}

// testNoAcknowledgementOfLoss wants a message that the store has no room for not to
// be acknowledged as taken: refused in MQTT 5, unanswered in 3.1.1.
func testNoAcknowledgementOfLoss(t *testing.T, srv *testServer) {
	for _, v := range versions {
		pub := srv.connect(v, "pub")
		for qos := byte(1); qos < 3; qos++ {
			p := publishPacket("a", "too long", qos, 5)
			p.Retain = true
			pub.send(p)
			switch got := pub.nextPacket().(type) {
			case nil:
				if v == packet.V5 {
					t.Errorf("QoS %d: no answer", qos)
				}
			case *packet.Puback:
				if v == packet.V311 || got.ReasonCode != packet.QuotaExceeded {
					t.Errorf("PUBACK %s", got.ReasonCode)
				}
			case *packet.Pubrec:
				if v == packet.V311 || got.ReasonCode != packet.QuotaExceeded {
					t.Errorf("PUBREC %s", got.ReasonCode)
				}
			}
		}
	}
}

// testOrder publishes at every QoS to clients of every kind: each gets what each
// publisher sent to a topic at a QoS in that order.
func testOrder(t *testing.T, srv *testServer, v packet.Version) {
	rng := rand.New(rand.NewPCG(1, uint64(v)))
	subs := map[string]*client{
		"plain": srv.connect(v, "plain"), "kept": srv.connect(v, "kept", keepSession(v)), "returning": srv.connect(v, "returning", keepSession(v)),
		"narrow": srv.connect(v, "narrow", keepSession(v), receiveMaximum(3)),
	}
	for _, c := range subs {
		c.subscribe(subscribeTo("t/#", 2))
	}
	seen := map[string]string{}
	take := func(name string) {
		for p := subs[name].nextPacket(); p != nil; p = subs[name].nextPacket() {
			m, ok := p.(*packet.Publish)
			if !ok {
				continue
			}
			var i int
			var stream string
			if _, err := fmt.Sscan(string(m.Payload), &stream, &i); err != nil {
				t.Fatal(err)
			}
			key := name + " " + stream
			if now := fmt.Sprintf("%04d", i); now <= seen[key] && !m.Dup {
				t.Errorf("%s: %s after %s", key, now, seen[key])
			} else {
				seen[key] = max(now, seen[key])
			}
			subs[name].acknowledge(m)
		}
	}
	pubs := []*client{srv.connect(v, "p0"), srv.connect(v, "p1", keepSession(v))}
	for i := range 300 {
		who, topic, qos := rng.IntN(2), rng.IntN(3), byte(rng.IntN(3))
		p := publishPacket(fmt.Sprint("t/", topic), fmt.Sprintf("%d/%d/%d %d", who, topic, qos, i), qos, uint16(i+1))
		p.Retain = rng.IntN(5) == 0
		pubs[who].send(p)
		if qos == 2 {
			pubs[who].send(&packet.Pubrel{PacketID: uint16(i + 1)})
		}
		switch {
		case i%37 == 0:
			subs["returning"].dropConnection()
		case i%37 == 17:
			subs["returning"] = srv.connect(v, "returning", keepSession(v), resumeSession)
		case i%11 == 0:
			take([]string{"plain", "kept", "narrow"}[rng.IntN(3)])
		}
	}
	subs["returning"].dropConnection()
	subs["returning"] = srv.connect(v, "returning", keepSession(v), resumeSession)
	for name := range subs {
		take(name)
	}
	if len(seen) < 4*2*3*2 {
		t.Errorf("only %d streams were seen", len(seen))
	}
}

func TestTopicStatements(t *testing.T) {
	prove(t, "4.7.2-1", testDollarTopics)
	prove(t, "4.7.3-1 4.7.3-4", testTopicsByCharacter)
}

// testDollarTopics wants topics that begin with $ to match no filter that begins
// with a wildcard.
func testDollarTopics(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	for f, match := range map[string]bool{
		"#": false, "+/b": false, "+/#": false, "$x/#": true, "$x/+": true, "$x/b": true,
		"$share/g/#": false, "$share/g/$x/#": true,
	} {
		c.subscribe(subscribeTo(f, 0))
		c.publish("$x/b", "live", 0, 0)
		if got := c.nextPacket() != nil; got != match {
			t.Errorf("%s gets $x/b: %v", f, got)
		}
		c.unsubscribe(f)
		c.send(retainedPacket("$x/b", "kept"))
		c.subscribe(subscribeTo(f, 0))
		if got := c.nextPacket() != nil; got != (match && !strings.HasPrefix(f, "$share")) {
			t.Errorf("%s gets $x/b retained: %v", f, got)
		}
		c.unsubscribe(f)
		c.send(retainedPacket("$x/b", ""))
	}
}

// testTopicsByCharacter wants topics and filters to be compared character by
// character, without any normalization.
func testTopicsByCharacter(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c")
	for f, topics := range map[string]string{
		"/": "/", "a//b": "a//b", "+/+": "/", "Ab": "Ab", "a b": "a b", "caf\u00e9": "caf\u00e9", "cafe\u0301": "cafe\u0301", "ﬁ": "ﬁ",
	} {
		c.subscribe(subscribeTo(f, 0))
		var got []string
		for _, topic := range []string{"/", "a//b", "Ab", "ab", "a b", "caf\u00e9", "cafe\u0301", "ﬁ", "fi"} {
			c.publish(topic, "x", 0, 0)
			if p := c.nextPacket(); p != nil {
				got = append(got, string(p.(*packet.Publish).TopicName))
			}
		}
		if strings.Join(got, ",") != topics {
			t.Errorf("%s got %q, want %q", f, got, topics)
		}
		c.unsubscribe(f)
	}
}

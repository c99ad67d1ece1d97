package mqtt

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

const (
	connect5   = "\x00\x04MQTT\x05" // of CONNECT, before its flags
	connect311 = "\x00\x04MQTT\x04"
)

// TestBrokenConnects has the CONNECT packets that no client may send. The answer
// is CONNACK with the reason, where the version has one, and the end. What
// follows in the same segment is not looked at [MQTT-3.1.4-6].
func TestBrokenConnects(t *testing.T) {
	const malformed = packet.MalformedPacket
	const unsupported = packet.UnsupportedProtocolVersion
	for _, tt := range []struct {
		statement string
		code      packet.ReasonCode // 0: no CONNACK
		bytes     []string
	}{
		{"3.1.0-1", 0, []string{"\xc0\x00", "\xe0\x00", raw(0x30, "\x00\x01a\x00"), raw(0x82, "\x00\x01\x00\x00\x01a\x00"), "\xf0\x00"}},
		{"3.1.2-1", unsupported, []string{
			raw(0x10, "\x00\x04mqtt\x05\x02\x00\x00\x00\x00\x01c"), raw(0x10, "\x00\x03MQT\x05\x02\x00\x00\x00\x00\x01c"),
		}},
		{"3.1.2-2", unsupported, []string{raw(0x10, "\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01c"), raw(0x10, "\x00\x04MQTT\xff\x02\x00\x00\x00\x00\x01c")}},
		{"3.1.2-3", malformed, []string{raw(0x10, connect5+"\x03\x00\x00\x00\x00\x01c")}},
		{"3.1.2-9", malformed, []string{raw(0x10, connect5+"\x06\x00\x00\x00\x00\x01c"), raw(0x10, connect5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01w")}},
		{"3.1.2-11", malformed, []string{raw(0x10, connect5+"\x0a\x00\x00\x00\x00\x01c")}},
		{"3.1.2-12", malformed, []string{raw(0x10, connect5+"\x1e\x00\x00\x00\x00\x01c\x00\x00\x01w\x00\x00")}},
		{"3.1.2-13", malformed, []string{raw(0x10, connect5+"\x22\x00\x00\x00\x00\x01c")}},
		{"3.1.2-16", malformed, []string{raw(0x10, connect5+"\x02\x00\x00\x00\x00\x01c\x00\x01u")}},
		{"3.1.2-17", malformed, []string{raw(0x10, connect5+"\x82\x00\x00\x00\x00\x01c")}},
		{"3.1.2-18", malformed, []string{raw(0x10, connect5+"\x82\x00\x00\x00\x00\x01c\x00\x01u\x00\x01p")}},
		{"3.1.2-19", malformed, []string{raw(0x10, connect5+"\x42\x00\x00\x00\x00\x01c")}},
		{"3.1.3-1 3.1.3-3", malformed, []string{raw(0x10, connect5+"\x02\x00\x00\x00"), raw(0x10, connect5+"\x86\x00\x00\x00\x00\x01c\x00\x01u\x00\x00\x01w\x00\x00")}},
		{"3.1.3-4", malformed, []string{raw(0x10, connect5+"\x02\x00\x00\x00\x00\x01\xff")}},
		{"3.1.3-11", malformed, []string{raw(0x10, connect5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01\xff\x00\x00")}},
		{"3.1.3-12", malformed, []string{raw(0x10, connect5+"\x82\x00\x00\x00\x00\x01c\x00\x01\xff")}},
		{"3.1.4-1", malformed, []string{
			raw(0x10, connect5+"\x02\x00\x00\x00\x00\x01c\x00"),                 // goes on
			raw(0x10, connect5+"\x02\x00\x00\x02\x17\x05\x00\x01c"),             // 3.1.2.11.7: 0 or 1
			raw(0x10, connect5+"\x02\x00\x00\x03\x22\x00\x01\x01\x00\x00\x01c"), // a property length too short
		}},
	} {
		t.Run(tt.statement, func(t *testing.T) {
			for _, bytes := range tt.bytes {
				bubble(t, nil, func(t *testing.T, w *world) { wantRefusedConnect(t, w, bytes, tt.code) })
			}
		})
	}
	t.Run("3.1.2-2 3.1.1", func(t *testing.T) {
		for _, head := range []string{"\x00\x06MQIsdp\x03", "\x00\x04MQTT\x03"} {
			bubble(t, nil, func(t *testing.T, w *world) {
				c := w.dial(packet.V311, "old")
				c.raw([]byte(raw(0x10, head+"\x02\x00\x00\x00\x01c")))
				if got := want[*packet.Connack](c); got.ReasonCode != packet.UnsupportedProtocolVersion || !c.ended() {
					t.Errorf("got %s", show(got))
				}
			})
		}
	})
	t.Run("3.1.3-8", func(t *testing.T) { // and 3.1.1 [3.1.3-8]
		bubble(t, nil, func(t *testing.T, w *world) {
			c := w.dial(packet.V311, "old")
			c.raw([]byte(raw(0x10, connect311+"\x00\x00\x00\x00\x00")))
			if got := want[*packet.Connack](c); got.ReasonCode != packet.ClientIdentifierNotValid || !c.ended() {
				t.Errorf("got %s", show(got))
			}
		})
	})
}

// wantRefusedConnect sends bytes as the first of a connection, and a message and
// PINGREQ in the same segment. It wants CONNACK with the code, unless that is zero,
// and the end of the connection.
func wantRefusedConnect(t *testing.T, w *world, bytes string, code packet.ReasonCode) {
	t.Helper()
	watcher := w.connect(packet.V5, "watcher")
	watcher.subscribe(filter("#", 0))
	c := w.dial(packet.V5, "broken")
	_, _ = c.nc.Write([]byte(bytes + raw(0x30, "\x00\x01a\x00") + "\xc0\x00"))
	if code != 0 {
		got := want[*packet.Connack](c)
		malformedToo := got.ReasonCode == packet.ProtocolError && code == packet.MalformedPacket
		if got.ReasonCode != code && !malformedToo {
			t.Errorf("% x: got %s, want %s", bytes, show(got), code)
		}
		if got.SessionPresent {
			t.Error("session present in a refusal")
		}
	}
	if c.silence(); !c.ended() {
		t.Errorf("% x: the connection stays open", bytes)
	}
	watcher.silence()
}

func TestConnectStatements(t *testing.T) {
	prove(t, "3.1.2-4 3.2.2-2 3.1.4-4", testCleanStart)
	prove(t, "3.1.2-5 3.1.2-6 3.2.2-3 3.1.2-23 3.1.3-2 4.1.0-1", testResumedSession)
	prove(t, "3.1.2-7 3.1.2-8 3.1.2-10 3.1.2-14", testWillOfLostConnection)
	prove(t, "3.1.2-15 3.2.2-13", testRetainedWill)
	prove5(t, "3.1.2-19", testPasswordWithoutUserName)
	prove(t, "3.1.2-22 3.2.2-22", testKeepAlive)
	prove5(t, "3.1.2-24 3.1.2-25", testMaximumPacketSize)
	prove5(t, "3.1.2-27", testNoTopicAliasToClient)
	prove5(t, "3.1.2-28", testNoResponseInformation)
	prove5With(t, "3.1.2-21 3.2.2-21", func(o *Options) { o.KeepAlive = time.Minute }, testServerKeepAlive)
	prove5(t, "3.1.2-29", testProblemInformation)
	prove(t, "3.1.3-5", testClientIdentifiers)
	prove5(t, "3.1.3-6 3.1.3-7 3.2.2-16", testAssignedClientIdentifier)
	prove5(t, "3.1.2-8 3.1.2-10 3.1.3-9", testWillDelay)
	prove5(t, "3.1.3-10", testWillProperties)
	prove(t, "3.1.4-2", testRefusedConnect)
	prove(t, "3.1.4-3", testTakenOverConnection)
	prove(t, "3.1.4-5 3.2.0-1 3.2.0-2", testConnackComesFirst)
	late := storeWithSubscriber()
	prove5With(t, "3.2.0-1", func(o *Options) { o.Store = late }, func(t *testing.T, w *world) { testConnackWaitsForStore(t, w, late) })
	prove(t, "3.1.4-6", testMessageBehindRefusedConnect)
}

// testCleanStart wants a clean start to end the session that the client left:
// neither its message nor its subscription is there any more.
func testCleanStart(t *testing.T, w *world, v packet.Version) {
	c := w.connect(v, "c", kept(v))
	c.subscribe(filter("a", 1))
	c.close()
	pub := w.connect(v, "pub")
	pub.exchange("a", "waiting", 1)
	c, ack := w.connectAck(v, "c", kept(v), func(p *packet.Connect) { p.CleanStart = true })
	if ack.SessionPresent {
		t.Error("session present after a clean start")
	}
	pub.exchange("a", "live", 1)
	c.silence() // neither the message nor the subscription is left
	if got := w.counters().Store.Queued; got != 0 {
		t.Errorf("%d messages stay in queues", got)
	}
}

// testResumedSession wants a session to go on where it was, for its client
// identifier alone: with the open handshake, the message that waited and the
// subscription.
func testResumedSession(t *testing.T, w *world, v packet.Version) {
	sub, ack := w.connectAck(v, "sub", kept(v), resume)
	if ack.SessionPresent {
		t.Error("a session that never was is present")
	}
	sub.subscribe(filter("a", 2))
	pub := w.connect(v, "pub")
	pub.exchange("a", "0", 2)
	id := sub.wantMessage("0").PacketID
	sub.close()
	pub.exchange("a", "1", 1)
	if _, ack := w.connectAck(v, "other", kept(v), resume); ack.SessionPresent {
		t.Error("another client identifier has the session")
	}
	sub, ack = w.connectAck(v, "sub", resume, kept(v))
	if !ack.SessionPresent {
		t.Error("the session is not present")
	}
	if p := sub.wantMessage("0"); p.PacketID != id { // the handshake that was open,
		t.Errorf("packet identifier %d, was %d", p.PacketID, id)
	} else {
		sub.finish(p)
	}
	sub.finish(sub.wantMessage("1")) // what waited,
	pub.exchange("a", "2", 1)        // and the subscription
	sub.finish(sub.wantMessage("2"))
}

// testPasswordWithoutUserName connects with a password alone, which MQTT 5 allows
// and 3.1.1 does not.
func testPasswordWithoutUserName(t *testing.T, w *world) {
	w.connect(packet.V5, "c", func(p *packet.Connect) { p.PasswordFlag, p.Password = true, []byte("p") })
}

// testKeepAlive wants a silent client to be closed after one and a half times its
// Keep Alive, not a millisecond earlier, and never if that is zero.
func testKeepAlive(t *testing.T, w *world, v packet.Version) {
	watcher := w.connect(v, "watcher")
	watcher.subscribe(filter("w", 0))
	for _, seconds := range []uint16{1, 60, 65535} {
		c := w.connect(v, "c", keepAlive(seconds), withWill("w", "gone", 0))
		limit := time.Duration(seconds) * 1500 * time.Millisecond
		wait(limit - time.Millisecond)
		if c.ended() {
			t.Fatalf("keep alive %d s: closed too early", seconds)
		}
		watcher.silence()
		wait(time.Millisecond)
		if v == packet.V5 {
			if got := want[*packet.Disconnect](c); got.ReasonCode != packet.KeepAliveTimeout {
				t.Errorf("got %s", show(got))
			}
		}
		if !c.ended() {
			t.Errorf("keep alive %d s: open after %v", seconds, limit)
		}
		watcher.wantMessage("gone")
	}
	c := w.connect(v, "c", keepAlive(0))
	wait(20 * time.Hour)
	c.send(&packet.Pingreq{})
	want[*packet.Pingresp](c)
}

// testNoTopicAliasToClient wants no Topic Alias in a PUBLISH to a client that
// allows none, although the publisher uses one.
func testNoTopicAliasToClient(t *testing.T, w *world) {
	for i, change := range []func(*packet.Connect){
		func(*packet.Connect) {},
		func(p *packet.Connect) { p.Properties.SetTopicAliasMaximum(0) },
	} {
		sub, pub := w.connect(packet.V5, fmt.Sprint("sub", i), change), w.connect(packet.V5, "pub")
		sub.subscribe(filter("a", 1))
		for i := range 100 {
			m := message("a", "x", byte(i%2), 1)
			m.Properties.SetTopicAlias(1) // the publisher's
			pub.send(m)
			pub.next()
			p := sub.wantMessage("x")
			if p.Properties.Has(packet.PropTopicAlias) || string(p.TopicName) != "a" {
				t.Errorf("alias %d, topic %q", p.Properties.TopicAlias, p.TopicName)
			}
			sub.finish(p)
		}
	}
}

// testNoResponseInformation wants no Response Information for a client that did
// not ask for it.
func testNoResponseInformation(t *testing.T, w *world) {
	for i, change := range []func(*packet.Connect){
		func(*packet.Connect) {},
		func(p *packet.Connect) { p.Properties.SetRequestResponseInformation(0) },
	} {
		if _, ack := w.connectAck(packet.V5, fmt.Sprint("c", i), change); ack.Properties.Has(packet.PropResponseInformation) {
			t.Errorf("response information %q", ack.Properties.ResponseInformation)
		}
	}
}

// testServerKeepAlive wants the broker's Keep Alive to be announced and to bind,
// if it is shorter than the client's.
func testServerKeepAlive(t *testing.T, w *world) {
	for asked, told := range map[uint16]uint16{0: 60, 59: 0, 60: 0, 61: 60, 65535: 60} {
		c, ack := w.connectAck(packet.V5, "c", keepAlive(asked))
		if got := ack.Properties.ServerKeepAlive; got != told || ack.Properties.Has(packet.PropServerKeepAlive) != (told > 0) {
			t.Errorf("asked for %d s, told %d s, want %d", asked, got, told)
		}
		limit := time.Duration(cmp.Or(told, asked)) * 1500 * time.Millisecond
		wait(limit - time.Millisecond)
		if c.ended() {
			t.Errorf("asked for %d s: closed too early", asked)
		}
		wait(time.Millisecond)
		if got := want[*packet.Disconnect](c); got.ReasonCode != packet.KeepAliveTimeout || !c.ended() {
			t.Errorf("asked for %d s: %s", asked, show(got))
		}
	}
	old := w.connect(packet.V311, "old", keepAlive(100)) // who cannot be told
	wait(149 * time.Second)
	old.send(&packet.Pingreq{})
	want[*packet.Pingresp](old)
}

// testClientIdentifiers connects with the client identifiers that a server must
// take, and with one that it may.
func testClientIdentifiers(t *testing.T, w *world, v packet.Version) {
	for _, id := range []string{"0", "abcdefghijklmnopqrstuvw", "ABCDEFGHIJKLMNOPQRSTUVW", "xyzXYZ0123456789"} {
		w.connect(v, id).bye()
	}
	w.connect(v, strings.Repeat("é/ #+", 100)).bye() // more than it has to take
	if got := w.counters().Sessions; got != 0 {
		t.Errorf("%d sessions stay", got)
	}
}

// testAssignedClientIdentifier wants each client without an identifier to be
// given one of its own, which then names its session.
func testAssignedClientIdentifier(t *testing.T, w *world) {
	seen := map[string]bool{}
	for range 100 {
		c, ack := w.connectAck(packet.V5, "", expiry(100))
		id := ack.Properties.AssignedClientIdentifier
		if id == "" || seen[id] {
			t.Fatalf("assigned %q, again or nothing", id)
		}
		seen[id] = true
		c.close()
		again := w.dial(packet.V5, "x")
		again.send(connectPacket(id, resume, expiry(100)))
		if got := want[*packet.Connack](again); !got.SessionPresent || got.Properties.Has(packet.PropAssignedClientIdentifier) {
			t.Error("the identifier that was assigned does not name the session")
		}
	}
}

// testRefusedConnect wants a client without rights to be refused and to leave no
// session.
func testRefusedConnect(t *testing.T, w *world, v packet.Version) {
	w.rules.set(func(r *rules) { r.nobody = []string{"nox"}; r.will = []string{"no/will"} })
	for _, tt := range []struct {
		id     string
		change func(*packet.Connect)
	}{{"no", kept(v)}, {"c", withWill("no/will", "x", 0)}} {
		c, ack := w.connectAck(v, tt.id, tt.change)
		if ack.ReasonCode != packet.NotAuthorized || ack.SessionPresent || !c.ended() {
			t.Errorf("got %s, open %v", show(ack), !c.ended())
		}
	}
	if got := w.counters().Sessions; got != 0 {
		t.Errorf("%d sessions of those who were refused", got)
	}
}

// testTakenOverConnection wants a second connection of a client to close the
// first.
func testTakenOverConnection(t *testing.T, w *world, v packet.Version) {
	for _, clean := range []bool{false, true} {
		old := w.connect(v, "c", kept(v))
		c := w.connect(v, "c", kept(v), func(p *packet.Connect) { p.CleanStart = clean })
		if v == packet.V5 {
			if got := want[*packet.Disconnect](old); got.ReasonCode != packet.SessionTakenOver {
				t.Errorf("got %s", show(got))
			}
		}
		if old.silence(); !old.ended() || c.ended() {
			t.Error("want the old connection closed, the new one open")
		}
		c.bye()
	}
}

// testConnackComesFirst wants one CONNACK, and before all else, although messages
// wait and PINGREQ came with CONNECT.
func testConnackComesFirst(t *testing.T, w *world, v packet.Version) {
	sub := w.connect(v, "sub", kept(v))
	sub.subscribe(filter("a", 1))
	sub.close()
	pub := w.connect(v, "pub")
	for i := range 10 {
		pub.exchange("a", fmt.Sprint(i), 1)
	}
	sub = w.dial(v, "subx")
	connect := connectPacket("sub", resume, kept(v)).Append(nil, v)
	sub.raw(append(connect, "\xc0\x00"...)) // CONNECT and PINGREQ at once
	if got := want[*packet.Connack](sub); got.ReasonCode != packet.Success {
		t.Errorf("got %s", show(got))
	}
	for p := sub.next(); p != nil; p = sub.next() {
		if p.Type() == packet.TypeConnack {
			t.Error("a second CONNACK")
		}
	}
}

// testMessageBehindRefusedConnect wants a message in the same segment as a
// refused CONNECT to go nowhere.
func testMessageBehindRefusedConnect(t *testing.T, w *world, v packet.Version) {
	w.rules.set(func(r *rules) { r.nobody = []string{"nox"} })
	watcher := w.connect(v, "watcher")
	watcher.subscribe(filter("#", 0))
	c := w.dial(v, "nox")
	c.raw(message("a", "x", 0, 0).Append(connectPacket("no").Append(nil, v), v))
	if got := want[*packet.Connack](c); got.ReasonCode != packet.NotAuthorized || !c.ended() {
		t.Errorf("got %s", show(got))
	}
	watcher.silence()
}

// storeWithSubscriber returns a store that answers late and has the session of a
// client with an ordinary and a shared subscription.
func storeWithSubscriber() *lateStore {
	late := newLateStore()
	sub := store.SessionKey{Identity: testID("subx").String(), ClientID: "sub"}
	late.Memory.Update(func(tx store.Tx) {
		tx.PutSession(store.Session{Key: sub, Expiry: 1000})
		tx.Subscribe(sub, store.Subscription{Filter: "a"})
		tx.Subscribe(sub, store.Subscription{Filter: "$share/g/b"})
	}, nil)
	return late
}

// testConnackWaitsForStore wants no message before CONNACK for a session that the
// store knows, which the broker does not know before the store has answered.
func testConnackWaitsForStore(_ *testing.T, w *world, late *lateStore) {
	pub := w.connect(packet.V5, "pub")
	sub := w.dial(packet.V5, "subx")
	sub.send(connectPacket("sub", resume, expiry(1000)))
	pub.publish("a", "early", 0, 0)
	pub.publish("b", "early", 0, 0)
	sub.silence() // the store did not answer yet
	defer late.run(w)()
	want[*packet.Connack](sub)
	pub.publish("a", "1", 0, 0)
	sub.wantMessage("1")
	pub.publish("b", "2", 0, 0)
	sub.wantMessage("2")
}

// testMaximumPacketSize has clients that take packets of limited size only: answers,
// messages, and messages that were sent before the limit was known.
func testMaximumPacketSize(t *testing.T, w *world) {
	testAnswersWithinPacketSize(t, w)
	testMessagesWithinPacketSize(t, w)
	testRedeliveryWithinPacketSize(t, w)
}

// testAnswersWithinPacketSize has every type of packet that can be larger than CONNACK
// sent to a client that takes exactly its size, and to one that takes a byte less.
func testAnswersWithinPacketSize(t *testing.T, w *world) {
	w.rules.set(func(r *rules) { r.publish, r.subscribe = []string{"secret"}, []string{"secret"} })
	filters := make([]string, 50)
	subs := make([]packet.Subscription, len(filters))
	for i := range filters {
		filters[i] = fmt.Sprint("f/", i)
		subs[i] = filter(filters[i], 0)
	}
	for _, tt := range []struct {
		name    string
		ask     func(c *client)
		shrinks bool // its explanation may be left out
	}{
		{"PUBACK", func(c *client) { c.publish("secret", "x", 1, 1) }, true},
		{"PUBREC", func(c *client) { c.publish("secret", "x", 2, 1) }, true},
		{"SUBACK with a reason", func(c *client) {
			c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("secret", 0)}})
		}, true},
		{"DISCONNECT", func(c *client) { c.raw([]byte("\xc1\x00")) }, true},
		{"SUBACK", func(c *client) { c.send(&packet.Subscribe{PacketID: 1, Subscriptions: subs}) }, false},
		{"UNSUBACK", func(c *client) { c.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: filters}) }, false},
	} {
		answer := func(change ...func(*packet.Connect)) packet.Packet {
			c := w.connect(packet.V5, "c", change...)
			defer c.bye()
			tt.ask(c)
			return c.next()
		}
		whole := answer()
		size := whole.Size(packet.V5)
		if got := answer(maxPacketSize(size)); got.Size(packet.V5) != size {
			t.Errorf("%s of %d bytes within as many: %s of %d", tt.name, size, show(got), got.Size(packet.V5))
		}
		less := answer(maxPacketSize(size - 1))
		switch end, ended := less.(*packet.Disconnect); {
		case less == nil || less.Size(packet.V5) >= size:
			t.Errorf("%s of %d bytes within one less: %s", tt.name, size, show(less))
		case tt.shrinks && less.Type() != whole.Type():
			t.Errorf("%s: got %s", tt.name, show(less))
		case !tt.shrinks && (!ended || end.ReasonCode != packet.PacketTooLarge):
			t.Errorf("%s that cannot be told: %s", tt.name, show(less))
		}
	}
}

// testMessagesWithinPacketSize wants the messages that fit and no others, at once
// and through a session's queue.
func testMessagesWithinPacketSize(_ *testing.T, w *world) {
	pub := w.connect(packet.V5, "pub")
	fits := message("a", strings.Repeat("x", 20), 1, 1)
	for _, session := range []uint32{0, 100} {
		for qos := range byte(3) {
			for _, late := range []bool{false, true} { // through the queue
				n := fits.Size(packet.V5)
				if qos == 0 {
					n -= 2
				}
				sub := w.connect(packet.V5, "sub", maxPacketSize(n), expiry(session), quota(1))
				sub.subscribe(filter("a", qos))
				if late && session > 0 {
					sub.close()
				}
				for _, payload := range []string{strings.Repeat("y", 21), strings.Repeat("x", 20), strings.Repeat("z", 21), "z"} {
					pub.exchange("a", payload, qos)
				}
				if late && session > 0 {
					sub = w.connect(packet.V5, "sub", maxPacketSize(n), expiry(session), resume)
				}
				if qos > 0 || !late || session == 0 { // QoS 0 does not wait
					sub.finish(sub.wantMessage(string(fits.Payload)))
					sub.finish(sub.wantMessage("z"))
				}
				sub.silence()
				p := &packet.Disconnect{}
				p.Properties.SetSessionExpiryInterval(0)
				sub.send(p)
				sub.close()
			}
		}
	}
}

// testRedeliveryWithinPacketSize wants a message that was sent once, and now is too
// large for the client, to be dropped and the next to arrive.
func testRedeliveryWithinPacketSize(t *testing.T, w *world) {
	pub := w.connect(packet.V5, "pub")
	for qos := byte(1); qos < 3; qos++ {
		sub := w.connect(packet.V5, "sub", expiry(100))
		sub.subscribe(filter("a", 2))
		pub.exchange("a", strings.Repeat("x", 100), qos)
		sub.wantMessage(strings.Repeat("x", 100))
		sub.close()
		sub = w.connect(packet.V5, "sub", maxPacketSize(50), expiry(100), resume)
		pub.exchange("a", "z", qos)
		sub.finish(sub.wantMessage("z"))
		sub.silence()
		sub.close()
		w.connect(packet.V5, "sub").bye()
	}
	if got := w.counters().Store.Queued; got != 0 {
		t.Errorf("%d messages stay in queues", got)
	}
}

// testProblemInformation wants no explanation but in CONNACK, DISCONNECT and
// PUBLISH if the client asked for none.
func testProblemInformation(t *testing.T, w *world) {
	w.rules.set(func(r *rules) { r.publish, r.subscribe = []string{"secret"}, []string{"secret"} })
	for _, asked := range []bool{true, false} {
		c := w.connect(packet.V5, fmt.Sprint("c", asked), func(p *packet.Connect) {
			if !asked {
				p.Properties.SetRequestProblemInformation(0)
			}
		})
		c.subscribe(filter("a", 0))
		explained := func(p packet.Packet, props *packet.Properties, code packet.ReasonCode) {
			t.Helper()
			if code != packet.NotAuthorized {
				t.Errorf("%s: %s", p.Type(), code)
			}
			if got := props.Has(packet.PropReasonString) || props.Has(packet.PropUserProperty); got != asked {
				t.Errorf("%s: explained %v, asked %v", p.Type(), got, asked)
			}
		}
		c.publish("secret", "x", 1, 1)
		ack := want[*packet.Puback](c)
		explained(ack, &ack.Properties, ack.ReasonCode)
		c.publish("secret", "x", 2, 1)
		rec := want[*packet.Pubrec](c)
		explained(rec, &rec.Properties, rec.ReasonCode)
		c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("secret", 0)}})
		sub := want[*packet.Suback](c)
		explained(sub, &sub.Properties, sub.ReasonCodes[0])
		p := message("a", "x", 0, 0)
		p.Properties.User = []packet.UserProperty{{Key: "k", Value: "v"}}
		c.send(p)
		if got := c.wantMessage("x"); len(got.Properties.User) != 1 {
			t.Error("a message lost its user property")
		}
		c.raw([]byte("\xc1\x00"))
		if got := want[*packet.Disconnect](c); got.Properties.ReasonString == "" {
			t.Error("DISCONNECT without a reason")
		}
	}
}

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
		{"3.1.0-1", 0, []string{"\xc0\x00", "\xe0\x00", rawPacket(0x30, "\x00\x01a\x00"), rawPacket(0x82, "\x00\x01\x00\x00\x01a\x00"), "\xf0\x00"}},
		{"3.1.2-1", unsupported, []string{
			rawPacket(0x10, "\x00\x04mqtt\x05\x02\x00\x00\x00\x00\x01c"), rawPacket(0x10, "\x00\x03MQT\x05\x02\x00\x00\x00\x00\x01c"),
		}},
		{"3.1.2-2", unsupported, []string{
			rawPacket(0x10, "\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01c"),
			rawPacket(0x10, "\x00\x04MQTT\xff\x02\x00\x00\x00\x00\x01c"),
		}},
		{"3.1.2-3", malformed, []string{rawPacket(0x10, connect5+"\x03\x00\x00\x00\x00\x01c")}},
		{"3.1.2-9", malformed, []string{
			rawPacket(0x10, connect5+"\x06\x00\x00\x00\x00\x01c"),
			rawPacket(0x10, connect5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01w"),
		}},
		{"3.1.2-11", malformed, []string{rawPacket(0x10, connect5+"\x0a\x00\x00\x00\x00\x01c")}},
		{"3.1.2-12", malformed, []string{rawPacket(0x10, connect5+"\x1e\x00\x00\x00\x00\x01c\x00\x00\x01w\x00\x00")}},
		{"3.1.2-13", malformed, []string{rawPacket(0x10, connect5+"\x22\x00\x00\x00\x00\x01c")}},
		{"3.1.2-16", malformed, []string{rawPacket(0x10, connect5+"\x02\x00\x00\x00\x00\x01c\x00\x01u")}},
		{"3.1.2-17", malformed, []string{rawPacket(0x10, connect5+"\x82\x00\x00\x00\x00\x01c")}},
		{"3.1.2-18", malformed, []string{rawPacket(0x10, connect5+"\x82\x00\x00\x00\x00\x01c\x00\x01u\x00\x01p")}},
		{"3.1.2-19", malformed, []string{rawPacket(0x10, connect5+"\x42\x00\x00\x00\x00\x01c")}},
		{"3.1.3-1 3.1.3-3", malformed, []string{
			rawPacket(0x10, connect5+"\x02\x00\x00\x00"),
			rawPacket(0x10, connect5+"\x86\x00\x00\x00\x00\x01c\x00\x01u\x00\x00\x01w\x00\x00"),
		}},
		{"3.1.3-4", malformed, []string{rawPacket(0x10, connect5+"\x02\x00\x00\x00\x00\x01\xff")}},
		{"3.1.3-11", malformed, []string{rawPacket(0x10, connect5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01\xff\x00\x00")}},
		{"3.1.3-12", malformed, []string{rawPacket(0x10, connect5+"\x82\x00\x00\x00\x00\x01c\x00\x01\xff")}},
		{"3.1.4-1", malformed, []string{
			rawPacket(0x10, connect5+"\x02\x00\x00\x00\x00\x01c\x00"),                 // goes on
			rawPacket(0x10, connect5+"\x02\x00\x00\x02\x17\x05\x00\x01c"),             // 3.1.2.11.7: 0 or 1
			rawPacket(0x10, connect5+"\x02\x00\x00\x03\x22\x00\x01\x01\x00\x00\x01c"), // a property length too short
		}},
	} {
		t.Run(tt.statement, func(t *testing.T) {
			for _, bytes := range tt.bytes {
				runWithServer(t, nil, func(t *testing.T, srv *testServer) { wantRefusedConnect(t, srv, bytes, tt.code) })
			}
		})
	}
	t.Run("3.1.2-2 3.1.1", func(t *testing.T) {
		for _, head := range []string{"\x00\x06MQIsdp\x03", "\x00\x04MQTT\x03"} {
			runWithServer(t, nil, func(t *testing.T, srv *testServer) {
				c := srv.dial(packet.V311, "old")
				c.sendBytes([]byte(rawPacket(0x10, head+"\x02\x00\x00\x00\x01c")))
				if got := wantPacket[*packet.Connack](c); got.ReasonCode != packet.UnsupportedProtocolVersion || !c.closedByServer() {
					t.Errorf("got %s", describePacket(got))
				}
			})
		}
	})
	t.Run("3.1.3-8", func(t *testing.T) { // and 3.1.1 [3.1.3-8]
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			c := srv.dial(packet.V311, "old")
			c.sendBytes([]byte(rawPacket(0x10, connect311+"\x00\x00\x00\x00\x00")))
			if got := wantPacket[*packet.Connack](c); got.ReasonCode != packet.ClientIdentifierNotValid || !c.closedByServer() {
				t.Errorf("got %s", describePacket(got))
			}
		})
	})
}

// wantRefusedConnect sends bytes as the first of a connection, and a message and
// PINGREQ in the same segment. It wants CONNACK with the code, unless that is zero,
// and the end of the connection.
func wantRefusedConnect(t *testing.T, srv *testServer, bytes string, code packet.ReasonCode) {
	t.Helper()
	watcher := srv.connect(packet.V5, "watcher")
	watcher.subscribe(subscribeTo("#", 0))
	c := srv.dial(packet.V5, "broken")
	_, _ = c.nc.Write([]byte(bytes + rawPacket(0x30, "\x00\x01a\x00") + "\xc0\x00"))
	if code != 0 {
		got := wantPacket[*packet.Connack](c)
		malformedToo := got.ReasonCode == packet.ProtocolError && code == packet.MalformedPacket
		if got.ReasonCode != code && !malformedToo {
			t.Errorf("% x: got %s, want %s", bytes, describePacket(got), code)
		}
		if got.SessionPresent {
			t.Error("session present in a refusal")
		}
	}
	if c.wantNothing(); !c.closedByServer() {
		t.Errorf("% x: the connection stays open", bytes)
	}
	watcher.wantNothing()
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
	prove5With(t, "3.2.0-1", func(o *Options) { o.Store = late }, func(t *testing.T, srv *testServer) { testConnackWaitsForStore(t, srv, late) })
	prove(t, "3.1.4-6", testMessageBehindRefusedConnect)
}

// testCleanStart wants a clean start to end the session that the client left:
// neither its message nor its subscription is there any more.
func testCleanStart(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "c", keepSession(v))
	c.subscribe(subscribeTo("a", 1))
	c.dropConnection()
	pub := srv.connect(v, "pub")
	pub.publishAndWait("a", "waiting", 1)
	c, ack := srv.connectAck(v, "c", keepSession(v), func(p *packet.Connect) { p.CleanStart = true })
	if ack.SessionPresent {
		t.Error("session present after a clean start")
	}
	pub.publishAndWait("a", "live", 1)
	c.wantNothing() // neither the message nor the subscription is left
	if got := srv.counters().Store.Queued; got != 0 {
		t.Errorf("%d messages stay in queues", got)
	}
}

// testResumedSession wants a session to go on where it was, for its client
// identifier alone: with the open handshake, the message that waited and the
// subscription.
func testResumedSession(t *testing.T, srv *testServer, v packet.Version) {
	sub, ack := srv.connectAck(v, "sub", keepSession(v), resumeSession)
	if ack.SessionPresent {
		t.Error("a session that never was is present")
	}
	sub.subscribe(subscribeTo("a", 2))
	pub := srv.connect(v, "pub")
	pub.publishAndWait("a", "0", 2)
	id := sub.wantMessage("0").PacketID
	sub.dropConnection()
	pub.publishAndWait("a", "1", 1)
	if _, ack := srv.connectAck(v, "other", keepSession(v), resumeSession); ack.SessionPresent {
		t.Error("another client identifier has the session")
	}
	sub, ack = srv.connectAck(v, "sub", resumeSession, keepSession(v))
	if !ack.SessionPresent {
		t.Error("the session is not present")
	}
	if p := sub.wantMessage("0"); p.PacketID != id { // the handshake that was open,
		t.Errorf("packet identifier %d, was %d", p.PacketID, id)
	} else {
		sub.acknowledge(p)
	}
	sub.acknowledge(sub.wantMessage("1")) // what waited,
	pub.publishAndWait("a", "2", 1)       // and the subscription
	sub.acknowledge(sub.wantMessage("2"))
}

// testPasswordWithoutUserName connects with a password alone, which MQTT 5 allows
// and 3.1.1 does not.
func testPasswordWithoutUserName(t *testing.T, srv *testServer) {
	srv.connect(packet.V5, "c", func(p *packet.Connect) { p.PasswordFlag, p.Password = true, []byte("p") })
}

// testKeepAlive wants a silent client to be closed after one and a half times its
// Keep Alive, not a millisecond earlier, and never if that is zero.
func testKeepAlive(t *testing.T, srv *testServer, v packet.Version) {
	watcher := srv.connect(v, "watcher")
	watcher.subscribe(subscribeTo("w", 0))
	for _, seconds := range []uint16{1, 60, 65535} {
		c := srv.connect(v, "c", keepAlive(seconds), withWill("w", "gone", 0))
		limit := time.Duration(seconds) * 1500 * time.Millisecond
		advanceTime(limit - time.Millisecond)
		if c.closedByServer() {
			t.Fatalf("keep alive %d s: closed too early", seconds)
		}
		watcher.wantNothing()
		advanceTime(time.Millisecond)
		if v == packet.V5 {
			if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.KeepAliveTimeout {
				t.Errorf("got %s", describePacket(got))
			}
		}
		if !c.closedByServer() {
			t.Errorf("keep alive %d s: open after %v", seconds, limit)
		}
		watcher.wantMessage("gone")
	}
	c := srv.connect(v, "c", keepAlive(0))
	advanceTime(20 * time.Hour)
	c.send(&packet.Pingreq{})
	wantPacket[*packet.Pingresp](c)
}

// testNoTopicAliasToClient wants no Topic Alias in a PUBLISH to a client that
// allows none, although the publisher uses one.
func testNoTopicAliasToClient(t *testing.T, srv *testServer) {
	for i, change := range []func(*packet.Connect){
		func(*packet.Connect) {},
		func(p *packet.Connect) { p.Properties.SetTopicAliasMaximum(0) },
	} {
		sub, pub := srv.connect(packet.V5, fmt.Sprint("sub", i), change), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("a", 1))
		for i := range 100 {
			m := publishPacket("a", "x", byte(i%2), 1)
			m.Properties.SetTopicAlias(1) // the publisher's
			pub.send(m)
			pub.nextPacket()
			p := sub.wantMessage("x")
			if p.Properties.Has(packet.PropTopicAlias) || string(p.TopicName) != "a" {
				t.Errorf("alias %d, topic %q", p.Properties.TopicAlias, p.TopicName)
			}
			sub.acknowledge(p)
		}
	}
}

// testNoResponseInformation wants no Response Information for a client that did
// not ask for it.
func testNoResponseInformation(t *testing.T, srv *testServer) {
	for i, change := range []func(*packet.Connect){
		func(*packet.Connect) {},
		func(p *packet.Connect) { p.Properties.SetRequestResponseInformation(0) },
	} {
		if _, ack := srv.connectAck(packet.V5, fmt.Sprint("c", i), change); ack.Properties.Has(packet.PropResponseInformation) {
			t.Errorf("response information %q", ack.Properties.ResponseInformation)
		}
	}
}

// testServerKeepAlive wants the broker's Keep Alive to be announced and to bind,
// if it is shorter than the client's.
func testServerKeepAlive(t *testing.T, srv *testServer) {
	for asked, told := range map[uint16]uint16{0: 60, 59: 0, 60: 0, 61: 60, 65535: 60} {
		c, ack := srv.connectAck(packet.V5, "c", keepAlive(asked))
		if got := ack.Properties.ServerKeepAlive; got != told || ack.Properties.Has(packet.PropServerKeepAlive) != (told > 0) {
			t.Errorf("asked for %d s, told %d s, want %d", asked, got, told)
		}
		limit := time.Duration(cmp.Or(told, asked)) * 1500 * time.Millisecond
		advanceTime(limit - time.Millisecond)
		if c.closedByServer() {
			t.Errorf("asked for %d s: closed too early", asked)
		}
		advanceTime(time.Millisecond)
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.KeepAliveTimeout || !c.closedByServer() {
			t.Errorf("asked for %d s: %s", asked, describePacket(got))
		}
	}
	old := srv.connect(packet.V311, "old", keepAlive(100)) // who cannot be told
	advanceTime(149 * time.Second)
	old.send(&packet.Pingreq{})
	wantPacket[*packet.Pingresp](old)
}

// testClientIdentifiers connects with the client identifiers that a server must
// take, and with one that it may.
func testClientIdentifiers(t *testing.T, srv *testServer, v packet.Version) {
	for _, id := range []string{"0", "abcdefghijklmnopqrstuvw", "ABCDEFGHIJKLMNOPQRSTUVW", "xyzXYZ0123456789"} {
		srv.connect(v, id).disconnect()
	}
	srv.connect(v, strings.Repeat("é/ #+", 100)).disconnect() // more than it has to take
	if got := srv.counters().Sessions; got != 0 {
		t.Errorf("%d sessions stay", got)
	}
}

// testAssignedClientIdentifier wants each client without an identifier to be
// given one of its own, which then names its session.
func testAssignedClientIdentifier(t *testing.T, srv *testServer) {
	seen := map[string]bool{}
	for range 100 {
		c, ack := srv.connectAck(packet.V5, "", sessionExpiry(100))
		id := ack.Properties.AssignedClientIdentifier
		if id == "" || seen[id] {
			t.Fatalf("assigned %q, again or nothing", id)
		}
		seen[id] = true
		c.dropConnection()
		again := srv.dial(packet.V5, "x")
		again.send(connectPacket(id, resumeSession, sessionExpiry(100)))
		if got := wantPacket[*packet.Connack](again); !got.SessionPresent || got.Properties.Has(packet.PropAssignedClientIdentifier) {
			t.Error("the identifier that was assigned does not name the session")
		}
	}
}

// testRefusedConnect wants a client without rights to be refused and to leave no
// session.
func testRefusedConnect(t *testing.T, srv *testServer, v packet.Version) {
	srv.denied.change(func(d *denyList) { d.connect = []string{"nox"}; d.will = []string{"no/will"} })
	for _, tt := range []struct {
		id     string
		change func(*packet.Connect)
	}{{"no", keepSession(v)}, {"c", withWill("no/will", "x", 0)}} {
		c, ack := srv.connectAck(v, tt.id, tt.change)
		if ack.ReasonCode != packet.NotAuthorized || ack.SessionPresent || !c.closedByServer() {
			t.Errorf("got %s, open %v", describePacket(ack), !c.closedByServer())
		}
	}
	if got := srv.counters().Sessions; got != 0 {
		t.Errorf("%d sessions of those who were refused", got)
	}
}

// testTakenOverConnection wants a second connection of a client to close the
// first.
func testTakenOverConnection(t *testing.T, srv *testServer, v packet.Version) {
	for _, clean := range []bool{false, true} {
		old := srv.connect(v, "c", keepSession(v))
		c := srv.connect(v, "c", keepSession(v), func(p *packet.Connect) { p.CleanStart = clean })
		if v == packet.V5 {
			if got := wantPacket[*packet.Disconnect](old); got.ReasonCode != packet.SessionTakenOver {
				t.Errorf("got %s", describePacket(got))
			}
		}
		if old.wantNothing(); !old.closedByServer() || c.closedByServer() {
			t.Error("want the old connection closed, the new one open")
		}
		c.disconnect()
	}
}

// testConnackComesFirst wants one CONNACK, and before all else, although messages
// wait and PINGREQ came with CONNECT.
func testConnackComesFirst(t *testing.T, srv *testServer, v packet.Version) {
	sub := srv.connect(v, "sub", keepSession(v))
	sub.subscribe(subscribeTo("a", 1))
	sub.dropConnection()
	pub := srv.connect(v, "pub")
	for i := range 10 {
		pub.publishAndWait("a", fmt.Sprint(i), 1)
	}
	sub = srv.dial(v, "subx")
	connect := connectPacket("sub", resumeSession, keepSession(v)).Append(nil, v)
	sub.sendBytes(append(connect, "\xc0\x00"...)) // CONNECT and PINGREQ at once
	if got := wantPacket[*packet.Connack](sub); got.ReasonCode != packet.Success {
		t.Errorf("got %s", describePacket(got))
	}
	for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
		if p.Type() == packet.TypeConnack {
			t.Error("a second CONNACK")
		}
	}
}

// testMessageBehindRefusedConnect wants a message in the same segment as a
// refused CONNECT to go nowhere.
func testMessageBehindRefusedConnect(t *testing.T, srv *testServer, v packet.Version) {
	srv.denied.change(func(d *denyList) { d.connect = []string{"nox"} })
	watcher := srv.connect(v, "watcher")
	watcher.subscribe(subscribeTo("#", 0))
	c := srv.dial(v, "nox")
	c.sendBytes(publishPacket("a", "x", 0, 0).Append(connectPacket("no").Append(nil, v), v))
	if got := wantPacket[*packet.Connack](c); got.ReasonCode != packet.NotAuthorized || !c.closedByServer() {
		t.Errorf("got %s", describePacket(got))
	}
	watcher.wantNothing()
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
func testConnackWaitsForStore(_ *testing.T, srv *testServer, late *lateStore) {
	pub := srv.connect(packet.V5, "pub")
	sub := srv.dial(packet.V5, "subx")
	sub.send(connectPacket("sub", resumeSession, sessionExpiry(1000)))
	pub.publish("a", "early", 0, 0)
	pub.publish("b", "early", 0, 0)
	sub.wantNothing() // the store did not answer yet
	defer late.commitUntilStopped(srv)()
	wantPacket[*packet.Connack](sub)
	pub.publish("a", "1", 0, 0)
	sub.wantMessage("1")
	pub.publish("b", "2", 0, 0)
	sub.wantMessage("2")
}

// testMaximumPacketSize has clients that take packets of limited size only: answers,
// messages, and messages that were sent before the limit was known.
func testMaximumPacketSize(t *testing.T, srv *testServer) {
	testAnswersWithinPacketSize(t, srv)
	testMessagesWithinPacketSize(t, srv)
	testRedeliveryWithinPacketSize(t, srv)
}

// testAnswersWithinPacketSize has every type of packet that can be larger than CONNACK
// sent to a client that takes exactly its size, and to one that takes a byte less.
func testAnswersWithinPacketSize(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.publish, d.subscribe = []string{"secret"}, []string{"secret"} })
	filters := make([]string, 50)
	subs := make([]packet.Subscription, len(filters))
	for i := range filters {
		filters[i] = fmt.Sprint("f/", i)
		subs[i] = subscribeTo(filters[i], 0)
	}
	for _, tt := range []struct {
		name    string
		ask     func(c *client)
		shrinks bool // its explanation may be left out
	}{
		{"PUBACK", func(c *client) { c.publish("secret", "x", 1, 1) }, true},
		{"PUBREC", func(c *client) { c.publish("secret", "x", 2, 1) }, true},
		{"SUBACK with a reason", func(c *client) {
			c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("secret", 0)}})
		}, true},
		{"DISCONNECT", func(c *client) { c.sendBytes([]byte("\xc1\x00")) }, true},
		{"SUBACK", func(c *client) { c.send(&packet.Subscribe{PacketID: 1, Subscriptions: subs}) }, false},
		{"UNSUBACK", func(c *client) { c.send(&packet.Unsubscribe{PacketID: 1, TopicFilters: filters}) }, false},
	} {
		answer := func(change ...func(*packet.Connect)) packet.Packet {
			c := srv.connect(packet.V5, "c", change...)
			defer c.disconnect()
			tt.ask(c)
			return c.nextPacket()
		}
		whole := answer()
		size := whole.Size(packet.V5)
		if got := answer(maxPacketSize(size)); got.Size(packet.V5) != size {
			t.Errorf("%s of %d bytes within as many: %s of %d", tt.name, size, describePacket(got), got.Size(packet.V5))
		}
		less := answer(maxPacketSize(size - 1))
		switch end, ended := less.(*packet.Disconnect); {
		case less == nil || less.Size(packet.V5) >= size:
			t.Errorf("%s of %d bytes within one less: %s", tt.name, size, describePacket(less))
		case tt.shrinks && less.Type() != whole.Type():
			t.Errorf("%s: got %s", tt.name, describePacket(less))
		case !tt.shrinks && (!ended || end.ReasonCode != packet.PacketTooLarge):
			t.Errorf("%s that cannot be told: %s", tt.name, describePacket(less))
		}
	}
}

// testMessagesWithinPacketSize wants the messages that fit and no others, at once
// and through a session's queue.
func testMessagesWithinPacketSize(_ *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	fits := publishPacket("a", strings.Repeat("x", 20), 1, 1)
	for _, session := range []uint32{0, 100} {
		for qos := range byte(3) {
			for _, late := range []bool{false, true} { // through the queue
				n := fits.Size(packet.V5)
				if qos == 0 {
					n -= 2
				}
				sub := srv.connect(packet.V5, "sub", maxPacketSize(n), sessionExpiry(session), receiveMaximum(1))
				sub.subscribe(subscribeTo("a", qos))
				if late && session > 0 {
					sub.dropConnection()
				}
				for _, payload := range []string{strings.Repeat("y", 21), strings.Repeat("x", 20), strings.Repeat("z", 21), "z"} {
					pub.publishAndWait("a", payload, qos)
				}
				if late && session > 0 {
					sub = srv.connect(packet.V5, "sub", maxPacketSize(n), sessionExpiry(session), resumeSession)
				}
				if qos > 0 || !late || session == 0 { // QoS 0 does not wait
					sub.acknowledge(sub.wantMessage(string(fits.Payload)))
					sub.acknowledge(sub.wantMessage("z"))
				}
				sub.wantNothing()
				p := &packet.Disconnect{}
				p.Properties.SetSessionExpiryInterval(0)
				sub.send(p)
				sub.dropConnection()
			}
		}
	}
}

// testRedeliveryWithinPacketSize wants a message that was sent once, and now is too
// large for the client, to be dropped and the next to arrive.
func testRedeliveryWithinPacketSize(t *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	for qos := byte(1); qos < 3; qos++ {
		sub := srv.connect(packet.V5, "sub", sessionExpiry(100))
		sub.subscribe(subscribeTo("a", 2))
		pub.publishAndWait("a", strings.Repeat("x", 100), qos)
		sub.wantMessage(strings.Repeat("x", 100))
		sub.dropConnection()
		sub = srv.connect(packet.V5, "sub", maxPacketSize(50), sessionExpiry(100), resumeSession)
		pub.publishAndWait("a", "z", qos)
		sub.acknowledge(sub.wantMessage("z"))
		sub.wantNothing()
		sub.dropConnection()
		srv.connect(packet.V5, "sub").disconnect()
	}
	if got := srv.counters().Store.Queued; got != 0 {
		t.Errorf("%d messages stay in queues", got)
	}
}

// testProblemInformation wants no explanation but in CONNACK, DISCONNECT and
// PUBLISH if the client asked for none.
func testProblemInformation(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.publish, d.subscribe = []string{"secret"}, []string{"secret"} })
	for _, asked := range []bool{true, false} {
		c := srv.connect(packet.V5, fmt.Sprint("c", asked), func(p *packet.Connect) {
			if !asked {
				p.Properties.SetRequestProblemInformation(0)
			}
		})
		c.subscribe(subscribeTo("a", 0))
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
		ack := wantPacket[*packet.Puback](c)
		explained(ack, &ack.Properties, ack.ReasonCode)
		c.publish("secret", "x", 2, 1)
		rec := wantPacket[*packet.Pubrec](c)
		explained(rec, &rec.Properties, rec.ReasonCode)
		c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("secret", 0)}})
		sub := wantPacket[*packet.Suback](c)
		explained(sub, &sub.Properties, sub.ReasonCodes[0])
		p := publishPacket("a", "x", 0, 0)
		p.Properties.User = []packet.UserProperty{{Key: "k", Value: "v"}}
		c.send(p)
		if got := c.wantMessage("x"); len(got.Properties.User) != 1 {
			t.Error("a message lost its user property")
		}
		c.sendBytes([]byte("\xc1\x00"))
		if got := wantPacket[*packet.Disconnect](c); got.Properties.ReasonString == "" {
			t.Error("DISCONNECT without a reason")
		}
	}
}

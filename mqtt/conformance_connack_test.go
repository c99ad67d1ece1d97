package mqtt

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestConnackStatements(t *testing.T) {
	prove(t, "3.2.2-6 3.2.2-7 3.2.2-8", testNoSessionInRefusal)
	prove(t, "3.2.2-1", testConnackFlags)
	prove5(t, "3.2.2-9 3.2.2-10 3.2.2-12", testFeaturesOfConnack)
	prove5With(t, "3.2.2-15", func(o *Options) { o.PacketSize = 100 }, testServerPacketSize)
	prove5(t, "3.2.2-17 3.2.2-18", testTopicAliasMaximum)
	prove5(t, "3.2.2-19 3.2.2-20", testConnackReasonString)
	prove5(t, "3.1.2-24 CONNACK", testConnackWithinPacketSize)
}

// testNoSessionInRefusal wants CONNACK not to tell a refused client of its
// session, and the connection to close.
func testNoSessionInRefusal(t *testing.T, srv *testServer, v packet.Version) {
	c := srv.connect(v, "no", keepSession(v)) // leaves a session
	c.dropConnection()
	srv.denied.change(func(d *denyList) { d.connect = []string{"nox"} })
	c, ack := srv.connectAck(v, "no", resumeSession, keepSession(v))
	if ack.ReasonCode != packet.NotAuthorized || ack.SessionPresent || !c.closedByServer() {
		t.Errorf("got %s, session present %v, open %v", describePacket(ack), ack.SessionPresent, !c.closedByServer())
	}
}

// testConnackFlags wants the reserved bits of CONNACK's flags to be zero.
func testConnackFlags(t *testing.T, srv *testServer, v packet.Version) {
	for _, clean := range []bool{true, false, false} {
		nc, err := srv.listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		connect := connectPacket("c", keepSession(v), func(p *packet.Connect) { p.CleanStart = clean })
		head := make([]byte, 3) // its length is of one byte
		if _, err := nc.Write(connect.Append([]byte("cx\n"), v)); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(nc, head); err != nil || head[0] != 0x20 || head[2]&0xFE != 0 {
			t.Errorf("CONNACK begins with % x: %v", head, err)
		}
		nc.Close()
	}
}

// testFeaturesOfConnack wants no restriction announced in CONNACK, and the broker
// to do all of it.
func testFeaturesOfConnack(t *testing.T, srv *testServer) {
	c, ack := srv.connectAck(packet.V5, "c", withWill("w", "x", 0), func(p *packet.Connect) { p.Will.QoS, p.Will.Retain = 2, true })
	for _, id := range []packet.PropertyID{
		packet.PropMaximumQoS, packet.PropRetainAvailable, packet.PropWildcardSubscriptionAvailable,
		packet.PropSubscriptionIdentifierAvailable, packet.PropSharedSubscriptionAvailable,
	} { // what is not announced is there
		if ack.Properties.Has(id) {
			t.Errorf("CONNACK has %s", id)
		}
	}
	got := c.subscribe(subscribeTo("a/+", 0), subscribeTo("b", 1), subscribeTo("c", 2), subscribeTo("$share/g/d", 2))
	if !slices.Equal(got, []packet.ReasonCode{0, 1, 2, 2}) {
		t.Errorf("granted %v", got)
	}
}

// testTopicAliasMaximum wants the highest announced alias to work and the next to
// be refused.
func testTopicAliasMaximum(t *testing.T, srv *testServer) {
	c, ack := srv.connectAck(packet.V5, "c")
	highest := ack.Properties.TopicAliasMaximum
	p := publishPacket("a", "x", 0, 0)
	p.Properties.SetTopicAlias(highest)
	c.send(p)
	c.wantNothing()
	p.Properties.SetTopicAlias(highest + 1)
	c.send(p)
	if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.TopicAliasInvalid || !c.closedByServer() {
		t.Errorf("got %s", describePacket(got))
	}
}

// testConnackReasonString wants an explanation in CONNACK if it has room for it.
func testConnackReasonString(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.will = []string{"no/will"} })
	for limit, wantReason := range map[int]bool{5: false, 30: false, 1000: true} {
		c, ack := srv.connectAck(packet.V5, "c", withWill("no/will", "x", 0), maxPacketSize(limit))
		if ack.Size(packet.V5) > limit || ack.ReasonCode != packet.NotAuthorized || !c.closedByServer() {
			t.Errorf("%d bytes within %d: %s", ack.Size(packet.V5), limit, describePacket(ack))
		}
		if got := ack.Properties.Has(packet.PropReasonString); got != wantReason {
			t.Errorf("within %d bytes: reason string %v", limit, got)
		}
	}
}

// testConnackWithinPacketSize wants a client that cannot take CONNACK by a byte
// not to be served.
func testConnackWithinPacketSize(t *testing.T, srv *testServer) {
	_, ack := srv.connectAck(packet.V5, "c")
	size := ack.Size(packet.V5)
	for less := range 2 {
		c := srv.dial(packet.V5, "cx")
		c.send(connectPacket("c", maxPacketSize(size-less)))
		got, _ := c.nextPacket().(*packet.Connack)
		if less == 0 && (got == nil || got.ReasonCode != packet.Success) || less == 1 && got != nil && got.ReasonCode == packet.Success {
			t.Errorf("CONNACK of %d bytes within %d: %v", size, size-less, got)
		}
		if less == 1 && !c.closedByServer() {
			t.Error("a client that cannot be welcomed is served")
		}
	}
}

// testServerPacketSize sends packets of every type that are as large as CONNACK
// allows and one byte larger.
func testServerPacketSize(t *testing.T, srv *testServer) {
	pad := func(size int, make func(pad string) packet.Packet) packet.Packet {
		for n := 0; ; n++ {
			if p := make(strings.Repeat("x", n)); p.Size(packet.V5) >= size {
				return p
			}
		}
	}
	reason := func(pad string) (p packet.Properties) {
		p.SetReasonString(pad)
		return p
	}
	for name, grow := range map[string]func(pad string) packet.Packet{
		"PUBLISH": func(pad string) packet.Packet { return publishPacket("a", pad, 0, 0) },
		"PUBACK":  func(pad string) packet.Packet { return &packet.Puback{PacketID: 1, Properties: reason(pad)} },
		"PUBREC":  func(pad string) packet.Packet { return &packet.Pubrec{PacketID: 1, Properties: reason(pad)} },
		"PUBREL":  func(pad string) packet.Packet { return &packet.Pubrel{PacketID: 1, Properties: reason(pad)} },
		"PUBCOMP": func(pad string) packet.Packet { return &packet.Pubcomp{PacketID: 1, Properties: reason(pad)} },
		"SUBSCRIBE": func(pad string) packet.Packet {
			return &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("a"+pad, 0)}}
		},
		"UNSUBSCRIBE": func(pad string) packet.Packet {
			return &packet.Unsubscribe{PacketID: 1, TopicFilters: []string{"a" + pad}}
		},
		"DISCONNECT": func(pad string) packet.Packet {
			return &packet.Disconnect{ReasonCode: packet.DisconnectWithWillMessage, Properties: reason(pad)}
		},
	} {
		c := srv.connect(packet.V5, "c")
		c.send(pad(100, grow))
		if got, bad := c.nextPacket().(*packet.Disconnect); bad {
			t.Errorf("%s of 100 bytes: %s", name, describePacket(got))
		}
		c = srv.connect(packet.V5, "c")
		c.send(pad(101, grow))
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.PacketTooLarge || !c.closedByServer() {
			t.Errorf("%s of 101 bytes: %s", name, describePacket(got))
		}
	}
	for extra := range 2 {
		c := srv.dial(packet.V5, "cx")
		c.send(pad(100+extra, func(pad string) packet.Packet { return connectPacket("c" + pad) }))
		if got, _ := c.nextPacket().(*packet.Connack); (got != nil && got.ReasonCode == packet.Success) != (extra == 0) {
			t.Errorf("CONNECT of %d bytes: %v", 100+extra, got)
		}
	}
}

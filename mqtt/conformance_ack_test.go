package mqtt

import (
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestAckStatements(t *testing.T) {
	prove5(t, "3.4.2-1 3.5.2-1 3.7.2-1", testReasonCodesOfPublish)
	prove5(t, "3.6.2-1", testReasonCodeOfPubrel)
	prove5(t, "3.4.2-2 3.5.2-2 3.9.2-1 3.14.2-3", testReasonStringWithinPacketSize)
}

// testReasonCodesOfPublish wants PUBACK, PUBREC and PUBCOMP to tell what became
// of the message.
func testReasonCodesOfPublish(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.publish = []string{"secret"} })
	sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
	sub.subscribe(subscribeTo("a", 0))
	for topic, code := range map[string]packet.ReasonCode{
		"a": packet.Success, "nobody": packet.NoMatchingSubscribers, "secret": packet.NotAuthorized, "$SYS/x": packet.NotAuthorized,
	} {
		for qos := byte(1); qos < 3; qos++ {
			if got := pub.publishAndWait(topic, "x", qos); got != code {
				t.Errorf("%s at QoS %d: %s, want %s", topic, qos, got, code)
			}
		}
	}
	pub.send(&packet.Pubrel{PacketID: 99})
	if got := wantPacket[*packet.Pubcomp](pub); got.ReasonCode != packet.PacketIdentifierNotFound {
		t.Errorf("PUBCOMP: %s", got.ReasonCode)
	}
}

// testReasonCodeOfPubrel wants PUBREL to tell that it knows no such identifier.
func testReasonCodeOfPubrel(t *testing.T, srv *testServer) {
	c := srv.connect(packet.V5, "c")
	c.send(&packet.Pubrec{PacketID: 99})
	if got := wantPacket[*packet.Pubrel](c); got.ReasonCode != packet.PacketIdentifierNotFound {
		t.Errorf("PUBREL: %s", got.ReasonCode)
	}
}

// testReasonStringWithinPacketSize wants an explanation in each answer that has
// room for it, and none in one that would become too large.
func testReasonStringWithinPacketSize(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.publish, d.subscribe = []string{"secret"}, []string{"secret"} })
	for limit, explained := range map[int]bool{25: false, 1000: true} {
		c := srv.connect(packet.V5, "c", maxPacketSize(limit))
		check := func(p packet.Packet, props *packet.Properties, code packet.ReasonCode) {
			t.Helper()
			if props.Has(packet.PropReasonString) != explained || p.Size(packet.V5) > limit || !code.Failed() {
				t.Errorf("%s of %d bytes within %d: %s %q", p.Type(), p.Size(packet.V5), limit, code, props.ReasonString)
			}
		}
		c.publish("secret", "x", 1, 1)
		ack := wantPacket[*packet.Puback](c)
		check(ack, &ack.Properties, ack.ReasonCode)
		c.publish("secret", "x", 2, 1)
		rec := wantPacket[*packet.Pubrec](c)
		check(rec, &rec.Properties, rec.ReasonCode)
		c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("secret", 0)}})
		sub := wantPacket[*packet.Suback](c)
		check(sub, &sub.Properties, sub.ReasonCodes[0])
		c.sendBytes([]byte("\xc1\x00"))
		end := wantPacket[*packet.Disconnect](c)
		check(end, &end.Properties, end.ReasonCode)
	}
}

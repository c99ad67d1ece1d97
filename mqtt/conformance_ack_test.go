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
func testReasonCodesOfPublish(t *testing.T, w *world) {
	w.rules.set(func(r *rules) { r.publish = []string{"secret"} })
	sub, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "pub")
	sub.subscribe(filter("a", 0))
	for topic, code := range map[string]packet.ReasonCode{
		"a": packet.Success, "nobody": packet.NoMatchingSubscribers, "secret": packet.NotAuthorized, "$SYS/x": packet.NotAuthorized,
	} {
		for qos := byte(1); qos < 3; qos++ {
			if got := pub.exchange(topic, "x", qos); got != code {
				t.Errorf("%s at QoS %d: %s, want %s", topic, qos, got, code)
			}
		}
	}
	pub.send(&packet.Pubrel{PacketID: 99})
	if got := want[*packet.Pubcomp](pub); got.ReasonCode != packet.PacketIdentifierNotFound {
		t.Errorf("PUBCOMP: %s", got.ReasonCode)
	}
}

// testReasonCodeOfPubrel wants PUBREL to tell that it knows no such identifier.
func testReasonCodeOfPubrel(t *testing.T, w *world) {
	c := w.connect(packet.V5, "c")
	c.send(&packet.Pubrec{PacketID: 99})
	if got := want[*packet.Pubrel](c); got.ReasonCode != packet.PacketIdentifierNotFound {
		t.Errorf("PUBREL: %s", got.ReasonCode)
	}
}

// testReasonStringWithinPacketSize wants an explanation in each answer that has
// room for it, and none in one that would become too large.
func testReasonStringWithinPacketSize(t *testing.T, w *world) {
	w.rules.set(func(r *rules) { r.publish, r.subscribe = []string{"secret"}, []string{"secret"} })
	for limit, explained := range map[int]bool{25: false, 1000: true} {
		c := w.connect(packet.V5, "c", maxPacketSize(limit))
		check := func(p packet.Packet, props *packet.Properties, code packet.ReasonCode) {
			t.Helper()
			if props.Has(packet.PropReasonString) != explained || p.Size(packet.V5) > limit || !code.Failed() {
				t.Errorf("%s of %d bytes within %d: %s %q", p.Type(), p.Size(packet.V5), limit, code, props.ReasonString)
			}
		}
		c.publish("secret", "x", 1, 1)
		ack := want[*packet.Puback](c)
		check(ack, &ack.Properties, ack.ReasonCode)
		c.publish("secret", "x", 2, 1)
		rec := want[*packet.Pubrec](c)
		check(rec, &rec.Properties, rec.ReasonCode)
		c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{filter("secret", 0)}})
		sub := want[*packet.Suback](c)
		check(sub, &sub.Properties, sub.ReasonCodes[0])
		c.raw([]byte("\xc1\x00"))
		end := want[*packet.Disconnect](c)
		check(end, &end.Properties, end.ReasonCode)
	}
}

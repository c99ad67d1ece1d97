package mqtt

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// FuzzClient feeds whatever a client may send after its CONNECT to a session
// with subscriptions and messages in flight. Nothing of it may panic.
func FuzzClient(f *testing.F) {
	seed := subscribePacket(packet.V5, "$share/g/a/+", 2)
	for qos := range byte(3) {
		p := publishPacket("a/b", "x", qos, uint16(qos))
		p.Retain = qos == 1
		seed = p.Append(seed, packet.V5)
	}
	seed = (&packet.Puback{PacketID: 1}).Append(seed, packet.V5)
	seed = (&packet.Pubrec{PacketID: 2}).Append(seed, packet.V5)
	seed = (&packet.Pubcomp{PacketID: 2}).Append(seed, packet.V5)
	seed = (&packet.Pubrel{PacketID: 2}).Append(seed, packet.V5)
	seed = (&packet.Unsubscribe{PacketID: 3, TopicFilters: []string{"a/+"}}).Append(seed, packet.V5)
	f.Add(seed, true)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	f.Add([]byte{0x82, 6, 0, 1, 0, 1, 'a', 0x30}, false)
	f.Fuzz(func(t *testing.T, b []byte, v5 bool) {
		v := packet.V311
		if v5 {
			v = packet.V5
		}
		broker := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{publish: []string{"no"}}})
		defer broker.stopTimers()
		c := newSessionConn(t, broker, v, "fuzz", 60)
		c.feed(t, subscribePacket(v, "#", 2))
		for qos := byte(1); qos < 3; qos++ {
			c.feed(t, publishPacket("a", "x", qos, uint16(qos)).Append(nil, v))
		}
		c.buf = append(b, 0) // read leaves room behind what it filled
		c.filled = len(b)
		err := c.handleBuffer(len(b))
		c.endFor(errClosed)
		c.own.detach(c, time.Now())
		broker.releaseClaim(c)
		if err == nil && c.filled > len(b) {
			t.Errorf("%d bytes left of %d", c.filled, len(b))
		}
	})
}

package mqtt

import (
	"fmt"
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// topicAliasMaximum sets CONNECT's Topic Alias Maximum.
func topicAliasMaximum(n uint16) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetTopicAliasMaximum(n) }
}

// resolveAlias returns the topic of p, with the client's table of aliases, and
// learns new ones.
func (c *client) resolveAlias(p *packet.Publish, table map[uint16]string, limit uint16) string {
	c.t.Helper()
	if !p.Properties.Has(packet.PropTopicAlias) {
		return string(p.TopicName)
	}
	alias := p.Properties.TopicAlias
	if alias == 0 || alias > limit {
		c.t.Errorf("alias %d of %d", alias, limit)
	}
	if len(p.TopicName) > 0 {
		table[alias] = string(p.TopicName)
	}
	return table[alias]
}

func TestOutboundAliases(t *testing.T) { // [MQTT-3.3.2-7] [MQTT-3.3.2-8] [MQTT-3.3.2-11] [MQTT-3.1.2-26] [MQTT-3.1.2-27]
	for _, session := range sessionKinds {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			const limit, n = 3, 60
			none, pub := srv.connect(packet.V5, "none"), srv.connect(packet.V5, "pub")
			none.subscribe(subscribeTo("#", 2))
			for range 2 { // each connection has a table of its own
				sub := srv.connect(packet.V5, "sub", topicAliasMaximum(limit), sessionExpiry(session), resumeSession)
				ask := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("#", 2)}}
				ask.Properties.SubscriptionIDs = []uint32{5}
				sub.send(ask)
				wantPacket[*packet.Suback](sub)
				table := map[uint16]string{}
				short := 0
				for i := range n {
					topic := fmt.Sprintf("site/home/pump-%d/temperature", i%5)
					pub.publishAndWait(topic, fmt.Sprint(i), byte(i%3))
					got := sub.wantMessage(fmt.Sprint(i))
					if name := sub.resolveAlias(got, table, limit); name != topic || got.QoS != byte(i%3) {
						t.Errorf("message %d on %q at QoS %d, want %q", i, name, got.QoS, topic)
					}
					if len(got.Properties.SubscriptionIDs) != 1 {
						t.Errorf("message %d lost its subscription identifier", i)
					}
					if len(got.TopicName) == 0 {
						short++
					}
					sub.acknowledge(got)
					plain := none.wantMessage(fmt.Sprint(i))
					if plain.Properties.Has(packet.PropTopicAlias) || string(plain.TopicName) != topic {
						t.Errorf("message %d has an alias for a client that takes none", i)
					}
					none.acknowledge(plain)
				}
				if want := n*limit/5 - limit; short != want {
					t.Errorf("%d messages without a topic, want %d", short, want)
				}
				sub.dropConnection()
			}
		})
	}
}

func TestAliasWithinMaximumPacketSize(t *testing.T) { // [MQTT-3.1.2-24]
	p := packet.Publish{TopicName: []byte("a/long/topic"), Payload: []byte("x")}
	size := p.Size(packet.V5)
	small := func(p *packet.Connect) { p.Properties.SetMaximumPacketSize(uint32(size)) }
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub", topicAliasMaximum(9), small)
		sub.subscribe(subscribeTo("#", 0))
		for range 3 {
			sub.publish("a/long/topic", "x", 0, 0)
			if got := sub.wantMessage("x"); got.Size(packet.V5) > size || string(got.TopicName) != "a/long/topic" {
				t.Errorf("got %+v of %d bytes", got, got.Size(packet.V5))
			}
		}
	})
}

// prepareAliases prepares a publisher and 100 receivers and returns a function
// that sends one message to all.
func prepareAliases(tb testing.TB, limit, size int) (send func(), bytesOut func() uint64) {
	b := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
	pub := newSessionConn(tb, b, packet.V5, "pub", 0)
	for i := range 100 {
		sub := newSessionConn(tb, b, packet.V5, fmt.Sprint("sub", i), 0)
		sub.out.aliases.limit = limit
		sub.feed(tb, subscribePacket(packet.V5, "site/#", 0))
	}
	p := packet.Publish{TopicName: []byte("site/home/pump-7/temperature"), Payload: make([]byte, size)}
	message := p.Append(nil, packet.V5)
	return func() { pub.feed(tb, message) }, b.count.bytesOut.Load
}

func TestAliasesDoNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("pools allocate under the race detector")
	}
	send, _ := prepareAliases(t, 8, 20)
	send()
	if got := testing.AllocsPerRun(1000, send); got != 0 {
		t.Errorf("%v allocations per message", got)
	}
}

func BenchmarkAliases(b *testing.B) {
	for _, size := range []int{20, 256} {
		for _, limit := range []int{0, 8} {
			b.Run(fmt.Sprintf("fanout=100/size=%d/aliases=%d", size, limit), func(b *testing.B) {
				send, bytesOut := prepareAliases(b, limit, size)
				b.ReportAllocs()
				n, before := 0, bytesOut()
				for b.Loop() {
					send()
					n++
				}
				b.ReportMetric(float64(bytesOut()-before)/float64(n)/100, "wire-B/delivery")
			})
		}
	}
}

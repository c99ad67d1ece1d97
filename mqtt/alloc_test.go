package mqtt

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// nowhere is a connection and a sink that takes everything.
type nowhere struct{ net.Conn }

func (nowhere) Close() error             { return nil }
func (nowhere) Try([]byte) (bool, error) { return true, nil }
func (nowhere) Hold([]byte)              {}
func (nowhere) Drain() error             { return nil }
func (nowhere) Patient() bool            { return false }

// newSessionConn returns a connection with a session and without a reader.
func newSessionConn(tb testing.TB, b *Broker, v packet.Version, id string, expiry uint32) *conn {
	tb.Helper()
	c := newConn(b, nowhere{})
	c.out.setSink(nowhere{})
	c.principal = Principal{ID: testID(id), ClientID: id}
	c.version, c.quota = v, 1000
	c.connectTimer = time.NewTimer(time.Hour)
	b.claimSession(c)
	s, _, err := b.attachSession(c, true, expiry, b.opts.Authorizer.Rights(c.principal))
	if err != nil {
		tb.Fatal(err)
	}
	c.own = s
	c.session.Store(s)
	c.ready.Store(true)
	s.pump(&c.batch)
	return c
}

// feed gives a packet to the connection as its reader would.
func (c *conn) feed(tb testing.TB, b []byte) {
	c.own.pipe.reading.Store(true)
	for len(b) > 0 {
		h, n, err := packet.ParseHeader(b)
		if err == nil {
			err = c.handle(h, b[n:n+h.Length])
		}
		if err != nil {
			tb.Fatal(err)
		}
		b = b[n+h.Length:]
	}
	c.endBatch()
}

func subscribePacket(v packet.Version, f string, qos byte) []byte {
	return (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo(f, qos)}}).Append(nil, v)
}

// prepareTraffic prepares one publisher and its subscribers and returns what sends one
// message and acknowledges it.
func prepareTraffic(tb testing.TB, v packet.Version, qos byte, fanout, size int, expiry uint32) (send func(), b *Broker) {
	b = New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
	pub := newSessionConn(tb, b, v, "pub", 0)
	var subs []*conn
	for i := range fanout {
		sub := newSessionConn(tb, b, v, fmt.Sprint("sub", i), expiry)
		sub.feed(tb, subscribePacket(v, "a/+", qos))
		subs = append(subs, sub)
	}
	message := (&packet.Publish{TopicName: []byte("a/b"), Payload: make([]byte, size), QoS: qos, PacketID: uint16(qos)}).Append(nil, v)
	acks := make([][]byte, fanout)
	return func() {
		pub.feed(tb, message)
		for i, sub := range subs {
			if qos == 0 {
				continue
			}
			sub.own.mu.Lock()
			id := sub.own.window.next
			sub.own.mu.Unlock()
			acks[i] = (&packet.Puback{PacketID: id}).Append(acks[i][:0], v)
			sub.feed(tb, acks[i])
		}
	}, b
}

func TestPublishDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("pools allocate under the race detector")
	}
	for _, v := range versions {
		for qos := range byte(2) {
			t.Run(fmt.Sprintf("%s/qos=%d", v, qos), func(t *testing.T) {
				send, b := prepareTraffic(t, v, qos, 3, 100, 0)
				send()
				if got := testing.AllocsPerRun(1000, send); got != 0 {
					t.Errorf("%v allocations per message", got)
				}
				if got := b.Counters(); got.MessagesDropped != 0 || got.MessagesSent < 3000 {
					t.Errorf("sent %d, dropped %d", got.MessagesSent, got.MessagesDropped)
				}
			})
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, expiry := range []uint32{0, 100} {
		for _, fanout := range []int{1, 100} {
			for qos := range byte(2) {
				if expiry > 0 && qos == 0 {
					continue
				}
				b.Run(fmt.Sprintf("expiry=%d/fanout=%d/qos=%d/size=64", expiry, fanout, qos), func(b *testing.B) {
					send, _ := prepareTraffic(b, packet.V5, qos, fanout, 64, expiry)
					b.ReportAllocs()
					for b.Loop() {
						send()
					}
				})
			}
		}
	}
}

func BenchmarkManyTopics(b *testing.B) {
	for _, filters := range []int{400, 25_000, 100_000} {
		b.Run(fmt.Sprintf("filters=%d", filters), func(b *testing.B) {
			br := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
			pub, sub := newSessionConn(b, br, packet.V311, "pub", 0), newSessionConn(b, br, packet.V311, "sub", 0)
			br.opts.SubscriptionsPerSession = filters + 1
			var messages [][]byte
			for i := range filters {
				f := fmt.Sprintf("site/%d/+", i)
				sub.feed(b, subscribePacket(packet.V311, f, 0))
				p := packet.Publish{TopicName: fmt.Appendf(nil, "site/%d/t", i), Payload: make([]byte, 64)}
				messages = append(messages, p.Append(nil, packet.V311))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				pub.feed(b, messages[i%len(messages)])
			}
		})
	}
}

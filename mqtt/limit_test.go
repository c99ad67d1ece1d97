package mqtt

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestPublishRate(t *testing.T) {
	for _, tt := range []struct {
		name string
		rate Rate
		size int
		want time.Duration // for 100 messages
	}{
		{"messages", Rate{Messages: 10}, 10, 9 * time.Second},
		{"bytes", Rate{Bytes: 10_000}, 1000 - 6, 9 * time.Second},
		{"none", Rate{}, 10, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(o *Options) { o.Publish = tt.rate }, func(t *testing.T, w *world) {
				sub := w.connect(packet.V311, "sub")
				sub.subscribe(filter("t", 0))
				one := w.connect(packet.V311, "pub", keepAlive(1)) // waiting is not silence
				begin := time.Now()
				go func() {
					for i := range 100 {
						one.try(message("t", fmt.Sprintf("%0*d", tt.size, i), 0, 0))
					}
				}()
				for i := range 100 {
					p, ok := (<-sub.got).(*packet.Publish) // nothing is lost
					if !ok || !strings.HasSuffix(string(p.Payload), fmt.Sprint(i)) {
						t.Fatalf("message %d: %s", i, show(p))
					}
				}
				if got := time.Since(begin); (got - tt.want).Abs() > tt.want/50 {
					t.Errorf("took %v, want %v", got, tt.want)
				}
				if got := w.b.Counters().Throttled; (got > 0) != (tt.want > 0) {
					t.Errorf("throttled %d times", got)
				}
			})
		})
	}
}

// TestPublishRateOfParts sends a packet that takes many reads: all of them count.
func TestPublishRateOfParts(t *testing.T) {
	bubble(t, func(o *Options) { o.Publish.Bytes = 100_000 }, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "pub")
		sub.subscribe(filter("t", 0))
		large := message("t", strings.Repeat("x", 300_000), 0, 0).Append(nil, packet.V5)
		for part := range slices.Chunk(large, 10_000) {
			pub.raw(part)
		}
		want[*packet.Publish](sub)
		begin := time.Now()
		go pub.try(message("t", "next", 0, 0))
		<-sub.got
		if got := time.Since(begin); (got - 2*time.Second).Abs() > 10*time.Millisecond {
			t.Errorf("three seconds' worth cost %v, want 2 s", got)
		}
	})
}

func TestBucket(t *testing.T) {
	now := time.Now()
	b := newBucket(Rate{Messages: 100, Bytes: 1000}, now)
	for _, tt := range []struct {
		after  time.Duration
		amount amount
		want   time.Duration
	}{
		{0, amount{50, 0}, 0},
		{0, amount{50, 0}, 0}, // a second's worth at once
		{0, amount{10, 0}, 100 * time.Millisecond},
		{0, amount{0, 2000}, time.Second},
		{2 * time.Second, amount{100, 0}, 0},
		{time.Hour, amount{100, 1000}, 0}, // no more than a second's worth
		{0, amount{1, 1}, 10 * time.Millisecond},
	} {
		now = now.Add(tt.after)
		if got := b.take(tt.amount, now); (got - tt.want).Abs() > time.Microsecond {
			t.Errorf("%+v: wait %v", tt, got)
		}
	}
}

// from is a connection that says where it comes from.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func TestConnectionsPerAddress(t *testing.T) {
	bubble(t, func(o *Options) { o.ConnectionsPerAddress = 2 }, func(t *testing.T, w *world) {
		far := &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 5}
		dial := func(addr net.Addr) *client {
			near, there := net.Pipe()
			w.b.open.Add(1)
			w.done.Go(func() { w.b.serveConn(t.Context(), &w.done, from{there, addr}, admitTest) })
			c := &client{t: t, nc: near, v: packet.V5, got: make(chan packet.Packet, 10)}
			c.collect()
			_, _ = near.Write([]byte("x\n"))
			return c
		}
		var open []*client
		for i := range 3 {
			c := dial(far)
			c.try(connectPacket(fmt.Sprint("c", i)))
			ack := want[*packet.Connack](c)
			if wantCode := []packet.ReasonCode{0, 0, packet.QuotaExceeded}[i]; ack.ReasonCode != wantCode {
				t.Errorf("%d: %s", i, show(ack))
			}
			open = append(open, c)
		}
		for range halfOpen { // those who say nothing count too
			open = append(open, dial(far))
		}
		if c := dial(far); !c.ended() {
			t.Error("heard one too many")
		}
		for _, addr := range []net.Addr{&net.TCPAddr{IP: net.ParseIP("192.0.2.8")}, &net.TCPAddr{IP: net.IPv6loopback}, nil} {
			c := dial(addr)
			c.try(connectPacket("other"))
			if ack := want[*packet.Connack](c); ack.ReasonCode != packet.Success {
				t.Errorf("from %v: %s", addr, show(ack))
			}
			open = append(open, c)
		}
		for _, c := range open {
			c.close()
		}
		w.b.mu.Lock()
		defer w.b.mu.Unlock()
		if len(w.b.perAddress) != 0 {
			t.Errorf("addresses stay: %v", w.b.perAddress)
		}
	})
}

func TestAddressOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1", "[2001:db8::1%eth0]:5": "2001:db8::1",
		"127.0.0.1:5": "", "[::1]:5": "", "@": "", "pipe": "",
	} {
		wantAddr := netip.Addr{}
		if want != "" {
			wantAddr = netip.MustParseAddr(want)
		}
		if got := addressOf(from{addr: text(in)}); got != wantAddr {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// text is an address as it is printed.
type text string

func (a text) Network() string { return "test" }
func (a text) String() string  { return string(a) }

func TestRetainedLimit(t *testing.T) {
	for _, l := range []store.QueueLimit{{Messages: 2}, {Bytes: 2 * 530}} {
		bubble(t, func(o *Options) { o.Store = store.NewMemory(store.Limits{Retained: l}) }, func(t *testing.T, w *world) {
			c := w.connect(packet.V5, "c")
			var codes []packet.ReasonCode
			for i, topic := range []string{"a", "b", "c", "a", "d"} {
				p := message(topic, "x", 1+byte(i%2), uint16(i+1))
				p.Retain = true
				c.send(p)
				switch ack := c.next().(type) {
				case *packet.Puback:
					codes = append(codes, ack.ReasonCode)
				case *packet.Pubrec:
					codes = append(codes, ack.ReasonCode)
				}
			}
			none, full := packet.NoMatchingSubscribers, packet.QuotaExceeded
			if !slices.Equal(codes, []packet.ReasonCode{none, none, full, none, full}) {
				t.Errorf("%+v: %v", l, codes)
			}
		})
	}
}

// TestManyLevels sends the filter that stalled other brokers for seconds.
func TestManyLevels(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c")
		for _, f := range []string{strings.Repeat("/", 65_535), strings.Repeat("+/", 32_767), "$share/g/" + strings.Repeat("/", 65_000)} {
			if got := c.subscribe(filter(f, 0)); got[0] != packet.TopicFilterInvalid {
				t.Errorf("%d bytes: %s", len(f), got[0])
			}
		}
		c.publish(strings.Repeat("/", 65_535), "x", 1, 1)
		synctest.Wait()
		if p, ok := c.next().(*packet.Disconnect); !ok || p.ReasonCode != packet.TopicNameInvalid {
			t.Errorf("got %s", show(p))
		}
	})
}

// TestSessionsPerIdentity counts the sessions that are away too.
func TestSessionsPerIdentity(t *testing.T) {
	bubble(t, func(o *Options) { o.SessionsPerIdentity = 2 }, func(t *testing.T, w *world) {
		dial := func(id string, change ...func(*packet.Connect)) *packet.Connack {
			c := w.dial(packet.V5, "same")
			c.send(connectPacket(id, change...))
			defer c.close()
			return want[*packet.Connack](c)
		}
		for _, tt := range []struct {
			id   string
			code packet.ReasonCode
		}{{"a", 0}, {"b", 0}, {"c", packet.QuotaExceeded}, {"a", 0}} {
			if ack := dial(tt.id, expiry(100), resume); ack.ReasonCode != tt.code {
				t.Errorf("%s: %s", tt.id, show(ack))
			}
		}
		w.connect(packet.V5, "other").bye()
		if ended := w.b.Disconnect(testID("same"), Removal{ClientID: "b", EndSessions: true}); ended != (Removed{Sessions: 1}) {
			t.Errorf("ended %+v", ended)
		}
		if ack := dial("c", expiry(100)); ack.ReasonCode != packet.Success {
			t.Errorf("after one ended: %s", show(ack))
		}
		wait(101 * time.Second)
		if n := len(w.b.sessionsOf); n != 0 {
			t.Errorf("%d identities stay counted", n)
		}
	})
}

// TestServerReference sends clients elsewhere whom the broker cannot serve.
func TestServerReference(t *testing.T) {
	const other = "lyon.example.org:8883"
	bubble(t, func(o *Options) { o.Memory, o.ServerReference = 1<<20, other }, func(t *testing.T, w *world) {
		c, old, kicked := w.connect(packet.V5, "c"), w.connect(packet.V311, "old"), w.connect(packet.V5, "kicked")
		w.b.Disconnect(testID("kickedx"), Removal{Code: packet.UseAnotherServer, ServerReference: "paris"})
		if p := want[*packet.Disconnect](kicked); p.ReasonCode != packet.UseAnotherServer || p.Properties.ServerReference != "paris" {
			t.Errorf("kicked: %s to %q", show(p), p.Properties.ServerReference)
		}
		w.b.memory.add(1 << 20)
		_, ack := w.connectAck(packet.V5, "new")
		w.b.memory.add(-1 << 20)
		if ack.ReasonCode != packet.UseAnotherServer || ack.Properties.ServerReference != other {
			t.Errorf("while memory is full: %s to %q", show(ack), ack.Properties.ServerReference)
		}
		w.stop()
		if p := want[*packet.Disconnect](c); p.ReasonCode != packet.UseAnotherServer || p.Properties.ServerReference != other {
			t.Errorf("at the end: %s to %q", show(p), p.Properties.ServerReference)
		}
		if !old.ended() {
			t.Error("the client of 3.1.1 stays")
		}
	})
}

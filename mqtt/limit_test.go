package mqtt

import (
	"bytes"
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
				if got := w.counters().Throttled; (got > 0) != (tt.want > 0) {
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
	b := newBucket(Limits{Messages: Limit{N: 100}, Bytes: Limit{N: 1000}}, now)
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
		if got := b.spend(tt.amount, now); (got - tt.want).Abs() > time.Microsecond {
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
			w.b.openConnections.Add(1)
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
		"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1", "[fe80::1%eth0]:5": "fe80::",
		"127.0.0.1:5": "", "[::1]:5": "", "@": "", "pipe": "", "192.0.2.99:5": "", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::",
	} {
		wantAddr := netip.Addr{}
		if want != "" {
			wantAddr = netip.MustParseAddr(want)
		}
		if got := addressOf(text(in), text("[::ffff:192.0.2.99]:8883")); got != wantAddr {
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
		w.b.memory.charge(1 << 20)
		_, ack := w.connectAck(packet.V5, "new")
		w.b.memory.charge(-1 << 20)
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

// limit changes the policy, as Reauthorize sees it.
func (w *world) limit(who string, l Limits) {
	w.rules.set(func(r *rules) { r.limits = map[string]Limits{who + "x": l} })
	w.b.Reauthorize()
}

// flood publishes n messages of QoS 0 on topic t from a goroutine.
func (c *client) flood(n int) {
	go func() {
		for i := range n {
			c.try(message("t", fmt.Sprint(i), 0, 0))
		}
	}()
}

// take receives n messages, which are all there are from the first on, and
// returns how long that took.
func (c *client) take(first, n int) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for i := range n {
		if p, ok := (<-c.got).(*packet.Publish); !ok || string(p.Payload) != fmt.Sprint(first+i) {
			c.t.Fatalf("message %d: %s", first+i, show(p))
		}
	}
	return time.Since(begin)
}

func perSecond(n int) Limits {
	return Limits{Messages: Limit{N: n, Rule: fmt.Sprintf(`grant "at %d" main.hcl:%d`, n, n)}}
}

// TestRateOfRights: one identity is read more slowly over all of its connections,
// loses nothing, and others do not notice.
func TestRateOfRights(t *testing.T) {
	for _, tt := range []struct {
		name string
		node int
		want time.Duration // for 100 messages
		by   string
	}{
		{"policy", 0, 9 * time.Second, `grant "at 10" main.hcl:10`},
		{"policy below the node", 50, 9 * time.Second, `grant "at 10" main.hcl:10`},
		{"node below the policy", 5, 19 * time.Second, "this node's own limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, lines := recordedLog()
			bubble(t, func(o *Options) { o.Publish.Messages, o.Log = tt.node, log }, func(t *testing.T, w *world) {
				w.limit("slow", perSecond(10))
				sub, slow := w.connect(packet.V5, "sub"), w.connect(packet.V5, "slow")
				second := w.dial(packet.V5, "slowx")
				second.send(connectPacket("second"))
				want[*packet.Connack](second)
				sub.subscribe(filter("t", 0))
				slow.flood(100)
				if tt.node == 0 {
					other := w.connect(packet.V5, "other")
					own := w.connect(packet.V5, "own")
					own.subscribe(filter("u", 0))
					begin := time.Now()
					for range 100 {
						other.publish("u", "x", 0, 0)
						own.wantMessage("x")
					}
					if got := time.Since(begin); got != 0 {
						t.Errorf("another identity waited %v", got)
					}
				}
				if got := sub.take(0, 100); (got - tt.want).Abs() > tt.want/50 {
					t.Errorf("took %v, want %v", got, tt.want)
				}
				second.flood(2)
				if got := sub.take(0, 2); got == 0 {
					t.Error("the second connection has a bucket of its own")
				}
				for _, s := range w.b.Sessions() {
					if slow := s.Identity.Name == "slowx"; slow != (s.Throttled > 0) || slow && s.ThrottledBy != tt.by {
						t.Errorf("%s: throttled %d times by %q, want by %q", s.ClientID, s.Throttled, s.ThrottledBy, tt.by)
					}
				}
			})
			told := 0
			for _, e := range lines.AllEntries() {
				if e.Message == "client is read more slowly" && e.Data["reason"] == "more than the rate of "+tt.by {
					told++
				}
			}
			if told != 1 {
				t.Errorf("logged %d times, want once", told)
			}
		})
	}
}

// TestRateChanges: a new policy holds for who is connected, also while it waits.
func TestRateChanges(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		sub, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "pub")
		sub.subscribe(filter("t", 0))
		pub.flood(500)
		if got := sub.take(0, 500); got != 0 {
			t.Fatalf("without a limit: %v", got)
		}
		w.limit("pub", perSecond(1)) // what was before does not count
		pub.flood(100)
		if got := sub.take(0, 11); got < 9*time.Second || got > 10*time.Second {
			t.Errorf("10 messages at 1 per second took %v", got)
		}
		w.limit("pub", perSecond(10))
		if got := sub.take(11, 20); got < 1900*time.Millisecond || got > 2100*time.Millisecond {
			t.Errorf("20 messages at 10 per second took %v", got)
		}
		w.limit("pub", perSecond(1))
		w.limit("pub", Limits{})
		if got := sub.take(31, 69); got > 0 {
			t.Errorf("after the limit was lifted: %v", got)
		}
	})
}

// TestRateOutlivesConnections: whoever connects again owes what it owed.
func TestRateOutlivesConnections(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.limit("pub", perSecond(10))
		sub := w.connect(packet.V5, "sub")
		sub.subscribe(filter("t", 0))
		begin := time.Now()
		all := bytes.Repeat(message("t", "0", 0, 0).Append(nil, packet.V5), 20)
		for range 10 {
			pub := w.connect(packet.V5, "pub")
			pub.raw(all) // one read
			for range 20 {
				sub.take(0, 1)
			}
			pub.close() // while it is not read
		}
		if got := time.Since(begin); got < 17*time.Second {
			t.Errorf("200 messages at 10 per second took %v", got)
		}
		wait(10 * time.Second)
		w.b.mu.Lock()
		defer w.b.mu.Unlock()
		if n := len(w.b.perIdentity); n != 1 {
			t.Errorf("%d identities are known, want that of the subscriber", n)
		}
	})
}

func TestConnectionsOfRights(t *testing.T) {
	bubble(t, func(o *Options) { o.ConnectionsPerIdentity = 3 }, func(t *testing.T, w *world) {
		most := func(n int) Limits { return Limits{Connections: Limit{n, `grant "few" main.hcl:7`}} }
		connect := func(id string) (*client, *packet.Connack) {
			c := w.dial(packet.V5, "manyx")
			c.send(connectPacket(id))
			wait(time.Millisecond)
			return c, want[*packet.Connack](c)
		}
		w.limit("many", most(2))
		var all []*client
		for i := range 2 {
			c, ack := connect(fmt.Sprint(i))
			if ack.ReasonCode != packet.Success {
				t.Fatalf("%d: %s", i, show(ack))
			}
			all = append(all, c)
		}
		if _, ack := connect("third"); ack.ReasonCode != packet.QuotaExceeded || !strings.Contains(ack.Properties.ReasonString, "at most 2 by grant \"few\" main.hcl:7") {
			t.Errorf("got %s", show(ack))
		}
		w.limit("many", most(5)) // and 3 by the node
		c, _ := connect("third")
		all = append(all, c)
		if _, ack := connect("fourth"); ack.ReasonCode != packet.QuotaExceeded || !strings.Contains(ack.Properties.ReasonString, "at most 3 by this node's own limit") {
			t.Errorf("got %s", show(ack))
		}
		w.limit("many", most(1))
		for i, c := range all {
			switch p := c.next().(type) {
			case nil:
				if i != 0 || c.ended() {
					t.Errorf("connection %d was not told", i)
				}
			case *packet.Disconnect:
				if i == 0 || p.ReasonCode != packet.QuotaExceeded || !strings.Contains(p.Properties.ReasonString, "main.hcl:7") {
					t.Errorf("connection %d: %s", i, show(p))
				}
			}
		}
		if _, ack := connect("0"); ack.ReasonCode != packet.Success { // takes over its own
			t.Errorf("got %s", show(ack))
		}
	})
}

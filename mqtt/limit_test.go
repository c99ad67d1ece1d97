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
			runWithServer(t, func(o *Options) { o.Publish = tt.rate }, func(t *testing.T, srv *testServer) {
				sub := srv.connect(packet.V311, "sub")
				sub.subscribe(subscribeTo("t", 0))
				one := srv.connect(packet.V311, "pub", keepAlive(1)) // waiting is not silence
				begin := time.Now()
				go func() {
					for i := range 100 {
						one.trySend(publishPacket("t", fmt.Sprintf("%0*d", tt.size, i), 0, 0))
					}
				}()
				for i := range 100 {
					p, ok := (<-sub.packets).(*packet.Publish) // nothing is lost
					if !ok || !strings.HasSuffix(string(p.Payload), fmt.Sprint(i)) {
						t.Fatalf("message %d: %s", i, describePacket(p))
					}
				}
				if got := time.Since(begin); (got - tt.want).Abs() > tt.want/50 {
					t.Errorf("took %v, want %v", got, tt.want)
				}
				if got := srv.counters().Throttled; (got > 0) != (tt.want > 0) {
					t.Errorf("throttled %d times", got)
				}
			})
		})
	}
}

// TestPublishRateOfParts sends a packet that takes many reads: all of them count.
func TestPublishRateOfParts(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Publish.Bytes = 100_000 }, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("t", 0))
		large := publishPacket("t", strings.Repeat("x", 300_000), 0, 0).Append(nil, packet.V5)
		for part := range slices.Chunk(large, 10_000) {
			pub.sendBytes(part)
		}
		wantPacket[*packet.Publish](sub)
		begin := time.Now()
		go pub.trySend(publishPacket("t", "next", 0, 0))
		<-sub.packets
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

// addressConn is a connection whose remote address a test chooses.
type addressConn struct {
	net.Conn
	addr net.Addr
}

func (f addressConn) RemoteAddr() net.Addr { return f.addr }

func TestConnectionsPerAddress(t *testing.T) {
	runWithServer(t, func(o *Options) { o.ConnectionsPerAddress = 2 }, func(t *testing.T, srv *testServer) {
		far := &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 5}
		dial := func(addr net.Addr) *client {
			near, there := net.Pipe()
			srv.broker.openConnections.Add(1)
			srv.done.Go(func() { srv.broker.serveConn(t.Context(), &srv.done, addressConn{there, addr}, admitTest) })
			c := &client{t: t, nc: near, v: packet.V5, packets: make(chan packet.Packet, 10)}
			c.startReader()
			_, _ = near.Write([]byte("x\n"))
			return c
		}
		var open []*client
		for i := range 3 {
			c := dial(far)
			c.trySend(connectPacket(fmt.Sprint("c", i)))
			ack := wantPacket[*packet.Connack](c)
			if wantCode := []packet.ReasonCode{0, 0, packet.QuotaExceeded}[i]; ack.ReasonCode != wantCode {
				t.Errorf("%d: %s", i, describePacket(ack))
			}
			open = append(open, c)
		}
		for range halfOpen { // those who say nothing count too
			open = append(open, dial(far))
		}
		if c := dial(far); !c.closedByServer() {
			t.Error("heard one too many")
		}
		for _, addr := range []net.Addr{&net.TCPAddr{IP: net.ParseIP("192.0.2.8")}, &net.TCPAddr{IP: net.IPv6loopback}, nil} {
			c := dial(addr)
			c.trySend(connectPacket("other"))
			if ack := wantPacket[*packet.Connack](c); ack.ReasonCode != packet.Success {
				t.Errorf("from %v: %s", addr, describePacket(ack))
			}
			open = append(open, c)
		}
		for _, c := range open {
			c.dropConnection()
		}
		srv.broker.mu.Lock()
		defer srv.broker.mu.Unlock()
		if len(srv.broker.perAddress) != 0 {
			t.Errorf("addresses stay: %v", srv.broker.perAddress)
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
		if got := addressOf(textAddress(in), textAddress("[::ffff:192.0.2.99]:8883")); got != wantAddr {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// textAddress is a network address given by its text.
type textAddress string

func (a textAddress) Network() string { return "test" }
func (a textAddress) String() string  { return string(a) }

func TestRetainedLimit(t *testing.T) {
	for _, l := range []store.QueueLimit{{Messages: 2}, {Bytes: 2 * 530}} {
		runWithServer(t, func(o *Options) { o.Store = store.NewMemory(store.Limits{Retained: l}) }, func(t *testing.T, srv *testServer) {
			c := srv.connect(packet.V5, "c")
			var codes []packet.ReasonCode
			for i, topic := range []string{"a", "b", "c", "a", "d"} {
				p := publishPacket(topic, "x", 1+byte(i%2), uint16(i+1))
				p.Retain = true
				c.send(p)
				switch ack := c.nextPacket().(type) {
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
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		for _, f := range []string{strings.Repeat("/", 65_535), strings.Repeat("+/", 32_767), "$share/g/" + strings.Repeat("/", 65_000)} {
			if got := c.subscribe(subscribeTo(f, 0)); got[0] != packet.TopicFilterInvalid {
				t.Errorf("%d bytes: %s", len(f), got[0])
			}
		}
		c.publish(strings.Repeat("/", 65_535), "x", 1, 1)
		synctest.Wait()
		if p, ok := c.nextPacket().(*packet.Disconnect); !ok || p.ReasonCode != packet.TopicNameInvalid {
			t.Errorf("got %s", describePacket(p))
		}
	})
}

// TestSessionsPerIdentity counts the sessions that are away too.
func TestSessionsPerIdentity(t *testing.T) {
	runWithServer(t, func(o *Options) { o.SessionsPerIdentity = 2 }, func(t *testing.T, srv *testServer) {
		dial := func(id string, change ...func(*packet.Connect)) *packet.Connack {
			c := srv.dial(packet.V5, "same")
			c.send(connectPacket(id, change...))
			defer c.dropConnection()
			return wantPacket[*packet.Connack](c)
		}
		for _, tt := range []struct {
			id   string
			code packet.ReasonCode
		}{{"a", 0}, {"b", 0}, {"c", packet.QuotaExceeded}, {"a", 0}} {
			if ack := dial(tt.id, sessionExpiry(100), resumeSession); ack.ReasonCode != tt.code {
				t.Errorf("%s: %s", tt.id, describePacket(ack))
			}
		}
		srv.connect(packet.V5, "other").disconnect()
		if ended := srv.broker.Disconnect(testID("same"), Removal{ClientID: "b", EndSessions: true}); ended != (Removed{Sessions: 1}) {
			t.Errorf("ended %+v", ended)
		}
		if ack := dial("c", sessionExpiry(100)); ack.ReasonCode != packet.Success {
			t.Errorf("after one ended: %s", describePacket(ack))
		}
		advanceTime(101 * time.Second)
		if n := len(srv.broker.sessionsOf); n != 0 {
			t.Errorf("%d identities stay counted", n)
		}
	})
}

// TestServerReference sends clients elsewhere whom the broker cannot serve.
func TestServerReference(t *testing.T) {
	const other = "lyon.example.org:8883"
	runWithServer(t, func(o *Options) { o.Memory, o.ServerReference = 1<<20, other }, func(t *testing.T, srv *testServer) {
		c, old, kicked := srv.connect(packet.V5, "c"), srv.connect(packet.V311, "old"), srv.connect(packet.V5, "kicked")
		srv.broker.Disconnect(testID("kickedx"), Removal{Code: packet.UseAnotherServer, ServerReference: "paris"})
		if p := wantPacket[*packet.Disconnect](kicked); p.ReasonCode != packet.UseAnotherServer || p.Properties.ServerReference != "paris" {
			t.Errorf("kicked: %s to %q", describePacket(p), p.Properties.ServerReference)
		}
		srv.broker.memory.charge(1 << 20)
		_, ack := srv.connectAck(packet.V5, "new")
		srv.broker.memory.charge(-1 << 20)
		if ack.ReasonCode != packet.UseAnotherServer || ack.Properties.ServerReference != other {
			t.Errorf("while memory is full: %s to %q", describePacket(ack), ack.Properties.ServerReference)
		}
		srv.stop()
		if p := wantPacket[*packet.Disconnect](c); p.ReasonCode != packet.UseAnotherServer || p.Properties.ServerReference != other {
			t.Errorf("at the end: %s to %q", describePacket(p), p.Properties.ServerReference)
		}
		if !old.closedByServer() {
			t.Error("the client of 3.1.1 stays")
		}
	})
}

// setLimits gives one identity limits and has the broker ask for them.
func (s *testServer) setLimits(who string, l Limits) {
	s.denied.change(func(d *denyList) { d.limits = map[string]Limits{who + "x": l} })
	s.broker.Reauthorize()
}

// publishInBackground publishes n numbered messages of QoS 0 on topic t from a
// goroutine.
func (c *client) publishInBackground(n int) {
	go func() {
		for i := range n {
			c.trySend(publishPacket("t", fmt.Sprint(i), 0, 0))
		}
	}()
}

// receiveInOrder receives n messages, numbered from first on without a gap, and
// returns how long that took.
func (c *client) receiveInOrder(first, n int) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for i := range n {
		if p, ok := (<-c.packets).(*packet.Publish); !ok || string(p.Payload) != fmt.Sprint(first+i) {
			c.t.Fatalf("message %d: %s", first+i, describePacket(p))
		}
	}
	return time.Since(begin)
}

// messagesPerSecond returns Limits of n messages a second.
func messagesPerSecond(n int) Limits {
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
			runWithServer(t, func(o *Options) { o.Publish.Messages, o.Log = tt.node, log }, func(t *testing.T, srv *testServer) {
				srv.setLimits("slow", messagesPerSecond(10))
				sub, slow := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "slow")
				second := srv.dial(packet.V5, "slowx")
				second.send(connectPacket("second"))
				wantPacket[*packet.Connack](second)
				sub.subscribe(subscribeTo("t", 0))
				slow.publishInBackground(100)
				if tt.node == 0 {
					other := srv.connect(packet.V5, "other")
					own := srv.connect(packet.V5, "own")
					own.subscribe(subscribeTo("u", 0))
					begin := time.Now()
					for range 100 {
						other.publish("u", "x", 0, 0)
						own.wantMessage("x")
					}
					if got := time.Since(begin); got != 0 {
						t.Errorf("another identity waited %v", got)
					}
				}
				if got := sub.receiveInOrder(0, 100); (got - tt.want).Abs() > tt.want/50 {
					t.Errorf("took %v, want %v", got, tt.want)
				}
				second.publishInBackground(2)
				if got := sub.receiveInOrder(0, 2); got == 0 {
					t.Error("the second connection has a bucket of its own")
				}
				for _, s := range srv.broker.Sessions() {
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
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("t", 0))
		pub.publishInBackground(500)
		if got := sub.receiveInOrder(0, 500); got != 0 {
			t.Fatalf("without a limit: %v", got)
		}
		srv.setLimits("pub", messagesPerSecond(1)) // what was before does not count
		pub.publishInBackground(100)
		if got := sub.receiveInOrder(0, 11); got < 9*time.Second || got > 10*time.Second {
			t.Errorf("10 messages at 1 per second took %v", got)
		}
		srv.setLimits("pub", messagesPerSecond(10))
		if got := sub.receiveInOrder(11, 20); got < 1900*time.Millisecond || got > 2100*time.Millisecond {
			t.Errorf("20 messages at 10 per second took %v", got)
		}
		srv.setLimits("pub", messagesPerSecond(1))
		srv.setLimits("pub", Limits{})
		if got := sub.receiveInOrder(31, 69); got > 0 {
			t.Errorf("after the limit was lifted: %v", got)
		}
	})
}

// TestRateOutlivesConnections: whoever connects again owes what it owed.
func TestRateOutlivesConnections(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		srv.setLimits("pub", messagesPerSecond(10))
		sub := srv.connect(packet.V5, "sub")
		sub.subscribe(subscribeTo("t", 0))
		begin := time.Now()
		all := bytes.Repeat(publishPacket("t", "0", 0, 0).Append(nil, packet.V5), 20)
		for range 10 {
			pub := srv.connect(packet.V5, "pub")
			pub.sendBytes(all) // one read
			for range 20 {
				sub.receiveInOrder(0, 1)
			}
			pub.dropConnection() // while it is not read
		}
		if got := time.Since(begin); got < 17*time.Second {
			t.Errorf("200 messages at 10 per second took %v", got)
		}
		advanceTime(10 * time.Second)
		srv.broker.mu.Lock()
		defer srv.broker.mu.Unlock()
		if n := len(srv.broker.perIdentity); n != 1 {
			t.Errorf("%d identities are known, want that of the subscriber", n)
		}
	})
}

func TestConnectionsOfRights(t *testing.T) {
	runWithServer(t, func(o *Options) { o.ConnectionsPerIdentity = 3 }, func(t *testing.T, srv *testServer) {
		most := func(n int) Limits { return Limits{Connections: Limit{n, `grant "few" main.hcl:7`}} }
		connect := func(id string) (*client, *packet.Connack) {
			c := srv.dial(packet.V5, "manyx")
			c.send(connectPacket(id))
			advanceTime(time.Millisecond)
			return c, wantPacket[*packet.Connack](c)
		}
		srv.setLimits("many", most(2))
		var all []*client
		for i := range 2 {
			c, ack := connect(fmt.Sprint(i))
			if ack.ReasonCode != packet.Success {
				t.Fatalf("%d: %s", i, describePacket(ack))
			}
			all = append(all, c)
		}
		if _, ack := connect("third"); ack.ReasonCode != packet.QuotaExceeded || !strings.Contains(ack.Properties.ReasonString, "at most 2 by grant \"few\" main.hcl:7") {
			t.Errorf("got %s", describePacket(ack))
		}
		srv.setLimits("many", most(5)) // and 3 by the node
		c, _ := connect("third")
		all = append(all, c)
		if _, ack := connect("fourth"); ack.ReasonCode != packet.QuotaExceeded || !strings.Contains(ack.Properties.ReasonString, "at most 3 by this node's own limit") {
			t.Errorf("got %s", describePacket(ack))
		}
		srv.setLimits("many", most(1))
		for i, c := range all {
			switch p := c.nextPacket().(type) {
			case nil:
				if i != 0 || c.closedByServer() {
					t.Errorf("connection %d was not told", i)
				}
			case *packet.Disconnect:
				if i == 0 || p.ReasonCode != packet.QuotaExceeded || !strings.Contains(p.Properties.ReasonString, "main.hcl:7") {
					t.Errorf("connection %d: %s", i, describePacket(p))
				}
			}
		}
		if _, ack := connect("0"); ack.ReasonCode != packet.Success { // takes over its own
			t.Errorf("got %s", describePacket(ack))
		}
	})
}

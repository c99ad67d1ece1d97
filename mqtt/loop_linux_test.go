package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

// overSockets runs a test over TCP and over TLS.
func overSockets(t *testing.T, o Options, test func(t *testing.T, b *Broker, dial func() net.Conn)) {
	t.Helper()
	t.Run("tcp", func(t *testing.T) {
		var b *Broker
		checkMemoryReleased(t, &b)
		l := listenTCP(t)
		b = startBroker(t, l, o, admitAnyone)
		test(t, b, func() net.Conn { return dialTCP(t, l) })
	})
	t.Run("tls", func(t *testing.T) {
		var b *Broker
		checkMemoryReleased(t, &b)
		server, client := selfSigned(t)
		l := listenTCP(t)
		b = startBroker(t, tls.NewListener(wrapQuick(l), server), o, admitAnyone)
		test(t, b, func() net.Conn { return tls.Client(dialTCP(t, l), client) })
	})
}

// checkMemoryReleased fails the test if memory is counted for more than the
// remaining sessions once the listener and the clients have ended.
func checkMemoryReleased(t *testing.T, b **Broker) {
	t.Cleanup(func() {
		left := (*b).memory.held.Load()
		for _, s := range (*b).allSessions() {
			left -= int64(s.charged)
		}
		if left != 0 {
			t.Errorf("%d bytes stay counted", left)
		}
	})
}

// loopConnections returns the number of connections that the loops serve.
func (b *Broker) loopConnections() int {
	n := 0
	b.loops.mu.Lock()
	defer b.loops.mu.Unlock()
	for _, l := range b.loops.all {
		l.mu.Lock()
		for _, c := range l.conns {
			if c != nil {
				n++
			}
		}
		l.mu.Unlock()
	}
	return n
}

func TestSocketsJoinLoops(t *testing.T) {
	overSockets(t, Options{}, func(t *testing.T, b *Broker, dial func() net.Conn) {
		one, two := connectSocket(t, dial(), connectPacket("one")), connectSocket(t, dial(), connectPacket("two"))
		one.ping()
		two.ping()
		one.ping() // the first may have been answered before the reader gave the socket away
		two.ping()
		if got := b.loopConnections(); got != 2 {
			t.Errorf("%d connections in loops, want 2", got)
		}
	})
}

// TestLoopReassembles sends packets of all sizes in pieces that fit none of them.
func TestLoopReassembles(t *testing.T) {
	overSockets(t, Options{}, func(t *testing.T, _ *Broker, dial func() net.Conn) {
		sub, pub := connectSocket(t, dial(), connectPacket("sub")), connectSocket(t, dial(), connectPacket("pub"))
		sub.subscribe("a", 0)
		random := rand.New(rand.NewPCG(1, 2))
		var stream []byte
		var payloads [][]byte
		for _, size := range []int{0, 3, 900 << 10, 70 << 10, 70 << 10, 5, 300 << 10, 20 << 10, 1} {
			payload := bytes.Repeat([]byte{byte(size), byte(len(payloads))}, size/2+1)
			payloads = append(payloads, payload)
			p := packet.Publish{TopicName: []byte("a"), Payload: payload}
			stream = p.Append(stream, packet.V5)
		}
		var sender sync.WaitGroup
		defer sender.Wait()
		sender.Go(func() {
			for len(stream) > 0 {
				n := min(len(stream), 1+random.IntN(50_000))
				if _, err := pub.nc.Write(stream[:n]); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				stream = stream[n:]
			}
		})
		for i, want := range payloads {
			p, ok := sub.read().(*packet.Publish)
			if !ok || !bytes.Equal(p.Payload, want) {
				t.Fatalf("message %d of %d bytes is not what was sent", i, len(want))
			}
		}
		pub.ping()
	})
}

// gatedStore is a store that delays all transactions while it is shut.
type gatedStore struct {
	store.Store
	mu   sync.Mutex
	shut bool
	late []func()
}

func (g *gatedStore) Update(add func(store.Tx), done func(error)) {
	g.mu.Lock()
	if g.shut {
		g.late = append(g.late, func() { g.Store.Update(add, done) })
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.Store.Update(add, done)
}

// setShut shuts or opens the store. Opening runs the delayed transactions.
func (g *gatedStore) setShut(shut bool) {
	g.mu.Lock()
	g.shut = shut
	late := g.late
	g.late = nil
	g.mu.Unlock()
	for _, f := range late {
		f()
	}
}

// TestLoopWaitsForNobody has a client wait for the disk, and others not.
func TestLoopWaitsForNobody(t *testing.T) {
	disk := &gatedStore{Store: store.NewMemory(store.Limits{})}
	overSockets(t, Options{Store: disk}, func(t *testing.T, _ *Broker, dial func() net.Conn) {
		keeper := connectSocket(t, dial(), connectPacket("keeper", sessionExpiry(100)))
		sub, pub := connectSocket(t, dial(), connectPacket("sub")), connectSocket(t, dial(), connectPacket("pub"))
		sub.subscribe("a", 0)
		keeper.ping()
		pub.ping()
		disk.setShut(true)
		keeper.send(&packet.Subscribe{PacketID: 7, Subscriptions: []packet.Subscription{subscribeTo("kept", 1)}}, &packet.Pingreq{})
		retained := publishPacket("kept/retained", "x", 1, 9)
		retained.Retain = true
		pub.send(retained, publishPacket("a", "behind it", 0, 0))
		third := connectSocket(t, dial(), connectPacket("third"))
		for range 3 {
			third.send(publishPacket("a", "hello", 0, 0))
			if p, ok := sub.read().(*packet.Publish); !ok || string(p.Payload) != "hello" {
				t.Fatalf("got %s", describePacket(p))
			}
		}
		disk.setShut(false)
		if p, ok := keeper.read().(*packet.Suback); !ok || p.PacketID != 7 {
			t.Fatalf("got %s, want SUBACK", describePacket(p))
		}
		if p, ok := keeper.read().(*packet.Pingresp); !ok {
			t.Fatalf("got %s, want PINGRESP", describePacket(p))
		}
		if p, ok := pub.read().(*packet.Puback); !ok || p.PacketID != 9 {
			t.Fatalf("got %s, want PUBACK", describePacket(p))
		}
		if p, ok := sub.read().(*packet.Publish); !ok || string(p.Payload) != "behind it" {
			t.Fatalf("got %s", describePacket(p))
		}
		keeper.ping()
		pub.ping()
	})
}

// TestOutboxTakesTheRest gives clients that read more at once than their outbox
// holds: what it refuses comes as soon as the socket took what it had, though
// nothing else happens.
func TestOutboxTakesTheRest(t *testing.T) {
	overSockets(t, Options{Outbox: 4096}, func(t *testing.T, _ *Broker, dial func() net.Conn) {
		payload := string(make([]byte, 1000))
		const messages = 20
		pub, sub := connectSocket(t, dial(), connectPacket("pub")), connectSocket(t, dial(), connectPacket("sub"))
		sub.ping()
		for i := range messages {
			retained := publishPacket(fmt.Sprint("retained/", i), payload, 1, 1)
			retained.Retain = true
			pub.send(retained)
			if _, ok := pub.read().(*packet.Puback); !ok {
				t.Fatal("no PUBACK")
			}
		}
		sub.subscribe("retained/+", 0)
		for i := range messages {
			if p, ok := sub.read().(*packet.Publish); !ok || !p.Retain {
				t.Fatalf("retained message %d: %s", i, describePacket(p))
			}
		}
		sub.subscribe("a", 1)
		pub.send(publishPacket("a", payload, 0, 0), publishPacket("a", payload, 0, 0), publishPacket("a", payload, 0, 0), publishPacket("a", payload, 0, 0),
			publishPacket("a", payload, 1, 1), publishPacket("a", payload, 1, 2))
		for acknowledged := uint16(0); acknowledged < 2; {
			p, ok := sub.read().(*packet.Publish)
			if !ok {
				t.Fatalf("got %s", describePacket(p))
			}
			if p.QoS == 1 {
				acknowledged++
				sub.send(&packet.Puback{PacketID: p.PacketID})
			}
		}
		sub.ping()
	})
}

// TestLoopTakesOverInAPacket gives a loop a connection in the middle of a large
// packet, because its outbox was busy until then.
func TestLoopTakesOverInAPacket(t *testing.T) {
	disk := store.NewMemory(store.Limits{})
	key := store.SessionKey{Identity: testID("any").String(), ClientID: "slow"}
	const messages = 200
	disk.Update(func(tx store.Tx) {
		tx.PutSession(store.Session{Key: key, Expiry: 1000})
		for range messages {
			tx.Enqueue(key, store.Delivery{QoS: 1, Message: &store.Message{Topic: "queued", QoS: 1, Payload: make([]byte, 64<<10)}})
		}
	}, nil)
	l := listenTCP(t)
	b := startBroker(t, l, Options{Store: disk}, admitAnyone)
	c := connectSocket(t, dialTCP(t, l), connectPacket("slow", resumeSession, sessionExpiry(1000)))
	large := publishPacket("a", string(make([]byte, 500<<10)), 1, 1).Append(nil, packet.V5)
	write := func(n int) {
		t.Helper()
		if _, err := c.nc.Write(large[:n]); err != nil {
			t.Fatal(err)
		}
		large = large[n:]
	}
	write(256 << 10)
	if got := b.loopConnections(); got != 0 {
		t.Fatalf("%d connections in loops, want none while it reads nothing", got)
	}
	for range messages {
		if p, ok := c.read().(*packet.Publish); !ok {
			t.Fatalf("got %s", describePacket(p))
		}
	}
	for len(large) > 8<<10 { // memory is given out in sizes that this divides
		write(8 << 10)
	}
	write(len(large))
	if p, ok := c.read().(*packet.Puback); !ok || p.PacketID != 1 {
		t.Fatalf("got %s", describePacket(p))
	}
	c.ping()
}

// TestLoopCountsBytes publishes more than its rate in packets that a loop leaves
// to a goroutine.
func TestLoopCountsBytes(t *testing.T) {
	overSockets(t, Options{Publish: Rate{Bytes: 1_000_000}}, func(t *testing.T, b *Broker, dial func() net.Conn) {
		pub := connectSocket(t, dial(), connectPacket("pub"))
		pub.ping()
		for i := range 2 {
			retained := publishPacket("a", string(make([]byte, 600_000)), 1, uint16(i+1))
			retained.Retain = true
			pub.send(retained)
			if p, ok := pub.read().(*packet.Puback); !ok {
				t.Fatalf("got %s", describePacket(p))
			}
		}
		pub.ping()
		if got := b.Counters().Throttled; got != 1 {
			t.Errorf("throttled %d times, want once", got)
		}
	})
}

// TestLoopConnectionsEnd ends connections of a loop in each way.
func TestLoopConnectionsEnd(t *testing.T) {
	ended := func(t *testing.T, w *socketClient) {
		t.Helper()
		if _, err := w.r.ReadByte(); err == nil {
			t.Error("something came after the end")
		}
	}
	overSockets(t, Options{}, func(t *testing.T, b *Broker, dial func() net.Conn) {
		t.Run("half closed by the client", func(t *testing.T) {
			c := connectSocket(t, dial(), connectPacket("half"))
			c.ping()
			c.send(publishPacket("a", "last words", 1, 3))
			if err := c.nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if p, ok := c.read().(*packet.Puback); !ok || p.PacketID != 3 {
				t.Fatalf("got %s, want PUBACK", describePacket(p))
			}
			ended(t, c)
		})
		t.Run("taken over", func(t *testing.T) {
			old := connectSocket(t, dial(), connectPacket("same"))
			old.ping()
			connectSocket(t, dial(), connectPacket("same")).ping()
			if p, ok := old.read().(*packet.Disconnect); !ok || p.ReasonCode != packet.SessionTakenOver {
				t.Fatalf("got %s", describePacket(p))
			}
			ended(t, old)
		})
		t.Run("by an operator", func(t *testing.T) {
			c := connectSocket(t, dial(), connectPacket("kicked"))
			c.ping()
			if n := b.Disconnect(testID("any"), Removal{Code: packet.AdministrativeAction}); n.Connections == 0 {
				t.Fatal("nobody was there")
			}
			if p, ok := c.read().(*packet.Disconnect); !ok || p.ReasonCode != packet.AdministrativeAction {
				t.Fatalf("got %s", describePacket(p))
			}
			ended(t, c)
		})
		t.Run("by a broken packet", func(t *testing.T) {
			c := connectSocket(t, dial(), connectPacket("broken"))
			c.ping()
			c.send(publishPacket("a", "x", 1, 1), &packet.Pingresp{})
			if p, ok := c.read().(*packet.Puback); !ok {
				t.Fatalf("got %s, want PUBACK", describePacket(p))
			}
			if p, ok := c.read().(*packet.Disconnect); !ok || !p.ReasonCode.Failed() {
				t.Fatalf("got %s", describePacket(p))
			}
			ended(t, c)
		})
	})
}

// TestLoopEndsWithItsListener has Serve end while one client of a loop reads
// nothing of what waits for it.
func TestLoopEndsWithItsListener(t *testing.T) {
	l := listenTCP(t)
	b := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	var done sync.WaitGroup
	done.Go(func() { served <- b.Serve(ctx, l, admitAnyone) })
	defer done.Wait()
	defer cancel()
	deaf, pub := connectSocket(t, dialTCP(t, l), connectPacket("deaf")), connectSocket(t, dialTCP(t, l), connectPacket("pub"))
	deaf.subscribe("a", 0)
	for range 200 {
		pub.send(&packet.Publish{TopicName: []byte("a"), Payload: make([]byte, 64<<10)})
	}
	pub.ping()
	if got := b.loopConnections(); got != 2 {
		t.Errorf("%d connections in loops, want 2", got)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if got := b.loopConnections(); got != 0 {
		t.Errorf("%d connections left in loops", got)
	}
	if p, ok := pub.read().(*packet.Disconnect); !ok || p.ReasonCode != packet.ServerShuttingDown {
		t.Errorf("got %s", describePacket(p))
	}
	if _, err := pub.r.ReadByte(); err == nil {
		t.Error("something came after DISCONNECT")
	}
}

func TestLoopWeighs(t *testing.T) {
	for _, tt := range []struct {
		name     string
		eager    bool
		n        int
		after    time.Duration
		messages uint64
		steady   bool
	}{
		{"one message", false, 80, steadyGap, 1, true},
		{"some that gathered", false, 3000, 40 * steadyGap, 40, true},
		{"slower", false, 80, steadyGap + 1, 1, false},
		{"a large read", false, steadyRead + 1, steadyGap, 400, false},
		{"part of a packet", false, 80, steadyGap, 0, false},
		{"something to answer", true, 80, steadyGap, 1, false},
	} {
		l := loop{workspace: &workspace{answerAwaited: tt.eager}, steady: 9}
		if l.weigh(tt.n, tt.after, tt.messages); (l.steady == 9) != tt.steady || l.workspace.answerAwaited {
			t.Errorf("%s: %d steady rounds, eager %v", tt.name, l.steady, l.workspace.answerAwaited)
		}
	}
}

// TestSteadyStream writes messages of QoS 0 one by one, as fast as it goes: the
// subscriber gets all of them in order, and who asks meanwhile is answered.
func TestSteadyStream(t *testing.T) {
	overSockets(t, Options{}, func(t *testing.T, _ *Broker, dial func() net.Conn) {
		const messages = 20_000
		sub, pub := connectSocket(t, dial(), connectPacket("sub")), connectSocket(t, dial(), connectPacket("pub"))
		other := connectSocket(t, dial(), connectPacket("other"))
		sub.subscribe("a", 0)
		pub.ping()
		var done sync.WaitGroup
		done.Go(func() {
			for i := range messages {
				pub.send(publishPacket("a", fmt.Sprint(i), 0, 0))
			}
		})
		for i := range messages {
			if p, ok := sub.read().(*packet.Publish); !ok || string(p.Payload) != fmt.Sprint(i) {
				t.Fatalf("message %d: %s", i, describePacket(p))
			}
			if i%1000 == 0 {
				other.ping()
			}
		}
		done.Wait()
	})
}

// TestEndIsNotified ends connections from here: a TLS client can tell that from a
// cut one.
func TestEndIsNotified(t *testing.T) {
	overSockets(t, Options{}, func(t *testing.T, b *Broker, dial func() net.Conn) {
		for range 2 { // in a loop, and perhaps before
			c := connectSocket(t, dial(), connectPacket("c"))
			b.Disconnect(testID("any"), Removal{Code: packet.AdministrativeAction})
			if _, ok := c.read().(*packet.Disconnect); !ok {
				t.Error("no DISCONNECT")
			}
			if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("then %v, want EOF", err)
			}
			c = connectSocket(t, dial(), connectPacket("c"))
			c.send(&packet.Disconnect{})
			if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after DISCONNECT %v, want EOF", err)
			}
			c = connectSocket(t, dial(), connectPacket("c"))
			c.ping()
			c.ping()
		}
	})
}

// ownerCheckingSink counts the calls of CloseNotify on a sink that no goroutine has
// claimed: its descriptor may be another client's by then.
type ownerCheckingSink struct {
	socket.Sink
	out     *outbox
	unowned atomic.Int32
}

func (c *ownerCheckingSink) CloseNotify() {
	c.out.mu.Lock()
	if !c.out.sinkBusy {
		c.unowned.Add(1)
	}
	c.out.mu.Unlock()
	c.Sink.(socket.Notifier).CloseNotify()
}

// TestEndIsNotifiedByOwner ends a TLS connection from here while its reader waits
// to give the descriptor back.
func TestEndIsNotifiedByOwner(t *testing.T) {
	server, client := selfSigned(t)
	l := listenTCP(t)
	b := startBroker(t, tls.NewListener(wrapQuick(l), server), Options{}, admitAnyone)
	c := connectSocket(t, tls.Client(dialTCP(t, l), client), connectPacket("c"))
	c.ping()
	out := &b.allSessions()[0].conn.Load().out
	for !out.claimSink() {
		runtime.Gosched()
	}
	watched := &ownerCheckingSink{Sink: out.sink, out: out}
	out.yieldSink(watched)
	b.Disconnect(testID("any"), Removal{Code: packet.AdministrativeAction})
	c.read()
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
	if n := watched.unowned.Load(); n > 0 {
		t.Errorf("%d writes to a sink that no goroutine has", n)
	}
}

// TestLoopRefuses has the poll refuse a connection, as beyond
// fs.epoll.max_user_watches.
func TestLoopRefuses(t *testing.T) {
	listener := listenTCP(t)
	defer listener.Close()
	nc := dialTCP(t, listener)
	defer nc.Close()
	d, err := socket.Of(socket.Quick(nc)).HandOver()
	if err != nil {
		t.Fatal(err)
	}
	poll, err := socket.NewPoll(1)
	if err != nil {
		t.Fatal(err)
	}
	defer poll.Close()
	if err := poll.Add(d); err != nil {
		t.Fatal(err)
	}
	l := &loop{poll: poll} // has the descriptor already
	c := &conn{descriptor: d}
	if err := l.addConn(c); err == nil || !c.away.Load() {
		t.Errorf("added, away %v", c.away.Load())
	}
	l.removeConn(c)
}

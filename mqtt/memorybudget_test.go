package mqtt

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSlowClientsHoldLittle has clients that take nothing, with limits that
// together are fifty times the ceiling.
func TestSlowClientsHoldLittle(t *testing.T) {
	const ceiling, slow = 8 << 20, 40
	runWithServer(t, func(o *Options) {
		o.Memory = ceiling
		o.Outbox, o.Queue = 10<<20, store.QueueLimit{Messages: 1 << 20, Bytes: 10 << 20}
	}, func(t *testing.T, srv *testServer) {
		before := heapBytes()
		for i := range slow {
			srv.connectDeadClient(fmt.Sprint("slow", i), subscribeTo("#", byte(i%2)))
		}
		synctest.Wait()
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("#", 1))
		payload := strings.Repeat("x", 4000)
		top := int64(0)
		for i := range 3000 {
			if code := pub.publishAndWait("a", payload, byte(i%2)); code != 0 {
				t.Fatalf("message %d: %s", i, code) // slow clients cost themselves only
			}
			sub.acknowledge(sub.wantMessage(payload))
			if i%500 == 499 {
				top = max(top, heapBytes()-before)
			}
		}
		c := srv.counters()
		if c.MemoryHeld < ceiling/2 || c.MemoryHeld > ceiling {
			t.Errorf("%d bytes held, the ceiling is %d", c.MemoryHeld, ceiling)
		}
		if limit := int64(3 * ceiling); top > limit { // buffers have spare room
			t.Errorf("the heap grew by %d bytes, want less than %d", top, limit)
		}
		if c.Drops["slow"] == 0 || c.Drops["queue"] == 0 || c.MessagesDropped != c.Drops["slow"]+c.Drops["queue"] {
			t.Errorf("drops %v of %d", c.Drops, c.MessagesDropped)
		}
		advanceTime(2 * socket.WriteStall) // the dead are given up
		sub.dropConnection()
		pub.dropConnection()
		if got := srv.counters().MemoryHeld; got != 0 {
			t.Errorf("%d bytes stay held", got)
		}
	})
}

// TestOutboxGrowsAgain has a client take a message while memory is short: it may
// have as much waiting as before when memory is not.
func TestOutboxGrowsAgain(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Memory = 64 << 20 }, func(t *testing.T, srv *testServer) {
		pub, sub := srv.connect(packet.V5, "pub"), srv.connect(packet.V5, "sub")
		sub.subscribe(subscribeTo("a", 0))
		const others = 63 << 20
		srv.broker.memory.charge(others)
		pub.publish("a", "short", 0, 0)
		sub.wantMessage("short")
		srv.broker.memory.charge(-others)

		pub.publish("nobody", strings.Repeat("x", maxReadBuffer), 0, 0) // so that the next read is a large one
		synctest.Wait()
		const messages = 50
		var batch []byte
		for i := range messages {
			batch = publishPacket("a", fmt.Sprintf("%01000d", i), 0, 0).Append(batch, packet.V5)
		}
		pub.sendBytes(batch)
		for i := range messages {
			sub.wantMessage(fmt.Sprintf("%01000d", i))
		}
	})
}

// TestMemoryCeiling fills the store with what is kept for a client that is away.
func TestMemoryCeiling(t *testing.T) {
	const ceiling = 1 << 20
	runWithServer(t, func(o *Options) {
		o.Memory = ceiling
		o.Store = store.NewMemory(store.Limits{Queue: store.QueueLimit{Messages: 1 << 20, Bytes: 1 << 30}})
	}, func(t *testing.T, srv *testServer) {
		away := srv.connect(packet.V5, "away", sessionExpiry(1000))
		away.subscribe(subscribeTo("#", 1))
		away.dropConnection()
		old, pub := srv.connect(packet.V311, "old"), srv.connect(packet.V5, "pub", sessionExpiry(1000))
		payload := strings.Repeat("x", 10_000)
		sent := 0
		for ; pub.publishAndWait("a", payload, 1) == packet.Success; sent++ {
			if sent > ceiling/10_000 {
				t.Fatal("no ceiling")
			}
			advanceTime(lookInterval)
		}
		if c := srv.counters(); c.MemoryHeld < ceiling || c.MemoryHeld > ceiling+lookBytes {
			t.Errorf("%d bytes held", c.MemoryHeld)
		}
		for qos := byte(1); qos < 3; qos++ { // MQTT 3.1.1 has no code: no acknowledgement
			if code := pub.publishAndWait("a", "x", qos); code != packet.QuotaExceeded {
				t.Errorf("QoS %d: %s", qos, code)
			}
			old.publish("a", "x", qos, uint16(qos))
		}
		old.wantNothing()
		old.publish("a", "x", 0, 0)
		if got := old.subscribe(subscribeTo("b", 0)); got[0] != packet.UnspecifiedError {
			t.Errorf("SUBACK of 3.1.1: %v", got)
		}
		if got := pub.subscribe(subscribeTo("b", 0)); got[0] != packet.QuotaExceeded {
			t.Errorf("SUBACK: %v", got)
		}
		if _, ack := srv.connectAck(packet.V5, "new"); ack.ReasonCode != packet.ServerBusy {
			t.Errorf("new client: %s", describePacket(ack))
		}
		if _, ack := srv.connectAck(packet.V311, "new"); ack.ReasonCode != packet.ServerUnavailable {
			t.Errorf("new client of 3.1.1: %s", describePacket(ack))
		}
		c := srv.counters()
		if c.Drops["memory"] != 1 || c.MemoryRefused["publish"] < 6 || c.MemoryRefused["connect"] != 2 || c.MemoryRefused["subscribe"] != 2 {
			t.Errorf("drops %v, refused %v", c.Drops, c.MemoryRefused)
		}

		away = srv.connect(packet.V5, "away", resumeSession) // whose queue it is may come
		for range sent {
			away.acknowledge(away.wantMessage(payload))
		}
		advanceTime(lookInterval)
		if code := pub.publishAndWait("a", "y", 2); code != packet.Success {
			t.Errorf("after it was emptied: %s", code)
		}
		away.acknowledge(away.wantMessage("y"))
		srv.connect(packet.V5, "new").disconnect()
		for _, s := range srv.broker.opts.Store.Sessions() { // a refused QoS 2 message left nothing behind
			if len(s.Received) != 0 {
				t.Errorf("%s: identifiers %v", s.Key.ClientID, s.Received)
			}
		}
	})
}

// TestMemoryCountsWhatClientsHold has clients make the broker hold all kinds of
// things: each is counted, and nothing is once they are gone.
func TestMemoryCountsWhatClientsHold(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	for name, tt := range map[string]struct {
		least int64
		hold  func(c *client)
	}{
		"topic aliases": {10 * 60_000, func(c *client) {
			for i := range 10 {
				p := publishPacket(long+fmt.Sprint(i), "", 0, 0)
				p.Properties.SetTopicAlias(uint16(i + 1))
				c.send(p)
			}
		}},
		"routes": {10 * 60_000, func(c *client) {
			for i := range 10 {
				c.publish(long+fmt.Sprint(i), "", 0, 0)
			}
		}},
		"subscriptions": {10 * 2 * 60_000, func(c *client) {
			for i := range 10 {
				c.subscribe(subscribeTo(long+fmt.Sprint(i), 0))
			}
		}},
		"levels of subscriptions": {100 * 190 * levelCost, func(c *client) {
			for i := range 100 {
				c.subscribe(subscribeTo(fmt.Sprint(i)+strings.Repeat("/", 190), 0))
			}
		}},
		"packet identifiers": {1000 * incomingCost, func(c *client) {
			for i := range 1000 {
				c.publish("a", "", 2, uint16(i+1))
			}
		}},
		"an unfinished packet": {500_000, func(c *client) {
			p := publishPacket("a", strings.Repeat("x", 600_000), 0, 0).Append(nil, c.v)
			c.sendBytes(p[:500_000])
		}},
	} {
		for _, v := range versions {
			if name == "topic aliases" && v != packet.V5 {
				continue // MQTT 3.1.1 has none
			}
			t.Run(name+"/"+v.String(), func(t *testing.T) {
				runWithServer(t, func(o *Options) { o.ReceiveMaximum = 2000 }, func(t *testing.T, srv *testServer) {
					c := srv.connect(v, "c")
					before := srv.memoryHeld()
					if before < streamCost+sessionCost {
						t.Errorf("an idle connection counts %d", before)
					}
					tt.hold(c)
					if got := srv.memoryHeld() - before; got < tt.least || got > 4*tt.least {
						t.Errorf("%d bytes counted, want at least %d", got, tt.least)
					}
					c.dropConnection()
					if got := srv.memoryHeld(); got != 0 {
						t.Errorf("%d bytes stay counted", got)
					}
				})
			})
		}
	}
}

// TestMemoryCountsSessions has sessions outlive their connections, with a will.
func TestMemoryCountsSessions(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		will := strings.Repeat("x", 50_000)
		c := srv.connect(packet.V5, "c", sessionExpiry(100), withWill("w", will, 50))
		c.dropConnection()
		if got := srv.memoryHeld(); got < sessionCost+50_000 || got > sessionCost+60_000 {
			t.Errorf("%d bytes counted with the will", got)
		}
		advanceTime(51 * time.Second)
		if got := srv.memoryHeld(); got < sessionCost || got > 2*sessionCost {
			t.Errorf("%d bytes counted after it", got)
		}
		advanceTime(50 * time.Second)
		if got := srv.memoryHeld(); got != 0 {
			t.Errorf("%d bytes counted after the session", got)
		}
	})
}

// TestFullMemoryRefusesLargePackets fills the memory: clients that are there go
// on, but for what would need more of it.
func TestFullMemoryRefusesLargePackets(t *testing.T) {
	large := publishPacket("a", strings.Repeat("x", 200_000), 0, 0).Append(nil, packet.V5)
	var aliases []byte
	for alias := range uint16(2) {
		m := publishPacket(strings.Repeat("x", 40_000), "", 0, 0)
		m.Properties.SetTopicAlias(alias + 1)
		aliases = m.Append(aliases, packet.V5)
	}
	for name, b := range map[string][]byte{"packet": large[:100_000], "aliases": aliases} {
		runWithServer(t, func(o *Options) { o.Memory = 1 << 20 }, func(t *testing.T, srv *testServer) {
			c := srv.connect(packet.V5, "c")
			srv.broker.memory.charge(1 << 20)
			defer srv.broker.memory.charge(-1 << 20)
			c.send(&packet.Pingreq{})
			wantPacket[*packet.Pingresp](c)
			_, _ = c.nc.Write(b) // not all of it is read
			if p := wantPacket[*packet.Disconnect](c); p.ReasonCode != packet.QuotaExceeded {
				t.Errorf("%s: %s", name, describePacket(p))
			}
		})
	}
}

func TestLedgerShare(t *testing.T) {
	l := memoryBudget{ceiling: 1 << 20}
	if got := l.share(100 << 20); got != 3<<16 {
		t.Errorf("of an empty one %d", got)
	}
	l.charge(1 << 19)
	if got := l.share(100 << 20); got != 1<<16 {
		t.Errorf("of half %d", got)
	}
	if got := l.share(1000); got != 1000 {
		t.Errorf("a lower limit is %d", got)
	}
	l.charge(1 << 19)
	if got := l.share(100 << 20); got != 0 || !l.full.Load() {
		t.Errorf("of a full one %d, full %v", got, l.full.Load())
	}
	if l.charge(-1 << 15); !l.full.Load() {
		t.Error("no distance between full and not")
	}
	if l.charge(-1 << 16); l.full.Load() {
		t.Error("stays full")
	}
}

func TestDropsAreReported(t *testing.T) {
	log, entries := recordedLog()
	runWithServer(t, func(o *Options) { o.Log, o.Outbox = log, 1000 }, func(t *testing.T, srv *testServer) {
		srv.connectDeadClient("dead", subscribeTo("a", 0))
		synctest.Wait()
		small := srv.connect(packet.V5, "small", func(p *packet.Connect) { p.Properties.SetMaximumPacketSize(30) })
		small.subscribe(subscribeTo("a", 1))
		pub := srv.connect(packet.V5, "pub")
		for range 20 {
			pub.publish("a", strings.Repeat("x", 200), 0, 0)
		}
		synctest.Wait()
		srv.broker.reportDrops()
		srv.broker.reportDrops() // says nothing again
		for _, s := range srv.broker.Sessions() {
			switch s.ClientID {
			case "small":
				if s.Dropped != 20 || s.Drops["too_large"] != 20 {
					t.Errorf("small: %v", s.Drops)
				}
			case "dead":
				if s.Dropped == 0 || s.Drops["slow"] != s.Dropped {
					t.Errorf("dead: %v", s.Drops)
				}
			}
		}
		var lines []string
		for _, e := range entries.AllEntries() {
			if e.Message == "messages for a client were dropped" {
				lines = append(lines, fmt.Sprint(e.Data["client_id"], " ", e.Data["reason"]))
				if e.Data["hint"] == "" {
					t.Error("no hint")
				}
			}
		}
		if len(lines) != 2 {
			t.Errorf("lines %v", lines)
		}
	})
}

func TestDropLinesAreBounded(t *testing.T) {
	log, entries := recordedLog()
	b := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}, Log: log})
	for i := range 50 {
		newSessionConn(t, b, packet.V5, fmt.Sprint("c", i), 0).own.countDrop(dropSlow)
	}
	b.reportDrops()
	if got := len(entries.AllEntries()); got != maxDropLines+1 {
		t.Errorf("%d lines", got)
	}
}

// TestHeldWhenFull sends packets in pieces while memory is full: what the connection
// itself costs, 48 KiB here, does not count for their size.
func TestHeldWhenFull(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Memory = 8 << 20 }, func(t *testing.T, srv *testServer) {
		for _, size := range []int{60_000, 70_000} {
			pub := srv.connect(packet.V5, fmt.Sprint("pub", size))
			srv.broker.memory.charge(8 << 20)
			whole := publishPacket("a", strings.Repeat("x", size), 1, 1).Append(nil, packet.V5)
			for len(whole) > 0 {
				n := min(len(whole), 5000)
				if _, err := pub.nc.Write(whole[:n]); err != nil {
					break // it was ended
				}
				whole = whole[n:]
				synctest.Wait()
			}
			switch p := pub.nextPacket().(type) {
			case *packet.Puback:
				if size > heldWhenFull || p.ReasonCode != packet.QuotaExceeded {
					t.Errorf("%d bytes: %s", size, describePacket(p))
				}
			case *packet.Disconnect:
				if size < heldWhenFull || p.ReasonCode != packet.QuotaExceeded {
					t.Errorf("%d bytes: %s", size, describePacket(p))
				}
			default:
				t.Errorf("%d bytes: %v", size, p)
			}
			pub.dropConnection()
			srv.broker.memory.charge(-8 << 20)
		}
	})
}

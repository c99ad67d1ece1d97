package mqtt

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// churnTest is a set of clients of two identities that act at random, by the
// rules and against them.
type churnTest struct {
	*testServer
	rnd  *rand.Rand
	full *fullStore
	open []*client
}

// TestNothingStaysCounted has clients come, go, take over, overfill and be thrown
// out while the store refuses now and then: once all is over, nothing is held.
func TestNothingStaysCounted(t *testing.T) {
	for seed := range uint64(60) {
		full := &fullStore{Memory: store.NewMemory(store.Limits{})}
		runWithServer(t, func(o *Options) {
			o.Store, o.Outbox, o.Queue = full, 3000, store.QueueLimit{Messages: 20, Bytes: 20_000}
			o.SessionsPerIdentity, o.ConnectionsPerIdentity = 2, 2
			if seed%3 == 0 {
				o.Memory = 200_000
			}
		}, func(t *testing.T, srv *testServer) {
			c := &churnTest{testServer: srv, rnd: rand.New(rand.NewPCG(seed, 1)), full: full}
			for range 120 {
				c.takeStep()
			}
			c.checkCharges(t)
			c.endAll()
			b := srv.broker
			got := fmt.Sprint(
				b.memory.held.Load(), b.routes.held.Load(), b.openConnections.Load(), b.subscriptions.Load(),
				len(b.sessions), len(b.sessionsOf), len(b.owners), len(b.perIdentity), len(b.groups), len(b.interest),
				full.Stats().Sessions, full.Stats().Queued,
			)
			if want := strings.TrimSpace(strings.Repeat("0 ", 12)); got != want {
				t.Errorf("seed %d: left %s", seed, got)
			}
		})
	}
}

// checkCharges compares the memory that sessions and groups are charged with
// their actual size.
func (c *churnTest) checkCharges(t *testing.T) {
	synctest.Wait()
	for _, s := range c.broker.allSessions() {
		held := sessionCost + len(s.key.ClientID) + incomingCost*len(s.incoming) + s.window.bytes()
		for f := range s.subs {
			held += subscriptionCost(f)
		}
		if s.will != nil {
			held += s.will.Size()
		}
		volatile := 0
		for _, d := range s.inMemory {
			volatile += d.Message.Size()
		}
		if held != s.charged || volatile != s.inMemoryBytes {
			t.Errorf("%s: %d and %d bytes counted, %d and %d there", s.key.ClientID, s.charged, s.inMemoryBytes, held, volatile)
		}
	}
	for _, g := range c.broker.allGroups() {
		held := 0
		for _, l := range g.waitingLoans {
			if l.seq == 0 {
				held += l.Message.Size()
			}
		}
		if held != g.charged {
			t.Errorf("%s: %d bytes counted, %d there", g.share, g.charged, held)
		}
	}
}

// endAll closes all connections and ends all sessions.
func (c *churnTest) endAll() {
	c.full.full.Store(false)
	for _, o := range c.open {
		o.dropConnection()
	}
	for _, who := range []string{"x", "y"} {
		c.broker.Disconnect(testID(who), Removal{Code: packet.AdministrativeAction, EndSessions: true, DropWills: true})
	}
	advanceTime(time.Minute) // identities that were over their rate
	for i := range c.broker.lanes {
		c.broker.lanes[i].cache.drop(c.broker)
	}
}

// randomIdentity returns one of the two identities.
func (c *churnTest) randomIdentity() string { return []string{"x", "y"}[c.rnd.IntN(2)] }

// flipCoin reports true half of the time.
func (c *churnTest) flipCoin() bool { return c.rnd.IntN(2) == 0 }

// takeStep performs one random event.
func (c *churnTest) takeStep() {
	switch n := c.rnd.IntN(20); {
	case n < 5:
		c.connectClient()
	case n == 5:
		advanceTime(time.Duration(c.rnd.IntN(20)) * time.Second)
	case n == 6:
		c.full.full.Store(!c.full.full.Load() && c.flipCoin())
	case n == 7:
		c.broker.Disconnect(testID(c.randomIdentity()), Removal{Code: packet.AdministrativeAction, EndSessions: c.flipCoin(), DropWills: c.flipCoin()})
	case n == 8:
		c.changePolicy()
	case len(c.open) > 0:
		c.takeAction(c.open[c.rnd.IntN(len(c.open))], n)
	}
}

// connectClient connects one more client, perhaps in place of another.
func (c *churnTest) connectClient() {
	v := versions[c.rnd.IntN(len(versions))]
	p := connectPacket([]string{"a", "b", "c"}[c.rnd.IntN(3)])
	p.CleanStart = c.rnd.IntN(3) == 0
	if c.flipCoin() {
		withWill("t/1", "will", 0)(p)
	}
	if v == packet.V5 && c.flipCoin() {
		sessionExpiry(uint32(c.rnd.IntN(50)))(p)
		receiveMaximum(uint16(1 + c.rnd.IntN(4)))(p)
		if p.Will != nil {
			p.Will.Properties.SetWillDelayInterval(uint32(c.rnd.IntN(20)))
		}
	}
	o := c.dial(v, c.randomIdentity())
	o.trySend(p)
	c.open = append(c.open, o)
}

// changePolicy grants or denies the topics and limits one identity or neither.
func (c *churnTest) changePolicy() {
	strict := c.flipCoin()
	c.denied.change(func(d *denyList) {
		d.subscribe, d.limits = nil, nil
		if strict {
			d.subscribe = []string{"t/#"}
			d.limits = map[string]Limits{"x": {Connections: Limit{1, "x"}, Messages: Limit{100, "x"}}}
		}
	})
	c.broker.Reauthorize()
}

// takeAction has one client perform the action of number n.
func (c *churnTest) takeAction(o *client, n int) {
	filters := []string{"t/1", "t/#", "$share/g/t/1", "$share/h/t/+", "$SYS/#", "#"}
	switch qos := byte(c.rnd.IntN(3)); n {
	case 9:
		o.dropConnection()
	case 10:
		o.trySend(&packet.Disconnect{})
	case 11, 12:
		o.trySend(&packet.Subscribe{PacketID: 3, Subscriptions: []packet.Subscription{subscribeTo(filters[c.rnd.IntN(len(filters))], qos)}})
	case 13:
		o.trySend(&packet.Unsubscribe{PacketID: 4, TopicFilters: filters[:3]})
	case 14, 15:
		o.acknowledgeAll()
	default:
		m := publishPacket("t/1", strings.Repeat("x", c.rnd.IntN(2000)), qos, 0)
		if m.Retain = c.rnd.IntN(6) == 0; qos > 0 {
			m.PacketID = uint16(1 + c.rnd.IntN(5))
		}
		o.trySend(m)
	}
}

// acknowledgeAll acknowledges every packet that came, without completing the
// handshakes.
func (c *client) acknowledgeAll() {
	synctest.Wait()
	for len(c.packets) > 0 {
		switch p := (<-c.packets).(type) {
		case *packet.Publish:
			switch p.QoS {
			case 1:
				c.trySend(&packet.Puback{PacketID: p.PacketID})
			case 2:
				c.trySend(&packet.Pubrec{PacketID: p.PacketID})
			}
		case *packet.Pubrel:
			c.trySend(&packet.Pubcomp{PacketID: p.PacketID})
		case *packet.Pubrec:
			c.trySend(&packet.Pubrel{PacketID: p.PacketID})
		}
	}
}

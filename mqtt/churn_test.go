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

// churn is clients of two identities that do what a seed says, well or badly.
type churn struct {
	*world
	rnd  *rand.Rand
	full *fullStore
	open []*client
}

// TestNothingStaysCounted has clients come, go, take over, overfill and be thrown
// out while the store refuses now and then: once all is over, nothing is held.
func TestNothingStaysCounted(t *testing.T) {
	for seed := range uint64(60) {
		full := &fullStore{Memory: store.NewMemory(store.Limits{})}
		bubble(t, func(o *Options) {
			o.Store, o.Outbox, o.Queue = full, 3000, store.QueueLimit{Messages: 20, Bytes: 20_000}
			o.SessionsPerIdentity, o.ConnectionsPerIdentity = 2, 2
			if seed%3 == 0 {
				o.Memory = 200_000
			}
		}, func(t *testing.T, w *world) {
			c := &churn{world: w, rnd: rand.New(rand.NewPCG(seed, 1)), full: full}
			for range 120 {
				c.step()
			}
			c.recount(t)
			c.end()
			b := w.b
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

// recount compares what sessions and groups hold with what is counted.
func (c *churn) recount(t *testing.T) {
	synctest.Wait()
	for _, s := range c.b.allSessions() {
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
	for _, g := range c.b.allGroups() {
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

// end closes everything and forgets all sessions.
func (c *churn) end() {
	c.full.full.Store(false)
	for _, o := range c.open {
		o.close()
	}
	for _, who := range []string{"x", "y"} {
		c.b.Disconnect(testID(who), Removal{Code: packet.AdministrativeAction, EndSessions: true, DropWills: true})
	}
	wait(time.Minute) // identities that were over their rate
	for i := range c.b.lanes {
		c.b.lanes[i].cache.drop(c.b)
	}
}

func (c *churn) who() string { return []string{"x", "y"}[c.rnd.IntN(2)] }

func (c *churn) flip() bool { return c.rnd.IntN(2) == 0 }

func (c *churn) step() {
	switch n := c.rnd.IntN(20); {
	case n < 5:
		c.come()
	case n == 5:
		wait(time.Duration(c.rnd.IntN(20)) * time.Second)
	case n == 6:
		c.full.full.Store(!c.full.full.Load() && c.flip())
	case n == 7:
		c.b.Disconnect(testID(c.who()), Removal{Code: packet.AdministrativeAction, EndSessions: c.flip(), DropWills: c.flip()})
	case n == 8:
		c.change()
	case len(c.open) > 0:
		c.act(c.open[c.rnd.IntN(len(c.open))], n)
	}
}

// come has a client connect, perhaps in place of another.
func (c *churn) come() {
	v := versions[c.rnd.IntN(len(versions))]
	p := connectPacket([]string{"a", "b", "c"}[c.rnd.IntN(3)])
	p.CleanStart = c.rnd.IntN(3) == 0
	if c.flip() {
		withWill("t/1", "will", 0)(p)
	}
	if v == packet.V5 && c.flip() {
		expiry(uint32(c.rnd.IntN(50)))(p)
		quota(uint16(1 + c.rnd.IntN(4)))(p)
		if p.Will != nil {
			p.Will.Properties.SetWillDelayInterval(uint32(c.rnd.IntN(20)))
		}
	}
	o := c.dial(v, c.who())
	o.try(p)
	c.open = append(c.open, o)
}

// change is a new policy.
func (c *churn) change() {
	strict := c.flip()
	c.rules.set(func(r *rules) {
		r.subscribe, r.limits = nil, nil
		if strict {
			r.subscribe = []string{"t/#"}
			r.limits = map[string]Limits{"x": {Connections: Limit{1, "x"}, Messages: Limit{100, "x"}}}
		}
	})
	c.b.Reauthorize()
}

// act has a client do something.
func (c *churn) act(o *client, n int) {
	filters := []string{"t/1", "t/#", "$share/g/t/1", "$share/h/t/+", "$SYS/#", "#"}
	switch qos := byte(c.rnd.IntN(3)); n {
	case 9:
		o.close()
	case 10:
		o.try(&packet.Disconnect{})
	case 11, 12:
		o.try(&packet.Subscribe{PacketID: 3, Subscriptions: []packet.Subscription{filter(filters[c.rnd.IntN(len(filters))], qos)}})
	case 13:
		o.try(&packet.Unsubscribe{PacketID: 4, TopicFilters: filters[:3]})
	case 14, 15:
		o.answerAll()
	default:
		m := message("t/1", strings.Repeat("x", c.rnd.IntN(2000)), qos, 0)
		if m.Retain = c.rnd.IntN(6) == 0; qos > 0 {
			m.PacketID = uint16(1 + c.rnd.IntN(5))
		}
		o.try(m)
	}
}

// answerAll acknowledges what came so far.
func (c *client) answerAll() {
	synctest.Wait()
	for len(c.got) > 0 {
		switch p := (<-c.got).(type) {
		case *packet.Publish:
			switch p.QoS {
			case 1:
				c.try(&packet.Puback{PacketID: p.PacketID})
			case 2:
				c.try(&packet.Pubrec{PacketID: p.PacketID})
			}
		case *packet.Pubrel:
			c.try(&packet.Pubcomp{PacketID: p.PacketID})
		case *packet.Pubrec:
			c.try(&packet.Pubrel{PacketID: p.PacketID})
		}
	}
}

package mqtt

import (
	"slices"
	"sync"
)

// groupKey names a shared subscription.
type groupKey struct{ name, filter string }

// group is the members of one shared subscription. Each message goes to one of
// them: in turn to those that are connected, and when none is, to one whose
// session keeps it.
type group struct {
	key groupKey

	mu      sync.Mutex
	members []*subscription
	next    int
}

// put adds a member or replaces its subscription, and returns how many there are.
func (g *group) put(sub *subscription) (members int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := g.position(sub.session); i >= 0 {
		g.members = slices.Clone(g.members) // pick reads without the lock
		g.members[i] = sub
	} else {
		g.members = append(slices.Clip(g.members), sub)
	}
	return len(g.members)
}

func (g *group) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members)
}

// remove takes a member out and returns how many are left.
func (g *group) remove(s *session) (members int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := g.position(s); i >= 0 {
		g.members = slices.Concat(g.members[:i], g.members[i+1:])
	}
	return len(g.members)
}

func (g *group) position(s *session) int {
	return slices.IndexFunc(g.members, func(m *subscription) bool { return m.session == s })
}

// pick chooses the member that gets the next message of a topic, or nil.
func (g *group) pick(name string) *subscription {
	g.mu.Lock()
	members, start := g.members, g.next
	g.next++
	g.mu.Unlock()
	var away *subscription
	for i := range members {
		m := members[(start+i)%len(members)]
		if m.filtered && !m.session.mayReceive(name) {
			continue
		}
		if m.session.conn.Load() != nil {
			return m
		}
		if away == nil && m.QoS > 0 && m.session.persistent() {
			away = m
		}
	}
	return away
}

// needs tells whether some member's session is persistent and whether a function
// is bound to some member's deliveries.
func (g *group) needs(b *Broker, name string) (persistent, downstream bool) {
	g.mu.Lock()
	members := g.members
	g.mu.Unlock()
	for _, m := range members {
		persistent = persistent || m.QoS > 0 && m.session.persistent()
		downstream = downstream || b.boundDownstream(m.session, name)
	}
	return persistent, downstream
}

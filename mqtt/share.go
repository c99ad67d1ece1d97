package mqtt

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/oklog/ulid/v2"

	"github.com/hpmq/hpmq/mqtt/store"
)

// groupKey names a shared subscription.
type groupKey struct{ name, filter string }

// group is the members of one shared subscription and what waits for them.
//
// Each message goes to one member: in turn to those that are connected and have
// room. At QoS 0 that is all. At QoS 1 and 2 it enters the group's queue, in the
// store if the session of some member is persistent, or was when what waits there
// came, and else in memory, and stays there while no member has room or all are
// away. A member is lent a message of QoS 1: it leaves the queue with the
// acknowledgement, and goes to another member if the connection ends before. One of
// QoS 2 becomes the member's own before it is sent: it is never given to two
// [MQTT-4.8.2-4] [MQTT-4.8.2-5].
type group struct {
	b   *Broker
	of  groupKey
	key store.SessionKey // of its queue in the store; no other group ever had it

	keeping atomic.Bool   // the store keeps what comes
	qos     atomic.Uint32 // highest of the members' subscriptions
	stuck   atomic.Bool   // something waits for room: who makes some calls pump
	refused atomic.Bool   // by the store, to read the queue or to make a message a member's own: none of QoS 2 goes out

	reviewMu sync.Mutex // held for review, before mu

	mu      sync.Mutex // guards all below
	members []*subscription
	asleep  map[*session]struct{} // whose subscriptions sleep
	turn    int
	kept    bool    // the store has the queue
	ready   []*loan // that no member has, oldest first: given back, or never in the store
	held    int     // bytes of those never in the store
	order   uint64
	pumping bool // one goroutine is in pump
	more    bool // it has to look once more
	asking  bool // a function has the next message
	over    bool // it has ended: nothing may wait any more

	// Of the goroutine in pump.
	read    uint64 // last entry of the store's queue that was fetched
	fetched []store.Entry
}

// shareIdentity takes the place of an identity in the store's key of a group.
const shareIdentity = "$share"

func newGroup(b *Broker, of groupKey, kept bool, id string) *group {
	g := &group{b: b, of: of, kept: kept, asleep: make(map[*session]struct{})}
	if id == "" {
		id = ulid.Make().String()
	}
	g.key = store.SessionKey{Identity: shareIdentity, ClientID: id + "/" + of.name + "/" + of.filter}
	g.stuck.Store(kept)
	return g
}

// parseGroup returns whose queue the store keeps under k, if it is a group's.
func parseGroup(k store.SessionKey) (of groupKey, id string, ok bool) {
	if k.Identity != shareIdentity {
		return groupKey{}, "", false
	}
	id, rest, _ := strings.Cut(k.ClientID, "/")
	of.name, of.filter, ok = strings.Cut(rest, "/")
	return of, id, ok
}

// allGroups returns the groups of now.
func (b *Broker) allGroups() []*group {
	b.interestMu.Lock()
	defer b.interestMu.Unlock()
	return slices.Collect(maps.Values(b.groups))
}

// put adds a member or replaces its subscription. One that sleeps is no member
// until it wakes, but what waits stays for it.
func (g *group) put(sub *subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := g.position(sub.session)
	if sub.asleep {
		g.leave(i)
		g.asleep[sub.session] = struct{}{}
		return
	}
	delete(g.asleep, sub.session)
	if i >= 0 {
		g.members = slices.Clone(g.members) // others read without the lock
		g.members[i] = sub
		return
	}
	g.members = append(slices.Clip(g.members), sub)
	g.stuck.Store(true) // what waited for a member
}

func (g *group) size() int { return len(g.all()) }

func (g *group) all() []*subscription {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members
}

// remove takes a member out and returns how many are left, those that sleep
// included.
func (g *group) remove(s *session) (left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave(g.position(s))
	delete(g.asleep, s)
	return len(g.members) + len(g.asleep)
}

// leave takes the member at a position out, if that is one. The caller holds mu.
func (g *group) leave(i int) {
	if i >= 0 {
		g.members = slices.Concat(g.members[:i], g.members[i+1:])
	}
}

func (g *group) position(s *session) int {
	return slices.IndexFunc(g.members, func(m *subscription) bool { return m.session == s })
}

// inTurn returns the members, beginning with whose turn it is.
func (g *group) inTurn() (members []*subscription, first int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn++
	return g.members, g.turn
}

// review decides anew, after a change of its members or their sessions, whether
// the store has to keep what comes for the group. The queue is in the store
// before anything is meant for it.
func (g *group) review() {
	g.reviewMu.Lock()
	defer g.reviewMu.Unlock()
	keep := g.b.opts.Store.QueueStats(g.key).Messages > 0 // what comes shall not pass what is there
	qos := byte(0)
	for _, m := range g.all() {
		qos = max(qos, m.QoS)
		keep = keep || m.QoS > 0 && m.session.persistent()
	}
	g.qos.Store(uint32(qos))
	g.mu.Lock()
	fresh := keep && !g.kept
	g.kept = g.kept || keep
	g.mu.Unlock()
	if fresh {
		g.b.opts.Store.Update(func(tx store.Tx) { tx.PutSession(store.Session{Key: g.key, Expiry: never}) }, nil)
	}
	if g.keeping.Swap(keep) != keep {
		g.b.Reroute()
	}
}

// end forgets what waits for the group: it has no member any more, nor one that
// sleeps.
func (g *group) end() {
	g.mu.Lock()
	kept := g.kept
	g.over, g.ready = true, nil
	g.hold(-g.held)
	g.mu.Unlock()
	if kept {
		g.b.opts.Store.Update(func(tx store.Tx) { tx.DeleteSession(g.key) }, nil)
	}
}

// queues reports whether messages of qos enter the group's queue.
func (g *group) queues(qos byte) bool { return qos > 0 && g.qos.Load() > 0 }

// pick chooses the member that gets the next message of QoS 0, or nil.
func (g *group) pick(name string) *subscription {
	members, first := g.inTurn()
	for i := range members {
		m := members[(first+i)%len(members)]
		if m.session.connected() && (!m.filtered || m.session.mayReceive(name)) {
			return m
		}
	}
	return nil
}

// scatter sends the batch's message to the first member that takes it, for
// messages that do not queue.
func (g *group) scatter(bt *batch, name string, retain bool) {
	members, first := g.inTurn()
	for i := range members {
		m := members[(first+i)%len(members)]
		if m.filtered && !m.session.mayReceive(name) {
			continue
		}
		if m.session.pushNow(bt, retain && m.RetainAsPublished, m.ids) {
			return
		}
	}
	g.b.lose(dropMember)
}

// downstream reports whether a function is bound to some member's deliveries.
func (g *group) downstream(name string) bool {
	return slices.ContainsFunc(g.all(), func(m *subscription) bool { return g.b.boundDownstream(m.session, name) })
}

// offer puts a message that no store keeps into the queue. pump follows.
func (g *group) offer(d store.Delivery) {
	size := d.Message.Size()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ready) >= g.b.opts.Queue.Messages || g.held+size > g.b.memory.share(g.b.opts.Queue.Bytes) {
		g.b.lose(dropQueue)
		return
	}
	g.hold(size)
	g.order++
	g.ready = append(g.ready, &loan{Delivery: d, group: g, order: g.order})
}

// hold counts bytes that wait in memory. The caller holds mu.
func (g *group) hold(n int) {
	g.held += n
	g.b.memory.add(n)
}

// giveBack takes loans that their members did not acknowledge.
func (g *group) giveBack(loans ...*loan) {
	g.mu.Lock()
	if g.over {
		g.mu.Unlock()
		return
	}
	for _, l := range loans {
		if l.seq == 0 {
			g.hold(l.Message.Size())
		}
	}
	g.ready = append(g.ready, loans...)
	slices.SortFunc(g.ready, func(x, y *loan) int { return cmp.Compare(x.order, y.order) })
	g.mu.Unlock()
	g.stuck.Store(true)
	g.b.count.redispatched.Add(uint64(len(loans)))
}

// waiting is how many messages wait that the store does not have.
func (g *group) waiting() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.ready {
		if l.seq == 0 {
			n++
		}
	}
	return n
}

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

// group is the members of one shared subscription and the messages that wait for them.
//
// Each message goes to one member: in turn to the connected ones that have room. At
// QoS 0 that is all. At QoS 1 and 2 it enters the group's queue and stays there while
// no member has room or all are away. The queue is in the store if the session of some
// member is persistent, or was when the waiting messages came, and else in memory. A
// member is lent a message of QoS 1: it leaves the queue with the acknowledgement, and
// goes to another member if the connection ends before. A message of QoS 2 becomes the
// member's own before it is sent: it is never given to two [MQTT-4.8.2-4]
// [MQTT-4.8.2-5].
type group struct {
	b     *Broker
	share groupKey
	key   store.SessionKey // of its queue in the store; no other group ever had that key

	persistent atomic.Bool   // the store keeps new messages
	qos        atomic.Uint32 // highest of the members' subscriptions
	needsRoom  atomic.Bool   // a message waits for room: a session that makes some calls pump
	refused    atomic.Bool   // by the store, to read the queue or to make a message a member's own: none of QoS 2 goes out

	reviewMu sync.Mutex // held for reviewPersistence, before mu

	mu           sync.Mutex // guards all below
	members      []*subscription
	asleep       map[*session]struct{} // sessions of sleeping subscriptions
	nextMember   int                   // counts up; modulo the members, the next in turn
	queueStored  bool                  // the store has the queue
	waitingLoans []*loan               // that no member has, oldest first: given back, or never in the store
	charged      int                   // bytes of the loans never in the store
	order        uint64                // of the last loan
	pumping      bool                  // one goroutine is in pump
	pumpAgain    bool                  // it has to look once more
	asking       bool                  // a function has the next message
	ended        bool                  // it has ended: nothing may wait any more

	// Of the goroutine in pump.
	readSeq uint64 // last entry of the store's queue that was fetched
	fetched []store.Entry
}

// shareIdentity takes the place of an identity in the store's key of a group.
const shareIdentity = "$share"

func newGroup(b *Broker, of groupKey, kept bool, id string) *group {
	g := &group{b: b, share: of, queueStored: kept, asleep: make(map[*session]struct{})}
	if id == "" {
		id = ulid.Make().String()
	}
	g.key = store.SessionKey{Identity: shareIdentity, ClientID: id + "/" + of.name + "/" + of.filter}
	g.needsRoom.Store(kept)
	return g
}

// parseGroup returns the group of the store's queue under k, if it is a group's.
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

// putMember adds a member or replaces its subscription. One that sleeps is no member
// until it wakes, but the queue stays for it.
func (g *group) putMember(sub *subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := g.position(sub.session)
	if sub.asleep {
		g.dropMemberAt(i)
		g.asleep[sub.session] = struct{}{}
		return
	}
	delete(g.asleep, sub.session)
	if i >= 0 {
		g.members = slices.Clone(g.members) // it is read without the lock too
		g.members[i] = sub
		return
	}
	g.members = append(slices.Clip(g.members), sub)
	g.needsRoom.Store(true) // messages may have waited for a member
}

func (g *group) memberCount() int { return len(g.allMembers()) }

func (g *group) allMembers() []*subscription {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members
}

// removeMember takes a member out and returns how many are left, sleeping ones
// included.
func (g *group) removeMember(s *session) (left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropMemberAt(g.position(s))
	delete(g.asleep, s)
	return len(g.members) + len(g.asleep)
}

// dropMemberAt takes the member at a position out, if that is one. The caller holds mu.
func (g *group) dropMemberAt(i int) {
	if i >= 0 {
		g.members = slices.Concat(g.members[:i], g.members[i+1:])
	}
}

func (g *group) position(s *session) int {
	return slices.IndexFunc(g.members, func(m *subscription) bool { return m.session == s })
}

// inTurn returns the members, and the index of the next one in turn.
func (g *group) inTurn() (members []*subscription, first int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nextMember++
	return g.members, g.nextMember
}

// reviewPersistence decides anew, after a change of its members or their sessions,
// whether the store has to keep new messages for the group. The queue is in the store
// before the first of them.
func (g *group) reviewPersistence() {
	g.reviewMu.Lock()
	defer g.reviewMu.Unlock()
	keep := g.b.opts.Store.QueueStats(g.key).Messages > 0 // new messages shall not pass the ones that are there
	qos := byte(0)
	for _, m := range g.allMembers() {
		qos = max(qos, m.QoS)
		keep = keep || m.QoS > 0 && m.session.persistent()
	}
	g.qos.Store(uint32(qos))
	g.mu.Lock()
	fresh := keep && !g.queueStored
	g.queueStored = g.queueStored || keep
	g.mu.Unlock()
	if fresh {
		g.b.opts.Store.Update(func(tx store.Tx) { tx.PutSession(store.Session{Key: g.key, Expiry: never}) }, nil)
	}
	if g.persistent.Swap(keep) != keep {
		g.b.Reroute()
	}
}

// endGroup forgets the group's messages: it has no member any more, nor one that
// sleeps.
func (g *group) endGroup() {
	g.mu.Lock()
	kept := g.queueStored
	g.ended, g.waitingLoans = true, nil
	g.chargeMemory(-g.charged)
	g.mu.Unlock()
	if kept {
		g.b.opts.Store.Update(func(tx store.Tx) { tx.DeleteSession(g.key) }, nil)
	}
}

// queues reports whether messages of qos enter the group's queue.
func (g *group) queues(qos byte) bool { return qos > 0 && g.qos.Load() > 0 }

// pickMember chooses the member that gets the next message of QoS 0, or nil.
func (g *group) pickMember(name string) *subscription {
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
		if m.session.pushQoS0(bt, retain && m.RetainAsPublished, m.ids) {
			return
		}
	}
	g.b.countDrop(dropMember)
}

// downstream reports whether a function is bound to some member's deliveries.
func (g *group) downstream(name string) bool {
	return slices.ContainsFunc(g.allMembers(), func(m *subscription) bool { return g.b.boundDownstream(m.session, name) })
}

// queueInMemory puts a message that no store keeps into the queue. pump follows.
func (g *group) queueInMemory(d store.Delivery) {
	size := d.Message.Size()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waitingLoans) >= g.b.opts.Queue.Messages || g.charged+size > g.b.memory.share(g.b.opts.Queue.Bytes) {
		g.b.countDrop(dropQueue)
		return
	}
	g.chargeMemory(size)
	g.order++
	g.waitingLoans = append(g.waitingLoans, &loan{Delivery: d, group: g, order: g.order})
}

// chargeMemory counts bytes that wait in memory. The caller holds mu.
func (g *group) chargeMemory(n int) {
	g.charged += n
	g.b.memory.charge(n)
}

// giveBackLoans takes back loans that their members did not acknowledge.
func (g *group) giveBackLoans(loans ...*loan) {
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		return
	}
	for _, l := range loans {
		if l.seq == 0 {
			g.chargeMemory(l.Message.Size())
		}
	}
	g.waitingLoans = append(g.waitingLoans, loans...)
	slices.SortFunc(g.waitingLoans, func(x, y *loan) int { return cmp.Compare(x.order, y.order) })
	g.mu.Unlock()
	g.needsRoom.Store(true)
	g.b.count.redispatched.Add(uint64(len(loans)))
}

// inMemoryCount is how many messages wait that the store does not have.
func (g *group) inMemoryCount() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.waitingLoans {
		if l.seq == 0 {
			n++
		}
	}
	return n
}

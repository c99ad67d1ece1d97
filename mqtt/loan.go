package mqtt

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/store"
)

// loan is one message of a group's queue, lent to a member or not.
type loan struct {
	store.Delivery
	group      *group
	seq        uint64 // in the store's queue; 0 if the store does not have it
	order      uint64
	sentTo     *session // the last member that was sent it
	routeEpoch uint64   // of the broker, before a member was chosen
}

// deliveryTo is l as a member receives it. [MQTT-4.8.2-3]
func (l *loan) deliveryTo(m *subscription) store.Delivery {
	return store.Delivery{
		Message: l.Message, QoS: min(l.QoS, m.QoS), Retain: l.Retain && m.RetainAsPublished, IDs: m.ids,
	}
}

// sendLoan sends a message of QoS 1 that stays the group's until its PUBACK, and
// reports whether the client has room for it. DUP tells the client if it was sent the
// message before.
func (s *session) sendLoan(bt *batch, c *conn, f frame, l *loan) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasRoom(c) {
		return false
	}
	id := s.assignPacketID(0, 1, sent)
	slot := s.window.slotOf(id)
	if !c.push(bt, f, id, l.sentTo == s) {
		s.window.freeSlot(slot)
		return false
	}
	slot.loan, l.sentTo = l, s
	return true
}

// hasRoom reports whether c is the session's connection and one more message may
// go out on it. The caller holds mu.
func (s *session) hasRoom(c *conn) bool {
	return !s.ended && s.conn.Load() == c && c.ready.Load() && s.window.quotaLeft() > s.reservedRoom && !s.window.exhausted()
}

// reserveRoom reserves room for a message, of about size bytes, that comes as soon as
// the store or a function has answered, and reports whether there is room.
// unreserveRoom ends that. An outbox that would not take the message now has none: the
// group would find that out each time anew.
func (s *session) reserveRoom(c *conn, size int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.out.mu.Lock()
	admits := c.admits(size)
	c.out.mu.Unlock()
	if !admits || !s.hasRoom(c) {
		return false
	}
	s.reservedRoom++
	return true
}

// reserveRoomAway reserves room for a message that becomes the session's own, also if
// its client is away.
func (s *session) reserveRoomAway() {
	s.mu.Lock()
	s.reservedRoom++
	s.mu.Unlock()
}

func (s *session) unreserveRoom() {
	s.mu.Lock()
	s.reservedRoom--
	s.mu.Unlock()
}

// takeLoans takes the loans out of the window: their connection has ended. The caller
// holds mu.
func (w *window) takeLoans() (loans []*loan) {
	for i := range w.slots {
		if l := w.slots[i].loan; l != nil {
			loans = append(loans, l)
			w.freeSlot(&w.slots[i])
		}
	}
	return loans
}

// returnLoans gives back the loans that the client did not acknowledge, for the other
// members.
func (b *Broker) returnLoans(loans []*loan) {
	if len(loans) == 0 {
		return
	}
	bt := getBatch(b)
	defer bt.done()
	var groups []*group
	for _, l := range loans {
		l.group.giveBackLoans(l)
		if !slices.Contains(groups, l.group) {
			groups = append(groups, l.group)
		}
	}
	for _, g := range groups {
		g.pump(bt)
	}
}

// pumpGroups gives the session the messages that wait in its groups for room.
func (s *session) pumpGroups(bt *batch) {
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		if g.needsRoom.Load() {
			g.pump(bt)
		}
	}
}

// pumpRefused tries again where the store refused to make a message a member's own, or
// could not read a queue.
func (b *Broker) pumpRefused() {
	bt := getBatch(b)
	defer bt.done()
	for _, g := range b.allGroups() {
		if g.refused.Swap(false) {
			g.pump(bt)
		}
	}
}

// addGroup and removeGroup change the list of the session's groups, which is replaced,
// never changed in place.
func (s *session) addGroup(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.groups, g) {
		s.groups = append(slices.Clip(s.groups), g)
	}
}

func (s *session) removeGroup(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.groups, g); i >= 0 {
		s.groups = slices.Concat(s.groups[:i], s.groups[i+1:])
	}
}

// reviewGroups looks over the session's groups after its expiry may have changed.
func (s *session) reviewGroups() {
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		g.reviewPersistence()
	}
}

// moveToMember makes messages the member's own, in place of l: a persistent session
// keeps them before they are sent. Room for one was reserved.
func (g *group) moveToMember(m *subscription, l *loan, messages ...store.Delivery) {
	s := m.session
	keep := s.persistent()
	done := func(err error) {
		s.unreserveRoom()
		g.sendMoved(s, l, messages, keep, err)
	}
	if !keep && l.seq == 0 {
		done(nil)
		return
	}
	g.b.opts.Store.Update(func(tx store.Tx) {
		for _, d := range messages {
			if keep {
				tx.Enqueue(s.key, d)
			}
		}
		if l.seq != 0 {
			tx.Dequeue(g.key, l.seq)
		}
	}, done)
}

// sendMoved sends the messages that the member now owns. If it cannot, because its
// session ended at this moment, another member gets the message: it was never sent.
func (g *group) sendMoved(s *session, l *loan, messages []store.Delivery, keep bool, err error) {
	bt := getBatch(g.b)
	defer bt.done()
	if err != nil {
		g.refused.Store(true) // until pumpRefused
		g.giveBackLoans(l)
		return
	}
	if keep {
		s.pump(bt)
		s.mu.Lock()
		ended := s.ended
		s.mu.Unlock()
		if ended {
			g.requeueLoan(bt, l)
		}
		return
	}
	if g.deniedSince(s, l) {
		g.requeueLoan(bt, l)
		return
	}
	for i, d := range messages {
		if !s.sendOwn(bt, d) && i == 0 {
			g.requeueLoan(bt, l)
			return
		}
	}
}

// deniedSince reports whether the session may no longer have l, which waited for a
// function or the store.
func (g *group) deniedSince(s *session, l *loan) bool {
	return l.routeEpoch != g.b.routeEpoch.Load() && !s.mayStillReceive(l.Message.Topic)
}

// sendOwn is deliver for a message that other members want too: it reports whether the
// client was sent it.
func (s *session) sendOwn(bt *batch, d store.Delivery) bool {
	c := s.conn.Load()
	if c == nil {
		return false
	}
	bt.out.setMessage(d.Message)
	f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
	switch {
	case !c.acceptsSize(f):
		s.countDrop(dropTooLarge)
		return true
	case d.QoS == 0:
		return c.push(bt, f, 0, false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasRoom(c) && s.sendNew(bt, c, f, 0)
}

// requeueLoan puts a message into the queue again that a transaction took out.
func (g *group) requeueLoan(bt *batch, l *loan) {
	if l.seq == 0 {
		g.giveBackLoans(l)
		g.pump(bt)
		return
	}
	g.b.opts.Store.Update(func(tx store.Tx) { tx.Enqueue(g.key, l.Delivery) }, func(err error) {
		if err != nil { // it stays in memory
			g.giveBackLoans(&loan{Delivery: l.Delivery, group: g, order: l.order})
		}
		bt := getBatch(g.b)
		g.pump(bt)
		bt.done()
	})
}

// askMemberChain has the member's functions see l, once, before it is sent. The group's
// other messages wait.
func (g *group) askMemberChain(m *subscription, l *loan) {
	g.mu.Lock()
	g.asking = true
	g.mu.Unlock()
	d := &delivery{Delivery: l.deliveryTo(m), session: m.session, granted: m.QoS, rap: m.RetainAsPublished}
	g.b.opts.Filter.Submit(Downstream, m.session.principal, l.Message, func(r FilterResult) {
		g.b.applyDownstream(d, r)
		if d.state != nil {
			g.b.opts.Store.Update(d.state.Keep, func(err error) {
				if err != nil {
					d.state.Discard()
				}
			})
		}
		bt := getBatch(g.b)
		g.sendAnswered(bt, m, l, d)
		g.mu.Lock()
		g.asking = false
		g.mu.Unlock()
		g.pump(bt)
		bt.done()
	})
}

// sendAnswered sends the functions' answer to l.
func (g *group) sendAnswered(bt *batch, m *subscription, l *loan, d *delivery) {
	if g.deniedSince(m.session, l) {
		m.session.unreserveRoom()
		g.giveBackLoans(l)
		return
	}
	messages := append([]store.Delivery{d.Delivery}, d.more...)
	last := -1 // of QoS 1: its PUBACK ends the loan
	for i, x := range messages {
		switch x.QoS {
		case 2:
			if !d.dropped {
				g.moveToMember(m, l, messages...)
				return
			}
		case 1:
			last = i
		}
	}
	m.session.unreserveRoom()
	if d.dropped {
		g.dequeueLoan(l)
		return
	}
	c := m.session.conn.Load()
	for i, x := range messages {
		if c == nil {
			g.giveBackLoans(l)
			return
		}
		bt.out.setMessage(x.Message)
		f := bt.out.frame(c.version, x.QoS, x.Retain, x.IDs)
		switch {
		case i != last:
			m.session.sendOwn(bt, x)
		case !c.acceptsSize(f):
			g.dropLoan(l, dropTooLarge)
		case !m.session.sendLoan(bt, c, f, l):
			g.giveBackLoans(l)
			return
		}
	}
	if last < 0 {
		g.dequeueLoan(l)
	}
}

package mqtt

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/store"
)

// loan is one message of a group's queue, lent to a member or not.
type loan struct {
	store.Delivery
	group *group
	seq   uint64 // in the store's queue; 0 is not there
	order uint64
	last  *session // that was sent it
	epoch uint64   // of the broker, before a member was chosen
}

// to is l as a member receives it. [MQTT-4.8.2-3]
func (l *loan) to(m *subscription) store.Delivery {
	return store.Delivery{
		Message: l.Message, QoS: min(l.QoS, m.QoS), Retain: l.Retain && m.RetainAsPublished, IDs: m.ids,
	}
}

// borrow sends a message of QoS 1 that stays the group's until its PUBACK, and
// reports whether the client has room for it. DUP tells a client that had it
// before.
func (s *session) borrow(bt *batch, c *conn, f frame, l *loan) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.roomy(c) {
		return false
	}
	id := s.number(0, 1, sent)
	slot := s.window.get(id)
	if !c.push(bt, f, id, l.last == s) {
		s.window.free(slot)
		return false
	}
	slot.loan, l.last = l, s
	return true
}

// roomy reports whether c is the session's connection and one more message may
// go out on it. The caller holds mu.
func (s *session) roomy(c *conn) bool {
	return !s.ended && s.conn.Load() == c && c.ready.Load() && s.window.room() > s.owed && !s.window.exhausted()
}

// owe reserves room for a message, of about size bytes, that comes as soon as the
// store or a function has answered. disown ends that. An outbox that would not take
// the message now is no room: the group would find that out each time anew.
func (s *session) owe(c *conn, size int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.out.mu.Lock()
	admits := c.admits(size)
	c.out.mu.Unlock()
	if !admits || !s.roomy(c) {
		return false
	}
	s.owed++
	return true
}

// expect reserves room for a message that becomes the session's own, wherever its
// client is.
func (s *session) expect() {
	s.mu.Lock()
	s.owed++
	s.mu.Unlock()
}

func (s *session) disown() {
	s.mu.Lock()
	s.owed--
	s.mu.Unlock()
}

// lent takes the loans out of the window: their connection has ended. The caller
// holds mu.
func (w *window) lent() (loans []*loan) {
	for i := range w.slots {
		if l := w.slots[i].loan; l != nil {
			loans = append(loans, l)
			w.free(&w.slots[i])
		}
	}
	return loans
}

// returnLoans gives back what the client did not acknowledge, for the other
// members.
func (b *Broker) returnLoans(loans []*loan) {
	if len(loans) == 0 {
		return
	}
	bt := getBatch(b)
	defer bt.done()
	var groups []*group
	for _, l := range loans {
		l.group.giveBack(l)
		if !slices.Contains(groups, l.group) {
			groups = append(groups, l.group)
		}
	}
	for _, g := range groups {
		g.pump(bt)
	}
}

// pumpGroups gives the session what waits in its groups for room.
func (s *session) pumpGroups(bt *batch) {
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		if g.stuck.Load() {
			g.pump(bt)
		}
	}
}

// pumpRefused tries again what the store refused to make a member's own, or could
// not read.
func (b *Broker) pumpRefused() {
	bt := getBatch(b)
	defer bt.done()
	for _, g := range b.allGroups() {
		if g.refused.Swap(false) {
			g.pump(bt)
		}
	}
}

// join and leave keep the list of the session's groups, which is replaced, never
// changed.
func (s *session) join(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.groups, g) {
		s.groups = append(slices.Clip(s.groups), g)
	}
}

func (s *session) leave(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.groups, g); i >= 0 {
		s.groups = slices.Concat(s.groups[:i], s.groups[i+1:])
	}
}

// review looks over the session's groups after its expiry may have changed.
func (s *session) review() {
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		g.review()
	}
}

// move makes messages the member's own, in place of l: a persistent session
// keeps them before they are sent. Room for one was reserved.
func (g *group) move(m *subscription, l *loan, messages ...store.Delivery) {
	s := m.session
	keep := s.persistent()
	done := func(err error) {
		s.disown()
		g.moved(s, l, messages, keep, err)
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

// moved sends what the member now owns. If it cannot, because its session ended
// at this moment, another member gets the message: it was never sent.
func (g *group) moved(s *session, l *loan, messages []store.Delivery, keep bool, err error) {
	bt := getBatch(g.b)
	defer bt.done()
	if err != nil {
		g.refused.Store(true) // until pumpRefused
		g.giveBack(l)
		return
	}
	if keep {
		s.pump(bt)
		s.mu.Lock()
		ended := s.ended
		s.mu.Unlock()
		if ended {
			g.restock(bt, l)
		}
		return
	}
	if g.late(s, l) {
		g.restock(bt, l)
		return
	}
	for i, d := range messages {
		if !s.sendOwn(bt, d) && i == 0 {
			g.restock(bt, l)
			return
		}
	}
}

// late reports whether the session may no longer have l, which it was to get when
// a function or the store has answered.
func (g *group) late(s *session, l *loan) bool {
	return l.epoch != g.b.epoch.Load() && !s.mayStillReceive(l.Message.Topic)
}

// sendOwn is deliver for a message that others want too: it reports whether the
// client was sent it.
func (s *session) sendOwn(bt *batch, d store.Delivery) bool {
	c := s.conn.Load()
	if c == nil {
		return false
	}
	bt.out.set(d.Message)
	f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
	switch {
	case !c.takes(f):
		s.lose(dropTooLarge)
		return true
	case d.QoS == 0:
		return c.push(bt, f, 0, false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomy(c) && s.sendNew(bt, c, f, 0)
}

// restock puts a message into the queue again that a transaction took out.
func (g *group) restock(bt *batch, l *loan) {
	if l.seq == 0 {
		g.giveBack(l)
		g.pump(bt)
		return
	}
	g.b.opts.Store.Update(func(tx store.Tx) { tx.Enqueue(g.key, l.Delivery) }, func(err error) {
		if err != nil { // it stays in memory
			g.giveBack(&loan{Delivery: l.Delivery, group: g, order: l.order})
		}
		bt := getBatch(g.b)
		g.pump(bt)
		bt.done()
	})
}

// ask has the member's functions see l, once, before it is sent. The group's
// other messages wait.
func (g *group) ask(m *subscription, l *loan) {
	g.mu.Lock()
	g.asking = true
	g.mu.Unlock()
	d := &delivery{Delivery: l.to(m), session: m.session, granted: m.QoS, rap: m.RetainAsPublished}
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
		g.answered(bt, m, l, d)
		g.mu.Lock()
		g.asking = false
		g.mu.Unlock()
		g.pump(bt)
		bt.done()
	})
}

// answered sends what the functions made of l.
func (g *group) answered(bt *batch, m *subscription, l *loan, d *delivery) {
	if g.late(m.session, l) {
		m.session.disown()
		g.giveBack(l)
		return
	}
	messages := append([]store.Delivery{d.Delivery}, d.more...)
	last := -1 // of QoS 1: its PUBACK ends the loan
	for i, x := range messages {
		switch x.QoS {
		case 2:
			if !d.gone {
				g.move(m, l, messages...)
				return
			}
		case 1:
			last = i
		}
	}
	m.session.disown()
	if d.gone {
		g.dequeue(l)
		return
	}
	c := m.session.conn.Load()
	for i, x := range messages {
		if c == nil {
			g.giveBack(l)
			return
		}
		bt.out.set(x.Message)
		f := bt.out.frame(c.version, x.QoS, x.Retain, x.IDs)
		switch {
		case i != last:
			m.session.sendOwn(bt, x)
		case !c.takes(f):
			g.drop(l, dropTooLarge)
		case !m.session.borrow(bt, c, f, l):
			g.giveBack(l)
			return
		}
	}
	if last < 0 {
		g.dequeue(l)
	}
}

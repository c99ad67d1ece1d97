package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// pump gives the group's messages to members as far as those have room. One
// goroutine does it at a time.
func (g *group) pump(bt *batch) {
	g.mu.Lock()
	if g.pumping {
		g.more = true
		g.mu.Unlock()
		return
	}
	g.pumping = true
	for {
		g.more = false
		g.mu.Unlock()
		for l := g.take(); l != nil; l = g.take() {
			g.stuck.Store(true) // before the members are looked at: who makes room meanwhile calls pump
			if !g.dispatch(bt, l) {
				g.untake(l)
				break
			}
			g.stuck.Store(false)
		}
		g.mu.Lock()
		if !g.more {
			break
		}
	}
	g.pumping = false
	g.mu.Unlock()
}

// take returns the oldest message that no member has, or nil.
func (g *group) take() *loan {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.asking:
		return nil
	case len(g.ready) > 0:
		l := g.ready[0]
		g.ready[0] = nil
		g.ready = g.ready[1:]
		if l.seq == 0 {
			g.hold(-l.Message.Size())
		}
		return l
	case !g.kept:
		return nil
	}
	if len(g.fetched) == 0 {
		g.mu.Unlock()
		var err error
		g.fetched, err = g.b.opts.Store.Queue(g.key, g.read, make([]store.Entry, 0, 16))
		g.mu.Lock()
		if err != nil {
			g.refused.Store(true) // until pumpRefused
		}
	}
	if len(g.fetched) == 0 {
		return nil
	}
	e := g.fetched[0]
	g.fetched = g.fetched[1:]
	g.read = e.Seq
	g.order++
	return &loan{Delivery: e.Delivery, group: g, seq: e.Seq, order: g.order}
}

// untake puts back what take returned.
func (g *group) untake(l *loan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	if l.seq == 0 {
		g.hold(l.Message.Size())
	}
	g.ready = append([]*loan{l}, g.ready...)
}

// answer is what became of a loan that a member was offered.
type answer byte

const (
	away     answer = iota // not connected
	full                   // no room now
	tooLarge               // for the client
	lent                   // or done with
)

// dispatch finds a member for l, and reports false if l has to wait for one.
func (g *group) dispatch(bt *batch, l *loan) bool {
	if l.Message.Expired(time.Now()) {
		g.drop(l, dropExpired) // [MQTT-3.3.2-5]
		return true
	}
	l.epoch = g.b.epoch.Load()
	members, first := g.inTurn()
	var got [lent]int // answers, by kind
	denied := 0
	var absent *subscription
	for i := range members {
		m := members[(first+i)%len(members)]
		if m.filtered && !m.session.mayReceive(l.Message.Topic) {
			denied++
			continue
		}
		a := g.lend(bt, m, l)
		if a == lent {
			return true
		}
		if got[a]++; a == away && absent == nil && m.QoS > 0 && m.session.persistent() {
			absent = m
		}
	}
	switch {
	case got[full] > 0:
		return false
	case denied > 0 && absent != nil && got[tooLarge] == 0 && !g.refused.Load(): // those who are there may not have it, and need not wait
		absent.session.expect()
		g.move(absent, l, l.to(absent))
		return true
	case len(members) == 0: // those that there are sleep
		return false
	case denied == len(members):
		g.drop(l, dropDenied)
		return true
	case got[tooLarge] > 0:
		g.drop(l, dropMember)
		return true
	}
	return false
}

// drop ends a message that no member gets.
func (g *group) drop(l *loan, why dropReason) {
	g.b.lose(why)
	g.dequeue(l)
}

// dequeue has the store forget a message. Nobody waits for it.
func (g *group) dequeue(l *loan) {
	if l.seq != 0 {
		g.b.opts.Store.Update(func(tx store.Tx) { tx.Dequeue(g.key, l.seq) }, nil)
	}
}

// lend offers l to a member.
func (g *group) lend(bt *batch, m *subscription, l *loan) answer {
	s := m.session
	c := s.conn.Load()
	if c == nil {
		return away
	}
	d := l.to(m)
	bt.out.set(d.Message)
	f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
	switch {
	case !c.takes(f):
		return tooLarge
	case d.QoS == 2 && g.refused.Load():
		return full
	}
	if g.b.boundDownstream(s, d.Message.Topic) {
		if !s.owe(c, f.Size()) {
			return full
		}
		g.ask(m, l)
		return lent
	}
	switch d.QoS {
	case 0:
		if !s.pushNow(bt, d.Retain, d.IDs) {
			return full
		}
		g.dequeue(l)
	case 1:
		if !s.borrow(bt, c, f, l) {
			return full
		}
	case 2:
		if !s.owe(c, f.Size()) {
			return full
		}
		g.move(m, l, d)
	}
	return lent
}

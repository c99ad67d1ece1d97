package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// pump gives the group's messages to members as far as these have room. One
// goroutine does it at a time.
func (g *group) pump(bt *batch) {
	g.mu.Lock()
	if g.pumping {
		g.pumpAgain = true
		g.mu.Unlock()
		return
	}
	g.pumping = true
	for {
		g.pumpAgain = false
		g.mu.Unlock()
		for l := g.takeLoan(); l != nil; l = g.takeLoan() {
			g.needsRoom.Store(true) // before the members are looked at: a session that makes room meanwhile calls pump
			if !g.dispatchLoan(bt, l) {
				g.untakeLoan(l)
				break
			}
			g.needsRoom.Store(false)
		}
		g.mu.Lock()
		if !g.pumpAgain {
			break
		}
	}
	g.pumping = false
	g.mu.Unlock()
}

// takeLoan returns the oldest message that no member has, or nil.
func (g *group) takeLoan() *loan {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.asking:
		return nil
	case len(g.waitingLoans) > 0:
		l := g.waitingLoans[0]
		g.waitingLoans[0] = nil
		g.waitingLoans = g.waitingLoans[1:]
		if l.seq == 0 {
			g.chargeMemory(-l.Message.Size())
		}
		return l
	case !g.queueStored:
		return nil
	}
	if len(g.fetched) == 0 {
		g.mu.Unlock()
		var err error
		g.fetched, err = g.b.opts.Store.Queue(g.key, g.readSeq, make([]store.Entry, 0, 16))
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
	g.readSeq = e.Seq
	g.order++
	return &loan{Delivery: e.Delivery, group: g, seq: e.Seq, order: g.order}
}

// untakeLoan puts back the loan that takeLoan returned.
func (g *group) untakeLoan(l *loan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return
	}
	if l.seq == 0 {
		g.chargeMemory(l.Message.Size())
	}
	g.waitingLoans = append([]*loan{l}, g.waitingLoans...)
}

// answer is the outcome of a loan that a member was offered.
type answer byte

const (
	memberAway     answer = iota // not connected
	memberFull                   // no room now
	memberTooLarge               // for the client
	memberTook                   // it, or the message is done with
)

// dispatchLoan finds a member for l, and reports false if l has to wait for one.
func (g *group) dispatchLoan(bt *batch, l *loan) bool {
	if l.Message.Expired(time.Now()) {
		g.dropLoan(l, dropExpired) // [MQTT-3.3.2-5]
		return true
	}
	l.routeEpoch = g.b.routeEpoch.Load()
	members, first := g.inTurn()
	var got [memberTook]int // answers, by kind
	denied := 0
	var absent *subscription
	for i := range members {
		m := members[(first+i)%len(members)]
		if m.filtered && !m.session.mayReceive(l.Message.Topic) {
			denied++
			continue
		}
		a := g.offerLoan(bt, m, l)
		if a == memberTook {
			return true
		}
		if got[a]++; a == memberAway && absent == nil && m.QoS > 0 && m.session.persistent() {
			absent = m
		}
	}
	switch {
	case got[memberFull] > 0:
		return false
	case denied > 0 && absent != nil && got[memberTooLarge] == 0 && !g.refused.Load(): // the connected members may not have it, and need not wait
		absent.session.reserveRoomAway()
		g.moveToMember(absent, l, l.deliveryTo(absent))
		return true
	case len(members) == 0: // all of them sleep
		return false
	case denied == len(members):
		g.dropLoan(l, dropDenied)
		return true
	case got[memberTooLarge] > 0:
		g.dropLoan(l, dropMember)
		return true
	}
	return false
}

// dropLoan ends a message that no member gets.
func (g *group) dropLoan(l *loan, why dropReason) {
	g.b.countDrop(why)
	g.dequeueLoan(l)
}

// dequeueLoan has the store forget a message. Nothing waits for it.
func (g *group) dequeueLoan(l *loan) {
	if l.seq != 0 {
		g.b.opts.Store.Update(func(tx store.Tx) { tx.Dequeue(g.key, l.seq) }, nil)
	}
}

// offerLoan offers l to a member.
func (g *group) offerLoan(bt *batch, m *subscription, l *loan) answer {
	s := m.session
	c := s.conn.Load()
	if c == nil {
		return memberAway
	}
	d := l.deliveryTo(m)
	bt.out.setMessage(d.Message)
	f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
	switch {
	case !c.acceptsSize(f):
		return memberTooLarge
	case d.QoS == 2 && g.refused.Load():
		return memberFull
	}
	if g.b.boundDownstream(s, d.Message.Topic) {
		if !s.reserveRoom(c, f.Size()) {
			return memberFull
		}
		g.askMemberChain(m, l)
		return memberTook
	}
	switch d.QoS {
	case 0:
		if !s.pushQoS0(bt, d.Retain, d.IDs) {
			return memberFull
		}
		g.dequeueLoan(l)
	case 1:
		if !s.sendLoan(bt, c, f, l) {
			return memberFull
		}
	case 2:
		if !s.reserveRoom(c, f.Size()) {
			return memberFull
		}
		g.moveToMember(m, l, d)
	}
	return memberTook
}

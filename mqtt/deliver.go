package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// volatileLimit is of deliveries that wait in memory: of a session without
// expiry all, of others those of QoS 0 that were retained.
func (b *Broker) volatileFits(s *session, size int) bool {
	return len(s.volatile) < b.opts.Queue.Messages && s.volBytes+size <= b.memory.share(b.opts.Queue.Bytes)
}

// deliver sends the batch's message to a session whose store has no part in it,
// or lets it wait for room. It runs once per message and receiver: it neither
// logs nor allocates nor wakes a goroutine while the client keeps up.
func (s *session) deliver(bt *batch, qos byte, retain bool, ids []uint32) {
	c := s.conn.Load()
	if c == nil {
		if qos > 0 {
			s.lose(dropAway)
		}
		return
	}
	f := bt.out.frame(c.version, qos, retain, ids)
	if !c.takes(f) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
		s.lose(dropTooLarge)
		return
	}
	if qos == 0 {
		if !c.push(bt, f, 0, false) && c.ready.Load() { // else it is still away
			s.lose(dropSlow)
		}
		return
	}
	s.mu.Lock()
	if s.behind || s.late > 0 || len(s.volatile) > 0 || s.window.room() <= 0 || !s.sendNew(bt, c, f, 0) {
		if bt.out.from != nil && bt.out.epoch != s.b.epoch.Load() {
			s.judge() // it was routed by what was known before a change
		}
		s.wait(store.Delivery{Message: bt.out.message(), QoS: qos, Retain: retain, IDs: ids})
	}
	s.mu.Unlock()
}

// fanOut delivers the batch's message to all receivers of a route whose sessions
// keep nothing.
func (bt *batch) fanOut(r *route, qos byte, retain bool) {
	for i := range r.receivers {
		to := &r.receivers[i]
		to.session.deliver(bt, min(qos, to.qos), retain && to.rap, to.ids)
	}
	if len(r.groups) > 0 {
		bt.fanOutShared(r, qos, retain)
	}
}

// fanOutShared is fanOut to groups. The batch's message is another one
// afterwards.
func (bt *batch) fanOutShared(r *route, qos byte, retain bool) {
	for _, g := range r.groups {
		if g.queues(qos) {
			g.offer(store.Delivery{Message: bt.out.message(), QoS: qos, Retain: retain})
		} else {
			g.scatter(bt, r.topic, retain)
		}
	}
	for _, g := range r.groups {
		if g.queues(qos) {
			g.pump(bt)
		}
	}
}

// takes reports whether the client takes a packet of f's size [MQTT-3.1.2-24].
func (c *conn) takes(f frame) bool { return c.maxPacket == 0 || f.Size() <= c.maxPacket }

// pushNow sends the batch's message at QoS 0, if the client has room for it.
func (s *session) pushNow(bt *batch, retain bool, ids []uint32) bool {
	c := s.conn.Load()
	if c == nil {
		return false
	}
	f := bt.out.frame(c.version, 0, retain, ids)
	return c.takes(f) && c.push(bt, f, 0, false)
}

// deliverPatiently is deliver for retained messages: they come many at once, so
// even those of QoS 0 wait for room.
func (s *session) deliverPatiently(bt *batch, d store.Delivery) {
	c := s.conn.Load()
	if c == nil {
		return
	}
	f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
	if d.QoS > 0 || !c.takes(f) {
		s.deliver(bt, d.QoS, d.Retain, d.IDs)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.volatile) > 0 || !c.push(bt, f, 0, false) {
		s.wait(d)
	}
}

// connected reports whether messages may go to the session's client
// [MQTT-3.2.0-1].
func (s *session) connected() bool {
	c := s.conn.Load()
	return c != nil && c.ready.Load()
}

// wait puts a delivery behind what already waits in memory; past the limit the
// newest is lost. The caller holds mu.
func (s *session) wait(d store.Delivery) {
	switch size := d.Message.Size(); {
	case s.ended:
		s.lose(dropAway)
	case !s.b.volatileFits(s, size):
		s.lose(dropQueue)
	default:
		s.volatile = append(s.volatile, d)
		s.volBytes += size
		s.b.memory.add(size)
	}
}

// forgetVolatile drops what waits in memory: the connection that it waited for is
// over. The caller holds mu.
func (s *session) forgetVolatile() {
	s.b.memory.add(-s.volBytes)
	s.volatile, s.volBytes = nil, 0
}

// number gives a message its packet identifier. The caller holds mu and checked
// the window's room.
func (s *session) number(seq uint64, qos byte, state slotState) uint16 {
	before := s.window.bytes()
	id := s.window.take(seq, qos, state)
	if after := s.window.bytes(); after != before {
		s.hold(after - before)
	}
	return id
}

// sendNew sends a QoS 1 or 2 message for the first time, with DUP 0
// [MQTT-4.3.2-2], if the outbox takes it. The caller holds mu.
func (s *session) sendNew(bt *batch, c *conn, f frame, seq uint64) bool {
	id := s.number(seq, f.QoS(), sent)
	if !c.push(bt, f, id, false) {
		s.window.free(s.window.get(id))
		return false
	}
	return true
}

// pump sends what waits for the session as far as its client's quota and its
// socket allow: first what an earlier connection left unfinished, then the
// store's queue, then what waits in memory. One goroutine does it at a time; the
// store is read without the lock.
func (s *session) pump(bt *batch) {
	s.mu.Lock()
	if s.pumping {
		s.pumpMore = true
		s.mu.Unlock()
		return
	}
	s.pumping = true
	s.behind = s.behind || s.stored.Load()
	for {
		s.pumpMore = false
		c := s.conn.Load()
		if c == nil || !c.ready.Load() {
			break
		}
		var late []store.Entry // sent once their identifiers are kept
		if s.resume(bt, c, &late) && s.pumpStore(bt, c, &late) {
			s.pumpVolatile(bt, c)
		}
		if len(late) > 0 {
			s.late++
			s.mu.Unlock()
			s.keepInflight(late)
			s.mu.Lock()
		}
		s.releaseWithheld(c)
		s.endJudging()
		if !s.pumpMore {
			break
		}
	}
	s.pumping = false
	s.mu.Unlock()
	s.settle()
	s.pumpGroups(bt)
}

// pumpStore sends from the store's queue, but for what goes to late, and reports
// whether it is empty. The caller holds mu, which is let go for each read.
func (s *session) pumpStore(bt *batch, c *conn, late *[]store.Entry) bool {
	if !s.stored.Load() {
		s.behind = false
		return true
	}
	if bt.queue == nil {
		bt.queue = make([]store.Entry, 0, 64)
	}
	for s.behind {
		room := s.window.room()
		if room <= 0 { // [MQTT-4.9.0-2] [MQTT-3.3.4-9]
			break
		}
		after := s.read
		s.mu.Unlock()
		got, err := s.b.opts.Store.Queue(s.key, after, bt.queue[:0:min(room, cap(bt.queue))])
		s.mu.Lock()
		if err != nil {
			s.schedule(lateTimer, lateRetry, s.refill)
			break
		}
		if s.conn.Load() != c || !s.sendEntries(bt, c, got, late) {
			break
		}
		if len(got) == 0 {
			s.behind = s.pumpMore
			break
		}
	}
	return !s.behind && s.late == 0 && len(*late) == 0
}

// sendEntries sends entries of the queue and reports whether all went. The
// caller holds mu.
func (s *session) sendEntries(bt *batch, c *conn, entries []store.Entry, late *[]store.Entry) bool {
	now := time.Now()
	for _, e := range entries {
		if e.PacketID != 0 {
			s.read = e.Seq // in flight since before a restart: resume has it, or the client is done with it
			continue
		}
		if e.Message.Expired(now) { // [MQTT-3.3.2-5]
			s.skip(e.Seq, dropExpired)
			continue
		}
		if s.judging != 0 && !s.mayStillReceive(e.Message.Topic) {
			s.skip(e.Seq, dropDenied)
			continue
		}
		bt.out.set(e.Message)
		f := bt.out.frame(c.version, e.QoS, e.Retain, e.IDs)
		if !c.takes(f) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
			s.skip(e.Seq, dropTooLarge)
			continue
		}
		if e.QoS == 2 || s.late > 0 || len(*late) > 0 {
			e.PacketID = s.number(e.Seq, e.QoS, reserved)
			*late = append(*late, e)
		} else if !s.sendNew(bt, c, f, e.Seq) {
			return false
		}
		s.read = e.Seq
	}
	return true
}

// skip drops an entry of the queue unsent. The caller holds mu.
func (s *session) skip(seq uint64, why dropReason) {
	s.read = seq
	s.done = append(s.done, seq)
	s.lose(why)
}

// keepInflight sends QoS 2 entries, and those behind them, after the store knows
// the packet identifiers: not even a crash then sends one twice. What the store
// refuses is tried again.
func (s *session) keepInflight(late []store.Entry) {
	s.b.opts.Store.Update(func(tx store.Tx) {
		for _, e := range late {
			if e.QoS == 2 {
				tx.Inflight(s.key, e.Seq, store.Sent{PacketID: e.PacketID})
			}
		}
	}, func(err error) {
		bt := getBatch(s.b)
		defer bt.done()
		s.mu.Lock()
		s.late--
		s.sendLate(bt, late, err == nil)
		more := err == nil && s.late == 0 && (s.behind || len(s.volatile) > 0 || len(s.done) > 0)
		if err != nil {
			s.schedule(lateTimer, lateRetry, s.refill)
		}
		s.mu.Unlock()
		if more {
			s.pump(bt)
		}
	})
}

// lateRetry is after how long identifiers are tried again that the store refused,
// and entries that it could not read.
const lateRetry = 10 * time.Second

// refill sends what was kept back.
func (s *session) refill() {
	bt := getBatch(s.b)
	defer bt.done()
	s.pump(bt)
}

// sendLate sends entries whose identifiers the store knows. Those that cannot go
// now, and what comes behind them, are left to resume, which keeps the order. The
// caller holds mu.
func (s *session) sendLate(bt *batch, late []store.Entry, known bool) {
	c := s.conn.Load()
	room := known && c != nil && s.window.used == s.window.live
	for _, e := range late {
		slot := s.window.get(e.PacketID)
		if slot == nil || slot.seq != e.Seq || slot.state != reserved || !slot.live {
			continue // a newer connection has it
		}
		if s.judging != 0 && !s.mayStillReceive(e.Message.Topic) {
			s.window.free(slot)
			s.done = append(s.done, e.Seq)
			s.lose(dropDenied)
			continue
		}
		if known {
			slot.state = unsent
		}
		bt.out.set(e.Message)
		room = room && c.push(bt, bt.out.frame(c.version, e.QoS, e.Retain, e.IDs), e.PacketID, false)
		if room {
			slot.state = sent
		} else {
			slot.live = false
			s.window.live--
		}
	}
}

// pumpVolatile sends what waits in memory. The caller holds mu.
func (s *session) pumpVolatile(bt *batch, c *conn) {
	n := 0
	for ; n < len(s.volatile); n++ {
		d := &s.volatile[n]
		if d.Message.Expired(time.Now()) { // [MQTT-3.3.2-5]
			s.lose(dropExpired)
			continue
		}
		if s.judging != 0 && !s.mayStillReceive(d.Message.Topic) {
			s.lose(dropDenied)
			continue
		}
		bt.out.set(d.Message)
		f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
		if !c.takes(f) {
			s.lose(dropTooLarge)
			continue
		}
		if d.QoS == 0 && !c.push(bt, f, 0, false) ||
			d.QoS > 0 && (s.window.room() <= 0 || !s.sendNew(bt, c, f, 0)) {
			break
		}
	}
	freed := 0
	for i := range n {
		freed += s.volatile[i].Message.Size()
		s.volatile[i] = store.Delivery{}
	}
	s.volBytes -= freed
	if freed > 0 {
		s.b.memory.add(-freed)
	}
	if s.volatile = s.volatile[n:]; len(s.volatile) == 0 {
		s.volatile = nil
	}
}

// resume sends again what an earlier connection left unfinished, in its order
// and with its identifiers [MQTT-4.4.0-1], but for what goes to late, and reports
// whether nothing is left to resend. The caller holds mu.
func (s *session) resume(bt *batch, c *conn, late *[]store.Entry) bool {
	if s.window.used == s.window.live {
		return true
	}
	for _, old := range s.window.stale(nil) {
		slot := s.window.get(old.id)
		switch {
		case slot.state == released: // [MQTT-4.3.3-6] [MQTT-4.3.3-5]
			c.send(bt, &packet.Pubrel{PacketID: old.id})
		case s.window.room() <= 0: // [MQTT-4.9.0-1]
			return false
		default:
			again, ok := s.resend(bt, c, old, late)
			if !again {
				s.window.free(slot)
				continue
			}
			if !ok {
				return false
			}
			if slot.state == released {
				break // it was withheld
			}
			if slot.state = sent; len(*late) > 0 {
				slot.state = reserved
			}
		}
		slot.live = true
		s.window.live++
	}
	return true
}

// resend sends one PUBLISH again, with DUP 1 if it went out before
// [MQTT-3.3.1-1], or puts it into late if the store may not know its identifier.
// again is false if there is nothing to resend any more, ok if the outbox took it.
// The caller holds mu; a resumed queue's head is in the store's memory.
func (s *session) resend(bt *batch, c *conn, old slot, late *[]store.Entry) (again, ok bool) {
	var one [1]store.Entry
	got, err := s.b.opts.Store.Queue(s.key, old.seq-1, one[:0])
	if err != nil {
		s.schedule(lateTimer, lateRetry, s.refill)
		return true, false
	}
	if len(got) == 0 || got[0].Seq != old.seq {
		return false, false
	}
	e := got[0]
	if !s.mayStillReceive(e.Message.Topic) { // it may have gone out before rights changed
		return s.withhold(old), true
	}
	bt.out.set(e.Message)
	f := bt.out.frame(c.version, e.QoS, e.Retain, e.IDs)
	if !c.takes(f) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
		s.done = append(s.done, old.seq)
		return false, false
	}
	if old.state == reserved || len(*late) > 0 {
		e.PacketID = old.id
		*late = append(*late, e)
		return true, true
	}
	return true, c.push(bt, f, old.id, old.state == sent)
}

// withhold drops a PUBLISH that the client may not be sent again, and reports
// whether its exchange goes on: a client that has the first one of QoS 2 takes its
// identifier for used until PUBREL, which pump sends. The caller holds mu.
func (s *session) withhold(old slot) (more bool) {
	s.lose(dropDenied)
	if old.qos < 2 || old.state != sent {
		s.done = append(s.done, old.seq)
		return false
	}
	s.window.get(old.id).state = released
	s.withheld = append(s.withheld, old)
	return true
}

// releaseWithheld sends PUBREL for what was withheld. The caller holds mu, which is
// let go.
func (s *session) releaseWithheld(c *conn) {
	if len(s.withheld) == 0 {
		return
	}
	withheld := s.withheld
	s.withheld = nil
	s.mu.Unlock()
	for _, x := range withheld {
		c.releaseKept(x.id, x.seq)
	}
	s.mu.Lock()
}

// settle tells the store what the client is done with. Nobody waits for it: a
// crash may send a QoS 1 message twice.
func (s *session) settle() {
	s.mu.Lock()
	done, loans := s.done, s.repaid
	s.done, s.repaid = nil, nil
	s.mu.Unlock()
	if len(done) == 0 && len(loans) == 0 {
		return
	}
	s.b.opts.Store.Update(func(tx store.Tx) {
		for _, seq := range done {
			tx.Dequeue(s.key, seq)
		}
		for _, l := range loans {
			tx.Dequeue(l.group.key, l.seq)
		}
	}, nil)
}

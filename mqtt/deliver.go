package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// inMemoryFits reports whether a delivery of size bytes may wait in memory. In a
// session without expiry all deliveries wait there, in another the retained messages
// of QoS 0.
func (b *Broker) inMemoryFits(s *session, size int) bool {
	return len(s.inMemory) < b.opts.Queue.Messages && s.inMemoryBytes+size <= b.memory.share(b.opts.Queue.Bytes)
}

// deliver sends the batch's message to a session that needs no store for it, or lets
// it wait for room. It runs once per message and receiver: it neither logs nor
// allocates nor wakes a goroutine while the client keeps up.
func (s *session) deliver(bt *batch, qos byte, retain bool, ids []uint32) {
	c := s.conn.Load()
	if c == nil {
		if qos > 0 {
			s.countDrop(dropAway)
		}
		return
	}
	f := bt.out.frame(c.version, qos, retain, ids)
	if !c.acceptsSize(f) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
		s.countDrop(dropTooLarge)
		return
	}
	if qos == 0 {
		if !c.push(bt, f, 0, false) && c.ready.Load() { // else it is still away
			s.countDrop(dropSlow)
		}
		return
	}
	s.mu.Lock()
	if !s.mayOvertake() || !s.sendNew(bt, c, f, 0) {
		if bt.out.from != nil && bt.out.routeEpoch != s.b.routeEpoch.Load() {
			s.markJudging() // its route was found before a change of rights
		}
		s.queueInMemory(store.Delivery{Message: bt.out.message(), QoS: qos, Retain: retain, IDs: ids})
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
			g.queueInMemory(store.Delivery{Message: bt.out.message(), QoS: qos, Retain: retain})
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

// acceptsSize reports whether the client takes a packet of f's size [MQTT-3.1.2-24].
func (c *conn) acceptsSize(f frame) bool { return c.maxPacket == 0 || f.Size() <= c.maxPacket }

// pushQoS0 sends the batch's message at QoS 0, if the client has room for it.
func (s *session) pushQoS0(bt *batch, retain bool, ids []uint32) bool {
	c := s.conn.Load()
	if c == nil {
		return false
	}
	f := bt.out.frame(c.version, 0, retain, ids)
	return c.acceptsSize(f) && c.push(bt, f, 0, false)
}

// deliverPatiently is deliver for retained messages: they come many at once, so
// even messages of QoS 0 wait for room.
func (s *session) deliverPatiently(bt *batch, d store.Delivery) {
	c := s.conn.Load()
	if c == nil {
		return
	}
	f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
	if d.QoS > 0 || !c.acceptsSize(f) {
		s.deliver(bt, d.QoS, d.Retain, d.IDs)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inMemory) > 0 || !c.push(bt, f, 0, false) {
		s.queueInMemory(d)
	}
}

// connected reports whether messages may go to the session's client
// [MQTT-3.2.0-1].
func (s *session) connected() bool {
	c := s.conn.Load()
	return c != nil && c.ready.Load()
}

// queueInMemory puts a delivery behind the others that wait in memory; past the limit
// the newest is lost. The caller holds mu.
func (s *session) queueInMemory(d store.Delivery) {
	switch size := d.Message.Size(); {
	case s.ended:
		s.countDrop(dropAway)
	case !s.b.inMemoryFits(s, size):
		s.countDrop(dropQueue)
	default:
		s.inMemory = append(s.inMemory, d)
		s.inMemoryBytes += size
		s.b.memory.charge(size)
	}
}

// dropInMemory drops the deliveries that wait in memory: the connection that they
// waited for is over. The caller holds mu.
func (s *session) dropInMemory() {
	s.b.memory.charge(-s.inMemoryBytes)
	s.inMemory, s.inMemoryBytes = nil, 0
}

// assignPacketID gives a message its packet identifier. The caller holds mu and checked
// the window's room.
func (s *session) assignPacketID(seq uint64, qos byte, state slotState) uint16 {
	before := s.window.bytes()
	id := s.window.assign(seq, qos, state)
	if after := s.window.bytes(); after != before {
		s.chargeMemory(after - before)
	}
	return id
}

// sendNew sends a QoS 1 or 2 message for the first time, with DUP 0
// [MQTT-4.3.2-2], if the outbox takes it. The caller holds mu.
func (s *session) sendNew(bt *batch, c *conn, f frame, seq uint64) bool {
	id := s.assignPacketID(seq, f.QoS(), sent)
	if !c.push(bt, f, id, false) {
		s.window.freeSlot(s.window.slotOf(id))
		return false
	}
	return true
}

// pump sends the messages that wait for the session, as far as its client's quota and
// its socket allow: first the messages that an earlier connection left unfinished,
// then the store's queue, then the deliveries in memory. One goroutine does it at a
// time; the store is read without the lock.
func (s *session) pump(bt *batch) {
	s.mu.Lock()
	if s.pumping {
		s.pumpAgain = true
		s.mu.Unlock()
		return
	}
	s.pumping = true
	s.queueUnread = s.queueUnread || s.stored.Load()
	for {
		s.pumpAgain = false
		c := s.conn.Load()
		if c == nil || !c.ready.Load() {
			break
		}
		var late []store.Entry // sent once their identifiers are kept
		if s.resendUnfinished(bt, c, &late) && s.pumpStore(bt, c, &late) {
			s.pumpInMemory(bt, c)
		}
		if len(late) > 0 {
			s.unkeptBatches++
			s.mu.Unlock()
			s.persistInflight(late)
			s.mu.Lock()
		}
		s.releaseWithheld(c)
		s.endJudging()
		if !s.pumpAgain {
			break
		}
	}
	s.pumping = false
	s.mu.Unlock()
	s.dequeueAcked()
	s.pumpGroups(bt)
}

// pumpStore sends from the store's queue, or puts entries into late, and reports
// whether the queue is empty. The caller holds mu, which is let go for each read.
func (s *session) pumpStore(bt *batch, c *conn, late *[]store.Entry) bool {
	if !s.stored.Load() {
		s.queueUnread = false
		return true
	}
	if bt.queue == nil {
		bt.queue = make([]store.Entry, 0, 64)
	}
	for s.queueUnread {
		room := s.window.quotaLeft()
		if room <= 0 { // [MQTT-4.9.0-2] [MQTT-3.3.4-9]
			break
		}
		after := s.readSeq
		s.mu.Unlock()
		got, err := s.b.opts.Store.Queue(s.key, after, bt.queue[:0:min(room, cap(bt.queue))])
		s.mu.Lock()
		if err != nil {
			s.armTimer(retryTimer, lateRetry, s.refill)
			break
		}
		if s.conn.Load() != c || !s.sendEntries(bt, c, got, late) {
			break
		}
		if len(got) == 0 {
			s.queueUnread = s.pumpAgain
			break
		}
	}
	return !s.queueUnread && s.unkeptBatches == 0 && len(*late) == 0
}

// sendEntries sends entries of the queue and reports whether all went. The
// caller holds mu.
func (s *session) sendEntries(bt *batch, c *conn, entries []store.Entry, late *[]store.Entry) bool {
	now := time.Now()
	for _, e := range entries {
		if e.PacketID != 0 {
			s.readSeq = e.Seq // in flight since before a restart: resendUnfinished has it, or the client is done with it
			continue
		}
		if e.Message.Expired(now) { // [MQTT-3.3.2-5]
			s.skipEntry(e.Seq, dropExpired)
			continue
		}
		if s.judging != 0 && !s.mayStillReceive(e.Message.Topic) {
			s.skipEntry(e.Seq, dropDenied)
			continue
		}
		bt.out.setMessage(e.Message)
		f := bt.out.frame(c.version, e.QoS, e.Retain, e.IDs)
		if !c.acceptsSize(f) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
			s.skipEntry(e.Seq, dropTooLarge)
			continue
		}
		if e.QoS == 2 || s.unkeptBatches > 0 || len(*late) > 0 {
			e.PacketID = s.assignPacketID(e.Seq, e.QoS, reserved)
			*late = append(*late, e)
		} else if !s.sendNew(bt, c, f, e.Seq) {
			return false
		}
		s.readSeq = e.Seq
	}
	return true
}

// skipEntry drops an entry of the queue unsent. The caller holds mu.
func (s *session) skipEntry(seq uint64, why dropReason) {
	s.readSeq = seq
	s.acked = append(s.acked, seq)
	s.countDrop(why)
}

// persistInflight sends QoS 2 entries, and the entries behind them, after the store
// knows the packet identifiers: not even a crash then sends one twice. If the store
// refuses, it is tried again.
func (s *session) persistInflight(late []store.Entry) {
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
		s.unkeptBatches--
		s.sendLate(bt, late, err == nil)
		more := err == nil && s.unkeptBatches == 0 && (s.queueUnread || len(s.inMemory) > 0 || len(s.acked) > 0)
		if err != nil {
			s.armTimer(retryTimer, lateRetry, s.refill)
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

// refill sends the messages that had no room before.
func (s *session) refill() {
	bt := getBatch(s.b)
	defer bt.done()
	s.pump(bt)
}

// sendLate sends entries whose identifiers the store knows. Entries that cannot go
// now, and the ones behind them, are left to resendUnfinished, which keeps the order.
// The caller holds mu.
func (s *session) sendLate(bt *batch, late []store.Entry, known bool) {
	c := s.conn.Load()
	room := known && c != nil && s.window.used == s.window.live
	for _, e := range late {
		slot := s.window.slotOf(e.PacketID)
		if slot == nil || slot.seq != e.Seq || slot.state != reserved || !slot.live {
			continue // a newer connection has it
		}
		if s.judging != 0 && !s.mayStillReceive(e.Message.Topic) {
			s.window.freeSlot(slot)
			s.acked = append(s.acked, e.Seq)
			s.countDrop(dropDenied)
			continue
		}
		if known {
			slot.state = unsent
		}
		bt.out.setMessage(e.Message)
		room = room && c.push(bt, bt.out.frame(c.version, e.QoS, e.Retain, e.IDs), e.PacketID, false)
		if room {
			slot.state = sent
		} else {
			slot.live = false
			s.window.live--
		}
	}
}

// pumpInMemory sends the deliveries in memory. The caller holds mu.
func (s *session) pumpInMemory(bt *batch, c *conn) {
	n := 0
	for ; n < len(s.inMemory); n++ {
		d := &s.inMemory[n]
		if d.Message.Expired(time.Now()) { // [MQTT-3.3.2-5]
			s.countDrop(dropExpired)
			continue
		}
		if s.judging != 0 && !s.mayStillReceive(d.Message.Topic) {
			s.countDrop(dropDenied)
			continue
		}
		bt.out.setMessage(d.Message)
		f := bt.out.frame(c.version, d.QoS, d.Retain, d.IDs)
		if !c.acceptsSize(f) {
			s.countDrop(dropTooLarge)
			continue
		}
		if d.QoS == 0 && !c.push(bt, f, 0, false) ||
			d.QoS > 0 && (s.window.quotaLeft() <= 0 || !s.sendNew(bt, c, f, 0)) {
			break
		}
	}
	freed := 0
	for i := range n {
		freed += s.inMemory[i].Message.Size()
		s.inMemory[i] = store.Delivery{}
	}
	s.inMemoryBytes -= freed
	if freed > 0 {
		s.b.memory.charge(-freed)
	}
	if s.inMemory = s.inMemory[n:]; len(s.inMemory) == 0 {
		s.inMemory = nil
	}
}

// resendUnfinished sends again the messages that an earlier connection left
// unfinished, in their order and with their identifiers [MQTT-4.4.0-1], or puts them
// into late, and reports whether nothing is left to resend. The caller holds mu.
func (s *session) resendUnfinished(bt *batch, c *conn, late *[]store.Entry) bool {
	if s.window.used == s.window.live {
		return true
	}
	for _, old := range s.window.awaitingResend(nil) {
		slot := s.window.slotOf(old.id)
		switch {
		case slot.state == released: // [MQTT-4.3.3-6] [MQTT-4.3.3-5]
			c.send(bt, &packet.Pubrel{PacketID: old.id})
		case s.window.quotaLeft() <= 0: // [MQTT-4.9.0-1]
			return false
		default:
			again, ok := s.resendPublish(bt, c, old, late)
			if !again {
				s.window.freeSlot(slot)
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

// resendPublish sends one PUBLISH again, with DUP 1 if it went out before
// [MQTT-3.3.1-1], or puts it into late if the store may not know its identifier.
// again is false if there is nothing to resend any more, ok if the outbox took it.
// The caller holds mu; a resumed queue's head is in the store's memory.
func (s *session) resendPublish(bt *batch, c *conn, old slot, late *[]store.Entry) (again, ok bool) {
	var one [1]store.Entry
	got, err := s.b.opts.Store.Queue(s.key, old.seq-1, one[:0])
	if err != nil {
		s.armTimer(retryTimer, lateRetry, s.refill)
		return true, false
	}
	if len(got) == 0 || got[0].Seq != old.seq {
		return false, false
	}
	e := got[0]
	if !s.mayStillReceive(e.Message.Topic) { // it may have gone out before rights changed
		return s.withholdPublish(old), true
	}
	bt.out.setMessage(e.Message)
	f := bt.out.frame(c.version, e.QoS, e.Retain, e.IDs)
	if !c.acceptsSize(f) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
		s.acked = append(s.acked, old.seq)
		return false, false
	}
	if old.state == reserved || len(*late) > 0 {
		e.PacketID = old.id
		*late = append(*late, e)
		return true, true
	}
	return true, c.push(bt, f, old.id, old.state == sent)
}

// withholdPublish drops a PUBLISH that the client may not be sent again, and reports
// whether its exchange goes on: a client that has the first one of QoS 2 takes its
// identifier for used until PUBREL, which pump sends. The caller holds mu.
func (s *session) withholdPublish(old slot) (more bool) {
	s.countDrop(dropDenied)
	if old.qos < 2 || old.state != sent {
		s.acked = append(s.acked, old.seq)
		return false
	}
	s.window.slotOf(old.id).state = released
	s.withheld = append(s.withheld, old)
	return true
}

// releaseWithheld sends PUBREL for the withheld messages. The caller holds mu, which
// is let go.
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

// dequeueAcked has the store forget the entries that the client is done with. No
// answer waits for it: a crash may send a QoS 1 message twice.
func (s *session) dequeueAcked() {
	s.mu.Lock()
	done, loans := s.acked, s.ackedLoans
	s.acked, s.ackedLoans = nil, nil
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

package mqtt

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// The exchanges of QoS 1 and 2. Outgoing ones live in the session's window,
// incoming QoS 2 ones in session.incoming.

// handlePuback ends a QoS 1 exchange, whatever its Reason Code [MQTT-4.4.0-2].
func (c *conn) handlePuback(flags byte, body []byte) error {
	p := &c.scratch.ack
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	s := c.own
	s.mu.Lock()
	slot := s.window.slotOf(p.PacketID)
	if slot == nil || slot.qos != 1 {
		s.mu.Unlock()
		return nil // unknown, or of an exchange that is over
	}
	more := s.endExchange(slot)
	s.mu.Unlock()
	if more {
		c.pumpSession()
	}
	return nil
}

// pumpSession has the session send what waits. An event loop does not read the store.
func (c *conn) pumpSession() {
	s := c.own
	if !c.looped || !s.stored.Load() {
		s.pump(&c.batch)
		return
	}
	c.writers.Go(func() {
		bt := getBatch(c.b)
		s.pump(bt)
		bt.done()
	})
}

// endExchange ends an outgoing exchange and reports whether something waits for the
// room that it leaves. The caller holds mu.
func (s *session) endExchange(slot *slot) (more bool) {
	if slot.seq != 0 { // [MQTT-4.4.0-2]
		s.acked = append(s.acked, slot.seq)
	}
	if slot.loan != nil && slot.loan.seq != 0 {
		s.ackedLoans = append(s.ackedLoans, slot.loan)
	}
	s.window.freeSlot(slot) // [MQTT-4.4.0-2]
	return s.queueUnread || len(s.inMemory) > 0 || s.window.used != s.window.live ||
		slices.ContainsFunc(s.groups, func(g *group) bool { return g.needsRoom.Load() })
}

// handlePubrec answers with PUBREL [MQTT-4.3.3-4] after the store knows that the
// message itself must not be sent again [MQTT-4.3.3-6]. A failure ends the
// exchange.
func (c *conn) handlePubrec(flags byte, body []byte) error {
	p := &c.scratch.rec
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	s := c.own
	s.mu.Lock()
	slot := s.window.slotOf(p.PacketID)
	switch {
	case slot == nil || slot.qos != 2: // [MQTT-3.6.2-1]
		s.mu.Unlock()
		c.send(&c.batch, &packet.Pubrel{PacketID: p.PacketID, ReasonCode: packet.PacketIdentifierNotFound})
		return nil
	case p.ReasonCode.Failed(): // [MQTT-4.4.0-2]
		more := s.endExchange(slot)
		s.mu.Unlock()
		if more {
			c.pumpSession()
		}
		return nil
	}
	slot.state = released // [MQTT-4.3.3-6]
	seq := slot.seq
	s.mu.Unlock()
	if seq == 0 {
		c.scratch.answer = packet.Pubrel{PacketID: p.PacketID}
		c.send(&c.batch, &c.scratch.answer)
		return nil
	}
	c.releaseKept(p.PacketID, seq)
	return nil
}

// releaseKept sends PUBREL for an entry of the queue once the store knows that.
func (c *conn) releaseKept(id uint16, seq uint64) {
	s := c.own
	c.answerAfter(func(tx store.Tx) {
		tx.Inflight(s.key, seq, store.Sent{PacketID: id, Released: true})
	}, &packet.Pubrel{PacketID: id}, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if slot := s.window.slotOf(id); slot != nil && slot.seq == seq {
			slot.state = sent
		}
	})
}

// answerAfter sends answer once a change is kept. If it cannot be kept, undo is called
// and the connection ends: the client repeats itself when it is back.
func (c *conn) answerAfter(add func(store.Tx), answer packet.Packet, undo func()) {
	c.b.opts.Store.Update(add, func(err error) {
		if err != nil {
			undo()
			c.end(packet.UnspecifiedError, err.Error())
			return
		}
		bt := getBatch(c.b)
		c.send(bt, answer)
		bt.done()
	})
}

// handlePubcomp ends a QoS 2 exchange.
func (c *conn) handlePubcomp(flags byte, body []byte) error {
	p := &c.scratch.comp
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	s := c.own
	s.mu.Lock()
	slot := s.window.slotOf(p.PacketID)
	if slot == nil || slot.state != released {
		s.mu.Unlock()
		return nil
	}
	more := s.endExchange(slot)
	s.mu.Unlock()
	if more {
		c.pumpSession()
	}
	return nil
}

// handlePubrel ends an incoming QoS 2 exchange: the identifier is forgotten for
// good before PUBCOMP says so. [MQTT-4.3.3-11] [MQTT-4.3.3-12]
func (c *conn) handlePubrel(flags byte, body []byte) error {
	p := &c.scratch.rel
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	s := c.own
	id := p.PacketID
	known := s.forgetIncoming(id)
	if known && s.stored.Load() {
		c.answerAfter(func(tx store.Tx) { tx.Release(s.key, id) }, &packet.Pubcomp{PacketID: id}, func() { s.noteIncoming(id, nil) })
		return nil
	}
	comp := &c.scratch.comp
	*comp = packet.Pubcomp{PacketID: id}
	if !known && c.version == packet.V5 { // [MQTT-3.7.2-1]
		comp.ReasonCode = packet.PacketIdentifierNotFound
	}
	c.send(&c.batch, comp) // [MQTT-4.3.3-11]
	return nil
}

// answerRepeated answers a QoS 2 PUBLISH that came before: with PUBREC each time, and
// it is delivered once [MQTT-4.3.3-10], also when it has expired since
// [MQTT-4.3.3-13]. While the first is on its way the answer waits for it. At QoS 1
// nothing is remembered: the same identifier is a new message [MQTT-4.3.2-5].
func (s *session) answerRepeated(c *conn, id uint16) bool {
	s.mu.Lock()
	e, known := s.incoming[id]
	s.mu.Unlock()
	if !known {
		return false
	}
	if e != nil {
		return s.pipe.redirectAnswer(e, c) || s.answerRepeated(c, id) // by its outcome
	}
	c.send(&c.batch, &packet.Pubrec{PacketID: id})
	return true
}

// redirectAnswer sends e's acknowledgement to c, if it did not go out yet.
func (p *pipeline) redirectAnswer(e *entry, c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.acked {
		return false
	}
	e.conn = c
	return true
}

// noteIncoming notes a QoS 2 message before its PUBREC; e is nil if that is going out.
func (s *session) noteIncoming(id uint16, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if s.incoming == nil {
		s.incoming = make(map[uint16]*entry)
	}
	before := len(s.incoming)
	s.incoming[id] = e // [MQTT-4.3.3-10]
	s.chargeMemory(incomingCost * (len(s.incoming) - before))
	s.incomingLen.Store(int32(len(s.incoming)))
}

// noteOutcome notes the outcome that PUBREC tells: after a failure the identifier
// is free again [MQTT-4.3.3-9].
func (s *session) noteOutcome(id uint16, code packet.ReasonCode) {
	if code.Failed() { // [MQTT-4.3.3-9]
		s.forgetIncoming(id)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.incoming[id]; known {
		s.incoming[id] = nil
	}
}

// forgetIncoming forgets an incoming QoS 2 identifier and reports whether it was known.
func (s *session) forgetIncoming(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.incoming[id]
	if known {
		s.chargeMemory(-incomingCost)
	}
	delete(s.incoming, id) // [MQTT-4.3.3-12]
	s.incomingLen.Store(int32(len(s.incoming)))
	return known
}

package mqtt

import (
	"bytes"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// handlePublish takes one PUBLISH through steps 1 to 5 of the path of a publish: see
// the package comment. A message that waits for no function and no store is delivered
// at once. Another one is parked in the session's pipeline, and so is each that
// follows it.
func (c *conn) handlePublish(flags byte, body []byte) error {
	p := &c.pub
	if err := p.Decode(c.version, flags, body); err != nil { // step 1
		return err
	}
	if err := p.CheckClient(); err != nil { // [MQTT-3.3.4-6]
		return err
	}
	if err := c.resolveAlias(p); err != nil { // step 2
		return err
	}
	s := c.own
	r, err := c.routeOf(p, s) // step 3
	if err != nil {
		return err
	}
	if p.QoS == 2 && s.answerRepeated(c, p.PacketID) { // [MQTT-4.3.3-10]
		c.received++
		return nil
	}
	if err := c.checkQuota(p, s); err != nil {
		return err
	}
	v := c.authorize(r, p, s) // step 4
	full := c.b.memory.full.Load()
	now := !full && s.pipe.waiting.Load() == 0 && !p.Retain && !r.slow(p.QoS) && (p.QoS < 2 || !s.persistent())
	if c.looped && (!v.Allowed || !now) {
		return errWaits // a refusal is logged
	}
	c.received++
	switch {
	case !v.Allowed:
		c.deniedPublish(r.topic, p, v)
		return c.refuse(p, packet.NotAuthorized, v)
	case full:
		c.refuseForMemory(p)
	case now: // step 5
		c.deliverNow(p, r, s)
	default:
		c.park(p, r, s)
	}
	return nil
}

// resolveAlias puts the topic name in p and takes the alias out, before anything
// asks about the topic. [MQTT-3.3.2-7] [MQTT-3.3.2-8] [MQTT-3.3.2-9] [MQTT-3.3.2-12]
func (c *conn) resolveAlias(p *packet.Publish) error {
	if !p.Properties.Has(packet.PropTopicAlias) {
		return nil
	}
	alias := int(p.Properties.TopicAlias)
	p.Properties.Clear(packet.PropTopicAlias) // [MQTT-3.1.2-27]: a receiver has aliases of its own
	c.raw = nil
	if alias == 0 || alias > int(c.b.opts.TopicAliases) { // [MQTT-3.3.2-9] [MQTT-3.2.2-17]
		return &packet.Error{Code: packet.TopicAliasInvalid, Statement: "MQTT-3.3.2-9", Msg: "topic alias is out of range"}
	}
	if c.aliases == nil {
		c.aliases = make([][]byte, c.b.opts.TopicAliases)
	}
	known := &c.aliases[alias-1]
	if n := len(p.TopicName); n > 0 {
		if more := n - cap(*known); more > 0 {
			if err := c.memoryAllows(more); err != nil {
				return err
			}
			c.chargeMemory(more)
			*known = make([]byte, 0, n)
		}
		*known = append((*known)[:0], p.TopicName...) // [MQTT-3.3.2-12]
		return nil
	}
	if p.TopicName = *known; p.TopicName == nil { // [MQTT-3.3.2-7]
		return violation("", "topic alias was never set")
	}
	return nil
}

// routeOf returns the route of p's topic; a new topic is validated.
func (c *conn) routeOf(p *packet.Publish, s *session) (*route, error) {
	if r := c.cache.lookup(c.b, p.TopicName, s); r != nil {
		return r, nil
	}
	name := string(p.TopicName)
	if err := validTopic(name); err != nil {
		return nil, err
	}
	return c.cache.get(c.b, name, s), nil
}

// authorize asks the policy, unless the route knows the answer.
func (c *conn) authorize(r *route, p *packet.Publish, s *session) Verdict {
	known := &r.allowedSizes[p.QoS][0]
	if p.Retain {
		known = &r.allowedSizes[p.QoS][1]
	}
	size := len(p.Payload)
	if size < *known {
		return Verdict{Allowed: true}
	}
	if v, reserved := Reserved("publish", r.topic); reserved {
		return v
	}
	rights := s.currentRights()
	if rights == nil {
		return Verdict{Reason: "the identity has no rights"}
	}
	v := rights.Publish(r.topic, p.QoS, p.Retain, size)
	if v.Allowed {
		*known = size + 1
	}
	return v
}

// checkQuota refuses more unacknowledged messages than CONNACK allowed
// [MQTT-3.3.4-7]. MQTT 3.1.1 knows no such limit.
func (c *conn) checkQuota(p *packet.Publish, s *session) error {
	if p.QoS == 0 || c.version != packet.V5 {
		return nil
	}
	if s.unanswered() >= int(c.b.opts.ReceiveMaximum)+c.earlierUnanswered { // [MQTT-3.3.4-7]
		return &packet.Error{Code: packet.ReceiveMaximumExceeded, Statement: "MQTT-3.3.4-7", Msg: "more messages in flight than the receive maximum"}
	}
	return nil
}

// unanswered is how many QoS 1 and 2 messages of the client are not finished.
func (s *session) unanswered() int { return int(s.pipe.qos1.Load()) + int(s.incomingLen.Load()) }

// deliverNow is the path of a message that waits for nothing. It does not
// allocate.
func (c *conn) deliverNow(p *packet.Publish, r *route, s *session) {
	bt := &c.batch
	bt.out.setPublish(p, r, s)
	if c.chunk != nil && p.QoS == 0 && len(c.raw) >= passFrom {
		bt.out.passThrough(c.version, c.raw, c.chunk)
	}
	bt.fanOut(r, p.QoS, false)
	switch p.QoS {
	case 1:
		c.scratch.ack = packet.Puback{PacketID: p.PacketID, ReasonCode: acceptedCode(r.matched())}
		c.send(bt, &c.scratch.ack) // [MQTT-4.3.2-4]
	case 2:
		s.noteIncoming(p.PacketID, nil) // [MQTT-4.3.3-10]
		c.scratch.rec = packet.Pubrec{PacketID: p.PacketID, ReasonCode: acceptedCode(r.matched())}
		c.send(bt, &c.scratch.rec) // [MQTT-4.3.3-8]
	}
}

// acceptedCode is the Reason Code of the acknowledgement of a message that was not
// refused; matched says whether it has receivers.
func acceptedCode(matched bool) packet.ReasonCode {
	if matched {
		return packet.Success
	}
	return packet.NoMatchingSubscribers
}

// park puts a copy of p into the pipeline: body is the reader's buffer.
func (c *conn) park(p *packet.Publish, r *route, s *session) {
	e := &entry{stage: filtered, conn: c, qos: p.QoS, id: p.PacketID, forward: true}
	e.m = s.message(p, r.topic)
	if r.upstream {
		e.stage = filtering
	}
	if p.QoS == 2 { // [MQTT-4.3.3-10]
		s.noteIncoming(p.PacketID, e)
	}
	s.pipe.push(e)
}

// message makes a message of a PUBLISH of the session's client.
func (s *session) message(p *packet.Publish, name string) *store.Message {
	m := &store.Message{
		Topic:     name,
		Payload:   bytes.Clone(p.Payload),
		QoS:       p.QoS,
		Retain:    p.Retain,
		Props:     p.Properties.Forwarded(),
		Publisher: s.key.Identity,
		ClientID:  s.key.ClientID,
		HLC:       s.b.clock.Now(),
	}
	m.Expires = expires(&p.Properties)
	m.Props.Clear(packet.PropMessageExpiryInterval)
	return m
}

// expires returns when a message published now is over.
func expires(p *packet.Properties) int64 {
	if !p.Has(packet.PropMessageExpiryInterval) {
		return 0
	}
	return time.Now().Add(time.Duration(p.MessageExpiryInterval) * time.Second).UnixNano()
}

// refuse answers a PUBLISH that goes nowhere. MQTT 3.1.1 has no way to say so:
// there the message is acknowledged and dropped. The answer waits behind the answers
// to earlier messages [MQTT-4.6.0-2] [MQTT-4.6.0-3].
func (c *conn) refuse(p *packet.Publish, code packet.ReasonCode, v Verdict) error {
	if p.QoS == 0 {
		return nil
	}
	e := &entry{stage: filtered, conn: c, qos: p.QoS, id: p.PacketID, code: code, reason: v.String()}
	if p.QoS == 2 {
		c.own.noteIncoming(p.PacketID, e)
	}
	c.own.pipe.push(e)
	return nil
}

// refuseForMemory answers a PUBLISH that the broker has no memory for. An MQTT
// 3.1.1 client gets no acknowledgement: it keeps the message.
func (c *conn) refuseForMemory(p *packet.Publish) {
	c.b.count.refusedPublish.Add(1)
	if p.QoS == 0 {
		c.b.countDrop(dropMemory)
		return
	}
	e := &entry{stage: filtered, conn: c, qos: p.QoS, id: p.PacketID, err: errMemory}
	if p.QoS == 2 {
		c.own.noteIncoming(p.PacketID, e)
	}
	c.own.pipe.push(e)
}

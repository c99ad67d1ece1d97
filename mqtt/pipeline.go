package mqtt

import (
	"errors"
	"strings"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// Steps 6 to 10 of the path of a publish, in their order: see the package comment.
// The goroutine in pipeline.run takes them, for one entry after the other.

// output is one message that goes to receivers, after the upstream chain.
type output struct {
	m          *store.Message
	retain     bool // is kept as its topic's retained message
	forward    bool // goes to other sites
	deliveries []delivery
}

// delivery is an output's copy for one session.
type delivery struct {
	store.Delivery
	session    *session // nil for an entry of a group's queue
	group      *group
	granted    byte             // the subscription's QoS
	rap        bool             // Retain As Published
	persist    bool             // through the store's queue
	patient    bool             // waits for room even at QoS 0
	downstream bool             // a function is asked first
	more       []store.Delivery // further messages of a downstream function
	dropped    bool             // the function dropped it
	state      State            // that the function remembers
}

// routeEntry takes steps 6 to 8: the upstream chain's answer becomes outputs, each
// finds its receivers, and the chains of the receivers are asked.
func (p *pipeline) routeEntry(e *entry) {
	stale := e.stale(p.b)
	e.routeEpoch = p.b.routeEpoch.Load()
	switch {
	case e.replay != nil:
		p.replayRetained(e, stale)
	case e.m != nil:
		p.applyUpstream(e)
	}
	for i := range e.outs {
		if e.replay == nil {
			p.matchReceivers(e, &e.outs[i])
		}
	}
	p.mu.Lock()
	p.routed++
	e.pendingAnswers = 1 // this goroutine: answers may come before all are asked
	e.stage = receiving
	p.mu.Unlock()
	for i := range e.outs {
		for j := range e.outs[i].deliveries {
			if d := &e.outs[i].deliveries[j]; d.downstream {
				p.askDownstream(e, d)
			}
		}
	}
	p.noteDownstream(e)
}

// applyUpstream is step 6: the upstream chain's answer becomes the messages that go
// on, and the answer to the publisher.
func (p *pipeline) applyUpstream(e *entry) {
	r := e.result
	if r.Err != nil {
		e.err = r.Err
		return
	}
	switch r.Outcome {
	case Pass:
		e.outs = []output{{m: e.m}}
	case Drop:
		p.b.count.filterDropped.Add(1)
		e.matched = true // it was taken: no receiver is missing
	case Reject:
		p.b.count.filterRejected.Add(1)
		e.code, e.reason = r.Code, r.Reason
		if !e.code.Failed() || !e.code.ValidIn(packet.TypePuback) {
			e.code = packet.ImplementationSpecificError
		}
	case Publish:
		p.authorizeEmitted(e)
	}
}

// authorizeEmitted authorizes the messages that functions made of e. A publisher is
// told of a refusal only if nothing of its message went on.
func (p *pipeline) authorizeEmitted(e *entry) {
	e.matched = true
	var refused Verdict
	for _, em := range e.result.Messages {
		m := p.b.completeEmitted(em, e.m)
		if m == nil {
			continue
		}
		if v := p.b.mayEmit(em.Function, m); !v.Allowed && !em.Function.IsZero() {
			refused = v
			p.b.deniedFunction(em, m, p.owner, v)
			continue
		}
		if v := p.owner.mayPublish(m, false); !v.Allowed {
			refused = v
			p.b.deniedFunction(em, m, p.owner, v)
			continue
		}
		e.outs = append(e.outs, output{m: m})
	}
	if len(e.outs) == 0 && refused.Reason != "" {
		e.code, e.reason = packet.NotAuthorized, refused.Reason
	}
}

// completeEmitted completes a message that a function made of m, or returns nil for one
// that is no message at all.
func (b *Broker) completeEmitted(em Emitted, m *store.Message) *store.Message {
	if em.Message == nil || validTopic(em.Message.Topic) != nil {
		b.count.deniedFunction.Add(1)
		return nil
	}
	n := *em.Message
	n.QoS = min(n.QoS, 2)
	n.Publisher, n.ClientID = m.Publisher, m.ClientID
	n.HLC = b.clock.Now()
	n.Props = n.Props.Forwarded()
	n.Props.Clear(packet.PropMessageExpiryInterval)
	if n.Expires == 0 {
		n.Expires = m.Expires
	}
	return &n
}

// matchReceivers is step 7: every session with a matching subscription gets a copy
// [MQTT-4.5.0-1].
func (p *pipeline) matchReceivers(e *entry, o *output) {
	r := p.cache.get(p.b, o.m.Topic, p.owner)
	o.retain = o.m.Retain // [MQTT-3.3.1-5]
	o.forward = e.forward && r.wantedElsewhere
	e.matched = e.matched || o.forward || r.matched()
	o.forward = o.forward || e.forward && clears(o.m) && p.b.opts.Forwarder != nil
	if e.replayed && clears(o.m) {
		return // nothing was here to be cleared
	}
	o.deliveries = make([]delivery, 0, len(r.receivers)+len(r.groups))
	for i := range r.receivers { // [MQTT-4.5.0-1]
		to := &r.receivers[i]
		d := delivery{session: to.session, granted: to.qos, rap: to.rap, downstream: to.downstream}
		d.IDs = to.ids
		d.rap = d.rap || e.replayed
		d.setMessage(o.m)
		if d.QoS == 0 && !d.session.connected() {
			continue // nothing keeps QoS 0 for a client that is away
		}
		o.deliveries = append(o.deliveries, d)
	}
	if e.replayed {
		return // a shared subscription gets no retained messages
	}
	for _, g := range r.groups {
		if d, ok := g.deliveryOf(o.m); ok {
			o.deliveries = append(o.deliveries, d)
		}
	}
}

// clears reports whether m removes a retained message [MQTT-3.3.1-6]. It goes to all
// sites: any may have a copy.
func clears(m *store.Message) bool {
	return m.Retain && len(m.Payload) == 0 && !strings.HasPrefix(m.Topic, "$")
}

// deliveryOf returns a copy of m for the group's queue or, at QoS 0, for a member.
func (g *group) deliveryOf(m *store.Message) (d delivery, ok bool) {
	if g.queues(m.QoS) {
		d = delivery{group: g, persist: g.persistent.Load()}
		d.Message, d.QoS, d.Retain = m, m.QoS, m.Retain
		return d, true
	}
	sub := g.pickMember(m.Topic)
	if sub == nil {
		return d, false
	}
	d = delivery{session: sub.session, granted: sub.QoS, rap: sub.RetainAsPublished}
	d.downstream = g.b.boundDownstream(sub.session, m.Topic)
	d.IDs = sub.ids
	d.setMessage(m)
	return d, true
}

// setMessage makes d a copy of m: the lower QoS of the two [MQTT-3.8.4-8], and RETAIN
// only for a subscription that asked for it [MQTT-3.3.1-12] [MQTT-3.3.1-13].
func (d *delivery) setMessage(m *store.Message) {
	d.Message = m
	d.QoS = min(m.QoS, d.granted) // [MQTT-3.8.4-8]
	d.Retain = m.Retain && d.rap  // [MQTT-3.3.1-13]
	d.persist = d.QoS > 0 && d.session.persistent()
}

// replayRetained makes deliveries of retained messages that a SUBSCRIBE asked for. stale
// tells that rights may be newer than that.
func (p *pipeline) replayRetained(e *entry, stale bool) {
	deliveries := make([]delivery, 0, len(e.replay))
	for _, r := range e.replay {
		if stale && !p.owner.mayStillReceive(r.Message.Topic) {
			p.owner.countDrop(dropDenied)
			continue
		}
		deliveries = append(deliveries, delivery{
			Delivery: r, session: p.owner, granted: r.QoS, rap: true, patient: true,
			persist:    r.QoS > 0 && p.owner.persistent(),
			downstream: p.b.boundDownstream(p.owner, r.Message.Topic),
		})
	}
	e.outs = []output{{deliveries: deliveries}}
}

// askDownstream is step 8: the receiving session's chain sees the message once,
// before its queue. The queued message is the one that is sent.
func (p *pipeline) askDownstream(e *entry, d *delivery) {
	p.mu.Lock()
	e.pendingAnswers++
	p.mu.Unlock()
	p.b.opts.Filter.Submit(Downstream, d.session.principal, d.Message, func(r FilterResult) {
		denied := e.stale(p.b) && !d.session.mayStillReceive(d.Message.Topic)
		p.b.applyDownstream(d, r) // d is this callback's alone until it is counted
		if denied && !d.dropped {
			d.dropped, d.more = true, nil
			d.session.countDrop(dropDenied)
		}
		p.noteDownstream(e)
		p.run()
	})
}

// applyDownstream makes the delivery the chain's answer.
func (b *Broker) applyDownstream(d *delivery, r FilterResult) {
	d.state = r.State
	if r.Err != nil {
		r.Outcome = Reject
	}
	switch r.Outcome {
	case Pass:
	case Drop:
		d.dropped = true
		b.count.filterDropped.Add(1)
	case Reject:
		d.dropped = true
		b.count.filterRejected.Add(1)
	case Publish:
		original := *d
		d.dropped = true
		for _, em := range r.Messages {
			m := b.completeEmitted(em, original.Message)
			if m == nil || !b.mayEmitTo(em, m, d.session) {
				continue
			}
			x := original
			x.setMessage(m)
			x.Retain = original.Retain
			if d.dropped {
				d.dropped, d.Delivery, d.persist = false, x.Delivery, x.persist
			} else {
				d.more = append(d.more, x.Delivery)
			}
		}
	}
}

// noteDownstream counts a downstream answer.
func (p *pipeline) noteDownstream(e *entry) {
	p.mu.Lock()
	if e.pendingAnswers--; e.pendingAnswers == 0 {
		e.stage = ready
	}
	p.mu.Unlock()
}

// commitEntry is step 9: the part that must not be lost goes to the store in one
// transaction. An entry without such a part never touches the store.
func (p *pipeline) commitEntry(e *entry) {
	p.mu.Lock()
	p.committed++
	e.stage = committing
	p.sinceLook += int(e.size())
	look := p.sinceLook >= lookBytes
	if look {
		p.sinceLook = 0
	}
	p.mu.Unlock()
	if look {
		p.b.memory.askStore()
	}
	if err := p.refusedByForwarder(e); err != nil {
		e.states(State.Discard)
		p.noteStored(e, err)
		return
	}
	if !p.mustPersist(e) {
		if e.remembers() {
			p.b.opts.Store.Update(e.keepStates, nil)
		}
		for i := range e.outs {
			if o := &e.outs[i]; o.forward {
				p.b.count.forwarded.Add(1)
				p.b.opts.Forwarder.Forward(nil, o.m)
			}
		}
		p.noteStored(e, nil)
		return
	}
	p.b.opts.Store.Update(func(tx store.Tx) { p.persistEntry(tx, e) }, func(err error) {
		if err != nil {
			e.states(State.Discard)
		}
		p.noteStored(e, err)
		p.run()
	})
}

// refusedByForwarder returns why a client's message may not leave for other sites
// now. A message without a waiting publisher, such as a will, is not refused.
func (p *pipeline) refusedByForwarder(e *entry) error {
	if e.conn == nil {
		return nil
	}
	for i := range e.outs {
		o := &e.outs[i]
		if o.forward && (o.m.QoS > 0 || o.m.Retain) {
			if err := p.b.opts.Forwarder.Refuses(o.m); err != nil {
				return err
			}
		}
	}
	return nil
}

// mustPersist reports whether anything about e must not be lost.
func (p *pipeline) mustPersist(e *entry) bool {
	if e.tx != nil || e.received() && p.owner.persistent() || e.m != nil && e.m.QoS > 0 && e.remembers() {
		return true
	}
	for i := range e.outs {
		o := &e.outs[i]
		if o.retain || o.forward && o.m.QoS > 0 {
			return true
		}
		for j := range o.deliveries {
			if o.deliveries[j].persist {
				return true
			}
		}
	}
	return false
}

// persistEntry adds all of e to the transaction.
func (p *pipeline) persistEntry(tx store.Tx, e *entry) {
	if e.tx != nil {
		e.tx(tx)
	}
	if e.received() && p.owner.persistent() {
		tx.Receive(p.owner.key, e.id)
	}
	e.keepStates(tx)
	for i := range e.outs {
		o := &e.outs[i]
		if o.retain {
			tx.Retain(o.m)
		}
		if o.forward || o.retain && e.forward && p.b.WantedElsewhere(o.m.Topic) { // asked again: it may be wanted by now
			p.b.count.forwarded.Add(1)
			p.b.opts.Forwarder.Forward(tx, o.m)
		}
		for j := range o.deliveries {
			o.deliveries[j].persistDelivery(tx)
		}
	}
}

func (d *delivery) persistDelivery(tx store.Tx) {
	if !d.persist || d.dropped {
		return
	}
	if d.group != nil {
		tx.Enqueue(d.group.key, d.Delivery)
		return
	}
	tx.Enqueue(d.session.key, d.Delivery)
	for _, x := range d.more {
		tx.Enqueue(d.session.key, x)
	}
}

// states calls f with the states that functions remember of e, in their order.
func (e *entry) states(f func(State)) {
	if e.result.State != nil {
		f(e.result.State)
	}
	for i := range e.outs {
		for j := range e.outs[i].deliveries {
			if s := e.outs[i].deliveries[j].state; s != nil {
				f(s)
			}
		}
	}
}

func (e *entry) remembers() (any bool) {
	e.states(func(State) { any = true })
	return any
}

func (e *entry) keepStates(tx store.Tx) { e.states(func(s State) { s.Keep(tx) }) }

// noteStored notes the store's answer.
func (p *pipeline) noteStored(e *entry, err error) {
	p.mu.Lock()
	if e.err == nil { // else the chain failed before
		e.err = err
	}
	e.stage = through
	p.mu.Unlock()
}

// finishEntry is the last step: e is delivered and then acknowledged.
func (p *pipeline) finishEntry(e *entry) {
	if e.err != nil && e.qos == 0 && e.done == nil {
		p.b.countDrop(dropFailed)
	}
	if e.err == nil {
		stale := e.stale(p.b)
		for i := range e.outs {
			for j := range e.outs[i].deliveries {
				e.outs[i].deliveries[j].sendDelivery(p.batch, stale)
			}
		}
	}
	if e.done != nil {
		e.done(e.err)
	}
	if e.qos > 0 {
		p.acknowledge(e)
	}
	p.mu.Lock()
	p.entries[0] = nil
	p.entries = p.entries[1:]
	p.routed--
	p.committed--
	p.mu.Unlock()
	if e.qos == 1 {
		p.qos1.Add(-1)
	}
	p.parked.Add(-e.size())
	p.b.memory.charge(-int(e.size()))
	p.waiting.Add(-1)
	if room := p.roomFreed.Load(); room != nil {
		select {
		case *room <- struct{}{}:
		default: // the token of an earlier entry is still there
		}
	}
}

// sendDelivery hands the delivery to its session. stale tells that rights may be newer
// than it; a message that goes through a queue is judged when it leaves that.
func (d *delivery) sendDelivery(bt *batch, stale bool) {
	if d.dropped {
		return
	}
	switch {
	case d.group != nil:
		if !d.persist {
			d.group.queueInMemory(d.Delivery)
		}
		d.group.pump(bt)
		return
	case d.persist:
		d.session.pump(bt)
		return
	}
	d.sendOne(bt, d.Delivery, stale)
	for _, x := range d.more {
		d.sendOne(bt, x, stale)
	}
}

func (d *delivery) sendOne(bt *batch, x store.Delivery, stale bool) {
	if stale && !d.session.mayStillReceive(x.Message.Topic) {
		d.session.countDrop(dropDenied)
		return
	}
	bt.out.setMessage(x.Message)
	if d.patient {
		d.session.deliverPatiently(bt, x)
		return
	}
	d.session.deliver(bt, x.QoS, x.Retain, x.IDs)
}

// acknowledge answers e's publisher, if it still is on the connection.
func (p *pipeline) acknowledge(e *entry) {
	s := p.owner
	p.mu.Lock()
	version := e.conn.version
	p.mu.Unlock()
	code, reason := e.code, e.reason
	if code == packet.Success && e.m != nil {
		code = acceptedCode(e.matched)
	}
	if e.err != nil {
		code, reason = packet.UnspecifiedError, e.err.Error()
		if isFull(e.err) || errors.Is(e.err, errMemory) {
			code = packet.QuotaExceeded
		}
		if version != packet.V5 { // [MQTT-4.3.2-4] [MQTT-4.3.3-8]: not ours; the client sends it again
			if e.qos == 2 {
				s.forgetIncoming(e.id)
			}
			p.acked(e)
			return
		}
	}
	if version != packet.V5 {
		code = packet.Success
	}
	if e.qos == 2 {
		s.noteOutcome(e.id, code) // [MQTT-4.3.3-9]
	}
	c := p.acked(e)
	if s.conn.Load() != c {
		return
	}
	props := c.explain(reason)
	if e.qos == 1 {
		c.send(p.batch, &packet.Puback{PacketID: e.id, ReasonCode: code, Properties: props})
	} else {
		c.send(p.batch, &packet.Pubrec{PacketID: e.id, ReasonCode: code, Properties: props})
	}
}

// acked ends the time in which e's acknowledgement may be sent to another
// connection, and returns the one that gets it. The outcome that answerRepeated goes
// by is known by then.
func (p *pipeline) acked(e *entry) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.acked = true
	return e.conn
}

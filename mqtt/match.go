package mqtt

import (
	"strings"

	"github.com/hpmq/hpmq/mqtt/store"
)

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
	session    *session // nil for what a group's queue gets
	group      *group
	granted    byte             // the subscription's QoS
	rap        bool             // Retain As Published
	persist    bool             // through the store's queue
	patient    bool             // waits for room even at QoS 0
	downstream bool             // a function is asked first
	more       []store.Delivery // what a downstream function made beyond one message
	gone       bool             // the function dropped it
	state      State            // what the function remembers
}

func (d *delivery) keep(tx store.Tx) {
	if !d.persist || d.gone {
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

// send hands the delivery to its session. stale tells that rights may be newer
// than it; what goes through a queue is judged when it leaves that.
func (d *delivery) send(bt *batch, stale bool) {
	if d.gone {
		return
	}
	switch {
	case d.group != nil:
		if !d.persist {
			d.group.offer(d.Delivery)
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
		d.session.lose(dropDenied)
		return
	}
	bt.out.set(x.Message)
	if d.patient {
		d.session.deliverPatiently(bt, x)
		return
	}
	d.session.deliver(bt, x.QoS, x.Retain, x.IDs)
}

// route is steps 6 to 8: the upstream chain's answer becomes outputs, each finds
// its receivers, and the chains of those are asked.
func (p *pipeline) route(e *entry) {
	stale := e.stale(p.b)
	e.epoch = p.b.epoch.Load()
	switch {
	case e.replay != nil:
		p.replay(e, stale)
	case e.m != nil:
		p.outputs(e)
	}
	for i := range e.outs {
		if e.replay == nil {
			p.match(e, &e.outs[i])
		}
	}
	p.mu.Lock()
	p.routed++
	e.pending = 1 // this goroutine: answers may come before all are asked
	e.stage = receiving
	p.mu.Unlock()
	for i := range e.outs {
		for j := range e.outs[i].deliveries {
			if d := &e.outs[i].deliveries[j]; d.downstream {
				p.askDownstream(e, d)
			}
		}
	}
	p.answered(e)
}

// answered counts a downstream answer.
func (p *pipeline) answered(e *entry) {
	p.mu.Lock()
	if e.pending--; e.pending == 0 {
		e.stage = ready
	}
	p.mu.Unlock()
}

// match is step 7: every session with a matching subscription gets a copy
// [MQTT-4.5.0-1].
func (p *pipeline) match(e *entry, o *output) {
	r := p.cache.get(p.b, o.m.Topic, p.owner)
	o.retain = o.m.Retain // [MQTT-3.3.1-5]
	o.forward = e.forward && r.wanted
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
		d.carry(o.m)
		if d.QoS == 0 && !d.session.connected() {
			continue // nothing keeps QoS 0 for who is away
		}
		o.deliveries = append(o.deliveries, d)
	}
	if e.replayed {
		return // a shared subscription gets no retained messages
	}
	for _, g := range r.groups {
		if d, ok := g.deliver(o.m); ok {
			o.deliveries = append(o.deliveries, d)
		}
	}
}

// clears reports whether m removes a retained message [MQTT-3.3.1-6]. It goes to all
// sites: any may have a copy.
func clears(m *store.Message) bool {
	return m.Retain && len(m.Payload) == 0 && !strings.HasPrefix(m.Topic, "$")
}

// deliver makes a copy of m for the group's queue or, at QoS 0, for a member.
func (g *group) deliver(m *store.Message) (d delivery, ok bool) {
	if g.queues(m.QoS) {
		d = delivery{group: g, persist: g.keeping.Load()}
		d.Message, d.QoS, d.Retain = m, m.QoS, m.Retain
		return d, true
	}
	sub := g.pick(m.Topic)
	if sub == nil {
		return d, false
	}
	d = delivery{session: sub.session, granted: sub.QoS, rap: sub.RetainAsPublished}
	d.downstream = g.b.boundDownstream(sub.session, m.Topic)
	d.IDs = sub.ids
	d.carry(m)
	return d, true
}

// carry makes d a copy of m: the lower QoS of the two [MQTT-3.8.4-8], and RETAIN
// only for a subscription that asked for it [MQTT-3.3.1-12] [MQTT-3.3.1-13].
func (d *delivery) carry(m *store.Message) {
	d.Message = m
	d.QoS = min(m.QoS, d.granted) // [MQTT-3.8.4-8]
	d.Retain = m.Retain && d.rap  // [MQTT-3.3.1-13]
	d.persist = d.QoS > 0 && d.session.persistent()
}

// replay makes deliveries of retained messages that a SUBSCRIBE asked for. stale
// tells that rights may be newer than that.
func (p *pipeline) replay(e *entry, stale bool) {
	deliveries := make([]delivery, 0, len(e.replay))
	for _, r := range e.replay {
		if stale && !p.owner.mayStillReceive(r.Message.Topic) {
			p.owner.lose(dropDenied)
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
// before its queue. What is queued is what is sent.
func (p *pipeline) askDownstream(e *entry, d *delivery) {
	p.mu.Lock()
	e.pending++
	p.mu.Unlock()
	p.b.opts.Filter.Submit(Downstream, d.session.principal, d.Message, func(r FilterResult) {
		denied := e.stale(p.b) && !d.session.mayStillReceive(d.Message.Topic)
		p.b.applyDownstream(d, r) // d is this callback's alone until it is counted
		if denied && !d.gone {
			d.gone, d.more = true, nil
			d.session.lose(dropDenied)
		}
		p.answered(e)
		p.run()
	})
}

// applyDownstream makes the delivery what the chain answered.
func (b *Broker) applyDownstream(d *delivery, r FilterResult) {
	d.state = r.State
	if r.Err != nil {
		r.Outcome = Reject
	}
	switch r.Outcome {
	case Pass:
	case Drop:
		d.gone = true
		b.count.filterDropped.Add(1)
	case Reject:
		d.gone = true
		b.count.filterRejected.Add(1)
	case Publish:
		original := *d
		d.gone = true
		for _, em := range r.Messages {
			m := b.adopt(em, original.Message)
			if m == nil || !b.mayEmitTo(em, m, d.session) {
				continue
			}
			x := original
			x.carry(m)
			x.Retain = original.Retain
			if d.gone {
				d.gone, d.Delivery, d.persist = false, x.Delivery, x.persist
			} else {
				d.more = append(d.more, x.Delivery)
			}
		}
	}
}

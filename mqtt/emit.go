package mqtt

import (
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// outputs is step 6: the upstream chain's answer becomes the messages that go
// on, and what the publisher will be told.
func (p *pipeline) outputs(e *entry) {
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
		e.matched = true // it was taken: nobody is missing
	case Reject:
		p.b.count.filterRejected.Add(1)
		e.code, e.reason = r.Code, r.Reason
		if !e.code.Failed() || !e.code.ValidIn(packet.TypePuback) {
			e.code = packet.ImplementationSpecificError
		}
	case Publish:
		p.emitted(e)
	}
}

// emitted authorizes what functions made of e. A publisher is told of a refusal
// only if nothing of its message went on.
func (p *pipeline) emitted(e *entry) {
	e.matched = true
	var refused Verdict
	for _, em := range e.result.Messages {
		m := p.b.adopt(em, e.m)
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

// adopt completes a message that a function made of m, or returns nil for one
// that is no message at all.
func (b *Broker) adopt(em Emitted, m *store.Message) *store.Message {
	if em.Message == nil || validTopic(em.Message.Topic) != nil {
		b.count.deniedFunction.Add(1)
		return nil
	}
	n := *em.Message
	n.QoS = min(n.QoS, 2)
	n.Publisher, n.ClientID = m.Publisher, m.ClientID
	n.HLC = b.clock.now()
	n.Props = n.Props.Forwarded()
	n.Props.Clear(packet.PropMessageExpiryInterval)
	if n.Expires == 0 {
		n.Expires = m.Expires
	}
	return &n
}

// mayEmit asks what the function's own identity may publish.
func (b *Broker) mayEmit(function identity.ID, m *store.Message) Verdict {
	if v, reserved := Reserved("publish", m.Topic); reserved {
		return v
	}
	r := b.functionRights(function)
	if r == nil {
		return Verdict{Reason: "the function has no rights"}
	}
	return r.Publish(m.Topic, m.QoS, m.Retain, len(m.Payload))
}

// mayEmitTo decides what a downstream function may send to a session.
func (b *Broker) mayEmitTo(em Emitted, m *store.Message, to *session) bool {
	if v := b.mayEmit(em.Function, m); !v.Allowed {
		b.deniedFunction(em, m, to, v)
		return false
	}
	r := to.may()
	if r == nil {
		return false
	}
	if v := r.Receive(m.Topic); !v.Allowed {
		b.deniedFunction(em, m, to, v)
		return false
	}
	return true
}

// functionRights returns the rights of a function's identity, asked once per
// policy.
func (b *Broker) functionRights(id identity.ID) Rights {
	b.functionsMu.Lock()
	r, known := b.functions[id]
	b.functionsMu.Unlock()
	if known || id.IsZero() {
		return r
	}
	r = b.opts.Authorizer.Rights(Principal{ID: id})
	b.functionsMu.Lock()
	b.functions[id] = r
	b.functionsMu.Unlock()
	return r
}

// mayPublish asks what the session's principal may publish.
func (s *session) mayPublish(m *store.Message, will bool) Verdict {
	action := "publish"
	if will {
		action = "will"
	}
	if v, reserved := Reserved(action, m.Topic); reserved {
		return v
	}
	r := s.may()
	switch {
	case r == nil:
		return Verdict{Reason: "the identity has no rights"}
	case will:
		return r.Will(m.Topic, m.QoS, m.Retain, len(m.Payload))
	}
	return r.Publish(m.Topic, m.QoS, m.Retain, len(m.Payload))
}

package mqtt

import (
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// The broker's questions to the [Authorizer]: about clients, and about functions.

// currentRights returns the rights of the session's principal, which may be none.
func (s *session) currentRights() Rights { return *s.rights.Load() }

// mayPublish asks whether the session's principal may publish m.
func (s *session) mayPublish(m *store.Message, will bool) Verdict {
	action := "publish"
	if will {
		action = "will"
	}
	if v, reserved := Reserved(action, m.Topic); reserved {
		return v
	}
	r := s.currentRights()
	switch {
	case r == nil:
		return Verdict{Reason: "the identity has no rights"}
	case will:
		return r.Will(m.Topic, m.QoS, m.Retain, len(m.Payload))
	}
	return r.Publish(m.Topic, m.QoS, m.Retain, len(m.Payload))
}

// maySubscribe asks the policy about a Topic Filter, unless it is the broker's own.
func (s *session) maySubscribe(asked string) Verdict {
	if v, reserved := Reserved("subscribe", asked); reserved {
		return v
	}
	r := s.currentRights()
	if r == nil {
		return Verdict{Reason: "the identity has no rights"}
	}
	_, filter, _, _ := topic.ParseShared(asked) // Reserved refused a malformed one
	return r.Subscribe(filter)
}

// mayReceive asks the policy about a topic that a deny may hide from one of the
// session's subscriptions.
func (s *session) mayReceive(name string) bool {
	if !s.mayStillReceive(name) {
		s.b.count.deniedReceive.Add(1)
		return false
	}
	return true
}

// mayStillReceive asks the policy about a message that waited for the session
// while the policy changed.
func (s *session) mayStillReceive(name string) bool {
	r := s.currentRights()
	return r != nil && r.Receive(name).Allowed
}

// mayEmit asks whether the function's own identity may publish m.
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

// mayEmitTo decides whether a downstream function may send a message to a session.
func (b *Broker) mayEmitTo(em Emitted, m *store.Message, to *session) bool {
	if v := b.mayEmit(em.Function, m); !v.Allowed {
		b.deniedFunction(em, m, to, v)
		return false
	}
	r := to.currentRights()
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

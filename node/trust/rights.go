package trust

import (
	"github.com/hpmq/hpmq/policy"
)

// Rights are what a subject may do with topics at its site's broker: the policy's
// grants, and more for the user that runs the node. It never changes and is safe for
// concurrent use.
type Rights struct {
	session *policy.Session
	local   bool
}

// NewRights returns the rights of the subject of session.
func NewRights(session *policy.Session) Rights {
	return Rights{session, IsLocal(session.Subject().ID)}
}

// Publish decides a PUBLISH. The user that runs the node may publish on all topics
// that no deny forbids, so that any client and any test tool works on its machine.
// Messages that no grant covers stay at the site: see [Foreign.Stays].
func (r Rights) Publish(topic string, qos byte, retain bool, size int) policy.Decision {
	return r.here(r.session.Publish(topic, qos, retain, size))
}

// Will decides a will, at CONNECT and when it fires, as Publish does.
func (r Rights) Will(topic string, qos byte, retain bool, size int) policy.Decision {
	return r.here(r.session.Will(topic, qos, retain, size))
}

// Subscribe decides a SUBSCRIBE.
func (r Rights) Subscribe(filter string) policy.Decision { return r.session.Subscribe(filter) }

// Receive decides a delivery to a subscription that a deny overlaps.
func (r Rights) Receive(topic string) policy.Decision { return r.session.Receive(topic) }

// Limits are the bounds on the messages that the subject publishes.
func (r Rights) Limits() policy.Limits { return r.session.Limits() }

func (r Rights) here(d policy.Decision) policy.Decision {
	if r.local && !d.Denied() {
		d.Allowed = true
	}
	return d
}

// Decide answers action on object as the broker does, for the actions publish,
// retain, will and subscribe. asked is false for another action.
func (r Rights) Decide(action, object string) (d policy.Decision, asked bool) {
	switch action {
	case "publish":
		return r.Publish(object, 0, false, 0), true
	case "retain":
		return r.Publish(object, 0, true, 0), true
	case "will":
		return r.Will(object, 0, false, 0), true
	case "subscribe":
		return r.Subscribe(object), true
	}
	return policy.Decision{}, false
}

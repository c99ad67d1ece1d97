package mqtt

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// String returns why something was refused, with the rule.
func (v Verdict) String() string {
	switch {
	case v.Rule == "":
		return v.Reason
	case v.Reason == "":
		return v.Rule
	}
	return v.Reason + " (" + v.Rule + ")"
}

// deniedNotice is the payload of a message on deniedTopic.
type deniedNotice struct {
	Time     time.Time `json:"time"`
	Action   string    `json:"action"` // publish, subscribe, will or function
	ClientID string    `json:"client_id,omitempty"`
	Topic    string    `json:"topic,omitempty"`
	Filter   string    `json:"filter,omitempty"`
	QoS      byte      `json:"qos"`
	Retain   bool      `json:"retain,omitempty"`
	Function string    `json:"function,omitempty"`
	Rule     string    `json:"rule,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

func (c *conn) deniedPublish(name string, p *packet.Publish, v Verdict) {
	c.b.count.deniedPublish.Add(1)
	c.tellDenied(deniedNotice{Action: "publish", Topic: name, QoS: p.QoS, Retain: p.Retain}, v)
}

func (c *conn) deniedSubscribe(filter string, v Verdict) {
	c.b.count.deniedSubscribe.Add(1)
	c.tellDenied(deniedNotice{Action: "subscribe", Filter: filter}, v)
}

// tellDenied logs the connection's first refusal and publishes the notice. The
// counter has them all.
func (c *conn) tellDenied(n deniedNotice, v Verdict) {
	c.deniedCount.Add(1)
	if !c.deniedLogged {
		c.deniedLogged = true
		c.b.logDenied(c.principal, n, v)
	}
	c.b.notify(c.principal, n, v)
}

func (b *Broker) deniedWill(s *session, m *store.Message, v Verdict) {
	b.count.deniedPublish.Add(1)
	n := deniedNotice{Action: "will", Topic: m.Topic, QoS: m.QoS, Retain: m.Retain}
	b.logDenied(s.principal, n, v)
	b.notify(s.principal, n, v)
}

func (b *Broker) deniedFunction(em Emitted, m *store.Message, s *session, v Verdict) {
	b.count.deniedFunction.Add(1)
	n := deniedNotice{Action: "function", Topic: m.Topic, QoS: m.QoS, Retain: m.Retain, Function: em.Function.Name}
	b.logDenied(s.principal, n, v)
	b.notify(s.principal, n, v)
}

// logDenied writes one line, unless too many were written of late.
func (b *Broker) logDenied(p Principal, n deniedNotice, v Verdict) {
	if !b.deniedLog.Allow() {
		return
	}
	l := b.log.WithField(logfield.SPIFFEID, p.ID.String()).WithField(logfield.ClientID, p.ClientID).
		WithField(logfield.Remote, p.Remote).WithField(logfield.Rule, v.Rule).WithField(logfield.Reason, v.Reason)
	if n.Function != "" {
		l = l.WithField(logfield.Function, n.Function)
	}
	if n.Filter != "" {
		l.WithField(logfield.Filter, n.Filter).Warn("subscribe denied")
		return
	}
	l.WithField(logfield.Topic, n.Topic).Warn(n.Action + " denied")
}

// notices are the subscribers of deniedTopic, by identity.
type notices struct {
	mu   sync.Mutex
	subs map[identity.ID]*noticeView
}

type noticeView struct {
	sessions map[*session]*subscription
	second   int64 // of the count
	count    int
}

// noticesPerSecond bounds the notices to one identity.
const noticesPerSecond = 10

func (n *notices) addReader(sub *subscription) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.subs[sub.session.principal.ID]
	if v == nil {
		v = &noticeView{sessions: make(map[*session]*subscription)}
		n.subs[sub.session.principal.ID] = v
	}
	v.sessions[sub.session] = sub
}

func (n *notices) removeReader(sub *subscription) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := sub.session.principal.ID
	if v := n.subs[id]; v != nil {
		delete(v.sessions, sub.session)
		if len(v.sessions) == 0 {
			delete(n.subs, id)
		}
	}
}

// readers returns the subscriptions that get a notice of one more refusal of id.
func (n *notices) readers(id identity.ID, now time.Time) []*subscription {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.subs[id]
	if v == nil {
		return nil
	}
	if now.Unix() != v.second {
		v.second, v.count = now.Unix(), 0
	}
	if v.count++; v.count > noticesPerSecond {
		return nil
	}
	subs := make([]*subscription, 0, len(v.sessions))
	for _, sub := range v.sessions {
		subs = append(subs, sub)
	}
	return subs
}

// notify publishes a notice to the identity's own view, at QoS 0.
func (b *Broker) notify(p Principal, n deniedNotice, v Verdict) {
	now := time.Now()
	subs := b.notices.readers(p.ID, now)
	if len(subs) == 0 {
		return
	}
	n.Time, n.ClientID, n.Rule, n.Reason = now.UTC(), p.ClientID, v.Rule, v.Reason
	payload, err := json.Marshal(n)
	if err != nil {
		return // the struct always marshals
	}
	bt := getBatch(b)
	defer bt.done()
	bt.out.setMessage(&store.Message{Topic: deniedTopic, Payload: payload})
	for _, sub := range subs {
		sub.session.deliver(bt, 0, false, sub.ids)
	}
}

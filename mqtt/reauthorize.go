package mqtt

import (
	"slices"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// Reauthorize applies a new policy to everyone: sessions get new rights and lose
// the subscriptions that are no longer granted, and their clients are
// disconnected with the reason. Rates hold from now on, and an identity that has
// more connections than it may loses the newest.
func (b *Broker) Reauthorize() {
	b.policy.Add(1)
	b.functionsMu.Lock()
	clear(b.functions)
	b.functionsMu.Unlock()
	for _, s := range b.all() {
		b.reauthorize(s)
	}
	b.shed()
	b.Reroute() // last: routes made meanwhile may know old rights
}

func (b *Broker) reauthorize(s *session) {
	p, c := s.principal, s.conn.Load()
	if c != nil {
		p = c.principal // the session may have begun with another credential
	}
	r := b.opts.Authorizer.Rights(p)
	s.rights.Store(&r)
	if c != nil && r != nil {
		b.relimit(p.ID, r)
	}
	s.mu.Lock()
	subs := make([]*subscription, 0, len(s.subs))
	for _, sub := range s.subs {
		subs = append(subs, sub)
	}
	s.mu.Unlock()
	reason := ""
	var lost []*subscription
	for _, sub := range subs {
		v := s.maySubscribe(sub.filter, sub.shared != groupKey{})
		switch {
		case !v.Allowed:
			reason = "subscription " + sub.Filter + " is no longer granted: " + v.String()
			lost = append(lost, sub)
			s.unsubscribe(sub.Filter)
		case v.Filtered != sub.filtered:
			changed := *sub
			changed.filtered = v.Filtered
			s.replace(sub, &changed)
		}
	}
	if len(lost) > 0 && s.stored.Load() {
		b.opts.Store.Update(func(tx store.Tx) {
			for _, sub := range lost {
				tx.Unsubscribe(s.key, sub.Filter)
			}
		}, nil)
	}
	if r == nil {
		reason = "the identity may no longer connect"
	}
	if c := s.conn.Load(); c != nil && reason != "" {
		b.count.deniedSubscribe.Add(uint64(len(lost)))
		b.log.WithFields(principalFields(s.principal)).WithField(logfield.Reason, reason).Warn("client disconnected by a new policy")
		c.end(packet.NotAuthorized, reason)
	}
}

// replace swaps a subscription, unless the client changed it meanwhile.
func (s *session) replace(old, sub *subscription) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	same := s.subs[old.Filter] == old
	if same {
		s.subs[old.Filter] = sub
	}
	s.mu.Unlock()
	if same {
		s.b.subscribe(sub)
	}
}

// Removal says which of an identity's sessions [Broker.Disconnect] ends, and how.
type Removal struct {
	ClientID        string            // that one; empty is all
	Code            packet.ReasonCode // of DISCONNECT
	Reason          string            // of DISCONNECT, for people
	ServerReference string            // of DISCONNECT: other servers to use; see [Options]
	EndSessions     bool              // forget the session state too
	DropWills       bool              // with EndSessions: publish no wills
}

// Removed is what [Broker.Disconnect] ended.
type Removed struct {
	Connections int
	Sessions    int // with EndSessions
}

// Disconnect ends the connections of an identity. Nothing that their clients sent
// is taken any more when it returns.
func (b *Broker) Disconnect(id identity.ID, r Removal) (ended Removed) {
	b.policy.Add(1)
	theirs := slices.DeleteFunc(b.all(), func(s *session) bool {
		return s.principal.ID != id || r.ClientID != "" && r.ClientID != s.principal.ClientID
	})
	for _, s := range theirs {
		if r.DropWills {
			s.mu.Lock()
			s.setWill(nil)
			s.stopTimer(willTimer)
			s.mu.Unlock()
		}
		if s.hangUp(r) {
			ended.Connections++
		}
	}
	if !r.EndSessions {
		return ended
	}
	ended.Sessions = len(theirs)
	for _, s := range theirs { // the store may have to be waited for
		s.end(!r.DropWills, 0)
		s.hangUp(r) // on who came meanwhile
	}
	return ended
}

// hangUp reports whether the session had a connection.
func (s *session) hangUp(r Removal) bool {
	c := s.conn.Load()
	if c != nil {
		c.refer(r.Code, r.Reason, r.ServerReference)
	}
	return c != nil
}

package mqtt

import (
	"maps"
	"slices"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// Reauthorize applies a new policy to all sessions: they get new rights,
// subscriptions that are no longer granted sleep, and their clients are
// disconnected with the reason; sleeping ones that are granted again wake. Messages
// that wait are judged by the new rights when they are sent. Rates hold from now on,
// and an identity that has more connections than it may loses the newest.
func (b *Broker) Reauthorize() {
	change := b.settled.begun.Add(1)
	b.policyChanges.Add(1)
	b.functionsMu.Lock()
	clear(b.functions)
	b.functionsMu.Unlock()
	asleep := 0
	for _, s := range b.allSessions() {
		asleep += b.reauthorize(s)
	}
	if asleep > 0 {
		b.log.WithField(logfield.Asleep, asleep).WithField(logfield.Hint, "hpmq clients shows whose; they wake if a later policy grants them").
			Warn("subscriptions sleep: the new policy does not grant them")
	}
	b.endExcess()
	b.Reroute() // last: routes made meanwhile may know old rights
	b.settleChange(change)
}

// reauthorize returns how many of the session's subscriptions began to sleep.
func (b *Broker) reauthorize(s *session) (asleep int) {
	r, lost, woken := s.renewRights()
	reason := ""
	if len(lost) > 0 {
		reason = lost[0]
		b.count.deniedSubscribe.Add(uint64(len(lost)))
	}
	if r == nil {
		reason = "the identity may no longer connect"
	}
	c := s.conn.Load()
	if c != nil && reason != "" {
		b.log.WithFields(principalFields(s.principal)).WithField(logfield.Reason, reason).Warn("client disconnected by a new policy")
		c.end(packet.NotAuthorized, reason)
	}
	if woken > 0 {
		s.refill() // with messages that waited for a member
	}
	return len(lost)
}

// renewRights asks for the session's rights anew, has the subscriptions sleep that
// are not granted any more, and wakes the ones that are again. It returns why
// subscriptions were lost.
func (s *session) renewRights() (r Rights, lost []string, woken int) {
	s.subscribing.Lock() // the rights and the subscriptions that they give are of one moment
	defer s.subscribing.Unlock()
	p, c := s.principal, s.conn.Load()
	if c != nil {
		p = c.principal // the session may have begun with another credential
	}
	s.mu.Lock()
	s.markJudging() // before the rights count
	subs := slices.Collect(maps.Values(s.subs))
	s.mu.Unlock()
	r = s.b.opts.Authorizer.Rights(p)
	s.rights.Store(&r)
	if c != nil && r != nil {
		s.b.relimit(p.ID, r)
	}
	for _, sub := range subs {
		v := s.maySubscribe(sub.Filter)
		if v.Allowed != sub.asleep && v.Filtered == sub.filtered {
			continue
		}
		changed := *sub
		changed.filtered, changed.asleep = v.Filtered, !v.Allowed
		if !s.replaceSubscription(&changed) {
			return r, lost, woken
		}
		switch {
		case changed.asleep && !sub.asleep:
			lost = append(lost, "subscription "+sub.Filter+" is no longer granted: "+v.String())
		case sub.asleep && !changed.asleep:
			woken++
		}
	}
	return r, lost, woken
}

// replaceSubscription swaps the subscription of a filter, and reports false if the session has
// ended. The caller holds changing.
func (s *session) replaceSubscription(sub *subscription) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.subs[sub.Filter] = sub
	s.mu.Unlock()
	s.b.subscribe(sub)
	return true
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

// Removed counts the ends of [Broker.Disconnect].
type Removed struct {
	Connections int
	Sessions    int // with EndSessions
}

// Disconnect ends the connections of an identity. Nothing that their clients sent
// is taken any more when it returns.
func (b *Broker) Disconnect(id identity.ID, r Removal) (ended Removed) {
	b.policyChanges.Add(1)
	theirs := slices.DeleteFunc(b.allSessions(), func(s *session) bool {
		return s.principal.ID != id || r.ClientID != "" && r.ClientID != s.principal.ClientID
	})
	for _, s := range theirs {
		if r.DropWills {
			s.mu.Lock()
			s.setWill(nil)
			s.stopTimer(willTimer)
			s.mu.Unlock()
		}
		if s.endConnection(r) {
			ended.Connections++
		}
	}
	if !r.EndSessions {
		return ended
	}
	ended.Sessions = len(theirs)
	for _, s := range theirs { // the store may have to be waited for
		s.endSession(!r.DropWills, 0)
		s.endConnection(r) // of a client that came meanwhile
	}
	return ended
}

// endConnection reports whether the session had a connection.
func (s *session) endConnection(r Removal) bool {
	c := s.conn.Load()
	if c != nil {
		c.endReferring(r.Code, r.Reason, r.ServerReference)
	}
	return c != nil
}

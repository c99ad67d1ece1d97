package mqtt

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// limits returns the ceilings of an identity with the rights r.
func (b *Broker) limits(r Rights) Limits {
	var l Limits
	if limited, ok := r.(Limited); ok {
		l = limited.Limits()
	}
	l.Messages.lower(b.opts.Publish.Messages)
	l.Bytes.lower(b.opts.Publish.Bytes)
	l.Connections.lower(b.opts.ConnectionsPerIdentity)
	return l
}

// lower applies a ceiling that is in Options.
func (l *Limit) lower(n int) {
	if n > 0 && (l.N == 0 || n < l.N) {
		*l = Limit{n, "this node's own limit"}
	}
}

// usage counts an identity's connections and messages, and has its ceilings.
// Broker.mu guards all but rate.
type usage struct {
	connections    int
	maxConnections Limit
	rate           atomic.Pointer[bucket] // nil without a limit
	timed          bool                   // a timer will forget the identity if it has no connection then
}

// countIdentity counts a connection of an identity, or refuses it.
func (b *Broker) countIdentity(c *conn, r Rights) error {
	l := b.limits(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.perIdentity[c.principal.ID]
	if u == nil {
		u = &usage{}
		b.perIdentity[c.principal.ID] = u
	}
	now := time.Now()
	u.applyLimits(l, now)
	if u.connections >= u.maxConnections.N {
		return &refusal{packet.QuotaExceeded, u.tooMany()}
	}
	u.connections++
	c.usage = u
	if rate := u.rate.Load(); rate != nil {
		c.rateDelay = rate.debtTime(now) // its other connections do not make the debt smaller
	}
	return nil
}

func (u *usage) tooMany() string {
	return fmt.Sprintf("too many connections of the identity: at most %d by %s", u.maxConnections.N, u.maxConnections.Rule)
}

// uncountIdentity ends the count of countIdentity. The caller holds mu.
func (b *Broker) uncountIdentity(id identity.ID) {
	u := b.perIdentity[id]
	u.connections--
	b.forgetIdentity(id, u)
}

// forgetIdentity forgets an identity that has no connections, but not before its
// bucket is full: else each new connection would begin with a second's worth. The
// caller holds mu.
func (b *Broker) forgetIdentity(id identity.ID, u *usage) {
	if u.connections > 0 || u.timed {
		return
	}
	wait := time.Duration(0)
	if rate := u.rate.Load(); rate != nil {
		wait = rate.untilFull(time.Now())
	}
	if wait == 0 {
		delete(b.perIdentity, id)
		return
	}
	u.timed = true
	time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		u.timed = false
		b.forgetIdentity(id, u)
	})
}

// relimit applies the ceilings of new rights to an identity that is connected.
func (b *Broker) relimit(id identity.ID, r Rights) {
	l := b.limits(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.perIdentity[id]; u != nil {
		u.applyLimits(l, time.Now())
	}
}

// endExcess ends the newest connections of identities that have more than they may:
// the ones that would have been refused.
func (b *Broker) endExcess() {
	for u, conns := range b.overConnectionLimit() {
		slices.SortFunc(conns, func(x, y *conn) int { return x.connectedAt.Compare(y.connectedAt) })
		b.mu.Lock()
		most, reason := u.maxConnections.N, u.tooMany()
		b.mu.Unlock()
		for _, c := range conns[min(most, len(conns)):] {
			c.log().WithField(logfield.Reason, reason).Warn("client disconnected by a new policy")
			c.end(packet.QuotaExceeded, reason)
		}
	}
}

// overConnectionLimit returns the connections of identities that have more than they may.
func (b *Broker) overConnectionLimit() map[*usage][]*conn {
	crowds := map[*usage][]*conn{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		if c := s.conn.Load(); c != nil && !c.isClosing() && c.usage.connections > c.usage.maxConnections.N {
			crowds[c.usage] = append(crowds[c.usage], c)
		}
	}
	return crowds
}

// applyLimits makes l the ceilings of an identity. A debt stays. The caller holds
// Broker.mu.
func (u *usage) applyLimits(l Limits, now time.Time) {
	u.maxConnections, l.Connections = l.Connections, Limit{}
	old := u.rate.Load()
	switch {
	case old == nil && l == Limits{}, old != nil && old.limits == l:
		return
	case l == Limits{}:
		u.rate.Store(nil)
	default:
		next := newBucket(l, now)
		if old != nil {
			next.inherit(old)
		}
		u.rate.Store(next)
	}
	if old != nil {
		close(old.replaced)
	}
}

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

// limits returns the ceilings of an identity whose rights are r.
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

// usage is what an identity takes, and may take. Broker.mu guards all but rate.
type usage struct {
	connections int
	most        Limit                  // of connections
	rate        atomic.Pointer[bucket] // nil without a limit
	kept        bool                   // a timer will look whether it is needed
}

// enter counts a connection of an identity, or refuses it.
func (b *Broker) enter(c *conn, r Rights) error {
	l := b.limits(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.perIdentity[c.principal.ID]
	if u == nil {
		u = &usage{}
		b.perIdentity[c.principal.ID] = u
	}
	now := time.Now()
	u.apply(l, now)
	if u.connections >= u.most.N {
		return &refusal{packet.QuotaExceeded, u.tooMany()}
	}
	u.connections++
	c.usage = u
	if rate := u.rate.Load(); rate != nil {
		c.delay = rate.owed(now) // another connection brings no second helping
	}
	return nil
}

func (u *usage) tooMany() string {
	return fmt.Sprintf("too many connections of the identity: at most %d by %s", u.most.N, u.most.Rule)
}

// leave ends what enter counted. The caller holds mu.
func (b *Broker) leave(id identity.ID) {
	u := b.perIdentity[id]
	u.connections--
	b.vacate(id, u)
}

// vacate forgets an identity that has no connections, but not before its bucket
// is full: else whoever connects again had a second's worth each time. The caller
// holds mu.
func (b *Broker) vacate(id identity.ID, u *usage) {
	if u.connections > 0 || u.kept {
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
	u.kept = true
	time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		u.kept = false
		b.vacate(id, u)
	})
}

// relimit applies the ceilings of new rights to an identity that is connected.
func (b *Broker) relimit(id identity.ID, r Rights) {
	l := b.limits(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.perIdentity[id]; u != nil {
		u.apply(l, time.Now())
	}
}

// shed ends the newest connections of identities that have more than they may:
// those that would have been refused.
func (b *Broker) shed() {
	for u, conns := range b.crowds() {
		slices.SortFunc(conns, func(x, y *conn) int { return x.since.Compare(y.since) })
		b.mu.Lock()
		most, reason := u.most.N, u.tooMany()
		b.mu.Unlock()
		for _, c := range conns[min(most, len(conns)):] {
			c.log().WithField(logfield.Reason, reason).Warn("client disconnected by a new policy")
			c.end(packet.QuotaExceeded, reason)
		}
	}
}

// crowds returns the connections of identities that have more than they may.
func (b *Broker) crowds() map[*usage][]*conn {
	crowds := map[*usage][]*conn{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		if c := s.conn.Load(); c != nil && !c.isClosing() && c.usage.connections > c.usage.most.N {
			crowds[c.usage] = append(crowds[c.usage], c)
		}
	}
	return crowds
}

// apply makes l the ceilings of an identity. What it owes it still owes. The
// caller holds Broker.mu.
func (u *usage) apply(l Limits, now time.Time) {
	u.most, l.Connections = l.Connections, Limit{}
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

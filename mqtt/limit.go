package mqtt

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// Rate bounds what one identity publishes, over all of its connections. A second's
// worth may come at once. Zero fields are no limit.
type Rate struct {
	Messages int // PUBLISH packets per second
	Bytes    int // of those packets, per second
}

// amount is what some PUBLISH packets take of a rate.
type amount struct{ messages, bytes int }

func (a *amount) add(bytes int) {
	a.messages++
	a.bytes += bytes
}

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
	if r == nil { // it ends
		return
	}
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
		if c := s.conn.Load(); c != nil && c.usage.connections > c.usage.most.N {
			crowds[c.usage] = append(crowds[c.usage], c)
		}
	}
	return crowds
}

// halfOpen is how many connections of one address beyond its limit are heard
// until CONNECT, so that they can be told why they are refused.
const halfOpen = 64

// addressOf returns the address that a connection counts for: none on this
// machine and where there is no IP address. Of IPv6 it is the network of 64 bits,
// in which one machine has as many addresses as it likes.
func addressOf(remote, local net.Addr) netip.Addr {
	a := ipOf(remote)
	if a.IsLoopback() || a == ipOf(local) {
		return netip.Addr{}
	}
	if a.Is6() {
		a = netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}

func ipOf(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

var (
	tooMany = &refusal{packet.QuotaExceeded, "too many connections from this address"}
	tooFast = &refusal{packet.ConnectionRateExceeded, "too many new connections from this address, try again later"}
)

// arrive counts a connection of an address. It returns what to tell it if it is
// one too many; ok is false for one that is told nothing.
func (b *Broker) arrive(a netip.Addr) (no *refusal, ok bool) {
	if !a.IsValid() {
		return nil, true
	}
	came := b.gate.count(a)
	b.mu.Lock()
	defer b.mu.Unlock()
	open := b.perAddress[a]
	if came > b.opts.ConnectsPerAddress+halfOpen || open >= b.opts.ConnectionsPerAddress+halfOpen {
		return nil, false
	}
	b.perAddress[a] = open + 1
	switch {
	case open >= b.opts.ConnectionsPerAddress:
		return tooMany, true
	case came > b.opts.ConnectsPerAddress:
		return tooFast, true
	}
	return nil, true
}

// depart ends what arrive counted.
func (b *Broker) depart(a netip.Addr) {
	if !a.IsValid() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.perAddress[a]--; b.perAddress[a] == 0 {
		delete(b.perAddress, a)
	}
}

// bucket is a token bucket for messages and bytes. What is taken beyond its
// content is a debt that the taker waits for: a batch that was read is handled.
type bucket struct {
	limits   Limits        // but for connections
	replaced chan struct{} // closed when others hold
	told     atomic.Bool   // the log knows

	mu        sync.Mutex // guards all below
	messages  float64
	bytes     float64
	last      time.Time
	throttled uint64 // how often its identity had to wait
	by        string // the rule that made it, the last time
}

func newBucket(l Limits, now time.Time) *bucket {
	return &bucket{
		limits: l, replaced: make(chan struct{}),
		messages: float64(l.Messages.N), bytes: float64(l.Bytes.N), last: now,
	}
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

// inherit takes over what is left, or owed, of an old bucket.
func (b *bucket) inherit(old *bucket) {
	old.mu.Lock()
	defer old.mu.Unlock()
	if old.limits.Messages.N > 0 {
		b.messages = min(b.messages, old.messages)
	}
	if old.limits.Bytes.N > 0 {
		b.bytes = min(b.bytes, old.bytes)
	}
	b.last, b.throttled, b.by = old.last, old.throttled, old.by
}

// take counts a batch and returns how long to wait before the next one.
func (b *bucket) take(a amount, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	passed := now.Sub(b.last).Seconds()
	b.last = now
	messages := refill(&b.messages, b.limits.Messages.N, passed, a.messages)
	bytes := refill(&b.bytes, b.limits.Bytes.N, passed, a.bytes)
	wait := max(messages, bytes)
	if wait > 0 && a.messages > 0 {
		b.throttled++
		if b.by = b.limits.Messages.Rule; bytes > messages {
			b.by = b.limits.Bytes.Rule
		}
	}
	return wait
}

// owed is how long it takes until nothing is owed.
func (b *bucket) owed(now time.Time) time.Duration { return b.take(amount{}, now) }

// untilFull is how long it takes until the bucket is as a new one.
func (b *bucket) untilFull(now time.Time) time.Duration {
	b.take(amount{}, now)
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, bytes := b.limits.Messages.N, b.limits.Bytes.N
	return max(worth(float64(messages)-b.messages, messages), worth(float64(bytes)-b.bytes, bytes))
}

// throttling returns how often the identity had to wait, and for which rule.
func (b *bucket) throttling() (times uint64, by string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.throttled, b.by
}

// refill adds what passed seconds are worth, up to one second's, takes n and
// returns how long it takes until nothing is owed.
func refill(tokens *float64, rate int, passed float64, n int) time.Duration {
	if rate == 0 {
		return 0
	}
	*tokens = min(*tokens+passed*float64(rate), float64(rate)) - float64(n)
	return worth(-*tokens, rate)
}

// worth is how long it takes until there are n more tokens.
func worth(n float64, rate int) time.Duration {
	if rate == 0 {
		return 0
	}
	return time.Duration(max(0, n) / float64(rate) * float64(time.Second))
}

// countRate counts what one read brought to its end.
func (c *conn) countRate() {
	if c.unpaid.messages == 0 {
		return
	}
	if rate := c.usage.rate.Load(); rate != nil {
		if c.delay = rate.take(c.unpaid, time.Now()); c.delay > 0 {
			c.b.count.throttled.Add(1)
		}
	}
	c.unpaid = amount{}
}

// awaitRate waits while the client's identity is over its rate: its sockets are
// not read, so that it slows down and loses nothing. Where a new policy lets it
// wait for less, it does.
func (c *conn) awaitRate() error {
	if c.delay == 0 {
		return nil
	}
	defer c.pause()()
	for c.delay > 0 {
		rate := c.usage.rate.Load()
		if rate == nil {
			c.delay = 0
			break
		}
		c.delay = min(c.delay, rate.owed(time.Now()))
		c.tellThrottled(rate)
		t := time.NewTimer(c.delay)
		select {
		case <-t.C:
			c.delay = 0
		case <-rate.replaced:
			t.Stop()
		case <-c.closing:
			t.Stop()
			return errClosed
		}
	}
	return nil
}

// tellThrottled logs the first time that an identity has to wait.
func (c *conn) tellThrottled(rate *bucket) {
	if rate.told.CompareAndSwap(false, true) {
		_, by := rate.throttling()
		c.log().WithField(logfield.Reason, "more than the rate of "+by).Warn("client is read more slowly")
	}
}

// pause says that the reader waits for the broker, not for the client, until the
// returned function is called: meanwhile the keep alive does not count.
func (c *conn) pause() (resume func()) {
	c.waiting.Store(true)
	return func() {
		c.heard.Store(int64(time.Since(c.b.start)))
		c.waiting.Store(false)
	}
}

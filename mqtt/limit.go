package mqtt

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
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

// usage is what an identity that is connected takes.
type usage struct {
	connections int
	rate        *bucket // nil without a limit
}

// enter counts a connection of an identity, or refuses it.
func (b *Broker) enter(c *conn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.perIdentity[c.principal.ID]
	if u == nil {
		u = &usage{}
		if b.opts.Publish != (Rate{}) {
			u.rate = newBucket(b.opts.Publish, time.Now())
		}
		b.perIdentity[c.principal.ID] = u
	}
	if u.connections >= b.opts.ConnectionsPerIdentity {
		return &refusal{packet.QuotaExceeded, "too many connections of the identity"}
	}
	u.connections++
	c.rate = u.rate
	return nil
}

// leave ends what enter counted. The caller holds mu.
func (b *Broker) leave(id identity.ID) {
	u := b.perIdentity[id]
	if u.connections--; u.connections == 0 {
		delete(b.perIdentity, id)
	}
}

// halfOpen is how many connections of one address beyond its limit are heard
// until CONNECT, so that they can be told why they are refused.
const halfOpen = 64

// addressOf returns the address that a connection counts for: none on this
// machine and where there is no IP address.
func addressOf(nc net.Conn) netip.Addr {
	a := nc.RemoteAddr()
	if a == nil {
		return netip.Addr{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil || p.Addr().IsLoopback() {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

// arrive counts a connection of an address. crowded tells that it has too many,
// ok that this one may at least be told so.
func (b *Broker) arrive(a netip.Addr) (crowded, ok bool) {
	if !a.IsValid() {
		return false, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.perAddress[a]
	if n >= b.opts.ConnectionsPerAddress+halfOpen {
		return true, false
	}
	b.perAddress[a] = n + 1
	return n >= b.opts.ConnectionsPerAddress, true
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
	rate Rate

	mu       sync.Mutex
	messages float64
	bytes    float64
	last     time.Time
}

func newBucket(r Rate, now time.Time) *bucket {
	return &bucket{rate: r, messages: float64(r.Messages), bytes: float64(r.Bytes), last: now}
}

// take counts a batch and returns how long to wait before the next one.
func (b *bucket) take(a amount, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	passed := now.Sub(b.last).Seconds()
	b.last = now
	return max(
		refill(&b.messages, float64(b.rate.Messages), passed, float64(a.messages)),
		refill(&b.bytes, float64(b.rate.Bytes), passed, float64(a.bytes)),
	)
}

// refill adds what passed seconds are worth, up to one second's, takes n and
// returns how long it takes until nothing is owed.
func refill(tokens *float64, rate, passed, n float64) time.Duration {
	if rate == 0 {
		return 0
	}
	*tokens = min(*tokens+passed*rate, rate) - n
	return time.Duration(max(0, -*tokens) / rate * float64(time.Second))
}

// countRate counts what one read brought to its end.
func (c *conn) countRate() {
	if c.rate == nil || c.unpaid.messages == 0 {
		return
	}
	if c.delay = c.rate.take(c.unpaid, time.Now()); c.delay > 0 {
		c.b.count.throttled.Add(1)
	}
	c.unpaid = amount{}
}

// awaitRate waits while the client's identity is over its rate: its sockets are
// not read, so that it slows down and loses nothing.
func (c *conn) awaitRate() error {
	if c.delay == 0 {
		return nil
	}
	defer c.pause()()
	t := time.NewTimer(c.delay)
	defer t.Stop()
	c.delay = 0
	select {
	case <-t.C:
		return nil
	case <-c.closing:
		return errClosed
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

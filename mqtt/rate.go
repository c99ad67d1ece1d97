package mqtt

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/internal/logfield"
)

// Rate bounds the messages that one identity publishes, over all of its connections.
// A second's worth may come at once. Zero fields are no limit.
type Rate struct {
	Messages int // PUBLISH packets per second
	Bytes    int // of PUBLISH packets, per second
}

// amount counts PUBLISH packets against a rate.
type amount struct{ messages, bytes int }

func (a *amount) add(bytes int) {
	a.messages++
	a.bytes += bytes
}

// bucket is a token bucket for messages and bytes. Tokens spent beyond its content
// are a debt that the client waits for: a batch that was read is handled.
type bucket struct {
	limits   Limits        // but for connections
	replaced chan struct{} // closed when another bucket takes its place
	logged   atomic.Bool   // the log knows

	mu        sync.Mutex // guards all below
	messages  float64
	bytes     float64
	last      time.Time
	throttled uint64 // how often its identity had to wait
	lastRule  string // the rule that made it, the last time
}

func newBucket(l Limits, now time.Time) *bucket {
	return &bucket{
		limits: l, replaced: make(chan struct{}),
		messages: float64(l.Messages.N), bytes: float64(l.Bytes.N), last: now,
	}
}

// inherit takes over the tokens, or the debt, of an old bucket.
func (b *bucket) inherit(old *bucket) {
	old.mu.Lock()
	defer old.mu.Unlock()
	if old.limits.Messages.N > 0 {
		b.messages = min(b.messages, old.messages)
	}
	if old.limits.Bytes.N > 0 {
		b.bytes = min(b.bytes, old.bytes)
	}
	b.last, b.throttled, b.lastRule = old.last, old.throttled, old.lastRule
}

// spend counts a batch and returns how long to wait before the next one.
func (b *bucket) spend(a amount, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	passed := now.Sub(b.last).Seconds()
	b.last = now
	messages := refill(&b.messages, b.limits.Messages.N, passed, a.messages)
	bytes := refill(&b.bytes, b.limits.Bytes.N, passed, a.bytes)
	wait := max(messages, bytes)
	if wait > 0 && a.messages > 0 {
		b.throttled++
		if b.lastRule = b.limits.Messages.Rule; bytes > messages {
			b.lastRule = b.limits.Bytes.Rule
		}
	}
	return wait
}

// debtTime is how long it takes until nothing is owed.
func (b *bucket) debtTime(now time.Time) time.Duration { return b.spend(amount{}, now) }

// untilFull is how long it takes until the bucket is as a new one.
func (b *bucket) untilFull(now time.Time) time.Duration {
	b.spend(amount{}, now)
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, bytes := b.limits.Messages.N, b.limits.Bytes.N
	return max(worth(float64(messages)-b.messages, messages), worth(float64(bytes)-b.bytes, bytes))
}

// throttling returns how often the identity had to wait, and for which rule.
func (b *bucket) throttling() (times uint64, by string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.throttled, b.lastRule
}

// refill adds the tokens of passed seconds, up to one second's, spends n and returns
// how long it takes until nothing is owed.
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

// countRate counts the messages of one read.
func (c *conn) countRate() {
	if c.uncounted.messages == 0 {
		return
	}
	if rate := c.usage.rate.Load(); rate != nil {
		if c.rateDelay = rate.spend(c.uncounted, time.Now()); c.rateDelay > 0 {
			c.b.count.throttled.Add(1)
		}
	}
	c.uncounted = amount{}
}

// awaitRate waits while the client's identity is over its rate: its sockets are
// not read, so that it slows down and loses nothing. Where a new policy lets it
// wait for less, it does.
func (c *conn) awaitRate() error {
	if c.rateDelay == 0 {
		return nil
	}
	defer c.pauseKeepAlive()()
	for c.rateDelay > 0 {
		rate := c.usage.rate.Load()
		if rate == nil {
			c.rateDelay = 0
			break
		}
		c.rateDelay = min(c.rateDelay, rate.debtTime(time.Now()))
		c.tellThrottled(rate)
		t := time.NewTimer(c.rateDelay)
		select {
		case <-t.C:
			c.rateDelay = 0
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
	if rate.logged.CompareAndSwap(false, true) {
		_, by := rate.throttling()
		c.log().WithField(logfield.Reason, "more than the rate of "+by).Warn("client is read more slowly")
	}
}

// pauseKeepAlive says that the reader waits for the broker, not for the client, until the
// returned function is called: meanwhile the keep alive does not count.
func (c *conn) pauseKeepAlive() (resume func()) {
	c.paused.Store(true)
	return func() {
		c.lastHeard.Store(int64(time.Since(c.b.start)))
		c.paused.Store(false)
	}
}

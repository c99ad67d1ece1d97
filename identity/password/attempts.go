package password

import (
	"sync"
	"time"
)

// limit is how many failures there may be.
type limit struct {
	burst  float64
	refill float64 // per second
}

// The limits on failed logins. The limit per pair keeps one client with an old
// password from using up the guesses of other clients at the same address.
var (
	perPair    = limit{burst: 5, refill: 0.1}
	perAddress = limit{burst: 100, refill: 2}
	perName    = limit{burst: 20, refill: 0.2}
)

const maxBuckets = 16 << 10

// attempts counts failed logins per address, per name and per pair of them.
type attempts struct {
	mu      sync.Mutex
	buckets map[bucketKey]*bucket
	known   map[bucketKey]bool // pairs that were right once: failures from other addresses cannot lock them out
}

// bucketKey has an address, a name or both.
type bucketKey struct {
	scope         scope
	address, name string
}

type scope uint8

const (
	pair scope = iota
	address
	anywhere
)

// bucket holds the failures that are still allowed.
type bucket struct {
	limit
	tokens float64
	since  time.Time
}

func newAttempts() *attempts {
	return &attempts{buckets: make(map[bucketKey]*bucket), known: make(map[bucketKey]bool)}
}

// charge counts an attempt as failed, until giveBack says that it was not. It
// reports false, and counts nothing, when there were too many.
func (a *attempts) charge(name, from string, now time.Time) (giveBack func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// The address comes first: an address without a guess left makes no buckets for
	// ever new names, which would push out the buckets of other names and addresses.
	all := []*bucket{a.bucket(bucketKey{scope: address, address: from}, perAddress, now)}
	if all[0].tokens < 1 {
		return nil, false
	}
	both := bucketKey{pair, from, name}
	all = append(all, a.bucket(both, perPair, now))
	if !a.known[both] {
		all = append(all, a.bucket(bucketKey{scope: anywhere, name: name}, perName, now))
	}
	for _, b := range all {
		if b.tokens < 1 {
			return nil, false
		}
	}
	for _, b := range all {
		b.tokens--
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, b := range all {
			b.tokens = min(b.tokens+1, b.burst)
		}
	}, true
}

// succeeded remembers that name logged in from there.
func (a *attempts) succeeded(name, from string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	makeRoom(a.known)
	a.known[bucketKey{pair, from, name}] = true
}

// bucket returns the bucket of key as of now. The caller holds mu.
func (a *attempts) bucket(key bucketKey, l limit, now time.Time) *bucket {
	b := a.buckets[key]
	if b == nil {
		makeRoom(a.buckets)
		b = &bucket{limit: l, tokens: l.burst, since: now}
		a.buckets[key] = b
	}
	b.tokens = min(b.tokens+b.refill*now.Sub(b.since).Seconds(), b.burst)
	b.since = now
	return b
}

// makeRoom forgets any, so that strangers cannot fill the memory.
func makeRoom[V any](m map[bucketKey]V) {
	for old := range m {
		if len(m) < maxBuckets {
			return
		}
		delete(m, old)
	}
}

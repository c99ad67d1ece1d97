package authority

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Requests that need the CA are bounded per client address. A site's devices
// may share one address behind NAT and come back together, so the rate is high;
// it is there to keep one stranger from taking all of a small machine.
var requestLimit = limit{rate: 20, burst: 100}

// The records about itself that an identity may cause are bounded: each renewal and
// each new address of a node stays in every node's directory for ever. Honest
// identities renew every few days.
var recordLimit = limit{rate: rate.Every(10 * time.Minute), burst: 10}

// recordsFor returns recordLimit for certificates that last for life or longer.
// Certificates of a lab end within minutes and are renewed more often.
func recordsFor(life time.Duration) limit {
	l := recordLimit
	l.rate = max(l.rate, rate.Every(life/10))
	return l
}

const maxLimited = 4096 // keys remembered

type limit struct {
	rate  rate.Limit
	burst int
}

// limiter keeps a limit for each key.
type limiter[K comparable] struct {
	limit

	mu   sync.Mutex
	keys map[K]*rate.Limiter
}

func newLimiter[K comparable](l limit) *limiter[K] {
	return &limiter[K]{limit: l, keys: map[K]*rate.Limiter{}}
}

// allow counts one request of key at now and reports whether it may go on.
func (l *limiter[K]) allow(key K, now time.Time) bool { return l.allowAt(key, now, l.rate) }

// allowAt is allow where key has a rate of its own.
func (l *limiter[K]) allowAt(key K, now time.Time, own rate.Limit) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.keys[key]
	if r == nil {
		for old := range l.keys { // any will do: a forgotten key starts afresh
			if len(l.keys) < maxLimited {
				break
			}
			delete(l.keys, old)
		}
		r = rate.NewLimiter(own, l.burst)
		l.keys[key] = r
	}
	if r.Limit() != own {
		r.SetLimitAt(now, own)
	}
	return r.AllowN(now, 1)
}

// source is the key of a limit for an address: one IPv4 address, or one IPv6
// network of 64 bits, since a single host can use all of its addresses. Remotes that
// are no address share one limit.
func source(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

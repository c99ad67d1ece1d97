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
const (
	requestRate  = 20 // per second
	requestBurst = 100
	maxLimited   = 4096 // addresses remembered
)

type limiter struct {
	mu    sync.Mutex
	addrs map[netip.Prefix]*rate.Limiter
}

func newLimiter() *limiter { return &limiter{addrs: map[netip.Prefix]*rate.Limiter{}} }

// take counts one request from remote (host:port) and returns zero, or how long
// it should wait.
func (l *limiter) take(remote string) time.Duration {
	from := source(remote)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.addrs[from]
	if r == nil {
		for old := range l.addrs { // any will do: who is forgotten starts afresh
			if len(l.addrs) < maxLimited {
				break
			}
			delete(l.addrs, old)
		}
		r = rate.NewLimiter(requestRate, requestBurst)
		l.addrs[from] = r
	}
	if r.Allow() {
		return 0
	}
	return time.Second
}

// source is the address that a limit is kept for: one IPv4 address or one IPv6
// network of 64 bits, which a single host can fill. What is no address shares
// one limit.
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

package mqtt

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Gate bounds the new connections per second of an address before anything is
// spent on them. [Broker.Serve] has one; a port in front of it, whose TLS
// handshakes cost most of what a connection costs, asks one of its own.
type Gate struct {
	b *Broker

	mu     sync.Mutex // guards the next two
	second int64      // since b.start
	came   map[netip.Addr]int
}

// NewGate returns a gate for a port in front of the broker.
func (b *Broker) NewGate() *Gate { return &Gate{b: b} }

// Admits counts a new connection and reports whether it may go on to the broker,
// which tells a few of those too many why. Another one is to be closed unread.
func (g *Gate) Admits(remote, local net.Addr) bool {
	if g.count(addressOf(remote, local)) <= g.b.opts.ConnectsPerAddress+halfOpen {
		return true
	}
	g.b.count.refused.Add(1)
	return false
}

// maxCame bounds the addresses that a gate knows. In a second that has more, the
// rest counts as one address.
const maxCame = 1 << 16

// count returns how many connections of an address came in this second, with
// this one. The zero address has none.
func (g *Gate) count(a netip.Addr) int {
	if !a.IsValid() {
		return 0
	}
	second := int64(time.Since(g.b.start) / time.Second)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.came == nil || second != g.second {
		g.second, g.came = second, make(map[netip.Addr]int)
	}
	if len(g.came) >= maxCame && g.came[a] == 0 {
		a = netip.Addr{}
	}
	g.came[a]++
	return g.came[a]
}

package mqtt

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// A Gate bounds the new connections per second of an address before they cost
// anything. [Broker.Serve] has one; a port in front of it, whose TLS handshakes are
// the largest part of a connection's cost, asks one of its own.
type Gate struct {
	b *Broker

	mu     sync.Mutex // guards the next two
	second int64      // since b.start
	came   map[netip.Addr]int
}

// NewGate returns a gate for a port in front of the broker.
func (b *Broker) NewGate() *Gate { return &Gate{b: b} }

// Admits counts a new connection and reports whether it may go on to the broker. The
// broker tells a few of the connections that are too many why; another one is to be
// closed unread.
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

// countAddress counts a connection of an address. It returns the refusal for a
// connection that is one too many; ok is false for one that gets no answer.
func (b *Broker) countAddress(a netip.Addr) (no *refusal, ok bool) {
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

// uncountAddress ends the count of countAddress.
func (b *Broker) uncountAddress(a netip.Addr) {
	if !a.IsValid() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.perAddress[a]--; b.perAddress[a] == 0 {
		delete(b.perAddress, a)
	}
}

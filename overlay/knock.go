package overlay

import (
	"net"
	"net/netip"
)

// Knock makes peers look after their connections to us. A node that was killed
// knocks when it runs again at the addresses where its peers were. Peers that only
// answer, as agents do, would otherwise find out when they next send something, and
// behind a NAT they cannot be dialled. With [Options.ResetKey] they connect anew
// within a round trip or two. Other machines ignore a knock, and a lost knock is not
// repeated.
func (n *Node) Knock(addrs []netip.AddrPort) {
	for _, addr := range addrs {
		// A packet that cannot be sent is a lost one.
		_, _ = n.sock.WriteTo([]byte{0}, net.UDPAddrFromAddrPort(addr))
	}
}

// knocked asks on the connections to an address whether they are still known
// there. Anybody can forge that packet, so it causes one small one, and not often.
func (n *Node) knocked(from net.Addr) {
	if !n.knocks.Allow() {
		return
	}
	addr := plainAddr(from)
	for _, c := range n.allConns() {
		if c.remote() == addr {
			c.ping()
		}
	}
}

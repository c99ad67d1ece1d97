package overlay

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// add puts c among the live connections. A peer that has too many loses one: the
// oldest without streams, or else the oldest.
func (n *Node) add(c *conn) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return ErrStopped
	}
	conns := n.peers[c.peer]
	var surplus *conn
	if len(conns) >= n.opts.MaxConns {
		i := max(0, slices.IndexFunc(conns, func(old *conn) bool { return old.streams.Load() == 0 }))
		surplus = conns[i]
		conns = slices.Delete(conns, i, i+1)
	}
	n.peers[c.peer] = append(conns, c)
	n.changed.Fire()
	n.mu.Unlock()
	if surplus != nil {
		surplus.close(codeSuperseded, "superseded by a newer connection")
	}
	return nil
}

func (n *Node) remove(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	conns := slices.DeleteFunc(n.peers[c.peer], func(other *conn) bool { return other == c })
	if len(conns) == 0 {
		delete(n.peers, c.peer)
	} else {
		n.peers[c.peer] = conns
	}
	n.changed.Fire()
}

// Changed returns a channel that is closed at the next beginning or end of a
// connection. Take it before looking at [Node.Peers], then wait.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed.Wait()
}

// Connected reports whether there is a live connection to peer.
func (n *Node) Connected(peer identity.ID) bool { return n.newest(peer) != nil }

// Wait returns when there is a live connection to peer, or with the reason why
// there cannot be one any more.
func (n *Node) Wait(ctx context.Context, peer identity.ID) error {
	for {
		changed := n.Changed()
		if n.Connected(peer) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", peer.Short(), context.Cause(ctx))
		case <-n.stopped:
			return ErrStopped
		}
	}
}

// conns returns the live connections to peer, newest first. One that has ended
// is not among them though serve has yet to notice.
func (n *Node) conns(peer identity.ID) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	conns := slices.Clone(n.peers[peer])
	slices.Reverse(conns)
	return slices.DeleteFunc(conns, (*conn).ended)
}

// newest returns the first of conns.
func (n *Node) newest(peer identity.ID) *conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range slices.Backward(n.peers[peer]) {
		if !c.ended() {
			return c
		}
	}
	return nil
}

func (n *Node) allConns() []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*conn
	for _, conns := range n.peers {
		all = append(all, conns...)
	}
	return all
}

// duplicates returns the connections that a newer one replaced and nothing uses.
// Only the lower identity of a pair looks for them: if both did, each could end
// the one that the other keeps.
func (n *Node) duplicates(now time.Time) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	self := n.ID().String()
	var idle []*conn
	for peer, conns := range n.peers {
		if self > peer.String() {
			continue
		}
		newest := conns[len(conns)-1]
		if now.Sub(newest.since) < sweepInterval {
			continue
		}
		for _, c := range conns[:len(conns)-1] {
			if c.streams.Load() == 0 {
				idle = append(idle, c)
			}
		}
	}
	return idle
}

// replaced returns the connections that have a newer one beside them, with it.
func (n *Node) replaced() map[*conn]*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all map[*conn]*conn
	for _, conns := range n.peers {
		last := len(conns) - 1
		for _, old := range conns[:last] {
			if all == nil {
				all = make(map[*conn]*conn)
			}
			all[old] = conns[last]
		}
	}
	return all
}

// A Peer is one connected identity, described by its newest connection.
type Peer struct {
	ID       identity.ID
	Remote   netip.AddrPort
	Dialled  bool              // by us
	Since    time.Time         // when the newest connection was made
	RTT      time.Duration     // smoothed
	NotAfter time.Time         // when the peer's certificate ends
	Leaf     *x509.Certificate // the peer's
	Conns    int               // live connections
	Streams  int               // open streams on all of them
}

// Peers returns the connected peers in the order of their identities.
func (n *Node) Peers() []Peer {
	n.mu.Lock()
	peers := make([]Peer, 0, len(n.peers))
	for id, conns := range n.peers {
		c := conns[len(conns)-1]
		p := Peer{ID: id, Remote: c.remote(), Dialled: c.dialled, Since: c.since, NotAfter: c.notAfter, Leaf: c.leaf, Conns: len(conns)}
		p.RTT = c.qc.ConnectionStats().SmoothedRTT
		for _, c := range conns {
			p.Streams += int(c.streams.Load())
		}
		peers = append(peers, p)
	}
	n.mu.Unlock()
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return peers
}

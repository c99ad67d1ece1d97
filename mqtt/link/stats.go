package link

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// counters are a peer's totals since this process knows it.
type counters struct {
	sent       atomic.Uint64
	received   atomic.Uint64
	acked      atomic.Uint64
	dropped    atomic.Uint64
	duplicates atomic.Uint64
	refused    atomic.Uint64
	missing    atomic.Uint64
	withheld   atomic.Uint64
}

// PeerStats is the link to one site as operators see it. The counts are since
// this process learned of the site.
type PeerStats struct {
	Site      string
	Peer      identity.ID // the node at the other end; zero if the site has none
	Up        bool        // our stream is open and the site has told its interest
	Reason    string      // why the link is not up
	Since     time.Time   // of the last change of Up
	Receiving bool        // the site's stream to us is open
	Interest  int         // topic filters that the site asked us for
	Heard     bool        // its interest is known; else it gets everything

	Queued      int // messages in its outbound log
	QueuedBytes int

	Sent       uint64 // PUBLISH, repeats included
	Acked      uint64 // PUBACK that came
	Received   uint64 // PUBLISH that came, duplicates included
	Duplicates uint64 // messages among these that were here before
	Refused    uint64 // messages among these that were not taken

	// Dropped are messages that the site does not get: its outbound log was
	// full, they were larger than it takes, QoS 0 found no stream or no room, or the
	// site refused them.
	Dropped uint64
	// Withheld are messages that the site may not receive.
	Withheld uint64
	// Missing are messages that the site had for us and did not send: its
	// outbound log was full.
	Missing uint64
}

// Stats returns the links to all sites, sorted by site.
func (l *Links) Stats() []PeerStats {
	l.mu.Lock()
	peers := make([]*peer, 0, len(l.peers))
	for _, p := range l.peers {
		peers = append(peers, p)
	}
	l.mu.Unlock()
	all := make([]PeerStats, len(peers))
	for i, p := range peers {
		all[i] = p.stats()
	}
	slices.SortFunc(all, func(a, b PeerStats) int { return strings.Compare(a.Site, b.Site) })
	return all
}

func (p *peer) stats() PeerStats {
	queued := p.l.opts.Store.OutboundStats(p.site)
	p.mu.Lock()
	defer p.mu.Unlock()
	interest := len(p.interest)
	if !p.heard {
		interest = 0
	}
	return PeerStats{
		Site: p.site, Peer: p.id, Up: p.up, Reason: p.reason, Since: p.since,
		Receiving: p.receiving(), Interest: interest, Heard: p.heard,
		Queued: queued.Messages, QueuedBytes: queued.Bytes,
		Sent: p.count.sent.Load(), Acked: p.count.acked.Load(), Received: p.count.received.Load(),
		Duplicates: p.count.duplicates.Load(), Refused: p.count.refused.Load(),
		Dropped: queued.Dropped + p.count.dropped.Load(), Missing: p.count.missing.Load(), Withheld: p.count.withheld.Load(),
	}
}

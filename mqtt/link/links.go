package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// Links are this site's links to all other sites. They are a mqtt.Forwarder.
type Links struct {
	opts   Options
	log    logrus.FieldLogger
	wanted *topic.Tree[string, *peer] // the interest of all peers, by site

	warnings *rate.Limiter // of log lines that a peer can cause

	// broker is set by Run before ready is closed.
	ready  chan struct{}
	broker Broker

	epoch   uint64
	fresh   bool         // the outbound logs began with this epoch
	unheard atomic.Int32 // sites with unknown interest

	forgets chan forgetting // to the goroutine in Run
	over    chan struct{}   // closed when Run takes no request from forgets any more

	work sync.WaitGroup // Run waits for it

	mu        sync.Mutex // guards all below, and work.Add against Run's end
	stopped   bool
	peers     map[string]*peer       // by site; a peer stays when its site is gone
	local     map[string]struct{}    // filters of this site's subscriptions
	ended     map[string]struct{}    // filters that were unsubscribed while Run asks for the first filters
	receivers map[*receiver]struct{} // told of changes to local
}

// New returns links that carry nothing yet. They log messages for the other sites by
// the interest that the store knows.
func New(o Options) *Links {
	o.setDefaults()
	l := &Links{
		opts:      o,
		log:       o.Log,
		wanted:    topic.NewTree[string, *peer](),
		warnings:  rate.NewLimiter(1, 10),
		ready:     make(chan struct{}),
		forgets:   make(chan forgetting),
		over:      make(chan struct{}),
		peers:     make(map[string]*peer),
		local:     make(map[string]struct{}),
		ended:     make(map[string]struct{}),
		receivers: make(map[*receiver]struct{}),
	}
	l.loadEpoch()
	for site := range l.linkNodes(l.opts.Peers()) {
		l.peers[site] = newPeer(l, site)
	}
	return l
}

// Run keeps a link to every other site until ctx is done. It is called once.
// When it returns, no stream and no goroutine of the links is left.
func (l *Links) Run(ctx context.Context, b Broker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.work.Wait()
	defer l.stop()
	defer close(l.over)
	defer cancel()
	if err := l.incarnate(ctx); err != nil {
		return err
	}
	l.broker = b
	l.addLocal(b.Filters())
	close(l.ready)
	for {
		changed := l.opts.Changed()
		l.reconcile(ctx)
		select {
		case <-changed:
		case f := <-l.forgets:
			f.done <- l.forgetSite(ctx, f.site)
		case <-ctx.Done():
			return nil
		}
	}
}

// stop ends the streams that were accepted and lets no new one begin.
func (l *Links) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for _, p := range l.peers {
		p.evictSources(nil)
	}
}

// epochScope and epochKey are where the store keeps our epoch: it is lost
// together with the numbers that belong to it.
const (
	epochScope = store.OfHistory + "link"
	epochKey   = "epoch"
)

// roomInterval is how often a full store is asked again.
const roomInterval = 5 * time.Second

// loadEpoch finds the epoch of the store's outbound logs, or begins one.
func (l *Links) loadEpoch() {
	if b, ok := l.opts.Store.Value(epochScope, epochKey); ok && len(b) == 8 {
		l.epoch = binary.BigEndian.Uint64(b)
		return
	}
	l.fresh = true
	l.epoch = rand.Uint64() | 1 // not 0, the epoch of a floor that was never kept
}

// incarnate keeps an epoch that is new. While a full store does not keep it there
// are no links, and the site goes on without.
func (l *Links) incarnate(ctx context.Context) error {
	if !l.fresh {
		return nil
	}
	for {
		err := l.keepEpoch(ctx)
		if !errors.Is(err, store.ErrFull) {
			return err
		}
		l.opts.Log.WithField(logfield.Reason, err.Error()).Error("no links to other sites until there is room in the store")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(roomInterval):
		}
	}
}

func (l *Links) keepEpoch(ctx context.Context) error {
	kept := make(chan error, 1)
	l.opts.Store.Update(func(tx store.Tx) {
		tx.PutValue(epochScope, epochKey, binary.BigEndian.AppendUint64(nil, l.epoch))
	}, func(err error) { kept <- err })
	select {
	case err := <-kept:
		return err
	case <-ctx.Done():
		return nil
	}
}

// reconcile starts links to new sites, ends links to sites that are gone, and makes the
// other links try again at once.
func (l *Links) reconcile(ctx context.Context) {
	all := l.opts.Peers()
	nodes := l.linkNodes(all)
	active := make(map[identity.ID]string, len(all))
	for _, n := range all {
		active[n.ID] = n.Site
	}
	l.mu.Lock()
	for site := range nodes {
		if l.peers[site] == nil {
			l.peers[site] = newPeer(l, site)
		}
	}
	peers := make([]*peer, 0, len(l.peers))
	for _, p := range l.peers {
		peers = append(peers, p)
	}
	l.mu.Unlock()
	for _, p := range peers {
		p.evictSources(active)
		p.become(ctx, nodes[p.site])
	}
}

// linkNodes returns the node of each other site that is its link: the lowest of its
// connected nodes, or, while none is connected, the lowest of all.
func (l *Links) linkNodes(nodes []Peer) map[string]identity.ID {
	links := make(map[string]Peer)
	for _, n := range nodes {
		if n.Site == l.opts.Site || n.Site == "" {
			continue
		}
		best, ok := links[n.Site]
		better := n.ID.String() < best.ID.String()
		if n.Connected != best.Connected {
			better = n.Connected
		}
		if !ok || better {
			links[n.Site] = n
		}
	}
	ids := make(map[string]identity.ID, len(links))
	for site, n := range links {
		ids[site] = n.ID
	}
	return ids
}

// Wants reports whether another site asked for topic.
func (l *Links) Wants(name string) bool {
	if strings.HasPrefix(name, "$") {
		return false
	}
	var found [8]*peer
	return len(l.wanted.Match(found[:0], name)) > 0
}

// leaves reports whether m may go to other sites. A message that came over a link is
// never sent over one: it goes one hop.
func (l *Links) leaves(m *store.Message) bool {
	return (m.Origin.Site == "" || m.Origin.Site == l.opts.Site) && (l.opts.Stays == nil || !l.opts.Stays(m))
}

// Forward sends m to every site that asked for it: by way of its outbound log in
// tx, or, at QoS 0, only if its stream has room. It never blocks.
func (l *Links) Forward(tx store.Tx, m *store.Message) {
	if !l.leaves(m) {
		return
	}
	var found [8]*peer
	peers := l.wanted.Match(found[:0], m.Topic)
	if clears(m) && tx != nil { // any site may have a copy
		peers = l.withNodes()
	}
	for i, p := range peers {
		switch {
		case slices.Contains(peers[:i], p): // by another of its filters
		case !p.receives(m):
			p.count.withheld.Add(1)
		case tx == nil || m.QoS == 0 && !m.Retain:
			p.forwardNow(m)
		default:
			tx.Outbound(p.site, m)
		}
	}
}

// clears reports whether m removes a retained message.
func clears(m *store.Message) bool { return m.Retain && len(m.Payload) == 0 }

// withNodes returns the sites that have a node.
func (l *Links) withNodes() []*peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	peers := make([]*peer, 0, len(l.peers))
	for _, p := range l.peers {
		if !p.alone.Load() {
			peers = append(peers, p)
		}
	}
	return peers
}

// Refuses returns the reason to refuse m to its publisher, or nil. The reason is a site
// that may receive m and has never told its interest, while policy demands to know it
// first.
func (l *Links) Refuses(m *store.Message) error {
	refuses := l.opts.RefusesUnknown
	if l.unheard.Load() == 0 || refuses == nil || !refuses() || !l.leaves(m) {
		return nil
	}
	var found [8]*peer
	for _, p := range l.wanted.Match(found[:0], m.Topic) {
		if !p.isHeard() && p.receives(m) {
			return fmt.Errorf("site %s has not told yet what it wants, and the policy refuses what may be for it until then", p.site)
		}
	}
	return nil
}

// Subscribed tells the other sites that this one wants filter.
func (l *Links) Subscribed(filter string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ended, filter)
	l.local[filter] = struct{}{}
	l.tell(filter)
}

// Unsubscribed tells the other sites that this one no longer wants filter.
func (l *Links) Unsubscribed(filter string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		l.ended[filter] = struct{}{}
	}
	delete(l.local, filter)
	l.tell(filter)
}

// addLocal adds the filters that were there before the broker had links. A change that
// came while they were listed is newer than the list.
func (l *Links) addLocal(filters []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range filters {
		if _, gone := l.ended[f]; !gone && !strings.HasPrefix(f, "$") {
			l.local[f] = struct{}{}
		}
	}
	l.ended = nil
}

// tell makes every receiver look at filter again. The caller holds mu.
func (l *Links) tell(filter string) {
	for r := range l.receivers {
		r.changed(filter)
	}
}

package link

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/store"
)

var errEnded = errors.New("the links have ended")

// forgetting asks the goroutine in Run to forget a site.
type forgetting struct {
	site string
	done chan error // capacity 1
}

// Forget removes the records of a site that was removed: its outbound log, its
// interest, the floors of its nodes and its row in Stats. It is called while Run runs,
// once the site has no node in Peers: a site that still has a node begins anew.
func (l *Links) Forget(ctx context.Context, site string) error {
	f := forgetting{site: site, done: make(chan error, 1)}
	select {
	case l.forgets <- f:
	case <-l.over:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-f.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forgetSite is Forget in the goroutine in Run.
func (l *Links) forgetSite(ctx context.Context, site string) error {
	l.mu.Lock()
	p := l.peers[site]
	delete(l.peers, site)
	l.mu.Unlock()
	var nodes []identity.ID
	if p != nil {
		nodes = p.endSite(ctx)
	}
	kept := make(chan error, 1)
	l.opts.Store.Update(func(tx store.Tx) {
		tx.Acknowledge(site, math.MaxUint64, 0) // its numbers go on, if it ever comes back
		for f := range l.opts.Store.Values(interestScope(site)) {
			tx.PutValue(interestScope(site), f, nil)
		}
		for _, id := range nodes {
			tx.Floor(store.Origin{Site: floorName(id), Lane: laneLog})
		}
	}, func(err error) { kept <- err })
	select {
	case err := <-kept:
		if err != nil {
			return fmt.Errorf("forget site %s: %w", site, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endSite ends the streams to and from the site and its interest, and returns its
// nodes that had a stream to us.
func (p *peer) endSite(ctx context.Context) []identity.ID {
	p.become(ctx, identity.ID{})
	p.alone.Store(true) // also if it never had a node
	p.routeInterest(map[string]struct{}{}, 0, false, true)
	p.evictSources(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	nodes := make([]identity.ID, 0, len(p.sources))
	for id := range p.sources {
		nodes = append(nodes, id)
	}
	return nodes
}

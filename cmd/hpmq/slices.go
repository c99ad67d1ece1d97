package main

import (
	"context"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy"
)

// slicePush bounds the time that one agent may take to accept its slice.
const slicePush = 5 * time.Second

// pushSlices gives each agent that is connected here its inbound grants, and
// gives them again when they change; the same for the addresses of nodes. Each
// connection has goroutines of its own, so that an agent that does not answer
// holds up nobody.
func (n *node) pushSlices(ctx context.Context) error {
	var pushing sync.WaitGroup
	defer pushing.Wait()
	type connection struct {
		since time.Time
		end   context.CancelFunc
	}
	served := map[identity.ID]connection{}
	for ctx.Err() == nil {
		changed := n.overlay.Changed()
		agents := n.agents()
		for id, c := range served {
			if since, ok := agents[id]; !ok || !since.Equal(c.since) {
				c.end()
				delete(served, id)
			}
		}
		for id, since := range agents {
			if _, ok := served[id]; ok {
				continue
			}
			one, end := context.WithCancel(ctx)
			served[id] = connection{since, end}
			pushing.Go(func() { n.keepSlice(one, id) })
			pushing.Go(func() { n.keepAddresses(one, id) })
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	for _, c := range served {
		c.end()
	}
	return nil
}

// keepSlice pushes one agent's slice now and after each change.
func (n *node) keepSlice(ctx context.Context, id identity.ID) {
	for ctx.Err() == nil {
		changed := n.changes.slices.wait()
		if err := n.pushSlice(ctx, id); err != nil {
			n.log.WithField(logfield.Peer, id.String()).WithError(err).Debug("slice not accepted yet")
			sleep(ctx, retryInterval, changed)
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// pushSlice compiles, signs and sends one agent's slice.
func (n *node) pushSlice(ctx context.Context, id identity.ID) error {
	known, ok := n.directory.Identity(id)
	if !ok {
		return nil
	}
	target := policy.Subject{ID: id, Labels: known.Labels, Site: known.Site, SessionSite: n.site}
	s := n.policy.Set().Slice(target, n.subjects)
	s.Version, s.Issued = n.directory.Tip().Count, time.Now()
	raw, err := s.Sign(n.store.SVID())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, slicePush)
	defer cancel()
	stream, err := n.overlay.Open(ctx, id, access.SliceProtocol)
	if err != nil {
		return err
	}
	defer stream.Close()
	return access.SendSlice(ctx, stream, raw)
}

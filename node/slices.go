package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// slicePush bounds the time that one agent may take to accept its slice.
const slicePush = 5 * time.Second

// pushSlices gives each agent that is connected here its rules, and
// gives them again when they change. Each connection has a goroutine, so that
// an agent that does not answer holds up nobody.
func (n *Node) pushSlices(ctx context.Context) error {
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

// refusedPause is how long a slice that an agent refused is not sent again: the
// agent may have a newer one from another node, or a wrong clock.
const refusedPause = time.Minute

// refusedByAgent is the reason of a refusal that an agent tells in words.
const refusedByAgent slice.Reason = "by_agent"

// keepSlice passes the slice of one agent on, and each newer one.
func (n *Node) keepSlice(ctx context.Context, id identity.ID) {
	n.agentRules.serve(id)
	defer n.agentRules.drop(id)
	var sent uint64
	for ctx.Err() == nil {
		arrived := n.agentRules.arrived.wait()
		if now := n.agentRules.issued(id); now > sent {
			err := n.pushSlice(ctx, id)
			switch {
			case err == nil:
				sent = now
			case errors.Is(err, access.ErrRefused):
				n.agentRules.refused.Count(refusedByAgent)
				n.log.WithField(logfield.Peer, id.String()).WithError(err).Debug("slice refused")
				sleep(ctx, refusedPause, arrived)
			default:
				n.log.WithField(logfield.Peer, id.String()).WithError(err).Debug("slice not accepted yet")
				sleep(ctx, retryInterval, arrived)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-arrived:
		}
	}
}

// pushSlice sends one agent the slice that is kept for it.
func (n *Node) pushSlice(ctx context.Context, id identity.ID) error {
	raw := n.agentRules.read(id)
	if raw == nil {
		return fmt.Errorf("the slice of %s cannot be read", id.Short())
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

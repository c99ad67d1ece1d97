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

// slicePusher passes the rules of agents on to them.
type slicePusher struct {
	mesh  *mesh
	rules *agentRules
}

// run sends each agent that is connected here its slice, and sends it again when
// it changes. Each connection has a goroutine, so that an agent that does not
// answer holds up no other agent.
func (p *slicePusher) run(ctx context.Context) error {
	var pushing sync.WaitGroup
	defer pushing.Wait()
	type connection struct {
		since time.Time
		end   context.CancelFunc
	}
	served := map[identity.ID]connection{}
	for ctx.Err() == nil {
		changed := p.mesh.overlay.Changed()
		agents := p.mesh.agents()
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
			pushing.Go(func() { p.pushSlices(one, id) })
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

// pushSlices passes the slice of one agent on, and each newer one.
func (p *slicePusher) pushSlices(ctx context.Context, id identity.ID) {
	p.rules.startServing(id)
	defer p.rules.stopServing(id)
	var sent uint64
	for ctx.Err() == nil {
		arrived := p.rules.arrived.Wait()
		if now := p.rules.issued(id); now > sent {
			err := p.push(ctx, id)
			switch {
			case err == nil:
				sent = now
			case errors.Is(err, access.ErrRefused):
				p.rules.refused.Count(refusedByAgent)
				p.rules.log.WithField(logfield.Peer, id.String()).WithError(err).Debug("slice refused")
				sleep(ctx, refusedPause, arrived)
			default:
				p.rules.log.WithField(logfield.Peer, id.String()).WithError(err).Debug("slice not accepted yet")
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

// push sends one agent the slice that is kept for it.
func (p *slicePusher) push(ctx context.Context, id identity.ID) error {
	raw := p.rules.read(id)
	if raw == nil {
		return fmt.Errorf("the slice of %s cannot be read", id.Short())
	}
	ctx, cancel := context.WithTimeout(ctx, slicePush)
	defer cancel()
	stream, err := p.mesh.overlay.Open(ctx, id, access.SliceProtocol)
	if err != nil {
		return err
	}
	defer stream.Close()
	return access.SendSlice(ctx, stream, raw)
}

package node

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/link"
)

// cleanUpRetry is the pause before work that the store refused is tried again.
const cleanUpRetry = 10 * time.Second

// cleaner does work that records ask for and that takes time.
type cleaner struct {
	self      identity.ID // the publisher of the messages that clear
	directory *directory.Directory
	broker    *mqtt.Broker
	links     *link.Links
	peers     func() []link.Peer
	wake      <-chan struct{}
	log       logrus.FieldLogger
}

func (n *Node) cleaner() *cleaner {
	return &cleaner{
		self: n.id, directory: n.directory, broker: n.broker, links: n.links, peers: n.linkPeers,
		wake: n.changes.cleanUp, log: n.log,
	}
}

// run does slow work that records ask for: it clears the retained messages of
// revoked identities and forgets removed sites. When the node starts it looks at all
// records, since an earlier run may have ended before its work was done.
func (c *cleaner) run(ctx context.Context) error {
	cleared, forgotten := map[identity.ID]bool{}, map[string]bool{}
	for {
		whole := c.forgetSites(ctx, forgotten)
		for _, r := range c.directory.Revocations() {
			if r.ClearRetained && !cleared[r.ID] {
				cleared[r.ID] = c.clearRetainedOf(ctx, r.ID)
				whole = whole && cleared[r.ID]
			}
		}
		retry := time.NewTimer(cleanUpRetry)
		if whole {
			retry.Stop()
		}
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil
		case <-c.wake:
		case <-retry.C:
		}
		retry.Stop()
	}
}

// clearRetainedOf reports whether it is done. An identity that has been enrolled
// again keeps its retained messages.
func (c *cleaner) clearRetainedOf(ctx context.Context, id identity.ID) bool {
	if p, _ := c.directory.Identity(id); p.State == directory.Active {
		return true
	}
	count, err := c.broker.ClearRetainedOf(ctx, id, c.self)
	log := c.log.WithField(logfield.SPIFFEID, id.String()).WithField("messages", count)
	if err != nil || ctx.Err() != nil {
		log.WithError(err).Warn("retained messages of a revoked identity are not cleared yet")
		return false
	}
	log.Info("retained messages of a revoked identity cleared")
	return true
}

// forgetSites has the links forget the removed sites that forgotten does not hold,
// and reports whether it is done. A site that has a node again is in use.
func (c *cleaner) forgetSites(ctx context.Context, forgotten map[string]bool) (done bool) {
	used := map[string]bool{}
	for _, p := range c.peers() {
		used[p.Site] = true
		delete(forgotten, p.Site) // it may be removed again
	}
	done = true
	for _, site := range c.directory.RemovedSites() {
		if used[site] || forgotten[site] {
			continue
		}
		if err := c.links.Forget(ctx, site); err != nil {
			if ctx.Err() == nil {
				c.log.WithField(logfield.Site, site).WithError(err).Warn("removed site is not forgotten yet")
			}
			done = false
			continue
		}
		forgotten[site] = true
		c.log.WithField(logfield.Site, site).Info("removed site forgotten")
	}
	return done
}

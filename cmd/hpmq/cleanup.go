package main

import (
	"context"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// cleanUpRetry is after how long work is tried again that the store refused.
const cleanUpRetry = 10 * time.Second

// cleanUp does what records ask for that takes time: it clears the retained
// messages of revoked identities. It looks at all records when the node starts,
// since an earlier run may have ended before it was done.
func (n *node) cleanUp(ctx context.Context) error {
	cleared := map[identity.ID]bool{}
	for {
		whole := true
		for _, r := range n.directory.Revocations() {
			if r.ClearRetained && !cleared[r.ID] {
				cleared[r.ID] = n.clearRetainedOf(ctx, r.ID)
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
		case <-n.changes.cleanUp:
		case <-retry.C:
		}
		retry.Stop()
	}
}

// clearRetainedOf reports whether it is done. An identity that was enrolled again
// since keeps what it has published.
func (n *node) clearRetainedOf(ctx context.Context, id identity.ID) bool {
	if p, _ := n.directory.Identity(id); p.State == directory.Active {
		return true
	}
	count, err := n.broker.ClearRetainedOf(ctx, id, n.id)
	log := n.log.WithField(logfield.SPIFFEID, id.String()).WithField("messages", count)
	if err != nil || ctx.Err() != nil {
		log.WithError(err).Warn("retained messages of a revoked identity are not cleared yet")
		return false
	}
	log.Info("retained messages of a revoked identity cleared")
	return true
}

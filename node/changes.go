package node

import (
	"context"
	"maps"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// A change of policy or directory, and its effect on connected clients and nodes.

// changes wakes up the work that follows a change; many changes wake it once.
type changes struct {
	rights    wake.Token     // policy or labels: sessions are judged anew
	functions wake.Token     // the set of functions
	cleanUp   wake.Token     // a record asks for work that takes time
	sites     wake.Broadcast // which sites there are, and which are reached
}

func newChanges() *changes {
	return &changes{rights: wake.NewToken(), functions: wake.NewToken(), cleanUp: wake.NewToken()}
}

// watchDirectory acts on each record as it arrives, revocations first of all:
// nothing slow may run here.
func (n *Node) watchDirectory(ctx context.Context, from uint64) error {
	known := newStandings(n.directory)
	n.rightsChanged() // by records between from and now
	for r, err := range n.directory.Watch(ctx, from) {
		if err != nil {
			return err
		}
		content, err := r.Decode()
		if err != nil {
			return err
		}
		switch rec := content.(type) {
		case directory.Revocation:
			n.foreign.IdentitiesChanged()
			n.endIdentity(rec)
			n.changes.cleanUp.Wake()
			if rec.ID.Kind == identity.Node && n.rulebook != nil {
				n.rulebook.fabricChanged()
			}
		case directory.Identity:
			n.identityChanged(&rec, known.update(&rec))
		case directory.Node:
			n.changes.sites.Fire()
			if n.rulebook != nil {
				n.rulebook.fabricChanged()
			}
		case directory.Policy:
			if n.authority == nil {
				if _, err := n.policy.Apply(rec.Files); err != nil {
					n.log.WithError(err).Error("the fabric's new policy does not compile here; the one before it stays")
					continue
				}
				n.directory.SetPolicyInForce(rec.Version)
			}
		case directory.Function:
			n.changes.functions.Wake()
		case directory.Site:
			n.changes.cleanUp.Wake()
		}
	}
	return nil
}

// identityChanged acts on the record of an identity. Most records are renewals: they
// change no rights and wake no goroutine.
func (n *Node) identityChanged(rec *directory.Identity, rights bool) {
	if rights {
		n.rightsChanged()
	}
	if n.rulebook == nil {
		return
	}
	if rights {
		n.rulebook.identityChanged(rec.ID)
	}
	switch {
	case rec.ID.Kind != identity.Node:
	case rights:
		n.rulebook.fabricChanged()
	default:
		n.rulebook.nodeRenewed(rec.NotAfter)
	}
}

// rightsChanged has all sessions, links to other sites and publishers there judged
// again.
func (n *Node) rightsChanged() {
	n.foreign.IdentitiesChanged()
	n.filter.reset()
	n.changes.rights.Wake()
	n.changes.sites.Fire()
}

// standings remember the labels, site and state of each identity, to tell a renewal
// from a change of rights.
type standings map[identity.ID]standing

type standing struct {
	labels map[string]string
	site   string
	state  directory.State
}

func standingOf(rec *directory.Identity) standing {
	return standing{rec.Labels, rec.Site, rec.State}
}

func newStandings(d *directory.Directory) standings {
	s := standings{}
	for rec := range d.Identities() {
		s[rec.ID] = standingOf(&rec)
	}
	return s
}

// update takes rec in and reports whether it changes more than a certificate.
func (s standings) update(rec *directory.Identity) (rights bool) {
	old, ok := s[rec.ID]
	now := standingOf(rec)
	s[rec.ID] = now
	return !ok || old.site != now.site || old.state != now.state || !maps.Equal(old.labels, now.labels)
}

// endIdentity ends all that a revoked identity has open here.
func (n *Node) endIdentity(rec directory.Revocation) {
	began := time.Now()
	n.overlay.Recheck()
	reason := rec.ID.Short() + " is revoked"
	if rec.Reason != "" {
		reason += ": " + rec.Reason
	}
	ended := n.broker.Disconnect(rec.ID, mqtt.Removal{Code: packet.NotAuthorized, Reason: reason, EndSessions: true, DropWills: true})
	n.log.WithField(logfield.SPIFFEID, rec.ID.String()).WithField(logfield.Reason, rec.Reason).
		WithField("connections", ended.Connections).WithField("took", time.Since(began).String()).Warn("identity revoked")
}

// applyRights judges all sessions again when policy or labels have changed. Nothing
// slow may run here: until its turn comes, a right that was taken away still holds.
func (n *Node) applyRights(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.changes.rights:
			n.filter.reset()
			n.broker.Reauthorize()
			n.broker.Reroute()
		}
	}
}

// applyFunctions loads the functions that the directory names when they have
// changed. It may wait for other nodes to send a module.
func (n *Node) applyFunctions(ctx context.Context) error {
	retry := time.NewTicker(5 * time.Second) // a module may become reachable later
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.changes.functions:
			n.functions.swap(ctx)
		case <-retry.C:
			if n.functions.missing() {
				n.functions.swap(ctx)
			}
		}
	}
}

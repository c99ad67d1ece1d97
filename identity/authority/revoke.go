package authority

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// RevokeOptions says more about a revocation. The zero value is a plain one.
type RevokeOptions struct {
	Reason        string
	ClearRetained bool // the retained messages that the identity published go too
}

// Revoke ends an identity: every certificate that it ever had, and its right to
// get another. Revoking it again changes nothing, but for retained messages that
// were not to be cleared before. The node that this authority runs on cannot
// revoke itself.
func (a *Authority) Revoke(id identity.ID, o RevokeOptions) error {
	return a.endIdentity(id, o, func(p *directory.Identity) { p.State = directory.Revoked })
}

// Replace gives up the key of an identity, revoked or not, so that a new ticket
// may enrol the name with another key.
func (a *Authority) Replace(id identity.ID) error {
	return a.endIdentity(id, RevokeOptions{Reason: "replaced"}, func(p *directory.Identity) {
		p.State, p.SPKI, p.Leaf, p.Request = directory.Replaced, [32]byte{}, nil, ""
	})
}

// endIdentity revokes the certificates of id and records its next state.
func (a *Authority) endIdentity(id identity.ID, o RevokeOptions, change func(*directory.Identity)) error {
	if id == a.node {
		return fmt.Errorf("%s runs this CA and cannot be revoked by it", id.Short())
	}
	defer a.names.lock(id)()
	p, ok := a.dir.Identity(id)
	if !ok {
		return fmt.Errorf("%w: %s", ErrUnknown, id.Short())
	}
	all := a.endRecords(p, o, change)
	if len(all) == 0 {
		return nil
	}
	if _, err := a.dir.Put(all...); err != nil {
		return fmt.Errorf("revoke %s: %w", id.Short(), err)
	}
	a.log.WithField(logfield.SPIFFEID, id.String()).WithField(logfield.Reason, o.Reason).Info("identity ended")
	return nil
}

// endRecords returns the records that end p and give it the state that change makes,
// the revocation first: connections end with its reason.
func (a *Authority) endRecords(p directory.Identity, o RevokeOptions, change func(*directory.Identity)) (all []directory.Payload) {
	old, _ := a.dir.Revocation(p.ID)
	if !a.dir.Revoked(p.ID, p.Generation) || o.ClearRetained && !old.ClearRetained {
		all = append(all, directory.Revocation{
			ID: p.ID, Generation: p.Generation, Reason: cmp.Or(o.Reason, old.Reason), Time: a.now(), ClearRetained: o.ClearRetained,
		})
	}
	before := p.State
	if change(&p); p.State != before {
		all = append(all, p)
	}
	return all
}

// RemoveSite ends all nodes of a site and records that nothing waits for it any
// more. It returns the nodes that it ended.
func (a *Authority) RemoveSite(site string) (ended []identity.ID, err error) {
	nodes, err := a.nodesOf(site)
	if err != nil {
		return nil, err
	}
	for _, id := range nodes { // in one order, so that two removals cannot wait for each other
		defer a.names.lock(id)()
	}
	var all []directory.Payload
	for _, id := range nodes {
		p, _ := a.dir.Identity(id)
		if p.State != directory.Active {
			continue
		}
		o := RevokeOptions{Reason: "site " + site + " was removed"}
		all = append(all, a.endRecords(p, o, func(p *directory.Identity) { p.State = directory.Revoked })...)
		ended = append(ended, id)
	}
	if _, err := a.dir.Put(append(all, directory.Site{Name: site, Removed: true})...); err != nil {
		return nil, fmt.Errorf("remove site %s: %w", site, err)
	}
	a.log.WithField(logfield.Site, site).WithField("nodes", len(ended)).Info("site removed")
	return ended, nil
}

// nodesOf returns the nodes that a site ever had, sorted.
func (a *Authority) nodesOf(site string) (nodes []identity.ID, err error) {
	for p := range a.dir.Identities() {
		switch {
		case p.ID.Kind != identity.Node || p.Site != site:
		case p.ID == a.node:
			return nil, fmt.Errorf("%s of site %s runs this CA and cannot be removed by it", p.ID.Short(), site)
		default:
			nodes = append(nodes, p.ID)
		}
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("%w: site %s", ErrUnknown, site)
	}
	slices.SortFunc(nodes, func(a, b identity.ID) int { return strings.Compare(a.String(), b.String()) })
	return nodes, nil
}

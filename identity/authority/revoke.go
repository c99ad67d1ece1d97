package authority

import (
	"fmt"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
)

// Revoke ends an identity: every certificate that it ever had, and its right to
// get another. Revoking it again changes nothing. The node that this authority
// runs on cannot revoke itself.
func (a *Authority) Revoke(id identity.ID, reason string) error {
	return a.end(id, reason, func(p *directory.Identity) { p.State = directory.Revoked })
}

// Replace gives up the key of an identity, revoked or not, so that a new ticket
// may enrol the name with another key.
func (a *Authority) Replace(id identity.ID) error {
	return a.end(id, "replaced", func(p *directory.Identity) {
		p.State, p.SPKI, p.Leaf, p.Request = directory.Replaced, [32]byte{}, nil, ""
	})
}

// end revokes what id has and records its next state.
func (a *Authority) end(id identity.ID, reason string, change func(*directory.Identity)) error {
	if id == a.node {
		return fmt.Errorf("%s runs this CA and cannot be revoked by it", id.Short())
	}
	defer a.names.lock(id)()
	p, ok := a.dir.Identity(id)
	if !ok {
		return fmt.Errorf("%w: %s", ErrUnknown, id.Short())
	}
	before := p.State
	change(&p)
	if p.State == before {
		return nil
	}
	var all []directory.Payload
	if !a.dir.Revoked(id, p.Generation) { // first: connections end with its reason
		all = append(all, directory.Revocation{ID: id, Generation: p.Generation, Reason: reason, Time: a.now()})
	}
	if _, err := a.dir.Put(append(all, p)...); err != nil {
		return fmt.Errorf("revoke %s: %w", id.Short(), err)
	}
	a.log.WithField(logfield.SPIFFEID, id.String()).WithField(logfield.Reason, reason).WithField("state", p.State).Info("identity ended")
	return nil
}

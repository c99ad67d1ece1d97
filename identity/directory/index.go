package directory

import (
	"crypto/ed25519"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/hpmq/hpmq/identity"
)

// index is the state that the records add up to. It keeps no record itself, only the
// newest content of each slot.
type index struct {
	parent        *index // asked for entries that a draft lacks, see [index.draft]
	versions      map[slot]uint64
	signers       map[signerID]ed25519.PublicKey
	signerRecords map[signerID]uint64 // the record that added a signer; the root has none
	identities    map[identity.ID]*Identity
	keys          map[[32]byte]identity.ID
	nodes         map[identity.ID]*Node
	issued        map[identity.ID][]issued // by generation; a draft has none
	revocations   map[identity.ID]Revocation
	lastRevoked   uint64 // the newest record of a revocation, 0 for none
	functions     map[string]Function
	tickets       map[string]TicketUse
	voids         map[identity.ID]Void
	sites         map[string]Site
	policy        *Policy
}

// newIndex returns the index of an empty log with root as its first signer.
func newIndex(root ed25519.PublicKey) index {
	x := emptyIndex()
	x.signers[keyID(root)] = root
	return x
}

func emptyIndex() index {
	return index{
		versions:      map[slot]uint64{},
		signers:       map[signerID]ed25519.PublicKey{},
		signerRecords: map[signerID]uint64{},
		identities:    map[identity.ID]*Identity{},
		keys:          map[[32]byte]identity.ID{},
		nodes:         map[identity.ID]*Node{},
		issued:        map[identity.ID][]issued{},
		revocations:   map[identity.ID]Revocation{},
		functions:     map[string]Function{},
		tickets:       map[string]TicketUse{},
		voids:         map[identity.ID]Void{},
		sites:         map[string]Site{},
	}
}

// apply takes in a record that was verified, with its decoded payload.
func (x *index) apply(r *Record, p Payload) {
	x.versions[slot{r.Kind, r.Key}] = r.Version
	switch p := p.(type) {
	case Signer:
		x.signers[keyID(p.Key)] = p.Key
		x.signerRecords[keyID(p.Key)] = r.Seq
	case Identity:
		x.applyIdentity(p)
		x.noteIssued(r.Seq, p)
	case Node:
		x.nodes[p.ID] = &p
	case Revocation:
		x.lastRevoked = r.Seq
		p.Time = p.Time.UTC()
		if old, ok := x.revocations[p.ID]; !ok || p.Generation >= old.Generation {
			x.revocations[p.ID] = p
		}
	case Policy:
		x.policy = &p
	case Function:
		x.functions[p.Name] = p
	case TicketUse:
		x.tickets[p.TicketID] = p
	case Site:
		x.sites[p.Name] = p
	case Void:
		if p.UnixMilli >= x.voids[p.ID].UnixMilli {
			x.voids[p.ID] = p
		}
	}
}

func (x *index) applyIdentity(p Identity) {
	if old := x.identity(p.ID); old != nil {
		x.forgetKey(old.SPKI)
	}
	p = p.clone()
	x.identities[p.ID] = &p
	if p.SPKI != [32]byte{} {
		x.keys[p.SPKI] = p.ID
	}
}

// forgetKey removes a key's owner. A draft needs an entry that says so, since the
// index under it must not change.
func (x *index) forgetKey(spki [32]byte) {
	if x.parent != nil {
		x.keys[spki] = identity.ID{}
		return
	}
	delete(x.keys, spki)
}

// conflict gives the reason why p may not follow the records in the index, nil when
// it may.
func (x *index) conflict(p Payload) error {
	switch p := p.(type) {
	case Signer:
		if _, ok := x.signer(keyID(p.Key)); ok {
			return fmt.Errorf("signer %s is known already", keyID(p.Key))
		}
	case Policy:
		if newest := x.policyVersion(); p.Version <= newest {
			return fmt.Errorf("policy version %d does not follow version %d", p.Version, newest)
		}
	case Identity:
		if old := x.identity(p.ID); old != nil && p.Generation < old.Generation {
			return fmt.Errorf("generation %d of %s does not follow generation %d", p.Generation, p.ID.Short(), old.Generation)
		}
		if owner := x.owner(p.SPKI); !owner.IsZero() && owner != p.ID {
			return fmt.Errorf("the key of %s belongs to %s", p.ID.Short(), owner.Short())
		}
	}
	return nil
}

// Identity returns the newest record of id.
func (d *Directory) Identity(id identity.ID) (Identity, bool) {
	d.mu.RLock()
	p := d.index.identities[id]
	d.mu.RUnlock()
	if p == nil {
		return Identity{}, false
	}
	return p.clone(), true
}

// ByKey returns the identity with this current key, given as the SHA-256 of its
// SubjectPublicKeyInfo.
func (d *Directory) ByKey(spki [32]byte) (Identity, bool) {
	d.mu.RLock()
	p := d.index.identities[d.index.keys[spki]]
	d.mu.RUnlock()
	if p == nil {
		return Identity{}, false
	}
	return p.clone(), true
}

// Identities returns all identities as they are now, in no order.
func (d *Directory) Identities() iter.Seq[Identity] {
	d.mu.RLock()
	all := make([]*Identity, 0, len(d.index.identities))
	for _, p := range d.index.identities {
		all = append(all, p)
	}
	d.mu.RUnlock()
	return func(yield func(Identity) bool) {
		for _, p := range all {
			if !yield(p.clone()) {
				return
			}
		}
	}
}

// Node returns the addresses of the node id.
func (d *Directory) Node(id identity.ID) (Node, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.index.nodes[id]
	if p == nil {
		return Node{}, false
	}
	return p.clone(), true
}

// Nodes returns all nodes, in no order, with the revoked ones.
func (d *Directory) Nodes() []Node {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]Node, 0, len(d.index.nodes))
	for _, p := range d.index.nodes {
		all = append(all, p.clone())
	}
	return all
}

// Revoked reports whether certificates of id at this generation are revoked. It
// neither blocks nor allocates, so it may be asked in every handshake.
func (d *Directory) Revoked(id identity.ID, generation uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r, ok := d.index.revocations[id]
	return ok && generation <= r.Generation
}

// Revocation returns the revocation of id that reaches furthest.
func (d *Directory) Revocation(id identity.ID) (Revocation, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r, ok := d.index.revocations[id]
	return r, ok
}

// Revocations returns the revocation of each identity that has one, in no order.
func (d *Directory) Revocations() []Revocation {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Collect(maps.Values(d.index.revocations))
}

// Policy returns the policy in force.
func (d *Directory) Policy() (Policy, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.index.policy == nil {
		return Policy{}, false
	}
	p := *d.index.policy
	p.Files = maps.Clone(p.Files) // the files themselves are not to be changed
	return p, true
}

// Functions returns all functions by name.
func (d *Directory) Functions() map[string]Function {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return maps.Clone(d.index.functions)
}

// TicketUse returns how a ticket was used so far.
func (d *Directory) TicketUse(ticketID string) (TicketUse, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	t, ok := d.index.tickets[ticketID]
	return t, ok
}

// Void returns the time up to which the tickets for id are void.
func (d *Directory) Void(id identity.ID) (Void, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	v, ok := d.index.voids[id]
	return v, ok
}

// RemovedSites returns the sites that an operator removed. One of them may have a
// node again.
func (d *Directory) RemovedSites() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var names []string
	for name, s := range d.index.sites {
		if s.Removed {
			names = append(names, name)
		}
	}
	return names
}

// Signers returns the keys that may sign, in no order.
func (d *Directory) Signers() []ed25519.PublicKey {
	d.mu.RLock()
	defer d.mu.RUnlock()
	keys := make([]ed25519.PublicKey, 0, len(d.index.signers))
	for _, k := range d.index.signers {
		keys = append(keys, k)
	}
	return keys
}

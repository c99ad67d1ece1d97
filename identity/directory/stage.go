package directory

import (
	"crypto/ed25519"
	"fmt"

	"github.com/hpmq/hpmq/identity"
)

// stage collects records that follow one another but are not durable yet, so
// that each is judged as if the records before it had been applied.
type stage struct {
	index index // a draft on top of the directory's
	tip   Point
	clock uint64
	all   []staged
	size  int
}

func (d *Directory) newStage() *stage {
	return &stage{index: d.index.draft(), tip: d.tip, clock: d.clock}
}

// fork returns a stage on top of s, to be merged or dropped.
func (s *stage) fork() *stage {
	return &stage{index: s.index.draft(), tip: s.tip, clock: s.clock}
}

func (s *stage) merge(fork *stage) {
	for _, e := range fork.all {
		s.add(e.entry, e.content)
	}
}

func (s *stage) add(e entry, p Payload) {
	s.index.apply(&e.Record, p)
	s.tip = Point{e.Seq, e.hash()}
	s.clock = e.HLC
	s.all = append(s.all, staged{e, p})
	s.size += len(e.raw)
}

// admit checks a record that was made elsewhere against the content of x. It returns
// the record's content.
func (x *index) admit(e *entry, tip Point, clock uint64, signature bool) (Payload, error) {
	key, ok := x.signer(e.Signer)
	if !ok {
		return nil, fmt.Errorf("record %d: signer %x is not in the chain of signers", e.Seq, e.Signer)
	}
	if signature {
		if err := e.verify(key); err != nil {
			return nil, err
		}
	}
	// After the signature: a forger must not be able to raise this alarm.
	if e.Seq != tip.Count+1 || e.Prev != tip.Hash {
		return nil, &DivergedError{Here: tip, There: Point{e.Seq - 1, e.Prev}}
	}
	if want := x.version(slot{e.Kind, e.Key}) + 1; e.Version != want {
		return nil, fmt.Errorf("record %d: version %d of %s %q, want %d", e.Seq, e.Version, e.Kind, e.Key, want)
	}
	if e.HLC <= clock {
		return nil, fmt.Errorf("record %d: its clock does not follow the record before", e.Seq)
	}
	p, err := e.Decode()
	if err != nil {
		return nil, err
	}
	return p, x.conflict(p)
}

// draft returns an empty index on top of x. Its lookups fall through to x,
// which does not change when the draft does.
func (x *index) draft() index {
	d := emptyIndex()
	d.parent = x
	return d
}

func (x *index) version(s slot) uint64 {
	for ; x != nil; x = x.parent {
		if v, ok := x.versions[s]; ok {
			return v
		}
	}
	return 0
}

func (x *index) signer(id signerID) (ed25519.PublicKey, bool) {
	for ; x != nil; x = x.parent {
		if k, ok := x.signers[id]; ok {
			return k, true
		}
	}
	return nil, false
}

func (x *index) identity(id identity.ID) *Identity {
	for ; x != nil; x = x.parent {
		if p, ok := x.identities[id]; ok {
			return p
		}
	}
	return nil
}

// owner returns the identity with this current key, or the zero ID.
func (x *index) owner(spki [32]byte) identity.ID {
	for ; x != nil; x = x.parent {
		if id, ok := x.keys[spki]; ok {
			return id
		}
	}
	return identity.ID{}
}

func (x *index) policyVersion() uint64 {
	for ; x != nil; x = x.parent {
		if x.policy != nil {
			return x.policy.Version
		}
	}
	return 0
}

package directory

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// issued is a record with a certificate. The certificate stays in the log: only
// the certificates of revoked identities are read again.
type issued struct {
	seq        uint64
	generation uint64
	notAfter   int64 // Unix seconds
}

// manyIssued is how many certificates of one identity the index notes before it
// looks for ended ones. An identity that renews at a third of its life has three
// that have not ended.
const manyIssued = 8

// noteIssued notes the certificate of p. A record may bring a certificate again,
// with new labels or another state; its generation is the same then.
func (x *index) noteIssued(seq uint64, p Identity) {
	if x.parent != nil || len(p.Leaf) == 0 {
		return
	}
	all := x.issued[p.ID]
	next := issued{seq, p.Generation, p.NotAfter.Unix()}
	switch last := len(all) - 1; {
	case last >= 0 && all[last].generation == p.Generation:
		all[last] = next
		return
	case len(all) >= manyIssued:
		all = dropEnded(all, p.Leaf)
	}
	x.issued[p.ID] = append(all, next)
}

// dropEnded drops certificates that had ended a day before leaf was issued. The
// record's own clock cannot tell: after a wall clock that was once ahead it stays
// ahead for years.
func dropEnded(all []issued, leaf []byte) []issued {
	c, err := x509.ParseCertificate(leaf)
	if err != nil {
		return all
	}
	before := identity.Issued(c).Add(-identity.Backdate).Unix()
	return slices.DeleteFunc(all, func(i issued) bool { return i.notAfter < before })
}

// RevokedLeaf is a certificate that a revocation ended before its time.
type RevokedLeaf struct {
	Leaf *x509.Certificate
	Time time.Time // of the revocation
}

// LastRevocation returns the number of the newest record of a revocation, 0 when
// there is none. While it stays the same, [Directory.RevokedLeaves] returns the same
// for one time: an identity gets no certificate of a generation that is revoked.
func (d *Directory) LastRevocation() uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.index.lastRevoked
}

// RevokedLeaves returns the certificates of revoked generations that had not
// ended at that time, sorted by serial number, and the revocation up to which
// they are complete.
func (d *Directory) RevokedLeaves(at time.Time) (leaves []RevokedLeaf, upTo uint64, err error) {
	type revoked struct {
		seq  uint64
		time time.Time
	}
	var all []revoked
	d.mu.RLock()
	upTo = d.index.lastRevoked
	for id, r := range d.index.revocations {
		for _, i := range d.index.issued[id] {
			if i.generation <= r.Generation && i.notAfter >= at.Unix() {
				all = append(all, revoked{i.seq, r.Time})
			}
		}
	}
	d.mu.RUnlock()
	for _, r := range all {
		leaf, err := d.leaf(r.seq)
		if err != nil {
			return nil, 0, fmt.Errorf("revoked certificate of record %d: %w", r.seq, err)
		}
		leaves = append(leaves, RevokedLeaf{leaf, r.time})
	}
	slices.SortFunc(leaves, func(a, b RevokedLeaf) int {
		return cmp.Or(a.Leaf.SerialNumber.Cmp(b.Leaf.SerialNumber), a.Time.Compare(b.Time))
	})
	return leaves, upTo, nil
}

// leaf returns the certificate in record seq.
func (d *Directory) leaf(seq uint64) (*x509.Certificate, error) {
	r, err := d.Record(seq)
	if err != nil {
		return nil, err
	}
	p, err := r.Decode()
	if err != nil {
		return nil, err
	}
	known, ok := p.(Identity)
	if !ok {
		return nil, fmt.Errorf("a record of kind %s", r.Kind)
	}
	return x509.ParseCertificate(known.Leaf)
}

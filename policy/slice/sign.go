package slice

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// purpose separates slices from all other statements of the writer.
const purpose = "policy slice 2"

// Part is one encoded half of a slice, which many slices share.
type Part struct {
	raw []byte
	Sum [32]byte // SHA-256
}

func newPart(raw []byte, err error) (Part, error) {
	if err == nil && len(raw) > MaxBytes {
		err = fmt.Errorf("%d bytes, at most %d", len(raw), MaxBytes)
	}
	if err != nil {
		return Part{}, fmt.Errorf("encode slice: %w", err)
	}
	return Part{raw, sha256.Sum256(raw)}, nil
}

// EncodeRules returns the rules of targets in a trust domain.
func EncodeRules(domain string, rules []Rule) (Part, error) {
	return newPart(encodeRules(domain, rules))
}

// EncodeFabric returns the nodes of a trust domain, the active and the revoked.
func EncodeFabric(domain string, nodes []Node, revoked []Revoked) (Part, error) {
	nodes, revoked = slices.Clone(nodes), slices.Clone(revoked)
	slices.SortFunc(nodes, func(a, b Node) int { return compareIDs(a.ID, b.ID) })
	slices.SortFunc(revoked, func(a, b Revoked) int { return compareIDs(a.ID, b.ID) })
	if len(nodes) > maxNodes || len(revoked) > maxRevoked {
		return Part{}, fmt.Errorf("encode slice: %d nodes and %d revoked, at most %d and %d", len(nodes), len(revoked), maxNodes, maxRevoked)
	}
	return newPart(encodeFabric(domain, nodes, revoked))
}

// Sign returns the slice of target in its signed form, and when it was issued.
// writer is the directory's writer.
func Sign(writer *directory.Directory, target identity.ID, until time.Time, rules, fabric Part) (raw []byte, issued uint64, err error) {
	issued = writer.Stamp()
	header, err := encoder.Marshal(wireHeader{
		TrustDomain: target.TrustDomain, Target: target.Short(), Issued: issued, Until: until.UnixMilli(),
		Rules: rules.Sum, Fabric: fabric.Sum,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("sign slice: %w", err)
	}
	statement, err := writer.Sign(purpose, header)
	if err != nil {
		return nil, 0, fmt.Errorf("sign slice: %w", err)
	}
	raw, err = encoder.Marshal(wireSigned{Statement: statement, Rules: rules.raw, Fabric: fabric.raw})
	if err == nil && len(raw) > MaxBytes {
		err = fmt.Errorf("%d bytes, at most %d", len(raw), MaxBytes)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("sign slice: %w", err)
	}
	return raw, issued, nil
}

// Open reads a signed slice for target. root is the directory key that the target's
// ticket pinned; the zero target takes any of the directory. Whether the slice has
// ended, or is older than another, is for the caller to say. [ReasonOf] sorts errors.
func Open(raw []byte, root ed25519.PublicKey, target identity.ID) (*Slice, error) {
	s, err := open(raw, root)
	if err != nil {
		return nil, fmt.Errorf("policy slice: %w", err)
	}
	if !target.IsZero() && s.Target != target {
		return nil, Refuse(OtherTarget, fmt.Errorf("policy slice: it is for %s, not for %s", s.Target.Short(), target.Short()))
	}
	return s, nil
}

// open checks the signature and the hashes before it reads the parts that they cover.
func open(raw []byte, root ed25519.PublicKey) (*Slice, error) {
	if len(raw) > MaxBytes {
		return nil, Refuse(TooLarge, fmt.Errorf("%d bytes, at most %d", len(raw), MaxBytes))
	}
	w, err := decodeAs[wireSigned](raw)
	if err != nil {
		return nil, err
	}
	signed, err := directory.OpenStatement(w.Statement, root, purpose)
	if err != nil {
		return nil, Refuse(Forged, err)
	}
	h, err := decodeAs[wireHeader](signed)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(w.Rules) != h.Rules || sha256.Sum256(w.Fabric) != h.Fabric {
		return nil, Refuse(Forged, errors.New("its rules or nodes are not those that were signed"))
	}
	s, err := h.slice()
	if err != nil {
		return nil, err
	}
	if s.Rules, err = decodeRules(h.TrustDomain, w.Rules); err != nil {
		return nil, err
	}
	if s.Nodes, s.Revoked, err = decodeFabric(h.TrustDomain, w.Fabric); err != nil {
		return nil, err
	}
	s.index()
	return s, nil
}

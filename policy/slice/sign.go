package slice

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// domain separates these signatures from all others made with the same key.
const domain = "hpmq policy slice v1\x00"

func digest(payload []byte) []byte {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(payload)
	return h.Sum(nil)
}

// Sign returns the slice signed by a node, with the node's certificate chain.
func (s *Slice) Sign(node *identity.SVID) ([]byte, error) {
	if node.ID.Kind != identity.Node {
		return nil, fmt.Errorf("sign slice: %s is not a node", node.ID.Short())
	}
	payload, err := s.encode()
	if err != nil {
		return nil, fmt.Errorf("sign slice: %w", err)
	}
	w := wireSigned{Payload: payload}
	for _, c := range node.Chain {
		w.Chain = append(w.Chain, c.Raw)
	}
	if w.Signature, err = node.Key.Sign(rand.Reader, digest(payload), crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign slice: %w", err)
	}
	raw, err := encoder.Marshal(w)
	if err == nil && len(raw) > MaxBytes {
		err = fmt.Errorf("%d bytes, at most %d", len(raw), MaxBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("sign slice: %w", err)
	}
	return raw, nil
}

// Verify reads a signed slice for target: a node whose certificate is valid now
// signed it. It returns the slice and the node. Whether the slice may replace
// another is for [Slice.Newer] to say, and whether the node is revoked for the
// caller.
func Verify(raw []byte, bundle *identity.Bundle, target identity.ID, now time.Time) (*Slice, identity.ID, error) {
	return verify(raw, bundle, target, func(*Slice) time.Time { return now })
}

// VerifyStored reads a slice that Verify accepted once and the agent itself has
// kept. The node's certificate need only have been valid when the slice was
// issued: an agent that was cut off or switched off for long still knows whom
// it may let in.
func VerifyStored(raw []byte, bundle *identity.Bundle, target identity.ID) (*Slice, identity.ID, error) {
	return verify(raw, bundle, target, func(s *Slice) time.Time { return s.Issued })
}

func verify(raw []byte, bundle *identity.Bundle, target identity.ID, at func(*Slice) time.Time) (*Slice, identity.ID, error) {
	s, signer, err := open(raw, bundle, at)
	if err != nil {
		return nil, identity.ID{}, fmt.Errorf("policy slice: %w", err)
	}
	if s.Target != target {
		return nil, identity.ID{}, fmt.Errorf("policy slice: it is for %s, not for %s", s.Target.Short(), target.Short())
	}
	return s, signer, nil
}

// open checks the signature before it reads what was signed.
func open(raw []byte, bundle *identity.Bundle, at func(*Slice) time.Time) (*Slice, identity.ID, error) {
	var none identity.ID
	w, chain, err := unwrap(raw)
	if err != nil {
		return nil, none, err
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, none, errors.New("the signer's key is not ECDSA")
	}
	if !ecdsa.VerifyASN1(key, digest(w.Payload), w.Signature) {
		return nil, none, errors.New("wrong signature")
	}
	s, err := decode(w.Payload)
	if err != nil {
		return nil, none, err
	}
	// Node certificates are for servers, too; those that a site's own authority
	// issues are not, so it cannot make itself a signer.
	signer, err := bundle.Verify(chain, at(s), x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, none, fmt.Errorf("signer: %w", err)
	}
	if signer.Kind != identity.Node {
		return nil, none, fmt.Errorf("signer %s is not a node", signer.Short())
	}
	if s.Target.TrustDomain != signer.TrustDomain {
		return nil, none, fmt.Errorf("target %s is outside the signer's trust domain", s.Target)
	}
	return s, signer, nil
}

// unwrap reads the envelope.
func unwrap(raw []byte) (*wireSigned, []*x509.Certificate, error) {
	if len(raw) > MaxBytes {
		return nil, nil, fmt.Errorf("%d bytes, at most %d", len(raw), MaxBytes)
	}
	var w wireSigned
	if err := decoder.Unmarshal(raw, &w); err != nil {
		return nil, nil, err
	}
	if len(w.Chain) == 0 || len(w.Chain) > maxChain {
		return nil, nil, fmt.Errorf("a chain of %d certificates", len(w.Chain))
	}
	var chain []*x509.Certificate
	for _, der := range w.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("signer's certificate: %w", err)
		}
		chain = append(chain, c)
	}
	return &w, chain, nil
}

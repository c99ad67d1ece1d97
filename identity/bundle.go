package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bundle is the roots of one trust domain. It never changes and is safe for
// concurrent use.
type Bundle struct {
	trustDomain string
	roots       []*x509.Certificate
	pool        *x509.CertPool
}

// NewBundle returns the bundle of trustDomain that trusts roots.
func NewBundle(trustDomain string, roots ...*x509.Certificate) *Bundle {
	b := &Bundle{trustDomain: trustDomain, roots: slices.Clone(roots), pool: x509.NewCertPool()}
	for _, r := range roots {
		b.pool.AddCert(r)
	}
	return b
}

// TrustDomain returns the domain that the roots speak for.
func (b *Bundle) TrustDomain() string { return b.trustDomain }

// Roots returns the trusted certificates.
func (b *Bundle) Roots() []*x509.Certificate { return slices.Clone(b.roots) }

// Verify checks a chain, leaf first, as a peer sent it: it leads to a root, has
// keys of the one sort that is issued, is valid at now for usage, and its leaf
// names exactly one identity of this trust domain, which Verify returns.
func (b *Bundle) Verify(chain []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) (ID, error) {
	if len(chain) == 0 {
		return ID{}, errors.New("no certificate")
	}
	if len(chain) > maxChain {
		return ID{}, fmt.Errorf("chain of %d certificates, at most %d", len(chain), maxChain)
	}
	id, err := LeafID(chain[0])
	if err != nil {
		return ID{}, err
	}
	if id.TrustDomain != b.trustDomain {
		return ID{}, fmt.Errorf("%s is outside trust domain %q", id, b.trustDomain)
	}
	// A stranger chooses these keys. One RSA key that fits into a request keeps a
	// core busy for many seconds. So kinds of keys that our authorities never certify
	// are refused before a signature is looked at.
	for _, c := range chain {
		if !isP256(c.PublicKey) {
			return ID{}, fmt.Errorf("certificate of %s: chain with a key that is not ECDSA P-256", id.Short())
		}
	}
	inter := x509.NewCertPool()
	for _, c := range chain[1:] {
		inter.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots:         b.pool,
		Intermediates: inter,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && invalid.Cert != nil {
			err = &TimeError{Cert: invalid.Cert, Now: now, err: invalid}
		}
		return ID{}, fmt.Errorf("certificate of %s: %w", id.Short(), err)
	}
	return id, nil
}

// TimeError says that a certificate, perhaps a genuine one, has ended or has not
// begun at the time Now.
type TimeError struct {
	Cert *x509.Certificate
	Now  time.Time
	err  error
}

// Error names the clock, since a wrong one is the likely cause. Of the clock it
// says the day only: a clock that matters is wrong by days, and the same refusal
// at the next second is no news.
func (e *TimeError) Error() string {
	day := e.Now.UTC().Format(time.DateOnly)
	if e.Early() {
		return fmt.Sprintf("it was issued at %s, and this machine's clock says %s: is the clock right?",
			Issued(e.Cert).UTC().Format(time.RFC3339), day)
	}
	return fmt.Sprintf("it has expired at %s, and this machine's clock says %s", e.Cert.NotAfter.UTC().Format(time.RFC3339), day)
}

// Unwrap returns the error of crypto/x509.
func (e *TimeError) Unwrap() error { return e.err }

// Early reports whether the certificate had not begun, which means that the clock
// is wrong.
func (e *TimeError) Early() bool { return e.Now.Before(e.Cert.NotBefore) }

// WithinValidity returns the instant nearest to now at which every certificate
// of chain is valid: now itself unless a clock or a certificate is off. A caller
// that may accept an expired chain verifies it at that instant.
func WithinValidity(chain []*x509.Certificate, now time.Time) time.Time {
	for _, c := range chain {
		if now.After(c.NotAfter) {
			now = c.NotAfter
		}
	}
	for _, c := range chain {
		if now.Before(c.NotBefore) {
			now = c.NotBefore
		}
	}
	return now
}

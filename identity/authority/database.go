package authority

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/db"
	"golang.org/x/crypto/ssh"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// database is smallstep's view of the directory. Smallstep stores each
// certificate between signing it and handing it out. Here that step makes the
// certificate exist. So a certificate that was not asked for, or that cannot be
// recorded, never leaves.
type database struct {
	dir *directory.Directory

	mu    sync.Mutex
	asked map[identity.ID]*grant
}

var (
	_ db.AuthDB            = (*database)(nil)
	_ db.CertificateStorer = (*database)(nil)
)

// ask announces that the certificate of g is about to be signed. The caller
// holds the name's lock and calls the result when it is done.
func (s *database) ask(g *grant) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[g.record.ID] = g
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asked, g.record.ID)
	}
}

// StoreCertificateChain records a fresh certificate in the directory. Smallstep
// looks for this method by name; without it, issued certificates are silently
// not stored.
func (s *database) StoreCertificateChain(_ provisioner.Interface, chain ...*x509.Certificate) error {
	leaf := chain[0]
	id, err := identity.LeafID(leaf)
	if err != nil {
		return err
	}
	s.mu.Lock()
	g := s.asked[id]
	s.mu.Unlock()
	gen, _ := identity.Generation(leaf)
	if g == nil || gen != g.record.Generation || spkiHash(leaf.RawSubjectPublicKeyInfo) != g.record.SPKI {
		return fmt.Errorf("nobody asked for a certificate of %s at generation %d", id.Short(), gen)
	}
	g.record.Leaf, g.record.NotAfter = leaf.Raw, leaf.NotAfter
	_, err = s.dir.Put(append([]directory.Payload{g.record}, g.along...)...)
	return err
}

// StoreCertificate is StoreCertificateChain for callers without a chain.
func (s *database) StoreCertificate(leaf *x509.Certificate) error {
	return s.StoreCertificateChain(nil, leaf)
}

// Certificates are revoked by [Authority.Revoke], under the name's lock, and
// judged by identity and generation. No caller asks by serial number.

// GetCertificate refuses.
func (s *database) GetCertificate(string) (*x509.Certificate, error) {
	return nil, db.ErrNotImplemented
}

// IsRevoked refuses.
func (s *database) IsRevoked(string) (bool, error) { return true, db.ErrNotImplemented }

// Revoke refuses.
func (s *database) Revoke(*db.RevokedCertificateInfo) error { return db.ErrNotImplemented }

// UseToken refuses: there are no provisioner tokens, tickets are ours.
func (s *database) UseToken(string, string) (bool, error) { return false, db.ErrNotImplemented }

// Shutdown leaves the directory open; its opener closes it.
func (s *database) Shutdown() error { return nil }

// The authority signs no SSH certificates.

// StoreSSHCertificate refuses.
func (s *database) StoreSSHCertificate(*ssh.Certificate) error { return db.ErrNotImplemented }

// IsSSHRevoked refuses.
func (s *database) IsSSHRevoked(string) (bool, error) { return true, db.ErrNotImplemented }

// RevokeSSH refuses.
func (s *database) RevokeSSH(*db.RevokedCertificateInfo) error { return db.ErrNotImplemented }

// IsSSHHost refuses.
func (s *database) IsSSHHost(string) (bool, error) { return false, db.ErrNotImplemented }

// GetSSHHostPrincipals refuses.
func (s *database) GetSSHHostPrincipals() ([]string, error) { return nil, db.ErrNotImplemented }

func spkiHash(spki []byte) [32]byte { return sha256.Sum256(spki) }

// sameKey reports whether two SubjectPublicKeyInfos are equal.
func sameKey(a, b []byte) bool { return bytes.Equal(a, b) }

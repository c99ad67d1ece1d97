// Package testca makes identities for tests: a certificate authority in memory
// whose leaves have the form that package identity demands. It decides nothing
// and keeps nothing on disk.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// CA is the root of one trust domain.
type CA struct {
	Root   *x509.Certificate
	Key    crypto.Signer
	Domain string
}

// New makes a root for trustDomain.
func New(t testing.TB, trustDomain string) *CA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          serial(t),
		Subject:               pkix.Name{CommonName: trustDomain + " test root"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return &CA{Root: sign(t, template, template, key.Public(), key), Key: key, Domain: trustDomain}
}

// Bundle returns what a member of the trust domain trusts.
func (ca *CA) Bundle() *identity.Bundle { return identity.NewBundle(ca.Domain, ca.Root) }

// ID returns the identity of kind and name in the CA's trust domain.
func (ca *CA) ID(t testing.TB, kind identity.Kind, name string) identity.ID {
	t.Helper()
	id, err := identity.NewID(ca.Domain, kind, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Issue returns the source of a new identity, valid for an hour.
func (ca *CA) Issue(t testing.TB, id identity.ID, edit ...func(*x509.Certificate)) *Source {
	t.Helper()
	s := &Source{bundle: ca.Bundle()}
	s.Set(ca.SVID(t, id, edit...))
	return s
}

// SVID makes a key and a certificate for id, with names for localhost. The
// edits see the template before it is signed.
func (ca *CA) SVID(t testing.TB, id identity.ID, edit ...func(*x509.Certificate)) *identity.SVID {
	t.Helper()
	key := newKey(t)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if id.Kind == identity.User {
		usage = usage[:1]
	}
	template := &x509.Certificate{
		SerialNumber: serial(t),
		Subject:      pkix.Name{CommonName: id.Name},
		URIs:         []*url.URL{id.URL()},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  usage,
	}
	for _, f := range edit {
		f(template)
	}
	leaf := sign(t, template, ca.Root, key.Public(), ca.Key)
	return &identity.SVID{ID: id, Chain: []*x509.Certificate{leaf}, Key: key}
}

// CRL returns the root's revocation list as PEM.
func (ca *CA) CRL(t testing.TB, number int64, revoked ...*x509.Certificate) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(30 * 24 * time.Hour)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Root, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// ValidFor makes a certificate end after d.
func ValidFor(d time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(d) }
}

// Generation makes a certificate carry a generation.
func Generation(t testing.TB, gen uint64) func(*x509.Certificate) {
	t.Helper()
	ext, err := identity.GenerationExtension(gen)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, ext) }
}

// Issued makes a certificate carry its time of issue.
func Issued(t testing.TB, at time.Time) func(*x509.Certificate) {
	t.Helper()
	ext, err := identity.IssuedExtension(at)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, ext) }
}

// Source is an identity.Source whose certificate a test can replace.
type Source struct {
	svid   atomic.Pointer[identity.SVID]
	bundle *identity.Bundle
}

// Set replaces the certificate, as a renewal does.
func (s *Source) Set(svid *identity.SVID) { s.svid.Store(svid) }

// SVID returns the certificate of the moment.
func (s *Source) SVID() *identity.SVID { return s.svid.Load() }

// Bundle returns the CA's roots.
func (s *Source) Bundle() *identity.Bundle { return s.bundle }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

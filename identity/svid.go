package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// The life that certificates are issued with, from the time of issue on.
const (
	DeviceLifetime = 30 * 24 * time.Hour // devices, services and functions
	NodeLifetime   = 30 * 24 * time.Hour
	UserLifetime   = 8 * time.Hour // people
)

// NotBefore lies this far before the time of issue, for peers with slow clocks.
const (
	Backdate     = 24 * time.Hour
	UserBackdate = time.Hour
)

// Bounds on a certificate chain or signing request from a peer.
const (
	maxChain    = 6
	maxCSRBytes = 8 << 10
	maxPEMBytes = 64 << 10
	maxCSRNames = 32
)

// generationOID marks the extension that holds a certificate's generation. It
// is the UUID a83f5b0c-3f0e-4d4a-9a0c-6f1d2c7be953 under the arc that
// Microsoft's OID generator gives to UUIDs (five 16-bit, then two 24-bit
// pieces). The ITU's own arc for UUIDs, 2.25, wants the UUID as one number of
// 128 bits, which crypto/x509 refuses to parse.
var generationOID = asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 0xa83f, 0x5b0c, 0x3f0e, 0x4d4a, 0x9a0c, 0x6f1d2c, 0x7be953}

// issuedOID marks the extension that holds a certificate's time of issue. It is
// the UUID 1c7be2d4-58a1-4c0b-8f36-92d0a4e57b18 under the same arc.
var issuedOID = asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 0x1c7b, 0xe2d4, 0x58a1, 0x4c0b, 0x8f36, 0x92d0a4, 0xe57b18}

// SVID is an identity with its proof: a certificate chain, leaf first and
// without the root, and the leaf's private key. It never changes.
type SVID struct {
	ID    ID
	Chain []*x509.Certificate
	Key   crypto.Signer
}

// NewSVID checks that chain begins with a well-formed leaf and that key is the
// leaf's. It does not judge the signer of the chain: see [Bundle.Verify].
func NewSVID(chain []*x509.Certificate, key crypto.Signer) (*SVID, error) {
	if len(chain) == 0 {
		return nil, errors.New("empty certificate chain")
	}
	id, err := LeafID(chain[0])
	if err != nil {
		return nil, err
	}
	if !samePublicKey(chain[0].PublicKey, key.Public()) {
		return nil, fmt.Errorf("certificate of %s belongs to another key", id.Short())
	}
	return &SVID{ID: id, Chain: chain, Key: key}, nil
}

// Leaf returns the certificate that names the identity.
func (s *SVID) Leaf() *x509.Certificate { return s.Chain[0] }

// NotAfter returns the end of the leaf's validity.
func (s *SVID) NotAfter() time.Time { return s.Chain[0].NotAfter }

// TLSCertificate returns the SVID in the form that crypto/tls presents.
func (s *SVID) TLSCertificate() tls.Certificate {
	c := tls.Certificate{PrivateKey: s.Key, Leaf: s.Chain[0]}
	for _, cert := range s.Chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// LeafID returns the identity that a leaf certificate names: it has exactly one
// URI SAN, a SPIFFE ID of ours, its common name is the ID's name, and it is no
// CA. [Bundle.Verify] judges its signer.
func LeafID(leaf *x509.Certificate) (ID, error) {
	if leaf.IsCA {
		return ID{}, errors.New("certificate of a CA presented as an identity")
	}
	return namedID(leaf.URIs, leaf.Subject.CommonName, "certificate")
}

// Generation returns the number of a leaf certificate among the certificates of its
// identity: the first is 1, each new one counts up, and a revocation names the
// highest that it covers. It is false for a certificate without one.
func Generation(leaf *x509.Certificate) (uint64, bool) {
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(generationOID) {
			continue
		}
		var gen int64
		rest, err := asn1.Unmarshal(ext.Value, &gen)
		if err != nil || len(rest) > 0 || gen < 1 {
			return 0, false
		}
		return uint64(gen), true
	}
	return 0, false
}

// GenerationExtension returns the non-critical extension that carries gen, a
// DER INTEGER, for the template of a leaf certificate.
func GenerationExtension(gen uint64) (pkix.Extension, error) {
	if gen < 1 || gen > 1<<62 {
		return pkix.Extension{}, fmt.Errorf("generation %d out of range", gen)
	}
	der, err := asn1.Marshal(int64(gen))
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode generation: %w", err)
	}
	return pkix.Extension{Id: generationOID, Value: der}, nil
}

// Issued returns when a certificate was issued. Its life counts from then, since
// its NotBefore lies earlier. A certificate that does not say so is taken for
// issued at its NotBefore.
func Issued(cert *x509.Certificate) time.Time {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(issuedOID) {
			continue
		}
		var at time.Time
		rest, err := asn1.UnmarshalWithParams(ext.Value, &at, "generalized")
		if err != nil || len(rest) > 0 || at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
			break
		}
		return at
	}
	return cert.NotBefore
}

// IssuedExtension returns the non-critical extension that carries the time of
// issue, a DER GeneralizedTime of whole seconds, for the template of a
// certificate.
func IssuedExtension(at time.Time) (pkix.Extension, error) {
	der, err := asn1.MarshalWithParams(at.UTC().Truncate(time.Second), "generalized")
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode time of issue: %w", err)
	}
	return pkix.Extension{Id: issuedOID, Value: der}, nil
}

// NewKey makes an ECDSA P-256 key, the only sort that certificates are issued
// for.
func NewKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make P-256 key: %w", err)
	}
	return key, nil
}

// NewCSR makes a DER certificate signing request of id for key. The names are
// DNS names and IP addresses that a node's certificate shall also carry; the
// authority grants them to nodes only.
func NewCSR(key crypto.Signer, id ID, names ...string) ([]byte, error) {
	req := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: id.Name},
		URIs:    []*url.URL{id.URL()},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			req.IPAddresses = append(req.IPAddresses, ip)
		} else {
			req.DNSNames = append(req.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request of %s: %w", id.Short(), err)
	}
	return der, nil
}

// ParseCSR reads a request made by [NewCSR] and checks its size, its signature,
// its P-256 key and its names. Whether its identity may have the certificate is
// for the authority.
func ParseCSR(der []byte) (*x509.CertificateRequest, ID, error) {
	if len(der) > maxCSRBytes {
		return nil, ID{}, fmt.Errorf("certificate request of %d bytes, at most %d", len(der), maxCSRBytes)
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, ID{}, fmt.Errorf("certificate request: %w", err)
	}
	if !isP256(req.PublicKey) {
		return nil, ID{}, errors.New("certificate request: want an ECDSA P-256 key")
	}
	if err := req.CheckSignature(); err != nil {
		return nil, ID{}, fmt.Errorf("certificate request: %w", err)
	}
	if len(req.EmailAddresses) > 0 || len(req.DNSNames)+len(req.IPAddresses) > maxCSRNames {
		return nil, ID{}, fmt.Errorf("certificate request: want at most %d DNS names and addresses, and no e-mail", maxCSRNames)
	}
	id, err := namedID(req.URIs, req.Subject.CommonName, "certificate request")
	return req, id, err
}

func namedID(uris []*url.URL, commonName, what string) (ID, error) {
	if len(uris) != 1 {
		return ID{}, fmt.Errorf("%s has %d URI names, want exactly one SPIFFE ID", what, len(uris))
	}
	id, err := ParseID(uris[0].String())
	if err != nil {
		return ID{}, fmt.Errorf("%s: %w", what, err)
	}
	if commonName != id.Name {
		return ID{}, fmt.Errorf("%s of %s has common name %q", what, id.Short(), commonName)
	}
	return id, nil
}

// EncodeCertificates returns certs as PEM, in order.
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// ParseCertificates reads the certificates of a PEM text, at least one and no
// more than a chain or bundle can have.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxPEMBytes {
		return nil, fmt.Errorf("certificates of %d bytes, at most %d", len(text), maxPEMBytes)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q among certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		if certs = append(certs, c); len(certs) > maxChain {
			return nil, fmt.Errorf("more than %d certificates", maxChain)
		}
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return certs, nil
}

// isP256 reports whether key is of the sort that [NewKey] makes.
func isP256(key crypto.PublicKey) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && k.Curve == elliptic.P256()
}

func samePublicKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block PRIVATE KEY (PKCS#8) found")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key of type %T cannot sign", key)
	}
	return signer, nil
}

package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The enrolment API of every node: HTTP/1.1 on TLS, JSON both ways.
const (
	RootsPath    = "/api/v1/roots/" // GET RootsPath + hex SHA-256 of the root's DER → the root as PEM
	EnrolPath    = "/api/v1/enrol"  // POST EnrolRequest → EnrolResponse
	RenewPath    = "/api/v1/renew"  // POST RenewRequest → EnrolResponse
	CRLPath      = "/api/v1/crl"    // GET → revocation lists as PEM, see ParseCRL
	MaxBodyBytes = 64 << 10         // of a request and of an answer
	MaxCRLBytes  = 4 << 20          // of the answer at CRLPath: some 80,000 certificates
)

// EnrolRequest trades a ticket for a certificate. The authority answers the same
// ticket and public key with the same certificate, however often it is asked.
type EnrolRequest struct {
	Ticket string `json:"ticket"` // without its secret
	CSR    []byte `json:"csr"`    // DER, see NewCSR; with the DNS names and addresses that a node asks for
	Proof  []byte `json:"proof"`  // Ed25519 signature of the ticket's secret over both, see Ticket.Request
}

// ErrProof is returned for an enrolment that the ticket's holder did not ask for.
var ErrProof = errors.New("the request is not signed with the ticket's secret")

// Verify checks that the holder of the ticket's secret asks for the CSR, and
// returns the ticket. The caller still has to find out whether the ticket is
// genuine: see [Ticket.Verify].
func (r *EnrolRequest) Verify() (*Ticket, error) {
	t, err := ParseTicket(r.Ticket)
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(t.Key, r.digest(), r.Proof) {
		return nil, ErrProof
	}
	return t, nil
}

func (r *EnrolRequest) digest() []byte {
	return digest("hpmq enrolment 1", r.Ticket, string(r.CSR))
}

// EnrolResponse is a new certificate with everything that its owner needs to use it.
type EnrolResponse struct {
	ID          ID        `json:"id"`
	Site        string    `json:"site"`        // home site
	Certificate string    `json:"certificate"` // PEM, leaf first, without the root
	Roots       string    `json:"roots"`       // PEM; for people, since a client trusts only the root that its ticket pins
	Generation  uint64    `json:"generation"`
	API         []string  `json:"api,omitempty"`  // host:port to renew at; empty: where the request went
	MQTT        []string  `json:"mqtt,omitempty"` // host:port of MQTT over TLS, the nearest first
	Mesh        []string  `json:"mesh,omitempty"` // host:port of the overlay
	NotAfter    time.Time `json:"not_after"`
	ServerTime  time.Time `json:"server_time"`
}

// RenewRequest asks for the next certificate of an identity. It is signed with
// the key of the current one, so any node may pass it on to an authority, and
// it keeps its ID when it is sent again.
type RenewRequest struct {
	Certificate string    `json:"certificate"` // the current chain, PEM
	CSR         []byte    `json:"csr"`         // DER; of a fresh key, or of the current one
	ID          string    `json:"id"`          // random, on the client's disk before the first sending
	Time        time.Time `json:"time"`        // by the client's clock, which may be wrong
	Signature   []byte    `json:"signature"`   // ECDSA, ASN.1, over Digest
}

// Sign signs the request with the key of its current certificate.
func (r *RenewRequest) Sign(key crypto.Signer) error {
	sig, err := key.Sign(rand.Reader, r.digest(), crypto.SHA256)
	if err != nil {
		return fmt.Errorf("sign renewal: %w", err)
	}
	r.Signature = sig
	return nil
}

// Verify checks that the request was signed by the key of the certificate in it
// and that its CSR is well formed and of the same identity. It returns the
// chain and the CSR. The caller still has to verify the chain against its roots
// (at [WithinValidity] when it allows expired ones), and to decide whether the
// identity may be renewed.
func (r *RenewRequest) Verify() ([]*x509.Certificate, *x509.CertificateRequest, error) {
	if len(r.ID) < 16 || len(r.ID) > 64 {
		return nil, nil, fmt.Errorf("renewal id of %d characters, want 16 to 64", len(r.ID))
	}
	chain, err := ParseCertificates([]byte(r.Certificate))
	if err != nil {
		return nil, nil, err
	}
	id, err := LeafID(chain[0])
	if err != nil {
		return nil, nil, err
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, r.digest(), r.Signature) {
		return nil, nil, errors.New("renewal is not signed by the key of its certificate")
	}
	csr, asked, err := ParseCSR(r.CSR)
	if err != nil {
		return nil, nil, err
	}
	if asked != id {
		return nil, nil, fmt.Errorf("certificate of %s cannot renew %s", id, asked)
	}
	return chain, csr, nil
}

func (r *RenewRequest) digest() []byte {
	return digest("hpmq renewal 1", r.Certificate, string(r.CSR), r.ID, r.Time.UTC().Format(time.RFC3339Nano))
}

// digest hashes fields, each behind its length; the first field says their purpose.
func digest(fields ...string) []byte {
	h := sha256.New()
	for _, field := range fields {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
		h.Write([]byte(field))
	}
	return h.Sum(nil)
}

// APIError is a refusal by the enrolment API, and the body that carries it.
type APIError struct {
	Status  int    `json:"-"` // HTTP status
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"` // how to mend it

	retryAfter time.Duration // as the answer asks, else zero
	date       time.Time     // the server's clock, zero when unknown
}

// Error returns the authority's own words.
func (e *APIError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("enrolment API answered HTTP %d", e.Status)
	}
	return e.Message
}

// temporary reports whether the same request may succeed later.
func (e *APIError) temporary() bool { return e.Status >= 500 || e.Status == 429 || e.Status == 408 }

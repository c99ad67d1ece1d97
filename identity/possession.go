package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A proof of possession shows a certificate on a TLS connection that was made with
// another one. The certificate's key signs a value that only the two ends of that
// connection can compute, the tls-exporter of RFC 9266. The proof is
//
//	length of the signature (2 bytes, big endian), signature,
//	certificates in DER, the leaf first, one after another
//
// and the signature, of the leaf's own kind with SHA-256 (Ed25519 without), is of
//
//	"hpmq-certificate", 0, 32 bytes of exporter, SHA-256 of the leaf in DER.
const possessionContext = "hpmq-certificate\x00"

// maxProof bounds the proof before it is parsed: two certificates and a signature
// are about 2 KiB.
const maxProof = 16 << 10

var errProof = errors.New("malformed proof of possession")

// Prove returns the proof that the owner of s holds this end of the connection.
func (s *SVID) Prove(state *tls.ConnectionState) ([]byte, error) {
	chain := s.Chain
	signed, err := possessed(state, chain[0])
	if err != nil {
		return nil, err
	}
	opts := crypto.SignerOpts(crypto.SHA256)
	if _, ok := s.Key.Public().(ed25519.PublicKey); ok {
		opts = crypto.Hash(0)
	} else {
		sum := sha256.Sum256(signed)
		signed = sum[:]
	}
	signature, err := s.Key.Sign(rand.Reader, signed, opts)
	if err != nil {
		return nil, fmt.Errorf("prove possession of %s's key: %w", s.ID, err)
	}
	proof := binary.BigEndian.AppendUint16(nil, uint16(len(signature)))
	proof = append(proof, signature...)
	for _, c := range chain {
		proof = append(proof, c.Raw...)
	}
	return proof, nil
}

// Proven returns the identity and leaf of a proof that the other end of a
// connection sent. At now, b has to vouch for the certificate.
func (b *Bundle) Proven(state *tls.ConnectionState, proof []byte, now time.Time) (ID, *x509.Certificate, error) {
	if len(proof) < 2 || len(proof) > maxProof {
		return ID{}, nil, errProof
	}
	n := int(binary.BigEndian.Uint16(proof))
	proof = proof[2:]
	if n > len(proof) {
		return ID{}, nil, errProof
	}
	chain, err := x509.ParseCertificates(proof[n:])
	if err != nil || len(chain) == 0 {
		return ID{}, nil, errProof
	}
	id, err := b.Verify(chain, now, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return ID{}, nil, err
	}
	signed, err := possessed(state, chain[0])
	if err != nil {
		return ID{}, nil, err
	}
	var algorithm x509.SignatureAlgorithm
	switch chain[0].PublicKey.(type) {
	case *ecdsa.PublicKey:
		algorithm = x509.ECDSAWithSHA256
	case ed25519.PublicKey:
		algorithm = x509.PureEd25519
	case *rsa.PublicKey:
		algorithm = x509.SHA256WithRSA
	}
	if err := chain[0].CheckSignature(algorithm, signed, proof[:n]); err != nil {
		return ID{}, nil, fmt.Errorf("proof of possession of %s's key: %w", id, err)
	}
	return id, chain[0], nil
}

// possessed is the text that the leaf's key signs.
func possessed(state *tls.ConnectionState, leaf *x509.Certificate) ([]byte, error) {
	if state.Version < tls.VersionTLS13 {
		return nil, errors.New("proof of possession needs TLS 1.3")
	}
	exporter, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("proof of possession: %w", err)
	}
	sum := sha256.Sum256(leaf.Raw)
	return append(append([]byte(possessionContext), exporter...), sum[:]...), nil
}

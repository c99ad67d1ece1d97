package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// TLSOption adjusts a configuration made by [ServerConfig] or [ClientConfig]:
// a [Revoked] or [ServeEnded] function, or [AllowTLS12].
type TLSOption interface{ apply(*tlsOptions) }

type tlsOptions struct {
	revoked    Revoked
	serveEnded ServeEnded
	min        uint16
}

// Revoked reports whether the identity behind a genuine leaf certificate has
// been revoked. It runs in every handshake, resumed ones too, and must not
// block.
type Revoked func(leaf *x509.Certificate) bool

func (r Revoked) apply(o *tlsOptions) { o.revoked = r }

// ServeEnded reports whether a peer is let in although its leaf, genuine in all
// else, has ended. It runs in handshakes and must not block. Nil lets none in.
type ServeEnded func(leaf *x509.Certificate) bool

func (f ServeEnded) apply(o *tlsOptions) { o.serveEnded = f }

// AllowTLS12 lets clients with older TLS stacks in, with forward secrecy and
// AEAD ciphers only. It is for listeners that stock MQTT clients use.
var AllowTLS12 TLSOption = minVersion(tls.VersionTLS12)

type minVersion uint16

func (v minVersion) apply(o *tlsOptions) { o.min = uint16(v) }

// aeadSuites are the cipher suites of TLS 1.2 that our ECDSA certificates can use with
// forward secrecy and an AEAD cipher. TLS 1.3 has no other suites.
var aeadSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
}

var errNoSVID = errors.New("this process has no certificate yet")

func newTLSOptions(opts []TLSOption) tlsOptions {
	o := tlsOptions{min: tls.VersionTLS13}
	for _, opt := range opts {
		opt.apply(&o)
	}
	return o
}

// check verifies the chain that a peer proved to own and returns its identity.
func (o tlsOptions) check(src Source, chain []*x509.Certificate, usage x509.ExtKeyUsage) (ID, error) {
	b := src.Bundle()
	if b == nil {
		return ID{}, errNoSVID
	}
	now := time.Now()
	id, err := b.Verify(chain, now, usage)
	if err != nil && o.serveEnded != nil && len(chain) > 0 && now.After(chain[0].NotAfter) {
		late, lateErr := b.Verify(chain, WithinValidity(chain, now), usage)
		if lateErr == nil && o.serveEnded(chain[0]) {
			id, err = late, nil
		}
	}
	if err != nil {
		return ID{}, err
	}
	if o.revoked != nil && o.revoked(chain[0]) {
		return ID{}, fmt.Errorf("%s is revoked", id.Short())
	}
	return id, nil
}

// ServerConfig returns the configuration of a TLS 1.3 server that presents
// src's certificate of the moment and judges clients by src's roots of the
// moment. With tls.RequireAnyClientCert or tls.RequireAndVerifyClientCert a
// client needs a certificate, with tls.RequestClientCert or
// tls.VerifyClientCertIfGiven it may have one. Any certificate that it shows is
// verified: no mode lets an unverified certificate in.
func ServerConfig(src Source, alpn []string, clientAuth tls.ClientAuthType, opts ...TLSOption) *tls.Config {
	o := newTLSOptions(opts)
	required := clientAuth == tls.RequireAnyClientCert || clientAuth == tls.RequireAndVerifyClientCert
	ask := clientAuth // the stock verification would need a fixed pool of roots and run on new sessions only
	switch clientAuth {
	case tls.RequireAndVerifyClientCert:
		ask = tls.RequireAnyClientCert
	case tls.VerifyClientCertIfGiven:
		ask = tls.RequestClientCert
	case tls.NoClientCert, tls.RequestClientCert, tls.RequireAnyClientCert:
	}
	cfg := &tls.Config{
		MinVersion:   o.min,
		CipherSuites: aeadSuites,
		NextProtos:   alpn,
		ClientAuth:   ask,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return presented(src)
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 && !required {
				return nil
			}
			_, err := o.check(src, state.PeerCertificates, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
	resumeInTimeOnly(cfg)
	return cfg
}

// resumeInTimeOnly makes a session ticket useless once the client certificate
// behind it has expired: the client gets a full handshake, in which it shows
// its new one, where VerifyConnection could only end the connection. One that
// [ServeEnded] lets in has a full handshake at each connection.
func resumeInTimeOnly(cfg *tls.Config) {
	const tag = "hpmq-not-after:"
	cfg.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		if len(state.PeerCertificates) > 0 {
			end := state.PeerCertificates[0].NotAfter.Unix()
			session.Extra = append(session.Extra, binary.BigEndian.AppendUint64([]byte(tag), uint64(end)))
		}
		return cfg.EncryptTicket(state, session)
	}
	cfg.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := cfg.DecryptTicket(ticket, state)
		if err != nil || session == nil {
			return nil, err
		}
		for _, extra := range session.Extra {
			if len(extra) == len(tag)+8 && string(extra[:len(tag)]) == tag &&
				time.Now().Unix() > int64(binary.BigEndian.Uint64(extra[len(tag):])) {
				return nil, nil // crypto/tls asks for a full handshake this way
			}
		}
		return session, nil
	}
}

// ClientConfig returns the configuration of a TLS 1.3 client that presents
// src's certificate and accepts a server whose certificate names expect, or any
// identity of the trust domain when expect is zero. The host name dialled says
// nothing about a peer here and is not compared.
func ClientConfig(src Source, alpn []string, expect ID, opts ...TLSOption) *tls.Config {
	o := newTLSOptions(opts)
	return &tls.Config{
		MinVersion:   o.min,
		CipherSuites: aeadSuites,
		NextProtos:   alpn,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return presented(src)
		},
		InsecureSkipVerify: true, // replaced by VerifyConnection, which also runs on resumption
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := o.check(src, state.PeerCertificates, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if !expect.IsZero() && id != expect {
				return fmt.Errorf("peer is %s, want %s", id, expect)
			}
			return nil
		},
	}
}

func presented(src Source) (*tls.Certificate, error) {
	s := src.SVID()
	if s == nil {
		return nil, errNoSVID
	}
	c := s.TLSCertificate()
	return &c, nil
}

// PeerID returns the identity of the other end of a connection that was made
// with [ServerConfig] or [ClientConfig], which have verified its chain. The zero
// ID without an error is a client that showed no certificate.
func PeerID(state tls.ConnectionState, b *Bundle) (ID, error) {
	if len(state.PeerCertificates) == 0 {
		return ID{}, nil
	}
	id, err := LeafID(state.PeerCertificates[0])
	if err != nil {
		return ID{}, err
	}
	if id.TrustDomain != b.TrustDomain() {
		return ID{}, fmt.Errorf("%s is outside trust domain %q", id, b.TrustDomain())
	}
	return id, nil
}

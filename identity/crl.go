package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"time"
)

// CRL is revocation lists that were verified, for TLS clients that know nothing of
// the directory. There is one of each issuing certificate: such a client refuses
// every certificate whose issuer has no list. They share one number.
type CRL struct{ lists []*x509.RevocationList }

// The most lists, and certificates of their issuers, in one CRL: an authority
// keeps four earlier intermediates.
const maxLists = 8

const crlBlock = "X509 CRL"

// errNoCRL says that a text holds no list.
var errNoCRL = errors.New("no revocation list in it")

// ParseCRL reads lists (PEM) together with the certificates of their issuers, and
// verifies that each list was signed by a root of b or by an intermediate below
// one. It looks at no clock: an old list is told by its number.
func ParseCRL(text []byte, b *Bundle) (*CRL, error) {
	c, certs, err := decodeCRL(text)
	if err != nil {
		return nil, err
	}
	issuers := b.Roots()
	for _, cert := range certs {
		// The key first: see [Bundle.Verify].
		if !isP256(cert.PublicKey) || !slices.ContainsFunc(b.roots, func(root *x509.Certificate) bool {
			return cert.CheckSignatureFrom(root) == nil
		}) {
			return nil, fmt.Errorf("issuer %q is not of this fabric", cert.Subject.CommonName)
		}
		issuers = append(issuers, cert)
	}
	for _, list := range c.lists {
		if !slices.ContainsFunc(issuers, func(by *x509.Certificate) bool { return signedBy(list, by) }) {
			return nil, fmt.Errorf("list of %q is not signed by an authority of this fabric", list.Issuer.CommonName)
		}
	}
	return c, nil
}

func signedBy(list *x509.RevocationList, by *x509.Certificate) bool {
	return bytes.Equal(list.AuthorityKeyId, by.SubjectKeyId) && bytes.Equal(list.RawIssuer, by.RawSubject) &&
		list.CheckSignatureFrom(by) == nil
}

// decodeCRL reads lists and certificates without verifying them.
func decodeCRL(text []byte) (*CRL, []*x509.Certificate, error) {
	if len(text) > MaxCRLBytes {
		return nil, nil, fmt.Errorf("%d bytes, at most %d", len(text), MaxCRLBytes)
	}
	c := new(CRL)
	var certs []*x509.Certificate
	rest := text
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case crlBlock:
			list, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			if err := c.add(list); err != nil {
				return nil, nil, err
			}
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, cert)
		default:
			return nil, nil, fmt.Errorf("PEM block %q", block.Type)
		}
		if len(c.lists) > maxLists || len(certs) > maxLists {
			return nil, nil, fmt.Errorf("more than %d lists or issuers", maxLists)
		}
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, errors.New("torn: what follows the last whole PEM block is none")
	}
	if len(c.lists) == 0 {
		return nil, nil, errNoCRL
	}
	return c, certs, nil
}

// add adds a list that a client can tell from an older one.
func (c *CRL) add(list *x509.RevocationList) error {
	switch {
	case list.Number == nil || len(list.AuthorityKeyId) == 0 || !list.NextUpdate.After(list.ThisUpdate):
		return fmt.Errorf("list of %q without number, key id or end", list.Issuer.CommonName)
	case c.of(list.AuthorityKeyId) != nil:
		return fmt.Errorf("two lists of %q", list.Issuer.CommonName)
	}
	c.lists = append(c.lists, list)
	return nil
}

// of returns the list of the issuer with this key id, nil if there is none.
func (c *CRL) of(keyID []byte) *x509.RevocationList {
	for _, list := range c.lists {
		if bytes.Equal(list.AuthorityKeyId, keyID) {
			return list
		}
	}
	return nil
}

// Encode returns the lists alone as PEM, the form that stock clients read.
func (c *CRL) Encode() []byte {
	var text []byte
	for _, list := range c.lists {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: crlBlock, Bytes: list.Raw})...)
	}
	return text
}

// NextUpdate returns when the first of the lists ends. From then on stock clients
// refuse all certificates of its issuer.
func (c *CRL) NextUpdate() time.Time {
	end := c.lists[0].NextUpdate
	for _, list := range c.lists[1:] {
		if list.NextUpdate.Before(end) {
			end = list.NextUpdate
		}
	}
	return end
}

// fresh reports whether one of the lists was signed lately.
func (c *CRL) fresh(now time.Time) bool {
	return slices.ContainsFunc(c.lists, func(list *x509.RevocationList) bool { return now.Sub(list.ThisUpdate) < staleCRL })
}

// Revokes reports whether a list of the certificate's issuer names it.
func (c *CRL) Revokes(leaf *x509.Certificate) bool {
	list := c.of(leaf.AuthorityKeyId)
	return list != nil && slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return e.SerialNumber.Cmp(leaf.SerialNumber) == 0
	})
}

// follow returns an error if c is older than was, and otherwise takes over the
// lists of issuers that c lacks and that had not ended at now: the node that passed
// c on may have left them out.
func (c *CRL) follow(was *CRL, now time.Time) error {
	for _, old := range was.lists {
		if list := c.of(old.AuthorityKeyId); list != nil && list.Number.Cmp(old.Number) < 0 {
			return fmt.Errorf("list of %q has number %v, which is older than %v that is here", list.Issuer.CommonName, list.Number, old.Number)
		}
	}
	for _, old := range was.lists {
		if c.of(old.AuthorityKeyId) == nil && now.Before(old.NextUpdate) && len(c.lists) < maxLists {
			c.lists = append(c.lists, old)
		}
	}
	return nil
}

// CRLSource brings revocation lists in the form of [ParseCRL]. They need not be
// genuine.
type CRLSource func(context.Context) ([]byte, error)

// HTTPCRL returns the sources at the addresses (host:port of the enrolment API),
// each of which trusts src's roots. A nil dial is a net.Dialer.
func HTTPCRL(src Source, addrs []string, dial Dialer) []CRLSource {
	all := make([]CRLSource, 0, len(addrs))
	for _, addr := range addrs {
		all = append(all, func(ctx context.Context) ([]byte, error) {
			c := newAPIClient(addr, dial, apiTLS(verifyServer(src.Bundle())))
			c.limit = MaxCRLBytes
			text, _, err := c.do(ctx, http.MethodGet, CRLPath, nil)
			if _, refusal := errors.AsType[*APIError](err); refusal {
				return nil, fmt.Errorf("%s: %w", addr, err)
			}
			return text, err
		})
	}
	return all
}

// The patience with one source of revocation lists and with all of them. The
// certificate is in place by then, and its owner waits to use it.
const (
	crlTimeout  = 10 * time.Second
	crlTimeouts = 30 * time.Second
)

// staleCRL is how old the newest list of a source may be before the next source is
// asked too: a node that was revoked would rather pass on the list of before. A list
// begins a day before it is signed and is signed every day; a day is for clocks.
const staleCRL = 3 * 24 * time.Hour

// UpdateCRL writes [CRLFile] from the first source with lists that are genuine, fresh
// and not older than the lists on disk. Where none is fresh the newest is
// taken. On an error the file is as it was.
func (s *Store) UpdateCRL(ctx context.Context, sources ...CRLSource) (*CRL, error) {
	if s.Bundle() == nil {
		return nil, errNoSVID
	}
	ctx, cancel := context.WithTimeout(ctx, crlTimeouts)
	defer cancel()
	if len(sources) == 0 {
		return nil, fmt.Errorf("%w: no address of the enrolment API is known", ErrUnreachable)
	}
	var newest *CRL
	var all error
	for _, get := range sources { // also after a refusal: another node may be newer, or honest
		c, err := s.updateCRL(ctx, get)
		switch {
		case err == nil:
			if newest = c; c.fresh(time.Now()) {
				return c, nil
			}
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	if newest != nil {
		return newest, nil
	}
	return nil, all
}

func (s *Store) updateCRL(ctx context.Context, get CRLSource) (*CRL, error) {
	ctx, cancel := context.WithTimeout(ctx, crlTimeout)
	defer cancel()
	text, err := get(ctx)
	if err != nil {
		return nil, err
	}
	c, err := ParseCRL(text, s.Bundle())
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	s.disk.Lock()
	defer s.disk.Unlock()
	was, err := s.readCRL()
	if err != nil {
		return nil, err
	}
	if err := c.follow(was, time.Now()); err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	return c, s.write(CRLFile, c.Encode(), 0o644)
}

// readCRL returns the lists on disk, which were verified when they were written.
// A damaged file is none: it is replaced.
func (s *Store) readCRL() (*CRL, error) {
	text, err := os.ReadFile(s.path(CRLFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c, _, err := decodeCRL(text)
	if err != nil {
		return new(CRL), nil //nolint:nilerr // as above
	}
	return c, nil
}

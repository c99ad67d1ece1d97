package authority

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/atomicfile"
)

// A revocation list lasts crlLife. One that is older than crlAge is signed anew at
// the next request.
const (
	crlLife = 30 * 24 * time.Hour
	crlAge  = 24 * time.Hour
)

// crl is the newest revocation list.
type crl struct {
	signing sync.Mutex // one at a time; guards the fields below

	number *big.Int // of the newest, nil until it is known
	text   []byte   // nil until this process has signed one
	signed time.Time
	upTo   uint64   // directory.LastRevocation then
	by     []issuer // that signed it
}

// CRL returns revocation lists for stock TLS clients, as identity.ParseCRL reads
// them: one of each issuer with certificates that may still be in use, and the root's
// own. They name each certificate that was revoked, or whose key was given up,
// before its end.
//
// They are signed at a request, when the lists at hand are a day old or lack a
// revocation. So the first answer after a revocation has it, a hundred revocations
// in a row cost one signature, and no list is signed that no client fetches.
func (a *Authority) CRL(context.Context) ([]byte, error) {
	c := &a.crl
	c.signing.Lock()
	defer c.signing.Unlock()
	by, err := a.keys.listSigners()
	if err != nil {
		return nil, err
	}
	now := a.now()
	// Signed later than now means that the clock ran ahead then.
	fresh := !now.Before(c.signed) && now.Before(c.signed.Add(crlAge))
	if c.text != nil && fresh && c.upTo == a.dir.LastRevocation() && slices.EqualFunc(by, c.by, sameIssuer) {
		return c.text, nil
	}
	if err := a.signCRL(by, now); err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return c.text, nil
}

func sameIssuer(a, b issuer) bool { return a.cert.Equal(b.cert) }

// signCRL makes the next lists the newest. The caller holds crl.signing.
func (a *Authority) signCRL(by []issuer, now time.Time) error {
	// As far back as certificates begin: a client with a clock so slow that it needs
	// this for a certificate needs it for the list too. Certificates that had ended by
	// then are left out.
	since := now.Add(-identity.Backdate)
	leaves, upTo, err := a.dir.RevokedLeaves(since)
	if err != nil {
		return err
	}
	number := a.nextCRLNumber(now)
	var text []byte
	for _, i := range by {
		list, err := signList(i, &x509.RevocationList{
			Number: number, ThisUpdate: since, NextUpdate: since.Add(crlLife), RevokedCertificateEntries: entriesOf(i, leaves),
		})
		if err != nil {
			return err
		}
		text = append(text, list...)
	}
	text = append(text, a.keys.rootList...)
	for _, i := range by {
		text = append(text, identity.EncodeCertificates(i.cert)...)
	}
	if len(text) > identity.MaxCRLBytes {
		return fmt.Errorf("%d certificates that have not ended are revoked: %d bytes, clients take %d", len(leaves), len(text), identity.MaxCRLBytes)
	}
	// On disk before a client sees it: after a restart the numbers go on from here.
	if err := atomicfile.Write(a.crlPath(), text, 0o600); err != nil {
		return err
	}
	a.crl.number, a.crl.text, a.crl.signed, a.crl.upTo, a.crl.by = number, text, now, upTo, by
	a.log.WithField("certificates", len(leaves)).WithField("number", number).Info("revocation list signed")
	return nil
}

func (a *Authority) crlPath() string { return filepath.Join(a.keys.dir, crlFile) }

// nextCRLNumber is the time in milliseconds. So it is also higher than numbers
// signed after a backup that was restored since. The number on disk covers a clock
// that went back.
func (a *Authority) nextCRLNumber(now time.Time) *big.Int {
	last := a.crl.number
	if last == nil {
		last = a.crlNumberOnDisk()
	}
	next := new(big.Int).Add(last, big.NewInt(1))
	if wall := big.NewInt(max(now.UnixMilli(), 0)); wall.Cmp(next) > 0 {
		return wall
	}
	return next
}

// crlNumberOnDisk returns the number of the newest list that an earlier process
// signed, 0 for none. A damaged file is none: the clock alone has to do then.
func (a *Authority) crlNumberOnDisk() *big.Int {
	text, err := os.ReadFile(a.crlPath())
	if err != nil {
		return new(big.Int)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return new(big.Int)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil || list.Number == nil {
		return new(big.Int)
	}
	return list.Number
}

// entriesOf returns the entries of the certificates that i issued.
func entriesOf(i issuer, leaves []directory.RevokedLeaf) []x509.RevocationListEntry {
	var entries []x509.RevocationListEntry
	for _, l := range leaves {
		if bytes.Equal(l.Leaf.AuthorityKeyId, i.cert.SubjectKeyId) {
			entries = append(entries, x509.RevocationListEntry{SerialNumber: l.Leaf.SerialNumber, RevocationTime: l.Time})
		}
	}
	return entries
}

// signList returns the list that i signs, as PEM.
func signList(i issuer, list *x509.RevocationList) ([]byte, error) {
	der, err := x509.CreateRevocationList(rand.Reader, list, i.cert, i.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

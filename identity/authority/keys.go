package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
)

// The validity of the authority's own certificates.
const (
	rootLifetime         = 10 * 365 * 24 * time.Hour
	intermediateLifetime = 365 * 24 * time.Hour
)

// maxEarlier bounds the earlier intermediates kept for the certificates they issued.
const maxEarlier = 4

// The files of a key directory, all of mode 0600. root.key may be taken away
// and kept elsewhere: it is used once a year, to renew the intermediate.
const (
	rootFile         = "root.crt"
	rootKeyFile      = "root.key"
	intermediateFile = "intermediate.pem" // see encodeIssuer
	signerFile       = "signer.key"
	rootListFile     = "root.crl" // see ensureRootList
	crlFile          = "crl.pem"  // the newest of Authority.CRL, for its number
)

// Keys are the secrets of an authority: the root, the intermediate that issues,
// and the directory's signer, which is apart from both.
type Keys struct {
	dir         string
	trustDomain string
	now         func() time.Time
	root        *x509.Certificate
	rootList    []byte // see ensureRootList; nil if there is none
	signer      ed25519.PrivateKey

	mu       sync.Mutex
	issuer   issuer
	earlier  []issuer // that issued certificates still valid; their keys sign revocation lists
	renewErr error    // why the renewal of issuer failed, although it is due
}

// issuer is a certificate that issues, and its key. The key of an earlier one is
// nil where a version before revocation lists renewed it: then its certificates
// cannot be revoked in a list.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// ErrClock is wrapped by errors about a clock that cannot be right.
var ErrClock = errors.New("this machine's clock is wrong")

// earliest is before every release of this program. An earlier clock is wrong, as one
// without a battery is. It would make a root that has expired by the time the clock is
// put right.
var earliest = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// checkClock returns an error if it cannot be as early as now.
func checkClock(now, since time.Time, what string) error {
	if !now.Before(since) {
		return nil
	}
	return fmt.Errorf("%w: it says %s, and %s", ErrClock, now.UTC().Format(time.RFC3339), what)
}

// OpenKeys loads the keys of trustDomain from dir, or makes them on a first run:
// all of them appear at once, or none. An intermediate with less than a third
// of its life left is renewed.
func OpenKeys(dir, trustDomain string, now func() time.Time) (*Keys, error) {
	if now == nil {
		now = time.Now
	}
	k := &Keys{dir: dir, trustDomain: trustDomain, now: now}
	_, err := os.Stat(filepath.Join(dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = k.create()
	}
	if err == nil {
		err = k.load()
	}
	if err == nil {
		_, err = k.current()
	}
	if err != nil {
		return nil, fmt.Errorf("CA keys in %s: %w", dir, err)
	}
	return k, nil
}

// Signer returns the key that signs directory records and tickets.
func (k *Keys) Signer() ed25519.PrivateKey { return k.signer }

// SignerKey returns the public half of [Keys.Signer], which tickets pin and a
// directory is opened with.
func (k *Keys) SignerKey() ed25519.PublicKey { return k.signer.Public().(ed25519.PublicKey) }

// Root returns the root certificate.
func (k *Keys) Root() *x509.Certificate { return k.root }

// Bundle returns the trust bundle of the domain.
func (k *Keys) Bundle() *identity.Bundle { return identity.NewBundle(k.trustDomain, k.root) }

// create makes all keys beside dir and then moves them into place.
func (k *Keys) create() error {
	if left, err := os.ReadDir(k.dir); err == nil && len(left) > 0 {
		return fmt.Errorf("%s is missing but other files are there; restore the directory from a backup, or move it away to make a new CA that no existing device trusts", rootFile)
	}
	if err := checkClock(k.now(), earliest, "this program is of "+earliest.Format("January 2006")+" or later"); err != nil {
		return err
	}
	fresh := k.dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return err
	}
	rootKey, err := newKey()
	if err != nil {
		return err
	}
	root, err := k.newRoot(rootKey)
	if err != nil {
		return err
	}
	inter, err := k.newIntermediate(root, rootKey)
	if err != nil {
		return err
	}
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKeys(fresh, root, rootKey, inter, signer); err != nil {
		return err
	}
	if err := os.Remove(k.dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // empty, or absent
		return err
	}
	if err := os.Rename(fresh, k.dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(k.dir))
}

func writeKeys(dir string, root *x509.Certificate, rootKey crypto.Signer, inter issuer, signer ed25519.PrivateKey) error {
	rootText, err := encodeKey(rootKey)
	if err != nil {
		return err
	}
	interText, err := encodeIssuer(inter, nil)
	if err != nil {
		return err
	}
	signerText, err := encodeKey(signer)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{
		{rootKeyFile, rootText},
		{rootFile, identity.EncodeCertificates(root)},
		{intermediateFile, interText},
		{signerFile, signerText},
	} {
		if err := atomicfile.Write(filepath.Join(dir, f.name), f.text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keys) load() error {
	text, err := os.ReadFile(filepath.Join(k.dir, rootFile))
	if err != nil {
		return err
	}
	roots, err := identity.ParseCertificates(text)
	if err != nil {
		return fmt.Errorf("%s: %w", rootFile, err)
	}
	k.root = roots[0]
	if k.issuer, k.earlier, err = k.readIssuer(); err != nil {
		return fmt.Errorf("%s: %w", intermediateFile, err)
	}
	key, err := readKey(filepath.Join(k.dir, signerFile))
	if err != nil {
		return err
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("%s: want an Ed25519 key", signerFile)
	}
	k.signer = signer
	return nil
}

func (k *Keys) readIssuer() (issuer, []issuer, error) {
	text, err := os.ReadFile(filepath.Join(k.dir, intermediateFile))
	if err != nil {
		return issuer{}, nil, err
	}
	all, err := decodeIssuers(text)
	if err != nil {
		return issuer{}, nil, err
	}
	if err := all[0].cert.CheckSignatureFrom(k.root); err != nil {
		return issuer{}, nil, fmt.Errorf("not issued by %s: %w", rootFile, err)
	}
	if all[0].key == nil {
		return issuer{}, nil, errors.New("key and certificate do not fit")
	}
	return all[0], all[1:], nil
}

// current returns the issuer, renewed first when less than a third of its life
// is left, or when a clock that ran ahead put its beginning into the future.
// While it cannot be renewed it is used to its end.
func (k *Keys) current() (issuer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	cert, now := k.issuer.cert, k.now()
	issued := identity.Issued(cert)
	ends := cert.NotAfter.Sub(now) <= cert.NotAfter.Sub(issued)/3
	ahead := now.Before(issued) && !now.Before(identity.Issued(k.root)) // before the root was made, the clock is wrong now
	if !ends && !ahead {
		k.renewErr = nil
		return k.issuer, nil
	}
	k.renewErr = k.renewIssuer()
	if k.renewErr != nil && now.After(cert.NotAfter) {
		return issuer{}, fmt.Errorf("renew the intermediate certificate, which ended %s: %w", cert.NotAfter.Format(time.DateOnly), k.renewErr)
	}
	return k.issuer, nil
}

// renewalFailure returns the issuer's end and why it could not be renewed though
// it is due, nil when it is not or was.
func (k *Keys) renewalFailure() (end time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.issuer.cert.NotAfter, k.renewErr
}

func (k *Keys) renewIssuer() error {
	rootKey, err := readKey(filepath.Join(k.dir, rootKeyFile))
	if err != nil {
		return err
	}
	next, err := k.newIntermediate(k.root, rootKey)
	if err != nil {
		return err
	}
	earlier := append([]issuer{k.issuer}, k.earlier...)
	earlier = slices.DeleteFunc(earlier, func(i issuer) bool { return k.now().After(i.cert.NotAfter) })
	earlier = earlier[:min(len(earlier), maxEarlier)]
	text, err := encodeIssuer(next, earlier)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(k.dir, intermediateFile), text, 0o600); err != nil {
		return err
	}
	k.issuer, k.earlier = next, earlier
	return nil
}

// chain returns leaf and the intermediate that issued it.
func (k *Keys) chain(leaf *x509.Certificate) ([]*x509.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, i := range append([]issuer{k.issuer}, k.earlier...) {
		if leaf.CheckSignatureFrom(i.cert) == nil {
			return []*x509.Certificate{leaf, i.cert}, nil
		}
	}
	return nil, errors.New("certificate of an intermediate that is gone")
}

// listSigners returns the issuers that sign revocation lists, the current one
// first: all issuers with certificates that may be in use and a key that is here.
func (k *Keys) listSigners() ([]issuer, error) {
	if _, err := k.current(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	all := []issuer{k.issuer}
	for _, i := range k.earlier {
		if i.key != nil && !k.now().Add(-identity.Backdate).After(i.cert.NotAfter) {
			all = append(all, i)
		}
	}
	return all, nil
}

// ensureRootList makes the root's own revocation list where there is none. It is
// empty and lasts as long as the root: an intermediate cannot be revoked, but
// clients such as curl check it all the same. The root key must be there for that.
func (k *Keys) ensureRootList() error {
	path := filepath.Join(k.dir, rootListFile)
	if text, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(text); block != nil {
			list, err := x509.ParseRevocationList(block.Bytes)
			if err == nil && list.CheckSignatureFrom(k.root) == nil {
				k.rootList = text
				return nil
			}
		}
	}
	key, err := readKey(filepath.Join(k.dir, rootKeyFile))
	if err != nil {
		return err
	}
	text, err := signList(issuer{k.root, key}, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: k.root.NotBefore, NextUpdate: k.root.NotAfter,
	})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(path, text, 0o600); err != nil {
		return err
	}
	k.rootList = text
	return nil
}

func (k *Keys) newRoot(key crypto.Signer) (*x509.Certificate, error) {
	now := k.now()
	issued, err := identity.IssuedExtension(now)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: k.trustDomain + " root"},
		NotBefore: now.Add(-identity.Backdate), NotAfter: now.Add(rootLifetime),
		ExtraExtensions: []pkix.Extension{issued},
		IsCA:            true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return certify(t, t, key.Public(), key)
}

func (k *Keys) newIntermediate(root *x509.Certificate, rootKey crypto.Signer) (issuer, error) {
	key, err := newKey()
	if err != nil {
		return issuer{}, err
	}
	now := k.now()
	issued, err := identity.IssuedExtension(now)
	if err != nil {
		return issuer{}, err
	}
	end := now.Add(intermediateLifetime)
	if end.After(root.NotAfter) {
		end = root.NotAfter
	}
	cert, err := certify(&x509.Certificate{
		Subject:   pkix.Name{CommonName: k.trustDomain + " intermediate"},
		NotBefore: now.Add(-identity.Backdate), NotAfter: end,
		ExtraExtensions: []pkix.Extension{issued},
		IsCA:            true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, root, key.Public(), rootKey)
	return issuer{cert, key}, err
}

func certify(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

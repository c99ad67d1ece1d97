package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/internal/atomicfile"
)

// The files of a [Store]. Stock TLS clients can be pointed at the first four.
const (
	KeyFile       = "key.pem"        // PKCS#8, mode 0600
	CertFile      = "cert.pem"       // leaf, then intermediates
	RootsFile     = "ca.pem"         // roots
	CRLFile       = "crl.pem"        // revocation lists, see Store.UpdateCRL
	EnrolmentFile = "enrolment.json" // see Enrolment

	pendingFile = "pending.json" // see pending
	lockFile    = ".lock"
)

// ErrBusy says that another process is enrolling or renewing in the directory.
var ErrBusy = errors.New("another process is enrolling or renewing here")

// Store keeps one identity in a directory: key, certificate and roots. It is a
// [Source] of the identity that it last read or saved, and safe for concurrent use.
//
// Key and certificate are two files because stock clients want two, so they
// cannot change at once on disk. A new key is therefore kept in a third file until
// both are in place. After a crash between the steps, reading the directory finds
// the key that fits the certificate and finishes the change.
type Store struct {
	dir     string
	replace func(path string, data []byte, perm fs.FileMode) error // atomicfile.Write; the tests' disk may be full

	disk sync.Mutex // guards the files, and the order of their changes and of cur's
	cur  atomic.Pointer[material]
}

// material is the content of a Source, swapped as one.
type material struct {
	svid   *SVID
	bundle *Bundle
}

// Enrolment is the knowledge of an enrolled directory besides its certificate: the
// addresses for the next certificate and for connections.
type Enrolment struct {
	ID     ID       `json:"id"`
	Site   string   `json:"site"`
	Signer []byte   `json:"signer"` // the first directory signer, pinned by the ticket
	API    []string `json:"api"`    // host:port to renew at
	MQTT   []string `json:"mqtt,omitempty"`
	Mesh   []string `json:"mesh,omitempty"`

	Ticket []string `json:"ticket,omitempty"` // the addresses of the ticket, for when no other answers
	// Heard is a node's later answer, which may not be true: it never takes the place
	// of the other fields.
	Heard Addresses `json:"heard,omitzero"`
}

// Addresses are where nodes are reached, host:port, the nearest first.
type Addresses struct {
	API  []string `json:"api,omitempty"`
	MQTT []string `json:"mqtt,omitempty"`
	Mesh []string `json:"mesh,omitempty"`
}

// IsZero reports whether there are none.
func (a Addresses) IsZero() bool { return len(a.API)+len(a.MQTT)+len(a.Mesh) == 0 }

// Known returns every address that is known, the newest first, each once.
func (e *Enrolment) Known() Addresses {
	return Addresses{
		API:  onlyOnce(e.Heard.API, e.API, e.Ticket),
		MQTT: onlyOnce(e.Heard.MQTT, e.MQTT),
		Mesh: onlyOnce(e.Heard.Mesh, e.Mesh),
	}
}

func onlyOnce(lists ...[]string) []string {
	var all []string
	for _, addr := range slices.Concat(lists...) {
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

// OpenStore reads the identity in dir. A directory without one, or none at all,
// is an empty store that [Store.Save] fills.
func OpenStore(dir string) (*Store, error) {
	s := &Store{dir: dir, replace: atomicfile.Write}
	return s, s.Reload()
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

// SVID returns the identity, nil in an empty store.
func (s *Store) SVID() *SVID {
	if m := s.cur.Load(); m != nil {
		return m.svid
	}
	return nil
}

// Bundle returns the roots, nil in an empty store.
func (s *Store) Bundle() *Bundle {
	if m := s.cur.Load(); m != nil {
		return m.bundle
	}
	return nil
}

// Reload reads the directory again, for the case that another process renewed
// the certificate. On an error the store keeps its content.
func (s *Store) Reload() error { return s.reload(false) }

// reload is Reload. With locked, the caller holds the directory's lock, and reload
// finishes a change of key that a crash interrupted. Without the lock another process
// may be making that change.
func (s *Store) reload(locked bool) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	m, err := s.read(locked)
	for range 3 { // one file was read before, the other after another process changed both
		if !errors.Is(err, errMixed) {
			break
		}
		m, err = s.read(locked)
	}
	if errors.Is(err, errUnfinished) {
		m, err = s.finishLocked(m)
	}
	if err != nil {
		return err
	}
	s.cur.Store(m)
	return nil
}

var (
	errMixed      = errors.New("do not belong together; enrol again into an empty directory")
	errUnfinished = errors.New("the key of the certificate is not in its place yet")
)

// finishLocked finishes an interrupted change, unless another process is at
// work, or this one may only read, or the disk is full: m will do then.
func (s *Store) finishLocked(m *material) (*material, error) {
	unlock, err := s.tryLock()
	if err != nil {
		return m, nil //nolint:nilerr // as above
	}
	defer unlock()
	done, err := s.read(true)
	if done != nil {
		return done, nil // whole, be it that the change could not be finished
	}
	return nil, err
}

// A process that only reads holds the lock for an instant, to finish an interrupted
// change. lock waits that long for it, in steps of lockPause; a renewal takes longer.
const (
	lockPatience = time.Second
	lockPause    = 5 * time.Millisecond
)

// lock is tryLock for a change of the identity.
func (s *Store) lock() (unlock func(), err error) {
	for deadline := time.Now().Add(lockPatience); ; <-time.After(lockPause) {
		unlock, err = s.tryLock()
		if !errors.Is(err, ErrBusy) || time.Now().After(deadline) {
			return unlock, err
		}
	}
}

// Save writes an identity and its roots to disk and makes them the current
// ones. When it fails, the directory holds either the old pair or the new.
func (s *Store) Save(svid *SVID, bundle *Bundle) error {
	if _, err := NewSVID(svid.Chain, svid.Key); err != nil {
		return err
	}
	key, err := encodeKey(svid.Key)
	if err != nil {
		return err
	}
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if cur := s.SVID(); cur == nil || !samePublicKey(cur.Key.Public(), svid.Key.Public()) {
		// A key that is only kept until its change is finished must not be lost.
		if m, err := s.read(true); m != nil && err != nil {
			return err
		}
		if err := s.keepKey(svid, key); err != nil {
			return err
		}
	}
	if err := s.write(RootsFile, EncodeCertificates(bundle.Roots()...), 0o644); err != nil {
		return err
	}
	if err := s.write(CertFile, EncodeCertificates(svid.Chain...), 0o644); err != nil {
		return err
	}
	if err := s.write(KeyFile, key, 0o600); err != nil {
		return err
	}
	s.cur.Store(&material{svid, bundle})
	return s.dropPending()
}

// read returns the content of the directory, nil for nothing. With errUnfinished it
// returns the content after the change.
func (s *Store) read(locked bool) (*material, error) {
	certs, err := os.ReadFile(s.path(CertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // an empty store
	}
	if err != nil {
		return nil, err
	}
	chain, err := ParseCertificates(certs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(CertFile), err)
	}
	roots, err := s.readRoots()
	if err != nil {
		return nil, err
	}
	svid, err := s.pairKey(chain, locked)
	if svid == nil {
		return nil, err
	}
	return &material{svid, NewBundle(svid.ID.TrustDomain, roots...)}, err
}

func (s *Store) readRoots() ([]*x509.Certificate, error) {
	text, err := os.ReadFile(s.path(RootsFile))
	if err != nil {
		return nil, err
	}
	roots, err := ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(RootsFile), err)
	}
	return roots, nil
}

// pairKey finds the key of the certificate on disk: the one in its place, or
// the pending one when a crash came between the two. With locked, the caller holds
// the directory's lock, and pairKey finishes the change.
func (s *Store) pairKey(chain []*x509.Certificate, locked bool) (*SVID, error) {
	text, err := s.readSecret(KeyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		key, err := decodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.path(KeyFile), err)
		}
		if svid, err := NewSVID(chain, key); err == nil {
			return svid, nil
		}
	}
	p, err := s.readPending()
	if err != nil {
		return nil, err
	}
	if p != nil {
		if key, err := decodeKey([]byte(p.Key)); err == nil {
			if svid, err := NewSVID(chain, key); err == nil {
				if !locked {
					return svid, errUnfinished
				}
				return svid, s.finish(p)
			}
		}
	}
	if text == nil {
		return nil, fmt.Errorf("%s: missing, so %s is of no use; enrol again into an empty directory", s.path(KeyFile), CertFile)
	}
	return nil, fmt.Errorf("%s and %s %w", s.path(CertFile), KeyFile, errMixed)
}

// Enrolment returns the Enrolment that was saved with the certificate, nil for a
// store that was filled without a ticket.
func (s *Store) Enrolment() (*Enrolment, error) {
	text, err := os.ReadFile(s.path(EnrolmentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // not enrolled by ticket
	}
	if err != nil {
		return nil, err
	}
	e := new(Enrolment)
	if err := json.Unmarshal(text, e); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(EnrolmentFile), err)
	}
	return e, nil
}

// ChangeEnrolment lets change alter the saved Enrolment, and writes it if it
// changed. A store that was filled without a ticket has nothing to alter.
func (s *Store) ChangeEnrolment(change func(*Enrolment)) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	e, err := s.Enrolment()
	if err != nil || e == nil {
		return err
	}
	was, err := json.Marshal(e)
	if err != nil {
		return err
	}
	change(e)
	if now, err := json.Marshal(e); err != nil || bytes.Equal(was, now) {
		return err
	}
	return s.saveEnrolment(e)
}

func (s *Store) saveEnrolment(e *Enrolment) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return s.write(EnrolmentFile, append(text, '\n'), 0o644)
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// readSecret reads a file that holds a private key. It refuses a file that other
// users can read.
func (s *Store) readSecret(name string) ([]byte, error) {
	info, err := os.Stat(s.path(name))
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s holds a private key and others may use it (mode %04o): chmod 600 %[1]s", s.path(name), mode)
	}
	return os.ReadFile(s.path(name))
}

// write replaces a file of the directory.
func (s *Store) write(name string, data []byte, perm fs.FileMode) error {
	return s.replace(s.path(name), data, perm)
}

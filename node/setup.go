package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/policy"
)

// settings are the facts of its start that a data directory remembers.
type settings struct {
	TrustDomain string            `json:"trust_domain"`
	Node        string            `json:"node"` // name
	Site        string            `json:"site"`
	Signer      ed25519.PublicKey `json:"signer,omitempty"`    // first directory signer; empty where the CA is
	Bootstrap   []string          `json:"bootstrap,omitempty"` // mesh addresses that came with the certificate
}

// adminName is the operator that a new fabric begins with.
const adminName = "admin"

const issueTimeout = 30 * time.Second

func settingsPath(dir string) string { return filepath.Join(dir, "node.json") }

// UserDir is where the operator's own identity lies in the data directory dir.
func UserDir(dir string) string { return filepath.Join(dir, "user") }

// PolicyDir is where the policy files lie in the data directory dir of a CA node.
func PolicyDir(dir string) string { return filepath.Join(dir, "policy") }

// lockDataDir makes sure that one node at a time uses dir.
func lockDataDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, control.Fail(control.Failed, "choose another directory: --data DIR", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, control.Fail(control.Failed, "choose another directory: --data DIR", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, &control.Error{
			Code: control.Conflict, Err: fmt.Errorf("a node runs in %s already", dir),
			Hint: "for a second node beside it: hpmq up --data OTHER --ports +100 --join TICKET",
		}
	}
	// The process id is for people and scripts, as in kill -HUP; the lock is the
	// kernel's.
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, control.Fail(control.Failed, "make room there, or choose another directory: --data DIR", err)
	}
	return f, nil
}

func writePID(f *os.File) error {
	_, err := fmt.Fprintln(f, os.Getpid())
	return err
}

// setUp gives the node its identity and its directory: from the data directory,
// from a site ticket, or as the first node of a new fabric.
func (n *Node) setUp(ctx context.Context) error {
	s, err := readSettings(n.cfg.DataDir)
	if err != nil {
		return err
	}
	n.fresh = s == nil
	switch {
	case s == nil && n.cfg.Join != "":
		s, err = n.joinFabric(ctx)
	case s == nil:
		s, err = n.foundFabric()
	case n.cfg.Join != "":
		n.log.Info("--join is not needed any more: this data directory has an identity")
	}
	if err != nil {
		return err
	}
	if n.cfg.Site != "" && n.cfg.Site != s.Site {
		return &control.Error{
			Code: control.Conflict, Err: fmt.Errorf("%s belongs to site %s, not %s", n.cfg.DataDir, s.Site, n.cfg.Site),
			Hint: "leave out --site, or choose another --data",
		}
	}
	if n.cfg.TrustDomain != "" && n.cfg.TrustDomain != s.TrustDomain {
		return &control.Error{
			Code: control.Conflict, Err: fmt.Errorf("%s belongs to trust domain %s, not %s", n.cfg.DataDir, s.TrustDomain, n.cfg.TrustDomain),
			Hint: "leave out --trust-domain, or choose another --data",
		}
	}
	n.site, n.bootstrap = s.Site, s.Bootstrap
	if n.id, err = identity.NewID(s.TrustDomain, identity.Node, s.Node); err != nil {
		return fmt.Errorf("%s: %w", settingsPath(n.cfg.DataDir), err)
	}
	if n.store, err = identity.OpenStore(filepath.Join(n.cfg.DataDir, "identity")); err != nil {
		return err
	}
	if n.user, err = identity.OpenStore(UserDir(n.cfg.DataDir)); err != nil {
		return err
	}
	if len(s.Signer) > 0 {
		return n.openReplica(s)
	}
	return n.openAuthority(ctx, s)
}

func readSettings(dir string) (*settings, error) {
	text, err := os.ReadFile(settingsPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a new data directory
	}
	if err != nil {
		return nil, err
	}
	s := new(settings)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s: %w", settingsPath(dir), err)
	}
	return s, nil
}

// TrustDomain returns the trust domain of the node with the data directory dir, or ""
// when there is none yet.
func TrustDomain(dir string) (string, error) {
	s, err := readSettings(dir)
	if err != nil || s == nil {
		return "", err
	}
	return s.TrustDomain, nil
}

func writeSettings(dir string, s *settings) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(settingsPath(dir), append(text, '\n'), 0o600)
}

// foundFabric decides the names of a new fabric. Its keys and certificates follow in
// openAuthority, which repeats the steps that a crash left undone.
func (n *Node) foundFabric() (*settings, error) {
	store, err := identity.OpenStore(filepath.Join(n.cfg.DataDir, "identity"))
	if err != nil {
		return nil, err
	}
	if held := store.SVID(); held != nil {
		return nil, &control.Error{
			Code: control.Conflict, Err: fmt.Errorf("%s holds %s, whose joining was cut short", n.cfg.DataDir, held.ID.Short()),
			Hint: "finish it with the same ticket: hpmq up --join TICKET; for a new fabric choose another --data",
		}
	}
	site := n.cfg.Site
	if site == "" {
		site = defaultSite
	}
	s := &settings{TrustDomain: n.cfg.TrustDomain, Node: NewName(site), Site: site}
	if s.TrustDomain == "" {
		var b [5]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		// Its own domain for each fabric, so that two of them never mistake each
		// other's identities; internal is reserved for private use.
		s.TrustDomain = strings.ToLower(base32.StdEncoding.EncodeToString(b[:])) + ".hpmq.internal"
	}
	if _, err := identity.NewID(s.TrustDomain, identity.Node, s.Node); err != nil {
		return nil, control.Fail(control.Invalid, "", err)
	}
	return s, writeSettings(n.cfg.DataDir, s)
}

// joinFabric enrols this node with a site ticket.
func (n *Node) joinFabric(ctx context.Context) (*settings, error) {
	t, err := identity.ParseTicket(n.cfg.Join)
	if err != nil {
		return nil, control.Fail(control.Invalid, "paste the whole line that hpmq site invite printed", err)
	}
	if t.Kind != identity.Node {
		return nil, control.Invalidf("this ticket is for a %s; --join takes one from hpmq site invite SITE", t.Kind)
	}
	if n.cfg.Site != "" && n.cfg.Site != t.Site {
		return nil, control.Invalidf("the ticket is for site %s, not %s", t.Site, n.cfg.Site)
	}
	store, err := identity.OpenStore(filepath.Join(n.cfg.DataDir, "identity"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	answer, err := identity.Enrol(ctx, t, store, identity.EnrolOptions{
		Names: n.namesOf(t.Identity()), Progress: func(stage string) { n.log.Info(stage) },
	})
	if err != nil {
		return nil, control.FailEnrolment(fmt.Errorf("join site %s: %w", t.Site, err))
	}
	s := &settings{TrustDomain: t.TrustDomain, Node: t.Name, Site: t.Site, Signer: t.Signer, Bootstrap: answer.Mesh}
	return s, writeSettings(n.cfg.DataDir, s)
}

// names are the names that this node's certificate has beside its SPIFFE ID.
func (n *Node) names() []string { return n.namesOf(n.id) }

func (n *Node) namesOf(id identity.ID) []string {
	host, _ := os.Hostname() // "" adds no name
	return n.cfg.serverNames(id, host, interfaceAddresses())
}

func (n *Node) openReplica(s *settings) (err error) {
	n.directory, err = directory.Open(directoryPath(n.cfg.DataDir), s.Signer, directory.Options{Log: n.log})
	return err
}

func directoryPath(dir string) string { return filepath.Join(dir, "directory.log") }

// openAuthority opens or makes the CA's keys, the writable directory, and the
// identities that live in this data directory.
func (n *Node) openAuthority(ctx context.Context, s *settings) error {
	keys, err := authority.OpenKeys(filepath.Join(n.cfg.DataDir, "ca"), s.TrustDomain, nil)
	if errors.Is(err, authority.ErrClock) {
		return control.Fail(control.Failed, "set it, or wait for the network's time, and start again", err)
	}
	if err != nil {
		return err
	}
	n.directory, err = directory.Open(directoryPath(n.cfg.DataDir), keys.SignerKey(), directory.Options{Signer: keys.Signer(), Log: n.log})
	if err != nil {
		return err
	}
	n.authority, err = authority.New(keys, n.directory, authority.Options{
		Node: n.id, Site: n.site, Lifetimes: n.cfg.Lifetimes, Grace: n.cfg.Grace, Certificate: n.certificates.lifetime, Log: n.log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	if !n.certified() {
		if err := n.issueLocal(ctx, n.store, authority.Local{ID: n.id, Names: n.names()}); err != nil {
			return err
		}
	}
	if err := n.issueAdmin(ctx); err != nil && n.user.SVID() == nil {
		return err
	}
	if err := n.authority.Announce(n.id, n.addresses()); err != nil {
		return err
	}
	return writeDefaultPolicy(PolicyDir(n.cfg.DataDir))
}

// issueAdmin certifies the administrator, unless another operator has logged in
// here. It needs no ticket: this process holds the CA's keys. The expired certificate
// of an administrator that was revoked stays.
func (n *Node) issueAdmin(ctx context.Context) error {
	admin := identity.ID{TrustDomain: n.id.TrustDomain, Kind: identity.User, Name: adminName}
	if held := n.user.SVID(); held != nil && (held.ID != admin || time.Now().Before(held.NotAfter())) {
		return nil
	}
	known, _ := n.directory.Identity(admin)
	return n.issueLocal(ctx, n.user, authority.Local{ID: admin, Labels: known.Labels, Site: known.Site})
}

// issueLocal certifies a key of this data directory. A CA node needs no other node
// for that.
func (n *Node) issueLocal(ctx context.Context, store *identity.Store, l authority.Local) error {
	var err error
	if l.Key, err = identity.NewKey(); err != nil {
		return err
	}
	svid, err := n.authority.Issue(ctx, l)
	if err != nil {
		return err
	}
	return store.Save(svid, n.authority.Bundle())
}

// certified reports whether the node's certificate is fresh and names every
// address that a client may have dialled.
func (n *Node) certified() bool {
	svid := n.store.SVID()
	if svid == nil || svid.ID != n.id || identity.Due(svid, time.Now()) {
		return false
	}
	leaf := svid.Leaf()
	for _, name := range n.names() {
		if leaf.VerifyHostname(name) != nil {
			return false
		}
	}
	return true
}

// NewName makes a name for a new node at site: names are never reused, so a
// node that is set up again gets another one.
func NewName(site string) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return site + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:])[:4])
}

// writeDefaultPolicy gives a new fabric a policy to start from.
func writeDefaultPolicy(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.hcl"))
	if err != nil || len(files) > 0 {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "main.hcl"), policy.Default(), 0o600)
}

// resetKeyName is the file of the overlay's reset key.
const resetKeyName = "overlay.key"

// loadResetKey returns the overlay's reset key, which it makes on the first run.
func loadResetKey(dir string) (*[32]byte, error) {
	path := filepath.Join(dir, resetKeyName)
	var key [32]byte
	switch raw, err := os.ReadFile(path); {
	case err == nil && len(raw) == len(key):
		copy(key[:], raw)
		return &key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	rand.Read(key[:]) // never fails
	return &key, atomicfile.Write(path, key[:], 0o600)
}

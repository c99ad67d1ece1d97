package node

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
)

// testFabric is the directory of home (a CA), lyon and paris, with the authority that
// writes it.
type testFabric struct {
	directory *directory.Directory
	authority *authority.Authority
	now       func() time.Time
}

func newTestFabric(t *testing.T, now func() time.Time, life authority.Lifetimes) *testFabric {
	t.Helper()
	f := &testFabric{now: now}
	keys, err := authority.OpenKeys(filepath.Join(t.TempDir(), "ca"), "lab.test", f.now)
	if err != nil {
		t.Fatal(err)
	}
	f.directory, err = directory.Open(filepath.Join(t.TempDir(), "log"), keys.SignerKey(), directory.Options{Signer: keys.Signer(), Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.directory.Close() })
	if f.authority, err = authority.New(keys, f.directory, authority.Options{Node: testID(identity.Node, "home"), Site: "home", Lifetimes: life, Now: f.now}); err != nil {
		t.Fatal(err)
	}
	for _, site := range []string{"home", "lyon", "paris"} {
		f.issue(t, identity.Node, site, site)
		rec := directory.Node{ID: testID(identity.Node, site), Site: site, API: []string{site + ":8883"}, Mesh: []string{site + ":7844"}}
		if site == "home" {
			rec.Roles = []string{roleCA}
		}
		if err := f.authority.Announce(rec.ID, rec); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *testFabric) issue(t *testing.T, kind identity.Kind, name, site string) *identity.SVID {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	svid, err := f.authority.Issue(t.Context(), authority.Local{ID: testID(kind, name), Key: key, Site: site})
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func testID(kind identity.Kind, name string) identity.ID {
	return identity.ID{TrustDomain: "lab.test", Kind: kind, Name: name}
}

// replica opens the directory of a node that follows f.
func (f *testFabric) replica(t *testing.T) *directory.Directory {
	t.Helper()
	d, err := directory.Open(filepath.Join(t.TempDir(), "log"), f.directory.Signers()[0], directory.Options{Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// connect lets d follow f until the result is called.
func (f *testFabric) connect(t *testing.T, d *directory.Directory) (cut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a, b := net.Pipe()
	var running sync.WaitGroup
	running.Go(func() { _ = f.directory.Run(ctx) })
	running.Go(func() { _ = f.directory.Serve(ctx, testID(identity.Node, "lyon"), a) })
	running.Go(func() { _ = d.Follow(ctx, testID(identity.Node, "home"), b) })
	synctest.Wait()
	return func() { cancel(); running.Wait() }
}

// pass lets time go by while o watches.
func pass(t *testing.T, o *offline, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := o.run(ctx); err != nil {
		t.Error(err)
	}
}

func TestOfflineRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The bubble begins in 2000, and an authority accepts no clock of then.
		now := func() time.Time { return time.Now().AddDate(27, 0, 0) }
		f := newTestFabric(t, now, authority.Lifetimes{Device: time.Hour, Node: 3 * time.Hour, User: time.Hour})
		d := f.replica(t)
		cut := f.connect(t, d)
		o := newOffline(d, 24*time.Hour, unlimited)
		o.now = now
		early := f.issue(t, identity.Device, "early", "lyon")
		pass(t, o, 70*time.Minute)
		paris, _ := d.Identity(testID(identity.Node, "paris"))
		pump, service := f.issue(t, identity.Device, "pump-7", "lyon"), f.issue(t, identity.Service, "report", "lyon")
		anna, lost := f.issue(t, identity.User, "anna", "lyon"), f.issue(t, identity.Device, "lost", "lyon")
		copied := f.issue(t, identity.Device, "copied", "lyon")
		f.issue(t, identity.Device, "copied", "lyon") // its key is the current one
		if err := f.authority.Revoke(lost.ID, authority.RevokeOptions{Reason: "lost"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect := func(when string, want map[*identity.SVID]bool) {
			t.Helper()
			for svid, served := range want {
				if got := o.serves(svid.Leaf()); got != served {
					t.Errorf("%s: %s served %v, want %v", when, svid.ID.Short(), got, served)
				}
			}
		}
		expect("connected", map[*identity.SVID]bool{early: false})
		cut()
		pass(t, o, 4*time.Hour)
		during := map[*identity.SVID]bool{early: false, pump: true, service: true, anna: false, lost: false, copied: false}
		expect("4 h without a CA", during)
		if leaf := parseLeaf(t, paris.Leaf); !o.serves(leaf) {
			t.Error("a node is not served")
		}
		o.max = 0
		expect("rule switched off", map[*identity.SVID]bool{pump: false})
		o.max = 24 * time.Hour
		o.maxOf = func(p directory.Identity) time.Duration {
			return map[string]time.Duration{"pump-7": 3 * time.Hour, "report": 1000 * time.Hour}[p.ID.Name]
		}
		expect("a max_stale that is over", map[*identity.SVID]bool{pump: false, service: true})
		o.max = 3 * time.Hour
		expect("a max_stale above --offline-max", map[*identity.SVID]bool{service: false})
		o.max, o.maxOf = 24*time.Hour, unlimited

		cut = f.connect(t, d)
		pass(t, o, time.Hour)
		expect("an hour after the CA is back", during)
		pass(t, o, 4*time.Hour)
		expect("long after the CA is back", map[*identity.SVID]bool{early: false, pump: false, service: false})
		late := f.issue(t, identity.Device, "late", "lyon")
		synctest.Wait()
		cut()
		pass(t, o, 23*time.Hour)
		expect("within the limit", map[*identity.SVID]bool{late: true})
		pass(t, o, 2*time.Hour)
		expect("beyond the limit", map[*identity.SVID]bool{late: false})
	})
}

// On the CA itself the rule is about the time in which it was down.
func TestOfflineRuleOfCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := func() time.Time { return time.Now().AddDate(27, 0, 0) }
		f := newTestFabric(t, now, authority.Lifetimes{Device: time.Hour})
		cut := f.connect(t, f.replica(t))
		pump := f.issue(t, identity.Device, "pump-7", "home")
		cut()
		o := newOffline(f.directory, 24*time.Hour, unlimited)
		o.now = now
		pass(t, o, 2*time.Hour)
		if o.serves(pump.Leaf()) {
			t.Error("a certificate that has ended is served by the CA")
		}
		defer f.connect(t, f.replica(t))()
		if !o.serves(pump.Leaf()) {
			t.Error("a certificate that ended while the CA was down is not served when it is back")
		}
		pass(t, o, 3*time.Hour)
		if o.serves(pump.Leaf()) {
			t.Error("it is served for ever")
		}
	})
}

func unlimited(directory.Identity) time.Duration { return 0 }

func parseLeaf(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

package identity_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestStoreSaveAndOpen(t *testing.T) {
	ca := testca.New(t, "lab.test")
	svid := ca.SVID(t, ca.ID(t, identity.Device, "pump-7"))
	dir := filepath.Join(t.TempDir(), "pump-7")
	s := openStore(t, dir)
	if s.SVID() != nil || s.Bundle() != nil {
		t.Fatal("an absent directory holds an identity")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("opening made the directory")
	}
	if err := s.Save(svid, ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"":                 0o700 | fs.ModeDir,
		identity.KeyFile:   0o600,
		identity.CertFile:  0o644,
		identity.RootsFile: 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("directory holds %v, %v, want three files", entries, err)
	}
	for _, from := range []*identity.Store{s, openStore(t, dir)} {
		got := from.SVID()
		if got == nil || got.ID != svid.ID || !got.Leaf().Equal(svid.Leaf()) || from.Bundle().TrustDomain() != "lab.test" {
			t.Errorf("got %v", got)
		}
	}
}

func TestStoreRefusesMixedPair(t *testing.T) {
	ca := testca.New(t, "lab.test")
	a, b := ca.SVID(t, ca.ID(t, identity.Device, "a")), ca.SVID(t, ca.ID(t, identity.Device, "b"))
	dir := t.TempDir()
	if err := openStore(t, dir).Save(&identity.SVID{ID: a.ID, Chain: a.Chain, Key: b.Key}, ca.Bundle()); err == nil {
		t.Error("saved a certificate with another key")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

// A change of certificate and key is written in steps; wherever a crash cuts
// it, opening the directory gives the old pair or the new one, and so does
// opening it again.
func TestStoreSurvivesCrash(t *testing.T) {
	ca := testca.New(t, "lab.test")
	id := ca.ID(t, identity.Device, "pump-7")
	before, after := ca.SVID(t, id), ca.SVID(t, id)
	files := func(svid *identity.SVID) string {
		dir := t.TempDir()
		if err := openStore(t, dir).Save(svid, ca.Bundle()); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	was, is := files(before), files(after)
	pending, err := json.Marshal(map[string]string{"identity": id.String(), "key": readFile(t, is, identity.KeyFile)})
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		do   func(dir string) error
		want *identity.SVID
	}{
		{"before", func(string) error { return nil }, before},
		{"key kept", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "pending.json"), pending, 0o600)
		}, before},
		{"next certificate half written", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, ".cert.pem.new"), []byte("-----BEGIN"), 0o600)
		}, before},
		{"certificate in place", func(dir string) error {
			return os.Rename(copyFile(t, is, dir, identity.CertFile), filepath.Join(dir, identity.CertFile))
		}, after},
		{"key in place", func(dir string) error {
			return os.Rename(copyFile(t, is, dir, identity.KeyFile), filepath.Join(dir, identity.KeyFile))
		}, after},
		{"kept key dropped", func(dir string) error { return os.Remove(filepath.Join(dir, "pending.json")) }, after},
	}
	for n := range steps {
		t.Run(steps[n].name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{identity.KeyFile, identity.CertFile, identity.RootsFile} {
				if err := os.Rename(copyFile(t, was, dir, name), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			for _, step := range steps[:n+1] {
				if err := step.do(dir); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				got := openStore(t, dir).SVID()
				if !got.Leaf().Equal(steps[n].want.Leaf()) {
					t.Fatal("the other certificate came back")
				}
				if _, err := identity.NewSVID(got.Chain, got.Key); err != nil {
					t.Fatal(err)
				}
			}
			// The directory can be saved to again.
			s := openStore(t, dir)
			if err := s.Save(after, ca.Bundle()); err != nil {
				t.Fatal(err)
			}
			if got := readFile(t, dir, identity.KeyFile); got != readFile(t, is, identity.KeyFile) {
				t.Error("the key on disk is not the new one")
			}
		})
	}
}

func TestStoreErrors(t *testing.T) {
	ca := testca.New(t, "lab.test")
	svid := ca.SVID(t, ca.ID(t, identity.Device, "a"))
	other := t.TempDir()
	if err := openStore(t, other).Save(ca.SVID(t, svid.ID), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"key readable by others", func(dir string) error { return os.Chmod(filepath.Join(dir, "key.pem"), 0o640) }, "chmod 600"},
		{"key missing", func(dir string) error { return os.Remove(filepath.Join(dir, "key.pem")) }, "key.pem: missing"},
		{"key of another", func(dir string) error {
			return os.Rename(copyFile(t, other, dir, "key.pem"), filepath.Join(dir, "key.pem"))
		}, "do not belong together"},
		{"key damaged", func(dir string) error { return os.WriteFile(filepath.Join(dir, "key.pem"), []byte("x"), 0o600) }, "key.pem: no PEM block"},
		{"certificate damaged", func(dir string) error { return os.WriteFile(filepath.Join(dir, "cert.pem"), nil, 0o600) }, "cert.pem: no PEM certificate"},
		{"roots missing", func(dir string) error { return os.Remove(filepath.Join(dir, "ca.pem")) }, "ca.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.Contains(tt.want, "chmod") {
				t.Skip("files have no mode on Windows")
			}
			dir := t.TempDir()
			s := openStore(t, dir)
			if err := s.Save(svid, ca.Bundle()); err != nil {
				t.Fatal(err)
			}
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := identity.OpenStore(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err := s.Reload(); err == nil || s.SVID() != svid {
				t.Errorf("Reload gave %v and %v, want an error and the old identity", err, s.SVID())
			}
		})
	}
}

func TestStoreConcurrentUse(t *testing.T) {
	ca := testca.New(t, "lab.test")
	id := ca.ID(t, identity.Node, "paris")
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := s.Save(ca.SVID(t, id), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		svid := ca.SVID(t, id)
		wg.Go(func() {
			if err := s.Save(svid, ca.Bundle()); err != nil {
				t.Error(err)
			}
			if err := s.Reload(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			for range 100 {
				if got := s.SVID(); got.ID != id {
					t.Errorf("got %v", got.ID)
				}
			}
		})
	}
	wg.Wait()
	if got := openStore(t, dir).SVID(); !got.Leaf().Equal(s.SVID().Leaf()) {
		t.Error("memory and disk differ")
	}
}

// TestStoreReadWhileRenewed has a command read the directory in which a daemon
// renews: it finds one identity or the other, and leaves the change to the daemon.
func TestStoreReadWhileRenewed(t *testing.T) {
	a := newAuthority(t)
	daemon := a.enrolledStore()
	renewer := identity.Renewer{Store: daemon, Send: a.send}
	done := make(chan struct{})
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := identity.OpenStore(daemon.Dir()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		if err := renewer.Renew(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(done)
	reading.Wait()
	if got := openStore(t, daemon.Dir()).SVID(); !got.Leaf().Equal(daemon.SVID().Leaf()) {
		t.Error("another certificate than the daemon's last")
	}
}

func openStore(t testing.TB, dir string) *identity.Store {
	t.Helper()
	s, err := identity.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readFile(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// copyFile puts from's file into dir under a name of passage, to be renamed.
func copyFile(t testing.TB, from, dir, name string) string {
	t.Helper()
	passage := filepath.Join(dir, ".passage")
	if err := os.WriteFile(passage, []byte(readFile(t, from, name)), 0o600); err != nil {
		t.Fatal(err)
	}
	return passage
}

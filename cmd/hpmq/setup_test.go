package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
)

// TestResetKey has the same key in every run, also after one that was cut short.
func TestResetKey(t *testing.T) {
	dir := t.TempDir()
	load := func() [32]byte {
		t.Helper()
		key, err := loadResetKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		return *key
	}
	first := load()
	if first == [32]byte{} || load() != first {
		t.Error("the key is not kept")
	}
	if err := os.WriteFile(filepath.Join(dir, resetKeyName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := load()
	if second == first || load() != second {
		t.Error("an empty file is not replaced by a new key")
	}
}

// TestAdminAfterTheNight: who holds the CA's keys is not locked out by a
// certificate that ended while the node was off.
func TestAdminAfterTheNight(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Add(-24 * time.Hour)
	clock := func() time.Time { return now }
	keys, err := authority.OpenKeys(filepath.Join(dir, "ca"), "lab.test", clock)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{id: identity.ID{TrustDomain: "lab.test", Kind: identity.Node, Name: "home-1"}}
	n.directory, err = directory.Open(filepath.Join(dir, "log"), keys.SignerKey(), directory.Options{Signer: keys.Signer(), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer n.directory.Close()
	if n.authority, err = authority.New(keys, n.directory, authority.Options{Node: n.id, Site: "home", Now: clock}); err != nil {
		t.Fatal(err)
	}
	if n.user, err = identity.OpenStore(filepath.Join(dir, "user")); err != nil {
		t.Fatal(err)
	}
	if err := n.issueAdmin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if end := n.user.SVID().NotAfter(); !end.Before(time.Now()) {
		t.Fatalf("good until %v: the test is wrong", end)
	}
	now = time.Now()
	if err := n.renewOperator(t.Context(), n.authority.Renew); err != nil {
		t.Fatal(err)
	}
	held := n.user.SVID()
	if !held.NotAfter().After(time.Now()) {
		t.Errorf("still the certificate that ended %v", held.NotAfter())
	}
	if err := n.issueAdmin(t.Context()); err != nil || n.user.SVID() != held {
		t.Errorf("issued again: %v", err)
	}
}

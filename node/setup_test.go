package node

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/testca"
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
	n := &Node{id: identity.ID{TrustDomain: "lab.test", Kind: identity.Node, Name: "home-1"}}
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

// TestOperatorWhoseTimeIsOver: nobody renews that certificate any more, so nobody
// is asked to, once a minute and with a warning.
func TestOperatorWhoseTimeIsOver(t *testing.T) {
	ca := testca.New(t, "lab.test")
	n := new(Node)
	var err error
	if n.user, err = identity.OpenStore(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	asked := 0
	send := func(context.Context, *identity.RenewRequest) (*identity.EnrolResponse, error) {
		asked++
		return nil, &identity.APIError{Status: http.StatusForbidden}
	}
	for _, tt := range []struct {
		left time.Duration
		want int
	}{{10 * time.Second, 1}, {-time.Second, 1}} { // both due
		if err := n.user.Save(ca.SVID(t, ca.ID(t, identity.User, "anna"), testca.ValidFor(tt.left)), ca.Bundle()); err != nil {
			t.Fatal(err)
		}
		if err := n.renewOperator(t.Context(), send); (err == nil) != (tt.left < 0) {
			t.Errorf("%s left: %v", tt.left, err)
		}
		if asked != tt.want {
			t.Errorf("%s left: asked %d times, want %d", tt.left, asked, tt.want)
		}
	}
}

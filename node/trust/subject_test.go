package trust

import (
	"errors"
	"strings"
	"testing"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy"
)

func TestSubject(t *testing.T) {
	site := &Site{TrustDomain: "lab.test", Name: "home", Identity: func(id identity.ID) (directory.Identity, bool) {
		p, ok := map[string]directory.Identity{
			"device:pump-7":  {Site: "lyon", State: directory.Active, Labels: map[string]string{"role": "sensor"}},
			"device:lost":    {Site: "home", State: directory.Revoked},
			"device:swapped": {Site: "home", State: directory.Replaced},
			"node:home-1":    {Site: "home", State: directory.Active},
			"node:lyon-1":    {Site: "lyon", State: directory.Active},
			"user:anna":      {Site: "home", State: directory.Active},
			"service:board":  {Site: "lyon", State: directory.Active},
		}[id.Short()]
		return p, ok
	}}
	for _, tt := range []struct {
		who                string
		at                 string // the site where it speaks
		speaks, caller     string // "" or a part of the refusal
		home               string // the site that policy sees as its own
		unsettled, foreign bool   // foreign: another trust domain
	}{
		{who: "device:pump-7", at: "home", home: "lyon"},
		{who: "device:pump-7", at: "lyon", home: "lyon"},
		{who: "user:anna", at: "lyon", home: "home"},
		{who: "service:board", at: "home", home: "lyon"},
		{who: "service:local", at: "home", home: "home", caller: "no certificate"},
		{who: "service:local", at: "lyon", home: "lyon", caller: "no certificate"},
		{who: "service:guest", at: "home", home: "home", caller: "no certificate"},
		{who: "node:home-1", at: "home", home: "home"},
		{who: "node:lyon-1", at: "lyon", home: "lyon"},
		{who: "node:lyon-1", at: "home", speaks: "nodes speak at their own site only"},
		{who: "device:lost", at: "home", speaks: "is revoked", caller: "is revoked"},
		{who: "device:swapped", at: "home", speaks: "gave up its key", caller: "gave up its key", unsettled: true},
		{who: "device:new", at: "home", speaks: "is not enrolled", caller: "is not enrolled", unsettled: true},
		{who: "device:pump-7", at: "home", speaks: "another trust domain", caller: "another trust domain", foreign: true},
	} {
		t.Run(tt.who+" at "+tt.at, func(t *testing.T) {
			id, err := identity.ParseShort("lab.test", tt.who)
			if err != nil {
				t.Fatal(err)
			}
			if tt.foreign {
				id.TrustDomain = "other.test"
			}
			sub, err := site.Publisher(id.String(), tt.at)
			check(t, "Publisher", err, tt.speaks)
			if err == nil && (sub.Site != tt.home || sub.SessionSite != tt.at) {
				t.Errorf("policy sees site %q and session site %q, want %q and %q", sub.Site, sub.SessionSite, tt.home, tt.at)
			}
			if errors.Is(err, ErrUnsettled) != tt.unsettled {
				t.Errorf("unsettled is not %v: %v", tt.unsettled, err)
			}
			if tt.at == site.Name {
				_, err := site.Subject(id)
				check(t, "Subject", err, tt.speaks)
			}
			_, err = site.Caller(id)
			check(t, "Caller", err, tt.caller)
		})
	}
}

func check(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// TestFunctionsHaveNoSite: a function acts at every site, and publishes to other
// sites only in the name of a client.
func TestFunctionsHaveNoSite(t *testing.T) {
	site := &Site{TrustDomain: "lab.test", Name: "home"}
	id := identity.ID{TrustDomain: "lab.test", Kind: identity.Function, Name: "f"}
	if _, err := site.Subject(id); err != nil {
		t.Error(err)
	}
	if _, err := site.Publisher(id.String(), "lyon"); err == nil || errors.Is(err, ErrUnsettled) {
		t.Errorf("as a publisher: %v", err)
	}
	if _, err := site.Publisher("", "lyon"); err == nil {
		t.Error("a message without a publisher has a subject")
	}
}

// TestRights: the user who runs the node needs no grant to publish, and a deny stops
// it like anybody.
func TestRights(t *testing.T) {
	set, found := policy.Load(map[string][]byte{"main.hcl": []byte(`
grant "all" {
  to = ["*"]
  topics {
    publish   = ["a/#"]
    subscribe = ["a/#"]
  }
}
deny "valve" {
  to = ["*"]
  topics { publish = ["valve/#"] }
}
`)}, "lab.test")
	if set == nil {
		t.Fatal(found)
	}
	for _, tt := range []struct {
		action, object string
		local, guest   bool
	}{
		{"publish", "a/x", true, true},
		{"publish", "b/x", true, false},
		{"retain", "b/x", true, false},
		{"will", "b/x", true, false},
		{"publish", "valve/x", false, false},
		{"will", "valve/x", false, false},
		{"subscribe", "a/#", true, true},
		{"subscribe", "b/#", false, false},
	} {
		for name, want := range map[string]bool{LocalName: tt.local, GuestName: tt.guest} {
			id := identity.ID{TrustDomain: "lab.test", Kind: identity.Service, Name: name}
			d, asked := NewRights(set.Session(policy.Subject{ID: id, Site: "home", SessionSite: "home"})).Decide(tt.action, tt.object)
			if !asked || d.Allowed != want {
				t.Errorf("%s %s %s: allowed %v, want %v", name, tt.action, tt.object, d.Allowed, want)
			}
		}
	}
	if _, asked := (Rights{}).Decide("connect", "pump-7:22"); asked {
		t.Error("a connection to a port is a right over topics")
	}
}

package node

import (
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/node/trust"
	"github.com/hpmq/hpmq/policy"
)

// TestRevokedBeforeConnect: a connection whose handshake is over and whose
// CONNECT comes after the key was given up and the name enrolled again.
func TestRevokedBeforeConnect(t *testing.T) {
	ca := testca.New(t, "lab.test")
	device := ca.ID(t, identity.Device, "pump-7")
	n := newTestNode(t)
	store, err := identity.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	self := ca.Issue(t, ca.ID(t, identity.Node, "n"))
	if err := store.Save(self.SVID(), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	n.store = store
	put := func(p ...directory.Payload) {
		t.Helper()
		if _, err := n.directory.Put(p...); err != nil {
			t.Fatal(err)
		}
	}
	put(directory.Identity{ID: device, State: directory.Active, Generation: 1})

	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	client := tls.Client(near, identity.ClientConfig(ca.Issue(t, device, testca.Generation(t, 1)), nil, identity.ID{}))
	server := tls.Server(far, identity.ServerConfig(self, nil, tls.RequestClientCert, identity.Revoked(n.revoked)))
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p, err := n.admitTLS(server)
	if err != nil {
		t.Fatal(err)
	}
	rights := newAuthorizer(n)
	if rights.Rights(p) == nil {
		t.Fatal("the device may not connect")
	}
	put(directory.Revocation{ID: device, Generation: 1}, directory.Identity{ID: device, State: directory.Replaced, Generation: 1})
	put(directory.Identity{ID: device, State: directory.Active, Generation: 2})
	if rights.Rights(p) != nil {
		t.Error("the key that was given up has rights")
	}
	if p.Generation = 2; rights.Rights(p) == nil {
		t.Error("the new key has none")
	}
}

// TestWhyKnowsWhoIsBarred: hpmq why says what the broker and the agents do with
// those whom the directory lets do nothing here.
func TestWhyKnowsWhoIsBarred(t *testing.T) {
	n := newTestNode(t)
	_, err := n.policy.Apply(map[string][]byte{"main.hcl": []byte(`
grant "all" {
  to = ["*"]
  topics { publish = ["site/#"] }
  network {
    dst   = ["*"]
    allow = ["tcp/22"]
  }
  limits { connections = 2 }
}
`)})
	if err != nil {
		t.Fatal(err)
	}
	record := func(kind identity.Kind, name, site string, state directory.State) {
		t.Helper()
		id := identity.ID{TrustDomain: "lab.test", Kind: kind, Name: name}
		if _, err := n.directory.Put(directory.Identity{ID: id, Site: site, State: state, Generation: 1}); err != nil {
			t.Fatal(err)
		}
	}
	record(identity.Device, "good", "home", directory.Active)
	record(identity.Device, "lost", "home", directory.Revoked)
	record(identity.Device, "given-up", "home", directory.Replaced)
	record(identity.Node, "home-1", "home", directory.Active)
	record(identity.Node, "lyon-1", "lyon", directory.Active)
	for _, tt := range []struct {
		who              string
		publish, connect bool
	}{
		{"device:good", true, true},
		{"device:lost", false, false},
		{"device:given-up", false, false},
		{"node:home-1", true, true},
		{"node:lyon-1", false, true},
		{"service:local", true, false},
		{"service:guest", true, false},
	} {
		for action, want := range map[string]bool{"publish": tt.publish, "connect": tt.connect} {
			object := map[string]string{"publish": "site/x", "connect": "good:22"}[action]
			e, err := (&api{Node: n}).why(control.WhyRequest{Who: tt.who, Action: action, Object: object})
			if err != nil {
				t.Fatal(err)
			}
			if e.Allowed != want || !want && (e.Rule != "" || e.Limits != nil) {
				t.Errorf("%s %s: %+v, want allowed %v", tt.who, action, e, want)
			}
		}
	}
	if e, err := (&api{Node: n}).why(control.WhyRequest{Who: "service:local", Action: "publish", Object: "$SYS/x"}); err != nil || e.Allowed {
		t.Errorf("%+v, %v: want it denied as the broker denies it", e, err)
	}
	if e, err := (&api{Node: n}).why(control.WhyRequest{Who: "service:local", Action: "publish", Object: "any/x"}); err != nil || !e.Allowed || len(e.Limits) != 1 {
		t.Errorf("%+v, %v: want it allowed within its limit", e, err)
	}
}

// newTestNode is a node that has a directory and a policy.
func newTestNode(t *testing.T) *Node {
	t.Helper()
	signer := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	dir, err := directory.Open(filepath.Join(t.TempDir(), "log"), signer.Public().(ed25519.PublicKey), directory.Options{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return &Node{
		trust: &trust.Site{TrustDomain: "lab.test", Name: "home", Identity: dir.Identity},
		id:    identity.ID{TrustDomain: "lab.test", Kind: identity.Node, Name: "n"}, site: "home",
		directory: dir, policy: policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"}),
	}
}

// TestLocalRightsStopAtDenies: who runs a node needs no grant, and so each deny
// must be found without one.
func TestLocalRightsStopAtDenies(t *testing.T) {
	n := newTestNode(t)
	_, err := n.policy.Apply(map[string][]byte{"main.hcl": []byte(`
deny "valve" {
  to     = ["service:local"]
  topics {
    publish = ["valve/#"]
    retain  = ["kept/#"]
    will    = ["gone/#"]
  }
}
`)})
	if err != nil {
		t.Fatal(err)
	}
	local := newAuthorizer(n).Rights(mqtt.Principal{ID: identity.ID{TrustDomain: "lab.test", Kind: identity.Service, Name: trust.LocalName}})
	for _, tt := range []struct {
		name string
		got  mqtt.Verdict
		want bool
	}{
		{"publish", local.Publish("any/x", 1, true, 1), true},
		{"will", local.Will("any/x", 1, true, 1), true},
		{"publish where publishing is denied", local.Publish("valve/x", 1, false, 1), false},
		{"will where publishing is denied", local.Will("valve/x", 1, false, 1), false},
		{"publish where retaining is denied", local.Publish("kept/x", 1, false, 1), true},
		{"retain where that is denied", local.Publish("kept/x", 1, true, 1), false},
		{"retained will where that is denied", local.Will("kept/x", 1, true, 1), false},
		{"will where that is denied", local.Will("gone/x", 1, false, 1), false},
	} {
		if tt.got.Allowed != tt.want {
			t.Errorf("%s: allowed is %v (%s), want %v", tt.name, tt.got.Allowed, tt.got.Reason, tt.want)
		}
	}
}

// TestLimitsFitAnInt: also where an int has 32 bits, a high limit is one.
func TestLimitsFitAnInt(t *testing.T) {
	for _, n := range []int64{1, 3 << 30, 1 << 40} {
		if got := ceiling(policy.Limit{N: n}).N; got < 1 {
			t.Errorf("%d becomes %d", n, got)
		}
	}
	if got := ceiling(policy.Limit{}).N; got != 0 {
		t.Errorf("no limit becomes %d", got)
	}
}

package authority

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// Those who watch the directory hear of the revocation before anything else that
// it brings, so that it is what connections end with.
func TestRevocationComesFirst(t *testing.T) {
	for name, end := range map[string]func(*lab, identity.ID) error{
		"revoke":  func(l *lab, id identity.ID) error { return l.Revoke(id, RevokeOptions{Reason: "stolen"}) },
		"replace": func(l *lab, id identity.ID) error { return l.Replace(id) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			s := l.enrol(t, "pump-7")
			before := l.dir.Tip().Count
			if err := end(l, s.ID); err != nil {
				t.Fatal(err)
			}
			for r, err := range l.dir.Watch(t.Context(), before) {
				if err != nil || r.Kind != directory.KindRevocation {
					t.Errorf("first comes %s, %v", r.Kind, err)
				}
				break
			}
		})
	}
}

func TestRevokeAndReplace(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	spare := l.ticket(t, identity.Device, "pump-7")
	if err := l.Revoke(s.ID, RevokeOptions{Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Revoke(s.ID, RevokeOptions{Reason: "again"}); err != nil {
		t.Errorf("revoke again: %v", err)
	}
	if r, ok := l.dir.Revocation(s.ID); !ok || r.Reason != "stolen" || !l.dir.Revoked(s.ID, 1) {
		t.Errorf("revocation %+v, %v", r, ok)
	}
	renew := renewalOf(t, s, s.Key, "0123456789abcdef")
	enrol := request(t, spare, csrFor(t, s.Key, s.ID))
	_, err := l.Renew(t.Context(), renew)
	wantRefusal(t, err, http.StatusForbidden, "stolen")
	_, err = l.Enrol(t.Context(), enrol)
	wantRefusal(t, err, http.StatusForbidden, "hpmq device replace pump-7")
	if _, err := l.Issue(t.Context(), Local{ID: s.ID, Key: s.Key}); err == nil {
		t.Error("issued a certificate of a revoked identity")
	}
	if _, err := l.Mint(&identity.Ticket{Kind: identity.Device, Name: "pump-7", Addrs: []string{"x:1"}}); err == nil {
		t.Error("minted a ticket for a revoked name")
	}

	if err := l.Replace(s.ID); err != nil {
		t.Fatal(err)
	}
	_, err = l.Renew(t.Context(), renew)
	wantRefusal(t, err, http.StatusForbidden, "replaced")
	fresh := l.enrol(t, "pump-7")
	gen, _ := identity.Generation(fresh.Leaf())
	if gen != 2 || l.dir.Revoked(s.ID, gen) || !l.dir.Revoked(s.ID, 1) {
		t.Errorf("after a replacement: generation %d, revoked %v", gen, l.dir.Revoked(s.ID, gen))
	}
	_, err = l.Renew(t.Context(), renew)
	wantRefusal(t, err, http.StatusForbidden, "revoked")

	if err := l.Replace(fresh.ID); err != nil { // without a revocation before
		t.Fatal(err)
	}
	if !l.dir.Revoked(s.ID, gen) {
		t.Error("the replaced key still counts")
	}
	if err := l.Revoke(paris, RevokeOptions{}); err == nil {
		t.Error("the CA's own node was revoked")
	}
	if err := l.Revoke(device("nobody"), RevokeOptions{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
}

func TestAnnounce(t *testing.T) {
	l := newLab(t)
	if err := l.startNode(t); err != nil {
		t.Fatal(err)
	}
	before := l.dir.Tip().Count
	if err := l.Announce(paris, directory.Node{ID: paris, Site: "paris", MQTT: []string{"10.0.0.1:8883"}, Roles: []string{"ca"}}); err != nil {
		t.Fatal(err)
	}
	if got := l.dir.Tip().Count; got != before {
		t.Error("the same announcement was recorded twice")
	}
	lyon := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon"}
	if _, err := l.Issue(t.Context(), Local{ID: lyon, Key: newDeviceKey(t), Site: "lyon"}); err != nil {
		t.Fatal(err)
	}
	good := directory.Node{ID: lyon, Site: "lyon", Mesh: []string{"10.0.0.2:7844"}}
	for name, change := range map[string]func(*directory.Node){
		"another node": func(n *directory.Node) { n.ID = paris },
		"another site": func(n *directory.Node) { n.Site = "paris" },
		"a CA":         func(n *directory.Node) { n.Roles = []string{"ca"} },
		"too many":     func(n *directory.Node) { n.API = make([]string, maxAnnounced+1) },
		"too long":     func(n *directory.Node) { n.MQTT = []string{strings.Repeat("x", maxAnnouncedLen+1)} },
	} {
		n := good
		change(&n)
		if err := l.Announce(lyon, n); !isRefusal(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.Announce(lyon, good); err != nil {
		t.Error(err)
	}
	if err := l.Revoke(lyon, RevokeOptions{Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Announce(lyon, good); !isRefusal(err) {
		t.Errorf("a revoked node: %v", err)
	}
}

func TestAnswerNamesNearestNodesFirst(t *testing.T) {
	l := newLab(t)
	if err := l.startNode(t); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berlin", "lyon", "nice"} {
		id := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: name}
		if _, err := l.Issue(t.Context(), Local{ID: id, Key: newDeviceKey(t), Site: name}); err != nil {
			t.Fatal(err)
		}
		if err := l.Announce(id, directory.Node{ID: id, Site: name, MQTT: []string{name + ":8883", "10.0.0.1:8883"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Revoke(identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "nice"}, RevokeOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := l.Mint(&identity.Ticket{Kind: identity.Device, Name: "pump-7", Site: "lyon", Addrs: []string{"x:1"}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := l.Enrol(t.Context(), request(t, text, csrFor(t, newDeviceKey(t), device("pump-7"))))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(answer.MQTT, []string{"lyon:8883", "10.0.0.1:8883", "berlin:8883"}); diff != "" || answer.Site != "lyon" {
		t.Errorf("site %q, %s", answer.Site, diff)
	}
}

// TestRemoveSite ends all nodes of a site but never the CA's own.
func TestRemoveSite(t *testing.T) {
	l := newLab(t)
	lyon := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon-1"}
	second := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon-2"}
	if _, err := l.dir.Put(
		directory.Identity{ID: lyon, Site: "lyon", State: directory.Active, Generation: 4, SPKI: [32]byte{4}},
		directory.Identity{ID: second, Site: "lyon", State: directory.Revoked, Generation: 1, SPKI: [32]byte{5}},
	); err != nil {
		t.Fatal(err)
	}
	pump := l.enrol(t, "pump-7")
	ended, err := l.RemoveSite("lyon")
	if err != nil || len(ended) != 1 || ended[0] != lyon {
		t.Fatalf("ended %v, %v; want %v", ended, err, lyon)
	}
	if p, _ := l.dir.Identity(lyon); p.State != directory.Revoked || !l.dir.Revoked(lyon, 4) {
		t.Errorf("%s is %s", lyon.Short(), p.State)
	}
	if got := l.dir.RemovedSites(); len(got) != 1 || got[0] != "lyon" {
		t.Errorf("removed sites %v", got)
	}
	if p, _ := l.dir.Identity(pump.ID); p.State != directory.Active {
		t.Errorf("a device of another site is %s", p.State)
	}
	if ended, err := l.RemoveSite("lyon"); err != nil || len(ended) != 0 {
		t.Errorf("again: %v, %v", ended, err)
	}
	if _, err := l.RemoveSite("nowhere"); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown site: %v", err)
	}
	own, _ := l.dir.Identity(paris)
	if _, err := l.RemoveSite(own.Site); err == nil {
		t.Error("the CA removed its own site")
	}
}

// TestRevokeClearsRetainedLater lets an operator add the wish to a revocation.
func TestRevokeClearsRetainedLater(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	for _, clearing := range []bool{false, true, true} {
		before := l.dir.Tip().Count
		if err := l.Revoke(s.ID, RevokeOptions{Reason: "stolen", ClearRetained: clearing}); err != nil {
			t.Fatal(err)
		}
		if r, _ := l.dir.Revocation(s.ID); r.ClearRetained != clearing || r.Reason != "stolen" {
			t.Errorf("after a revocation with clearing %t: %+v", clearing, r)
		}
		if old, _ := l.dir.Revocation(s.ID); clearing && old.ClearRetained && l.dir.Tip().Count > before+1 {
			t.Error("more was recorded than the wish")
		}
	}
}

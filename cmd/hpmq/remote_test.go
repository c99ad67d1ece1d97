package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/mqtt/link"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

// remotePolicy is the default and some more.
const remotePolicy = `
grant "bound" {
  to   = ["device:valve"]
  when = session.site == id.site
  topics { publish = ["site/home/valve/#"] }
}
grant "node" {
  to = ["node:*"]
  topics { publish = ["nodes/${id.name}"] }
}
grant "will" {
  to = ["device:valve"]
  topics { will = ["gone/${id.name}"] }
}
`

// newTestRemote is the remote of site home.
func newTestRemote(t *testing.T) (*remote, func(more string)) {
	t.Helper()
	entry := func(short, site string, state directory.State) directory.Identity {
		id, err := identity.ParseShort("lab.test", short)
		if err != nil {
			t.Fatal(err)
		}
		p := directory.Identity{ID: id, Site: site, State: state}
		if strings.HasPrefix(id.Name, "pump") {
			p.Labels = map[string]string{"role": "sensor"}
		}
		return p
	}
	all := []directory.Identity{
		entry("user:admin", "home", directory.Active),
		entry("node:home-1", "home", directory.Active), entry("node:lyon-1", "lyon", directory.Active),
		entry("device:pump-7", "home", directory.Active), entry("device:pump-6", "home", directory.Active), entry("device:lost", "home", directory.Revoked),
		entry("device:valve", "home", directory.Replaced), entry("function:f", "home", directory.Active),
	}
	live := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	r := &remote{
		domain: "lab.test", site: "home", policy: live.Set, rights: make(map[publisherAt]*remoteRights), set: live.Set(),
		known: func(id identity.ID) (directory.Identity, bool) {
			for _, p := range all {
				if p.ID == id {
					return p, true
				}
			}
			return directory.Identity{}, false
		},
		retained: func(topic string) []*store.Message {
			return []*store.Message{{Topic: topic, Origin: store.Origin{Site: topic}}}
		},
	}
	apply := func(more string) {
		t.Helper()
		files := map[string][]byte{"main.hcl": policy.Default(), "more.hcl": []byte(more)}
		if found, err := live.Apply(files); err != nil {
			t.Fatal(found)
		}
		r.policyChanged()
	}
	apply(remotePolicy)
	return r, apply
}

// from is a message that site sends in the name of publisher.
func from(site, publisher, topic string) *store.Message {
	return &store.Message{
		Topic: topic, Payload: []byte("x"), QoS: 1, Publisher: "spiffe://lab.test/" + publisher,
		Origin: store.Origin{Site: site, Epoch: 1, Seq: 1},
	}
}

func TestRemote(t *testing.T) {
	clearing := func(topic string) *store.Message {
		m := from("lyon", "node/lyon-1", topic)
		m.Retain, m.Payload = true, nil
		return m
	}
	foreign := from("lyon", "", "demo/x")
	foreign.Publisher = "spiffe://other.test/service/local"
	for _, tt := range []struct {
		name string
		m    *store.Message
		want string // allowed, unsettled, refused
	}{
		{"a device at home", from("home", "device/pump-7", "site/home/pump-7/raw"), "allowed"},
		{"a device that roams", from("lyon", "device/pump-7", "site/home/pump-7/raw"), "allowed"},
		{"what no device may publish", from("lyon", "device/pump-7", "site/home/valve/set"), "unsettled"},
		{"a device that policy binds to its site", from("lyon", "device/valve", "site/home/valve/set"), "unsettled"},
		{"the same, there", from("home", "device/valve", "site/home/valve/set"), "allowed"},
		{"a will", from("lyon", "device/valve", "gone/valve"), "allowed"},
		{"a new device", from("lyon", "device/new", "site/lyon/new/raw"), "unsettled"},
		{"a revoked device", from("lyon", "device/lost", "site/home/lost/raw"), "refused"},
		{"this machine, of that site", from("lyon", "service/local", "site/lyon/valve/set"), "allowed"},
		{"this machine, of another site", from("lyon", "service/local", "site/home/valve/set"), "unsettled"},
		{"a guest", from("lyon", "service/guest", "demo/x"), "allowed"},
		{"a guest of more rights", from("lyon", "service/guest", "site/lyon/x"), "unsettled"},
		{"the administrator at home", from("home", "user/admin", "site/lyon/valve/set"), "allowed"},
		{"the administrator elsewhere", from("lyon", "user/admin", "site/lyon/valve/set"), "unsettled"},
		{"a node of that site", from("lyon", "node/lyon-1", "nodes/lyon-1"), "allowed"},
		{"a node of another site", from("lyon", "node/home-1", "nodes/home-1"), "refused"},
		{"a node that clears what came from its site", clearing("lyon"), "allowed"},
		{"a node that clears what came from elsewhere", clearing("home"), "unsettled"},
		{"a function", from("lyon", "function/f", "demo/x"), "refused"},
		{"another trust domain", foreign, "refused"},
		{"no identity", from("lyon", "", "demo/x"), "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := newTestRemote(t)
			for range 2 { // compiled, and remembered
				err := r.accept(identity.ID{}, tt.m)
				got := "refused"
				switch {
				case err == nil:
					got = "allowed"
				case errors.Is(err, link.ErrUnsettled):
					got = "unsettled"
				}
				if got != tt.want {
					t.Errorf("%s (%v), want %s", got, err, tt.want)
				}
			}
		})
	}
}

// TestRemoteUnderAnOlderPolicy: what a site took before it heard of a new policy
// is not lost, and a right that was taken away ends.
func TestRemoteUnderAnOlderPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, apply := newTestRemote(t)
		m := from("lyon", "device/pump-6", "site/home/pump-6/raw")
		deny := `deny "quiet" {
  to     = ["device:pump-6"]
  topics { publish = ["site/#"] }
}
`
		apply(deny)
		<-time.After(pastPolicyTime - time.Second)
		if err := r.accept(identity.ID{}, m); err != nil {
			t.Errorf("refused within a day: %v", err)
		}
		<-time.After(2 * time.Second)
		if err := r.accept(identity.ID{}, m); err == nil {
			t.Error("accepted after a day")
		}
		apply("")
		for range 2 * maxPastPolicy {
			apply(deny)
			apply("")
		}
		if n := len(r.past); n != maxPastPolicy {
			t.Errorf("%d policies are kept, want %d", n, maxPastPolicy)
		}
	})
}

// TestRemoteHasTheNewestPolicy: of two changes at once the later stays in force,
// whoever comes first.
func TestRemoteHasTheNewestPolicy(t *testing.T) {
	r, apply := newTestRemote(t)
	live := r.policy
	r.policy = func() *policy.Set {
		set := live()
		if r.mu.TryLock() { // another change can come between
			r.mu.Unlock()
			r.policy = live
			apply("")
		}
		return set
	}
	r.policyChanged()
	if r.set != live() {
		t.Error("a policy that was replaced is in force")
	}
}

func TestRemoteIsBounded(t *testing.T) {
	r, _ := newTestRemote(t)
	r.known = func(id identity.ID) (directory.Identity, bool) {
		return directory.Identity{ID: id, State: directory.Active}, true
	}
	for i := range maxRemote + 10 {
		_ = r.accept(identity.ID{}, from("lyon", "device/"+string(rune('a'+i%26))+time.Duration(i).String(), "demo/x"))
	}
	if n := len(r.rights); n == 0 || n > maxRemote {
		t.Errorf("%d publishers are remembered, want at most %d", n, maxRemote)
	}
	r.identitiesChanged()
	if len(r.rights) != 0 {
		t.Error("rights outlive a change of identities")
	}
}

// TestStaysHere: of what is published at home, only who runs the node may publish
// more than another site would take.
func TestStaysHere(t *testing.T) {
	r, _ := newTestRemote(t)
	for _, tt := range []struct {
		publisher, topic string
		stays            bool
	}{
		{"service/local", "site/home/x", false},
		{"service/local", "demo/x", false},
		{"service/local", "site/lyon/x", true},
		{"service/local", "bench/x", true},
		{"device/pump-7", "bench/x", false}, // was let publish it: the other site judges
	} {
		if got := r.stays(from("", tt.publisher, tt.topic)); got != tt.stays {
			t.Errorf("%s on %s: stays %v", tt.publisher, tt.topic, got)
		}
	}
}

// TestClearingStaysHere: an order to remove what other sites do not have from here
// would be refused there, and hold up the link for the time of doubt.
func TestClearingStaysHere(t *testing.T) {
	r, apply := newTestRemote(t)
	apply(`grant "keeper" {
  to = ["node:*"]
  topics {
    publish = ["nodes/${id.name}"]
    retain  = ["nodes/${id.name}"]
  }
}
`)
	for _, tt := range []struct {
		name  string
		kept  []*store.Message
		stays bool
	}{
		{"published here", []*store.Message{from("", "device/pump-7", "kept")}, false},
		{"published here, and numbered", []*store.Message{from("home", "device/pump-7", "kept")}, false},
		{"published elsewhere", []*store.Message{from("lyon", "device/pump-7", "kept")}, true},
		{"published here for this site", []*store.Message{from("", "service/local", "kept")}, true},
		{"not there yet", nil, false},
	} {
		r.retained = func(string) []*store.Message { return tt.kept }
		m := from("", "node/home-1", "kept")
		m.Retain, m.Payload = true, nil
		if got := r.stays(m); got != tt.stays {
			t.Errorf("%s: stays %v", tt.name, got)
		}
		m.Topic = "nodes/home-1" // which policy lets it publish everywhere
		if r.stays(m) {
			t.Errorf("%s: stays though it is granted", tt.name)
		}
	}
}

package trust

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/hlc"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

// foreignPolicy is the default and some more.
const foreignPolicy = `
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

// newTestForeign is the Foreign of site home.
func newTestForeign(t *testing.T) (*Foreign, func(more string)) {
	t.Helper()
	var recorded []recordedPolicy // newest first
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
		entry("device:valve", "home", directory.Active), entry("device:swapped", "home", directory.Replaced), entry("function:f", "home", directory.Active),
	}
	live := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"})
	r := NewForeign(ForeignOptions{
		Policy: live.Set, Compile: compile,
		Records: func() iter.Seq2[uint64, directory.Policy] {
			return func(yield func(uint64, directory.Policy) bool) {
				for _, p := range recorded {
					if !yield(p.clock, p.Policy) {
						return
					}
				}
			}
		},
		Site: &Site{TrustDomain: "lab.test", Name: "home", Identity: func(id identity.ID) (directory.Identity, bool) {
			for _, p := range all {
				if p.ID == id {
					return p, true
				}
			}
			return directory.Identity{}, false
		}},
		Retained: func(topic string) []*store.Message {
			return []*store.Message{{Topic: topic, Origin: store.Origin{Site: topic}}}
		},
	})
	apply := func(more string) {
		t.Helper()
		files := map[string][]byte{"main.hcl": policy.Default(), "more.hcl": []byte(more)}
		p := directory.Policy{Files: files, Hash: directory.HashFiles(files)}
		recorded = append([]recordedPolicy{{p, clockNow()}}, recorded...)
		if found, err := live.Apply(files); err != nil {
			t.Fatal(found)
		}
		r.PolicyChanged()
	}
	apply(foreignPolicy)
	return r, apply
}

// compile is ForeignOptions.Compile.
func compile(files map[string][]byte) *policy.Set {
	set, _ := policy.Load(files, "lab.test")
	return set
}

type recordedPolicy struct {
	directory.Policy

	clock uint64
}

// clockNow is a hybrid clock's reading.
func clockNow() uint64 { return hlc.At(time.Now()) }

// from is a message that site sends in the name of publisher.
func from(site, publisher, topic string) *store.Message {
	return &store.Message{
		Topic: topic, Payload: []byte("x"), QoS: 1, Publisher: "spiffe://lab.test/" + publisher,
		Origin: store.Origin{Site: site, Epoch: 1, Seq: 1}, HLC: clockNow(),
	}
}

func TestForeign(t *testing.T) {
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
		{"a device whose key was given up", from("lyon", "device/swapped", "site/home/swapped/raw"), "unsettled"},
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
			r, _ := newTestForeign(t)
			tt.m.HLC = clockNow()
			for range 2 { // compiled, and remembered
				err := r.Accept(identity.ID{}, tt.m)
				if got := outcome(err); got != tt.want {
					t.Errorf("%s (%v), want %s", got, err, tt.want)
				}
			}
		})
	}
}

// TestForeignAfterAChange: a deny holds at once. A grant that is gone is excused for
// messages sent before, for a day, also after a restart, unless the sender has sent
// a newer one.
func TestForeignAfterAChange(t *testing.T) {
	const (
		granted = `grant "loan" {
  to     = ["device:pump-6"]
  topics { publish = ["loan/#"] }
}
`
		denied = granted + `deny "quiet" {
  to     = ["device:pump-6"]
  topics { publish = ["loan/#"] }
}
`
		willDenied = `deny "quiet" {
  to     = ["device:pump-6"]
  topics { will = ["loan/#"] }
}
`
	)
	before, after := -time.Minute, time.Minute
	for _, tt := range []struct {
		name    string
		change  string        // in place of the grant
		sent    time.Duration // from the change
		newer   time.Duration // an earlier message of the sender; 0: none
		arrives time.Duration
		want    string
	}{
		{"grant gone, sent before", "", before, 0, 2 * time.Minute, "allowed"},
		{"grant gone, sent before, nearly a day late", "", before, 0, pastPolicyTime - time.Second, "allowed"},
		{"grant gone, sent before, a day late", "", before, 0, pastPolicyTime, "refused"},
		{"grant gone, sent while its record travelled", "", time.Second, 0, 2 * time.Minute, "allowed"},
		{"grant gone, sent after", "", after, 0, 2 * time.Minute, "unsettled"},
		{"grant gone, stamp goes back", "", before, after, 2 * time.Minute, "refused"},
		{"grant gone, stamp goes back, all before", "", 2 * before, before, 2 * time.Minute, "allowed"},
		{"deny, sent before", denied, before, 0, 2 * time.Minute, "refused"},
		{"deny, sent while its record travelled", denied, time.Second, 0, 2 * time.Minute, "refused"},
		{"deny, sent after", denied, after, 0, 2 * time.Minute, "unsettled"},
		{"deny, stamp goes back", denied, before, after, 2 * time.Minute, "refused"},
		{"deny of wills and grant gone, sent before", willDenied, before, 0, 2 * time.Minute, "allowed"},
		{"deny of wills and grant gone, sent after", willDenied, after, 0, 2 * time.Minute, "unsettled"},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %v", tt.name, restarted), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, apply := newTestForeign(t)
					apply(granted)
					<-time.After(time.Hour)
					apply(tt.change)
					changed := time.Now()
					at := func(d time.Duration, topic string) *store.Message {
						m := from("lyon", "device/pump-6", topic)
						m.HLC = hlc.At(changed.Add(d))
						return m
					}
					if restarted {
						restart(r)
					}
					<-time.After(tt.arrives)
					lyon := identity.ID{Name: "lyon-1"}
					if tt.newer != 0 {
						if err := r.Accept(lyon, at(tt.newer, "site/home/pump-6/raw")); err != nil {
							t.Fatal(err)
						}
					}
					err := r.Accept(lyon, at(tt.sent, "loan/x"))
					if got := outcome(err); got != tt.want {
						t.Errorf("%s (%v), want %s", got, err, tt.want)
					}
				})
			})
		}
	}
}

// restart puts r in the state after a restart of the node.
func restart(r *Foreign) {
	empty := policy.NewLive(policy.LiveOptions{TrustDomain: "lab.test"}).Set()
	r.set, r.since, r.stamps, r.past = empty, 0, stamps{}, r.pastPolicies(time.Now())
	r.PolicyChanged()
}

// outcome names the answer of accept.
func outcome(err error) string {
	switch {
	case err == nil:
		return "allowed"
	case errors.Is(err, ErrUnsettled):
		return "unsettled"
	}
	return "refused"
}

func TestPastPoliciesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, apply := newTestForeign(t)
		for i := range 2 * maxPastPolicy {
			<-time.After(time.Minute)
			apply(fmt.Sprintf("# %d", i))
		}
		kept := func(when string, want int) {
			t.Helper()
			if n := len(r.past); n != want {
				t.Errorf("%s: %d policies are kept, want %d", when, n, want)
			}
		}
		kept("as they came", maxPastPolicy)
		restart(r)
		kept("after a restart", maxPastPolicy)
		<-time.After(pastPolicyTime - 3*time.Minute)
		restart(r)
		kept("a day later", 3)
		apply("# the last")
		kept("after one more change", 4)
	})
}

// TestPastPolicyOfAWrongClock: a record from the future excuses no longer than one
// of today, and one from far ahead excuses nothing after a restart.
func TestPastPolicyOfAWrongClock(t *testing.T) {
	now := time.Now()
	clock := func(d time.Duration) uint64 { return hlc.At(now.Add(d)) }
	if p := newPastSet(nil, clock(time.Hour), now); !p.appliesTo(clock(0), now.Add(pastPolicyTime-time.Second)) || p.appliesTo(clock(0), now.Add(pastPolicyTime)) {
		t.Errorf("counts until %v, want a day from %v", p.until, now)
	}
	files := map[string][]byte{"main.hcl": policy.Default()}
	records := func(yield func(uint64, directory.Policy) bool) {
		for yield(clock(30*365*24*time.Hour), directory.Policy{Files: files}) {
		}
	}
	o := ForeignOptions{Compile: compile, Records: func() iter.Seq2[uint64, directory.Policy] { return records }}
	if past := o.pastPolicies(now); len(past) > 0 {
		t.Errorf("%d policies count", len(past))
	}
}

// TestPolicyRecords reads the policies of a directory, newest first, as far back as
// they can matter.
func TestPolicyRecords(t *testing.T) {
	signer := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	d, err := directory.Open(filepath.Join(t.TempDir(), "log"), signer.Public().(ed25519.PublicKey),
		directory.Options{Signer: signer, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	start := now
	for v := range uint64(5) { // one an hour, and a device after each
		files := map[string][]byte{"main.hcl": fmt.Appendf(nil, "# %d", v)}
		id := identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: fmt.Sprint("d", v)}
		if _, err := d.Put(
			directory.Policy{Version: v + 1, Files: files, Hash: directory.HashFiles(files)},
			directory.Identity{ID: id, State: directory.Active, Generation: 1}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Hour)
	}
	for _, tt := range []struct {
		name  string
		since time.Time
		want  []uint64
	}{
		{"all", start, []uint64{5, 4, 3, 2, 1}},
		{"those of two hours, and the one before", start.Add(3 * time.Hour), []uint64{5, 4, 3}},
		{"none", start.Add(5 * time.Hour), nil},
	} {
		var got []uint64
		last := uint64(math.MaxUint64)
		for clock, p := range PolicyRecords(d, tt.since.Add(pastPolicyTime)) {
			if clock >= last {
				t.Errorf("%s: clock %d after %d", tt.name, clock, last)
			}
			got, last = append(got, p.Version), clock
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// TestStamps: the highest numbered stamp of a node's epoch counts.
func TestStamps(t *testing.T) {
	s := stamps{}
	lyon, paris := identity.ID{Name: "lyon-1"}, identity.ID{Name: "paris-1"}
	for _, tt := range []struct {
		name             string
		sender           identity.ID
		epoch, seq, sent uint64
		want             uint64
	}{
		{"first", lyon, 1, 1, 10, 10},
		{"forward", lyon, 1, 2, 20, 20},
		{"back", lyon, 1, 3, 15, 20},
		{"without a number", lyon, 1, 0, 90, 90},
		{"the log, overtaken by it", lyon, 1, 4, 30, 30},
		{"without a number, back", lyon, 1, 0, 10, 30},
		{"another node", paris, 1, 1, 5, 5},
		{"another epoch", lyon, 2, 1, 7, 7},
	} {
		m := &store.Message{HLC: tt.sent, Origin: store.Origin{Epoch: tt.epoch, Seq: tt.seq}}
		if got := s.raise(tt.sender, m); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	for i := range 2 * maxPublishers {
		s.raise(identity.ID{Name: fmt.Sprint(i)}, &store.Message{HLC: 1, Origin: store.Origin{Epoch: 1, Seq: 1}})
	}
	if len(s) > maxPublishers {
		t.Errorf("%d nodes are remembered", len(s))
	}
}

func TestAcceptDoesNotAllocate(t *testing.T) {
	r, _ := newTestForeign(t)
	m := from("lyon", "device/pump-7", "site/home/pump-7/raw")
	lyon := identity.ID{Name: "lyon-1"}
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Accept(lyon, m); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestForeignHasTheNewestPolicy: of two changes at once the later stays in force,
// whoever comes first.
func TestForeignHasTheNewestPolicy(t *testing.T) {
	r, apply := newTestForeign(t)
	live := r.Policy
	r.Policy = func() *policy.Set {
		set := live()
		if r.mu.TryLock() { // another change can come between
			r.mu.Unlock()
			r.Policy = live
			apply("")
		}
		return set
	}
	r.PolicyChanged()
	if r.set != live() {
		t.Error("a policy that was replaced is in force")
	}
}

func TestForeignIsBounded(t *testing.T) {
	r, _ := newTestForeign(t)
	r.Site.Identity = func(id identity.ID) (directory.Identity, bool) {
		return directory.Identity{ID: id, State: directory.Active}, true
	}
	for i := range maxPublishers + 10 {
		_ = r.Accept(identity.ID{}, from("lyon", "device/"+string(rune('a'+i%26))+time.Duration(i).String(), "demo/x"))
	}
	if n := len(r.rights); n == 0 || n > maxPublishers {
		t.Errorf("%d publishers are remembered, want at most %d", n, maxPublishers)
	}
	r.IdentitiesChanged()
	if len(r.rights) != 0 {
		t.Error("rights outlive a change of identities")
	}
}

// TestStaysHere: of what is published at home, only who runs the node may publish
// more than another site would take.
func TestStaysHere(t *testing.T) {
	r, _ := newTestForeign(t)
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
		if got := r.Stays(from("", tt.publisher, tt.topic)); got != tt.stays {
			t.Errorf("%s on %s: stays %v", tt.publisher, tt.topic, got)
		}
	}
}

// TestClearingStaysHere: an order to remove what other sites do not have from here
// would be refused there, and hold up the link for the time of doubt.
func TestClearingStaysHere(t *testing.T) {
	r, apply := newTestForeign(t)
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
		r.Retained = func(string) []*store.Message { return tt.kept }
		m := from("", "node/home-1", "kept")
		m.Retain, m.Payload = true, nil
		if got := r.Stays(m); got != tt.stays {
			t.Errorf("%s: stays %v", tt.name, got)
		}
		m.Topic = "nodes/home-1" // which policy lets it publish everywhere
		if r.Stays(m) {
			t.Errorf("%s: stays though it is granted", tt.name)
		}
	}
}

package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy"
	"github.com/hpmq/hpmq/policy/slice"
)

const rulesPolicy = `
group "pumps" { labels = { role = "pump" } }
group "lamps" { labels = { role = "lamp" } }
group "vendor" { labels = { role = "vendor" } }
grant "vendor" {
  to = ["group:vendor"]
  network {
    dst   = ["group:pumps"]
    allow = ["tcp/8080"]
  }
}
grant "electrician" {
  to = ["user:anna"]
  network {
    dst   = ["group:lamps"]
    allow = ["tcp/22"]
  }
}
`

// testBook is a rulebook with a directory of its own.
type testBook struct {
	*rulebook

	root ed25519.PublicKey
	held map[identity.ID]heldSlice // by the devices that are asked about
}

func newTestBook(t testing.TB, files string) *testBook {
	t.Helper()
	root, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := directory.Open(filepath.Join(t.TempDir(), "log"), root, directory.Options{Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	b := &testBook{root: root, held: map[identity.ID]heldSlice{}}
	b.rulebook = newRulebook(d, nil, quietLog())
	b.setPolicy(t, files)
	return b
}

func quietLog() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func (b *testBook) setPolicy(t testing.TB, files string) {
	t.Helper()
	set, found := policy.Load(map[string][]byte{"main.hcl": []byte(files)}, "lab.test")
	if set == nil {
		t.Fatal(found)
	}
	b.policy = func() *policy.Set { return set }
}

func (b *testBook) put(t testing.TB, records ...directory.Payload) {
	t.Helper()
	for part := range slices.Chunk(records, 500) {
		if _, err := b.directory.Put(part...); err != nil {
			t.Fatal(err)
		}
	}
}

func known(kind identity.Kind, name, role string) directory.Identity {
	rec := directory.Identity{ID: testID(kind, name), Site: "home", State: directory.Active, Generation: 1, NotAfter: time.Now().Add(30 * 24 * time.Hour)}
	rec.SPKI = sha256.Sum256([]byte(rec.ID.String()))
	if role != "" {
		rec.Labels = map[string]string{"role": role}
	}
	return rec
}

// given asks for all devices and returns the names of those that get a new slice.
func (b *testBook) given(t testing.TB) []string {
	t.Helper()
	names := []string{}
	for device, held := range b.held {
		raw, now, err := b.slice(device, held)
		if err != nil {
			t.Fatal(err)
		}
		if raw != nil {
			names, b.held[device] = append(names, device.Name), now
		}
	}
	slices.Sort(names)
	return names
}

// TestRulebook: agents get a new slice when its content changes or half of its time
// is over, and else none.
func TestRulebook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBook(t, rulesPolicy)
		paris, lyon := known(identity.Node, "paris", ""), known(identity.Node, "lyon", "")
		anna := known(identity.User, "anna", "")
		b.put(t, paris, lyon, anna, known(identity.Device, "p1", "pump"), known(identity.Device, "p2", "pump"),
			known(identity.Device, "l1", "lamp"), known(identity.User, "tech", "vendor"),
			directory.Node{ID: paris.ID, Site: "paris", Mesh: []string{"paris:7844"}, Roles: []string{roleCA}},
			directory.Node{ID: lyon.ID, Site: "lyon", Mesh: []string{"lyon:7844"}})
		for _, name := range []string{"p1", "p2", "l1", "stranger"} {
			b.held[testID(identity.Device, name)] = heldSlice{}
		}
		all := []string{"l1", "p1", "p2"}
		expect := func(when string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(append([]string{}, want...), b.given(t)); diff != "" {
				t.Errorf("%s: want -, got +:\n%s", when, diff)
			}
		}
		change := func(rec directory.Identity) {
			t.Helper()
			b.put(t, rec)
			b.identityChanged(rec.ID)
		}
		expect("at first", all...)
		expect("again")

		change(known(identity.User, "bob", ""))
		expect("somebody enrols who may reach nothing")
		change(known(identity.User, "bob", "vendor"))
		expect("he becomes a vendor", "p1", "p2")
		change(known(identity.Device, "p2", "lamp"))
		expect("a pump becomes a lamp", "p2")
		anna.State = directory.Revoked
		change(anna)
		expect("a caller is revoked", "l1", "p2")

		b.setPolicy(t, rulesPolicy+"grant \"topics\" {\n  to = [\"*\"]\n  topics {\n    publish = [\"x\"]\n  }\n}\n")
		expect("a policy that changes no rule of an agent")
		b.setPolicy(t, strings.Replace(rulesPolicy, "tcp/8080", "tcp/8081", 1))
		expect("a policy that changes some", "p1")

		lyon.Generation, lyon.SPKI = 2, [32]byte{2}
		b.put(t, lyon)
		b.nodeRenewed(lyon.NotAfter)
		expect("a node renews")
		b.put(t, directory.Node{ID: lyon.ID, Site: "lyon", Mesh: []string{"lyon:7845"}})
		b.fabricChanged()
		expect("a node moves", all...)
		for i := range 20 { // nodes whose certificates end before slices do
			lyon.Generation, lyon.SPKI, lyon.NotAfter = uint64(3+i), [32]byte{3, byte(i)}, time.Now().Add(time.Hour)
			b.put(t, lyon)
			b.nodeRenewed(lyon.NotAfter)
		}
		expect("twenty renewals")
		if d := b.untilLook(time.Time{}); d <= 0 || d > time.Hour/keyPatience {
			t.Errorf("looks again in %s", d)
		}
		<-time.After(time.Hour / keyPatience)
		expect("a while after them", all...)
		expect("and once only")

		lyon.State = directory.Revoked
		b.put(t, lyon, directory.Revocation{ID: lyon.ID, Generation: lyon.Generation, Time: time.Now()})
		b.fabricChanged()
		expect("a node is revoked", all...)

		<-time.After(slice.MaxStale*4/10 - time.Minute)
		expect("before half of the time")
		<-time.After(slice.MaxStale/5 + time.Minute)
		expect("after half of the time", all...)

		gone := known(identity.Device, "p1", "pump")
		gone.State = directory.Revoked
		change(gone)
		b.held[gone.ID] = heldSlice{}
		expect("a device is revoked")
	})
}

// spanPolicy is rulesPolicy with a grant for lamps of these certificates.
func spanPolicy(certificate string) string {
	return rulesPolicy + "grant \"span\" {\n  to = [\"group:lamps\"]\n  certificate {\n" + certificate + "\n  }\n}\n"
}

// TestRulebookSpan: the rules of an agent hold for its own max_stale, 14 days at most.
func TestRulebookSpan(t *testing.T) {
	const day = 24 * time.Hour
	lamp := known(identity.Device, "l1", "lamp")
	for _, tt := range []struct {
		name, policy string
		want         time.Duration
	}{
		{"no grant", rulesPolicy, 14 * day},
		{"another field", spanPolicy(`lifetime = "7d"`), 14 * day},
		{"the lowest allowed", spanPolicy(`max_stale = "1m"`), time.Minute},
		{"days", spanPolicy(`max_stale = "1d12h"`), 36 * time.Hour},
		{"more than the bound", spanPolicy(`max_stale = "30d"`), 14 * day},
		{"two grants", spanPolicy(`max_stale = "3d"`) + strings.Replace(strings.TrimPrefix(spanPolicy(`max_stale = "2d"`), rulesPolicy), "span", "other", 1), 2 * day},
		{"of a caller", rulesPolicy + "grant \"span\" {\n  to = [\"user:anna\"]\n  certificate {\n    max_stale = \"1d\"\n  }\n}\n", 14 * day},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestBook(t, tt.policy)
			b.put(t, lamp, known(identity.User, "anna", ""))
			before := time.Now()
			raw, held, err := b.slice(lamp.ID, heldSlice{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := slice.Open(raw, b.root, lamp.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Until.Sub(before); got.Round(time.Second) != tt.want || !s.Until.Equal(held.Until) {
				t.Errorf("holds for %s, want %s; held until %s, signed %s", got, tt.want, held.Until, s.Until)
			}
		})
	}
}

// TestRulebookSpanChanges: another max_stale is a new slice for the agents that have
// it, and for no other.
func TestRulebookSpanChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBook(t, spanPolicy(`max_stale = "2d"`))
		b.put(t, known(identity.Device, "p1", "pump"), known(identity.Device, "l1", "lamp"), known(identity.Device, "l2", "lamp"))
		for _, name := range []string{"p1", "l1", "l2"} {
			b.held[testID(identity.Device, name)] = heldSlice{}
		}
		for _, step := range []struct {
			name, policy string
			wait         time.Duration
			want         []string
		}{
			{"at first", "", 0, []string{"l1", "l2", "p1"}},
			{"again", "", 0, nil},
			{"before half of two days", "", 19 * time.Hour, nil},
			{"after half of two days", "", 10 * time.Hour, []string{"l1", "l2"}},
			{"a minute", spanPolicy(`max_stale = "1m"`), 0, []string{"l1", "l2"}},
			{"half a minute later", "", 37 * time.Second, []string{"l1", "l2"}},
			{"the same again", spanPolicy(`max_stale = "1m"`), 0, nil},
			{"a day", spanPolicy(`max_stale = "1d"`), 0, []string{"l1", "l2"}},
			{"no longer said", rulesPolicy, 0, []string{"l1", "l2"}},
			{"more than 14 days", spanPolicy(`max_stale = "60d"`), 0, nil},
		} {
			<-time.After(step.wait)
			if step.policy != "" {
				b.setPolicy(t, step.policy)
			}
			if diff := cmp.Diff(append([]string{}, step.want...), b.given(t)); diff != "" {
				t.Errorf("%s: want -, got +:\n%s", step.name, diff)
			}
		}
	})
}

// TestRulesStreamInTime: with the lowest max_stale a node always holds rules for its
// agent that go on for a while, and gets no more of them than it needs.
func TestRulesStreamInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBook(t, spanPolicy(`max_stale = "1m"`))
		lamp := known(identity.Device, "l1", "lamp")
		b.put(t, lamp)
		lyon := testAgentRules(t, filepath.Join(t.TempDir(), "rules"), b.root)
		lyon.startServing(lamp.ID)
		defer b.connect(t, lyon)()
		<-time.After(rulesPause)
		seen := map[uint64]bool{}
		for range 600 {
			<-time.After(time.Second)
			s, err := slice.Open(lyon.read(lamp.ID), b.root, lamp.ID)
			if err != nil {
				t.Fatal(err)
			}
			seen[s.Issued] = true
			if left := time.Until(s.Until); left < 20*time.Second {
				t.Fatalf("the rules end in %s", left)
			}
		}
		if n := len(seen); n < 600/40 || n > 600/20 {
			t.Errorf("%d slices in ten minutes", n)
		}
		lamp.State = directory.Revoked
		b.put(t, lamp)
		b.identityChanged(lamp.ID)
		raw, now, err := b.slice(lamp.ID, heldSlice{renewAt: time.Now()})
		if raw != nil || err != nil || !now.renewAt.IsZero() {
			t.Errorf("for a revoked agent: %d bytes, due %s, %v", len(raw), now.renewAt, err)
		}
	})
}

// What a slice says of nodes is what the directory says.
func TestRulebookNodes(t *testing.T) {
	b := newTestBook(t, rulesPolicy)
	paris, lyon, rome, device := known(identity.Node, "paris", ""), known(identity.Node, "lyon", ""), known(identity.Node, "rome", ""), known(identity.Device, "p1", "pump")
	lyon.State, rome.State, rome.NotAfter = directory.Revoked, directory.Revoked, time.Now().Add(-25*time.Hour)
	b.put(t, paris, lyon, rome, device,
		directory.Node{ID: paris.ID, Site: "paris", Mesh: []string{"paris:7844", "garbage"}, API: []string{"paris:8883"}, Roles: []string{roleCA}},
		directory.Node{ID: lyon.ID, Site: "lyon", Mesh: []string{"lyon:7844"}},
		directory.Revocation{ID: lyon.ID, Generation: 4}, directory.Revocation{ID: rome.ID, Generation: 1}, directory.Revocation{ID: device.ID, Generation: 0})
	raw, held, err := b.slice(device.ID, heldSlice{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := slice.Open(raw, b.root, device.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantNodes := []slice.Node{{ID: paris.ID, Site: "paris", CA: true, API: []string{"paris:8883"}, MQTT: []string{}, Mesh: []string{"paris:7844"}, Key: paris.SPKI}}
	if diff := cmp.Diff(wantNodes, s.Nodes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]slice.Revoked{{ID: lyon.ID, Generation: 4}}, s.Revoked); diff != "" {
		t.Error(diff)
	}
	if held.Issued != s.Issued || s.Until.Before(time.Now().Add(slice.MaxStale-time.Minute)) {
		t.Errorf("issued %d, want %d; until %s", s.Issued, held.Issued, s.Until)
	}
}

func testAgentRules(t *testing.T, dir string, root ed25519.PublicKey) *agentRules {
	t.Helper()
	r, err := newAgentRules(dir, root, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// connect lets r follow b until the result is called.
func (b *testBook) connect(t *testing.T, r *agentRules) (cut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	near, far := net.Pipe()
	var running sync.WaitGroup
	running.Go(func() { _ = b.serve(ctx, far); far.Close() })
	running.Go(func() { _ = r.followOnce(ctx, near); near.Close() })
	return func() { cancel(); running.Wait() }
}

func TestRulesStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBook(t, rulesPolicy)
		p1, p2 := known(identity.Device, "p1", "pump"), known(identity.Device, "p2", "pump")
		b.put(t, p1, p2)
		dir := filepath.Join(t.TempDir(), "rules")
		lyon := testAgentRules(t, dir, b.root)
		lyon.startServing(p1.ID)
		cut := b.connect(t, lyon)
		wait := func() { <-time.After(rulesPause); synctest.Wait() }
		wait()
		first := lyon.issued(p1.ID)
		if first == 0 || lyon.issued(p2.ID) != 0 {
			t.Fatalf("issued %d and %d", first, lyon.issued(p2.ID))
		}
		lyon.startServing(p2.ID)
		lyon.startServing(p2.ID) // a second connection
		wait()
		lyon.stopServing(p2.ID)
		wait()
		if lyon.issued(p2.ID) == 0 {
			t.Error("an agent that connected later has no rules")
		}
		tech := known(identity.User, "tech", "vendor")
		b.put(t, tech)
		b.identityChanged(tech.ID)
		wait()
		wait()
		second := lyon.issued(p1.ID)
		if second <= first {
			t.Error("a change did not arrive")
		}
		s, err := slice.Open(lyon.read(p1.ID), b.root, p1.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := s.Allow(tech.ID, "tcp", 8080); !ok {
			t.Error("the new caller is not allowed")
		}
		cut()

		// The node starts again, with the writer away and then back.
		lyon = testAgentRules(t, dir, b.root)
		lyon.startServing(p1.ID)
		if lyon.issued(p1.ID) != second {
			t.Error("rules not kept")
		}
		cut = b.connect(t, lyon)
		wait()
		if lyon.issued(p1.ID) != second {
			t.Error("the same rules were signed again")
		}
		p1.State = directory.Revoked
		b.put(t, p1)
		b.identityChanged(p1.ID)
		wait()
		cut()
	})
}

// What a node that lies or breaks cannot do to another.
func TestRulesStreamRefuses(t *testing.T) {
	b, other := newTestBook(t, rulesPolicy), newTestBook(t, rulesPolicy)
	device := known(identity.Device, "p1", "pump")
	b.put(t, device)
	other.put(t, device)
	dir := filepath.Join(t.TempDir(), "rules")
	r := testAgentRules(t, dir, b.root)
	r.startServing(device.ID)
	sign := func(b *testBook) []byte {
		t.Helper()
		raw, _, err := b.slice(device.ID, heldSlice{})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	older, newest := sign(b), sign(b)
	if err := r.storeSlice(newest); err != nil {
		t.Fatal(err)
	}
	issued := r.issued(device.ID)
	if err := r.storeSlice(sign(other)); err == nil {
		t.Error("rules of another fabric were kept")
	}
	if err := r.storeSlice(newest[:100]); err == nil {
		t.Error("torn rules were kept")
	}
	if text := r.warning(); text != "rules of agents that another node sent were refused since the start of this one: 1 forged, 1 malformed" {
		t.Errorf("warning %q", text)
	}
	if err := r.storeSlice(older); err != nil || r.issued(device.ID) != issued {
		t.Errorf("older rules: %v", err)
	}
	near, far := net.Pipe()
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = far.Write(binary.BigEndian.AppendUint32(nil, slice.MaxBytes+1)) })
	if err := r.followOnce(t.Context(), near); !errors.Is(err, errLargeBlock) {
		t.Errorf("rules that are too large: %v", err)
	}
	near.Close()
	sending.Wait()
	want := slice.RefusalCounts{slice.Forged: 1, slice.Malformed: 1, slice.Earlier: 1, slice.TooLarge: 1}
	if diff := cmp.Diff(want, r.refused.Counts()); diff != "" {
		t.Errorf("counted: want -, got +:\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, sliceFile(device.ID)), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.stopServing(device.ID)
	if r.startServing(device.ID); r.issued(device.ID) != 0 {
		t.Error("a damaged file counts as rules")
	}

	// A full disk: the agent gets its rules nevertheless.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := r.storeSlice(newest); err != nil || string(r.read(device.ID)) != string(newest) {
		t.Errorf("on a full disk: %v", err)
	}

	for name, text := range map[string]string{
		"a user":   `{"id":"spiffe://lab.test/user/anna"}`,
		"nonsense": `{"id":"x"}`,
		"too long": strings.Repeat(" ", maxRuleMessage+1),
		"no json":  `{`,
	} {
		near, far := net.Pipe()
		var serving sync.WaitGroup
		var err error
		serving.Go(func() { err = b.serve(t.Context(), far); far.Close() })
		if werr := writeBlock(near, []byte(text)); werr != nil && !errors.Is(werr, io.ErrClosedPipe) && name != "too long" {
			t.Errorf("%s: %v", name, werr)
		}
		near.Close()
		serving.Wait()
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s was taken: %v", name, err)
		}
	}
}

func TestKeptSpaceIsBounded(t *testing.T) {
	k := keptSpace{dir: t.TempDir()}
	needed := func(name string) bool { return name == "device.served" }
	for _, name := range []string{"device.old", "device.served", "device.new"} {
		if err := k.write(name, make([]byte, 100), needed); err != nil {
			t.Fatal(err)
		}
	}
	if k.count != 3 || k.bytes != 300 {
		t.Fatalf("%d files of %d bytes", k.count, k.bytes)
	}
	if err := os.Chtimes(filepath.Join(k.dir, "device.old"), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	k.bytes = maxKeptBytes
	if err := k.write("device.served", make([]byte, 200), needed); err != nil {
		t.Fatal(err)
	}
	_, err := os.Stat(filepath.Join(k.dir, "device.old"))
	if !errors.Is(err, os.ErrNotExist) || k.count != 2 || k.bytes != 300 {
		t.Errorf("%v, %d files of %d bytes", err, k.count, k.bytes)
	}
}

// A renewal changes no rights.
func TestStandings(t *testing.T) {
	b := newTestBook(t, rulesPolicy)
	device := known(identity.Device, "p1", "pump")
	b.put(t, device)
	s := newStandings(b.directory)
	for _, tt := range []struct {
		name   string
		change func(*directory.Identity)
		want   bool
	}{
		{"nothing", func(*directory.Identity) {}, false},
		{"a renewal", func(r *directory.Identity) {
			r.Generation, r.SPKI, r.NotAfter, r.Leaf = 2, [32]byte{1}, time.Now(), []byte("x")
		}, false},
		{"a label", func(r *directory.Identity) { r.Labels = map[string]string{"role": "lamp"} }, true},
		{"the site", func(r *directory.Identity) { r.Site = "lyon" }, true},
		{"the state", func(r *directory.Identity) { r.State = directory.Replaced }, true},
		{"an enrolment", func(r *directory.Identity) { r.ID = testID(identity.Device, "p2") }, true},
	} {
		tt.change(&device)
		if got := s.update(&device); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// BenchmarkRulebook asks, as 20 nodes do, for the rules of 1,000 agents in a fabric
// of 10,000 identities, after one change of each sort. 2,000 people may reach each
// agent.
//
//	go test ./node -run xxx -bench BenchmarkRulebook -benchtime 20x
//
// measured on two busy cores: policy 76 ms, new caller 51 ms, node that moves 53 ms,
// each with new slices for all 1,000 agents; stranger 3.6 ms and nothing 2.8 ms, with
// none.
func BenchmarkRulebook(b *testing.B) {
	const agents, people, others = 1000, 2000, 7000
	var policies [2]string
	for i := range policies {
		policies[i] = strings.Replace(rulesPolicy, "tcp/8080", fmt.Sprintf("tcp/%d", 8080+i), 1)
		for k := range 50 { // of other people, at other devices
			policies[i] += fmt.Sprintf("grant \"g%d\" {\n  to = [\"user:o%d-*\"]\n  network {\n    dst   = [\"device:o%d-*\"]\n    allow = [\"tcp/22\"]\n  }\n}\n", k, k, k)
		}
	}
	book := newTestBook(b, policies[0])
	var records []directory.Payload
	for i := range agents {
		rec := known(identity.Device, fmt.Sprintf("pump-%d", i), "pump")
		records = append(records, rec)
		book.held[rec.ID] = heldSlice{}
	}
	for i := range people {
		records = append(records, known(identity.User, fmt.Sprintf("tech-%d", i), "vendor"))
	}
	for i := range others {
		records = append(records, known(identity.Device, fmt.Sprintf("o%d-%d", i%50, i), ""))
	}
	book.put(b, records...)
	book.given(b)
	run := func(name string, change func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			given, i := 0, 0
			for b.Loop() {
				i++
				change(i)
				given += len(book.given(b))
			}
			b.ReportMetric(float64(given)/float64(b.N), "slices/op")
		})
	}
	sets := [2]*policy.Set{}
	for i := range sets {
		book.setPolicy(b, policies[i])
		sets[i] = book.policy()
	}
	run("change=policy", func(i int) { book.policy = func() *policy.Set { return sets[i%2] } })
	run("change=none", func(int) {})
	enrol := func(kind identity.Kind, name, role string) func(int) {
		return func(i int) {
			rec := known(kind, fmt.Sprintf("%s-%d", name, i), role)
			b.StopTimer()
			book.put(b, rec)
			b.StartTimer()
			book.identityChanged(rec.ID)
		}
	}
	run("change=stranger", enrol(identity.Device, "stranger", ""))
	run("change=caller", enrol(identity.User, "caller", "vendor"))
	run("change=fabric", func(i int) {
		node := known(identity.Node, "paris", "")
		b.StopTimer()
		book.put(b, node, directory.Node{ID: node.ID, Site: "paris", Mesh: []string{fmt.Sprintf("paris:%d", i)}})
		b.StartTimer()
		book.fabricChanged()
	})
}

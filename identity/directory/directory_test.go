package directory

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hpmq/hpmq/identity"
)

const domain = "lab.test"

// testKey returns the same key for the same seed, so that failures repeat.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

var rootKey = testKey(1)

func openDir(t testing.TB, path string, opts Options) *Directory {
	t.Helper()
	d, err := Open(path, publicKey(rootKey), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func newWriter(t testing.TB) *Directory {
	t.Helper()
	return openDir(t, filepath.Join(t.TempDir(), "log"), Options{Signer: rootKey})
}

func newReplica(t testing.TB) *Directory {
	t.Helper()
	return openDir(t, filepath.Join(t.TempDir(), "log"), Options{})
}

func mustPut(t testing.TB, d *Directory, p ...Payload) []Record {
	t.Helper()
	r, err := d.Put(p...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func device(name string) identity.ID {
	return identity.ID{TrustDomain: domain, Kind: identity.Device, Name: name}
}

func node(name string) identity.ID {
	return identity.ID{TrustDomain: domain, Kind: identity.Node, Name: name}
}

func someIdentity(name string, generation uint64) Identity {
	return Identity{
		ID: device(name), Labels: map[string]string{"role": "sensor"}, Site: "paris", State: Active,
		Generation: generation, SPKI: sha256.Sum256(fmt.Append(nil, name, generation)),
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Leaf: []byte("certificate"), Request: "req",
	}
}

func somePolicy(version uint64) Policy {
	files := map[string][]byte{"main.hcl": fmt.Appendf(nil, "version %d", version)}
	return Policy{Version: version, Files: files, Hash: HashFiles(files)}
}

// everyKind is one payload of each kind but signers.
func everyKind() []Payload {
	return []Payload{
		someIdentity("pump-7", 1),
		Node{ID: node("paris"), Site: "paris", Mesh: []string{"10.0.0.1:7844"}, API: []string{"10.0.0.1:8883"}, Roles: []string{"ca"}},
		Revocation{ID: device("pump-6"), Generation: 3, Reason: "stolen", Time: time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)},
		somePolicy(1),
		Function{Name: "normalise", SHA256: [32]byte{1}, Size: 9},
		TicketUse{TicketID: "01J", ID: device("pump-7"), Uses: 1, SPKI: [32]byte{2}},
		Void{ID: device("pump-7"), UnixMilli: 5},
		Site{Name: "oslo", Removed: true},
	}
}

// content is all that a directory answers.
type content struct {
	Tip         Point
	Identities  []Identity
	Nodes       []Node
	Revocations map[identity.ID]Revocation
	Functions   map[string]Function
	Policy      Policy
	Tickets     map[string]TicketUse
	Voids       map[identity.ID]Void
	Signers     int
}

func contentOf(d *Directory) content {
	c := content{
		Tip: d.Tip(), Identities: slices.Collect(d.Identities()), Nodes: d.Nodes(), Functions: d.Functions(),
		Revocations: d.index.revocations, Tickets: d.index.tickets, Voids: d.index.voids, Signers: len(d.Signers()),
	}
	c.Policy, _ = d.Policy()
	return c
}

func diffContent(got, want *Directory) string {
	return cmp.Diff(contentOf(got), contentOf(want),
		cmpopts.SortSlices(func(x, y Identity) bool { return x.ID.Name < y.ID.Name }),
		cmpopts.SortSlices(func(x, y Node) bool { return x.ID.Name < y.ID.Name }))
}

func TestPutIsKeptAcrossRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	records := mustPut(t, d, everyKind()...)
	mustPut(t, d, someIdentity("pump-7", 2))
	mustPut(t, d, Revocation{ID: device("pump-6"), Generation: 1, Reason: "older"})
	mustPut(t, d, Void{ID: device("pump-7"), UnixMilli: 4}) // by a clock that went back

	if got, ok := d.Identity(device("pump-7")); !ok || cmp.Diff(got, someIdentity("pump-7", 2)) != "" {
		t.Errorf("identity: %s", cmp.Diff(got, someIdentity("pump-7", 2)))
	}
	if _, ok := d.ByKey(someIdentity("pump-7", 1).SPKI); ok {
		t.Error("the key of an earlier generation is still indexed")
	}
	if got, ok := d.ByKey(someIdentity("pump-7", 2).SPKI); !ok || got.ID != device("pump-7") {
		t.Errorf("by key: %v, %v", got.ID, ok)
	}
	for gen, want := range map[uint64]bool{1: true, 3: true, 4: false} {
		if got := d.Revoked(device("pump-6"), gen); got != want {
			t.Errorf("generation %d revoked: %v, want %v: the set only grows", gen, got, want)
		}
	}
	if d.Revoked(device("pump-7"), 1) {
		t.Error("an identity without revocation is revoked")
	}
	if r := records[0]; r.Seq != 1 || r.Version != 1 || time.Since(r.Time()) > time.Minute {
		t.Errorf("first record: %+v", r)
	}

	if n, ok := d.Node(node("paris")); !ok || n.Site != "paris" || len(n.Roles) != 1 {
		t.Errorf("node %+v, %v", n, ok)
	}
	if r, ok := d.Revocation(device("pump-6")); !ok || r.Reason != "stolen" {
		t.Errorf("revocation %+v, %v", r, ok)
	}
	if u, ok := d.TicketUse("01J"); !ok || u.Uses != 1 {
		t.Errorf("ticket use %+v, %v", u, ok)
	}
	if v, ok := d.Void(device("pump-7")); !ok || !v.Time().Equal(time.UnixMilli(5)) {
		t.Errorf("void tickets %+v, %v", v, ok)
	}

	again := openDir(t, path, Options{Signer: rootKey})
	if diff := diffContent(again, d); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
	if r := mustPut(t, again, someIdentity("pump-7", 3))[0]; r.Version != 3 {
		t.Errorf("version %d after a restart, want 3", r.Version)
	}
}

func TestPutRefuses(t *testing.T) {
	d := newWriter(t)
	mustPut(t, d, someIdentity("pump-7", 5), somePolicy(4))
	thief := someIdentity("pump-8", 1)
	thief.SPKI = someIdentity("pump-7", 5).SPKI
	large := somePolicy(5)
	large.Files = map[string][]byte{"main.hcl": make([]byte, maxPolicyPayload)}
	large.Hash = HashFiles(large.Files)
	wordy := someIdentity("pump-9", 1)
	wordy.Leaf = make([]byte, maxPayload)
	wrongHash := somePolicy(9)
	wrongHash.Hash[0]++
	before := contentOf(d)
	for name, p := range map[string]Payload{
		"earlier generation":  someIdentity("pump-7", 4),
		"key of another":      thief,
		"same policy version": somePolicy(4),
		"policy hash":         wrongHash,
		"policy too large":    large,
		"record too large":    wordy,
		"known signer":        Signer{publicKey(rootKey)},
		"short signer key":    Signer{[]byte("short")},
		"unknown kind":        Opaque{Kind: "weather", Key: "x"},
		"no id":               Identity{State: Active},
		"no state":            Identity{ID: device("x")},
		"node of a device":    Node{ID: device("x")},
		"revocation of none":  Revocation{},
		"nameless function":   Function{},
		"nameless ticket":     TicketUse{},
		"void of none":        Void{},
	} {
		// The good record beside it must not get in either.
		if _, err := d.Put(someIdentity("innocent", 1), p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := d.Put(); err == nil {
		t.Error("put of nothing accepted")
	}
	if diff := cmp.Diff(contentOf(d), before); diff != "" {
		t.Errorf("refused records left traces: %s", diff)
	}
	if _, err := newReplica(t).Put(somePolicy(1)); !errors.Is(err, ErrReplica) {
		t.Errorf("replica: %v", err)
	}
}

func TestLargestPolicyFits(t *testing.T) {
	d := newWriter(t)
	p := Policy{Version: 1, Files: map[string][]byte{"main.hcl": make([]byte, maxPolicyPayload-100)}}
	p.Hash = HashFiles(p.Files)
	mustPut(t, d, p)
	r := newReplica(t)
	replicate(t, d, r)
	if got, ok := r.Policy(); !ok || got.Hash != p.Hash {
		t.Error("the policy did not arrive")
	}
}

func TestSignerChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	first := openDir(t, path, Options{Signer: rootKey})
	mustPut(t, first, Signer{publicKey(testKey(2))}, somePolicy(1))
	first.Close()
	second := openDir(t, path, Options{Signer: testKey(2)})
	mustPut(t, second, somePolicy(2))
	if err := second.signHead(); err != nil {
		t.Fatal(err)
	}
	r := newReplica(t)
	replicate(t, second, r)
	if diff := diffContent(r, second); diff != "" {
		t.Error(diff)
	}
	if got := len(r.Signers()); got != 2 {
		t.Errorf("%d signers, want 2", got)
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	w := openDir(t, filepath.Join(t.TempDir(), "log"), Options{Signer: rootKey, Now: func() time.Time { return now }})
	a := mustPut(t, w, somePolicy(1))[0]
	now = now.Add(-time.Hour)
	b := mustPut(t, w, somePolicy(2))[0]
	if b.HLC != a.HLC+1 {
		t.Errorf("clock went from %d to %d", a.HLC, b.HLC)
	}
	now = now.Add(2 * time.Hour)
	c := mustPut(t, w, somePolicy(3))[0]
	if !c.Time().Equal(now) {
		t.Errorf("clock at %v, want %v", c.Time(), now)
	}
}

func TestRecordForm(t *testing.T) {
	w := newWriter(t)
	mustPut(t, w, someIdentity("pump-7", 1))
	e, err := w.entry(1)
	if err != nil {
		t.Fatal(err)
	}
	// The same record with its sequence number in two bytes instead of one.
	long := bytes.Clone(e.raw)
	if long[2] != 1 {
		t.Fatalf("encoding changed: %x", long[:4])
	}
	long = slices.Concat(long[:2], []byte{0x18, 1}, long[3:])
	if _, _, err := decodeEntry(long); err == nil || !strings.Contains(err.Error(), "deterministic") {
		t.Errorf("second spelling of a record: %v", err)
	}
	if _, err := w.Record(0); err == nil {
		t.Error("record 0 exists")
	}
	if _, err := w.Record(2); err == nil {
		t.Error("record 2 exists")
	}
}

func TestUnknownKindIsCarried(t *testing.T) {
	w, r := newWriter(t), newReplica(t)
	raw, err := encoding.Marshal(map[int]string{1: "rain"})
	if err != nil {
		t.Fatal(err)
	}
	rec := Record{Seq: 1, Kind: "weather", Key: "paris", Version: 1, HLC: 1, Payload: raw}
	e := entry{Record: rec}
	if e.raw, err = e.sign(rootKey); err != nil {
		t.Fatal(err)
	}
	if _, err := w.acceptRecords(e.raw); err != nil {
		t.Fatal(err)
	}
	mustPut(t, w, somePolicy(1))
	replicate(t, w, r)
	got, err := r.Record(1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := got.Decode()
	if err != nil || p != (Opaque{"weather", "paris"}) {
		t.Errorf("unknown kind reads as %v, %v", p, err)
	}
	again := openDir(t, r.path, Options{})
	if diff := diffContent(again, w); diff != "" {
		t.Error(diff)
	}
}

func TestRevokedDoesNotAllocate(t *testing.T) {
	w := newWriter(t)
	mustPut(t, w, Revocation{ID: device("pump-7"), Generation: 2})
	id := device("pump-7")
	if n := testing.AllocsPerRun(100, func() { w.Revoked(id, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

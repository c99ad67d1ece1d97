package slice

import (
	"bytes"
	"crypto/ed25519"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

const lab = "lab.test"

var tcp = func(first, last uint16) PortRange { return PortRange{Network: "tcp", First: first, Last: last} }

func id(t testing.TB, kind identity.Kind, name string) identity.ID {
	t.Helper()
	id, err := identity.NewID(lab, kind, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// writer opens the directory of a new fabric, and returns its root key.
func writer(t testing.TB) (*directory.Directory, ed25519.PublicKey) {
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
	return d, root
}

func sampleRules(t testing.TB) []Rule {
	ann, bob := id(t, identity.User, "ann"), id(t, identity.User, "bob")
	return []Rule{
		{Cite: `grant "web" main.hcl:4`, Callers: []identity.ID{ann, bob}, Ports: []PortRange{tcp(80, 80), tcp(8000, 8100)}},
		{Cite: `grant "all" main.hcl:9`, Callers: []identity.ID{ann}, Ports: []PortRange{tcp(1, 65535), {Network: "udp", First: 161, Last: 161}}},
		{Cite: `deny "admin" main.hcl:20`, Deny: true, Callers: []identity.ID{ann}, Ports: []PortRange{tcp(8050, 8050)}},
	}
}

func sampleNodes(t testing.TB) (nodes []Node, revoked []Revoked) {
	nodes = []Node{
		{
			ID: id(t, identity.Node, "lyon"), Site: "lyon", API: []string{"lyon:8883"}, MQTT: []string{"lyon:8883"},
			Mesh: []string{"lyon:7844", "[::1]:7844"}, Key: [32]byte{1},
		},
		{
			ID: id(t, identity.Node, "paris"), Site: "paris", CA: true, API: []string{}, MQTT: []string{},
			Mesh: []string{"paris:7844"}, Key: [32]byte{2},
		},
	}
	revoked = []Revoked{{ID: id(t, identity.Node, "lyon"), Generation: 3}, {ID: id(t, identity.Node, "rome"), Generation: 7}}
	return nodes, revoked
}

// signed returns the sample for pump-7.
func signed(t testing.TB, d *directory.Directory, rules []Rule) (*Slice, []byte) {
	t.Helper()
	part, err := EncodeRules(lab, rules)
	if err != nil {
		t.Fatal(err)
	}
	nodes, revoked := sampleNodes(t)
	fabric, err := EncodeFabric(lab, nodes, revoked)
	if err != nil {
		t.Fatal(err)
	}
	s := &Slice{
		Target: id(t, identity.Device, "pump-7"), Until: time.Now().Add(MaxStale).UTC().Truncate(time.Millisecond),
		Rules: rules, Nodes: nodes, Revoked: revoked, RulesSum: part.Sum, FabricSum: fabric.Sum,
	}
	s.index()
	raw, issued, err := Sign(d, s.Target, s.Until, part, fabric)
	if err != nil {
		t.Fatal(err)
	}
	s.Issued = issued
	return s, raw
}

func TestAllow(t *testing.T) {
	d, _ := writer(t)
	s, _ := signed(t, d, sampleRules(t))
	for _, tt := range []struct {
		caller  string
		network string
		port    uint16
		rule    string
		ok      bool
	}{
		{"user:ann", "tcp", 80, `grant "web" main.hcl:4`, true},
		{"user:ann", "tcp", 22, `grant "all" main.hcl:9`, true},
		{"user:ann", "udp", 161, `grant "all" main.hcl:9`, true},
		{"user:ann", "udp", 80, "", false},
		{"user:ann", "tcp", 8050, `deny "admin" main.hcl:20`, false},
		{"user:bob", "tcp", 8050, `grant "web" main.hcl:4`, true},
		{"user:bob", "tcp", 22, "", false},
		{"device:ann", "tcp", 80, "", false},
	} {
		id, err := identity.ParseShort(lab, tt.caller)
		if err != nil {
			t.Fatal(err)
		}
		if rule, ok := s.Allow(id, tt.network, tt.port); rule != tt.rule || ok != tt.ok {
			t.Errorf("%s %s/%d: %q %v, want %q %v", tt.caller, tt.network, tt.port, rule, ok, tt.rule, tt.ok)
		}
		id.TrustDomain = "other.test"
		if rule, ok := s.Allow(id, tt.network, tt.port); rule != "" || ok {
			t.Errorf("%s: %q %v", id, rule, ok)
		}
	}
	var none *Slice
	if _, ok := none.Allow(s.Target, "tcp", 80); ok {
		t.Error("no slice allows something")
	}
	ann := id(t, identity.User, "ann")
	if n := testing.AllocsPerRun(100, func() { s.Allow(ann, "tcp", 22) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNodes(t *testing.T) {
	d, _ := writer(t)
	s, _ := signed(t, d, nil)
	lyon, paris, rome := id(t, identity.Node, "lyon"), id(t, identity.Node, "paris"), id(t, identity.Node, "rome")
	for _, tt := range []struct {
		node       identity.ID
		generation uint64
		want       bool
	}{
		{lyon, 3, true},
		{lyon, 4, false},
		{rome, 0, true},
		{rome, 7, true},
		{paris, 0, false},
		{id(t, identity.Device, "rome"), 1, false},
	} {
		if got := s.NodeRevoked(tt.node, tt.generation); got != tt.want {
			t.Errorf("%s generation %d: revoked %v, want %v", tt.node.Short(), tt.generation, got, tt.want)
		}
	}
	if !s.NodeKey(paris, [32]byte{2}) || s.NodeKey(paris, [32]byte{1}) || s.NodeKey(rome, [32]byte{}) {
		t.Error("keys of nodes are mixed up")
	}
	var order []string
	for _, n := range append(s.Nearest("lyon"), s.Nearest("rome")...) {
		order = append(order, n.ID.Name)
	}
	if diff := cmp.Diff([]string{"lyon", "paris", "paris", "lyon"}, order); diff != "" {
		t.Error(diff)
	}
	var none *Slice
	if none.NodeRevoked(rome, 1) || none.NodeKey(paris, [32]byte{2}) || none.Nearest("") != nil {
		t.Error("no slice knows nodes")
	}
}

func TestSignAndOpen(t *testing.T) {
	d, root := writer(t)
	s, raw := signed(t, d, sampleRules(t))
	got, err := Open(raw, root, s.Target)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got, cmpopts.IgnoreUnexported(Slice{})); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if _, ok := got.Allow(id(t, identity.User, "ann"), "tcp", 80); !ok {
		t.Error("what was read allows nothing")
	}
	if since := time.Since(got.IssuedAt()); since < 0 || since > time.Minute {
		t.Errorf("issued %s ago", since)
	}
	if got.Ended(got.Until) || !got.Ended(got.Until.Add(time.Millisecond)) {
		t.Error("the end is wrong")
	}
	if again, _ := signed(t, d, nil); again.Issued <= s.Issued {
		t.Error("issued later and not newer")
	}
}

// The writer's key may be another than the one that tickets pin.
func TestFollowsSigners(t *testing.T) {
	root, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "log")
	for range 3 {
		d, err := directory.Open(path, root, directory.Options{Signer: key})
		if err != nil {
			t.Fatal(err)
		}
		s, raw := signed(t, d, sampleRules(t))
		if _, err := Open(raw, root, s.Target); err != nil {
			t.Error(err)
		}
		next, nextKey, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(raw, next, s.Target); err == nil {
			t.Error("taken by a device with another pinned key")
		}
		if _, err := d.Put(directory.Signer{Key: next}); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		key = nextKey
	}
}

func TestOpenRefuses(t *testing.T) {
	d, root := writer(t)
	s, raw := signed(t, d, sampleRules(t))
	other, _ := writer(t)
	_, stranger := signed(t, other, sampleRules(t))
	_, poorer := signed(t, d, sampleRules(t)[:1])
	statement := func(purpose string, payload any) []byte {
		t.Helper()
		b, err := d.Sign(purpose, encode(t, payload))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	w, err := decodeAs[wireSigned](raw)
	if err != nil {
		t.Fatal(err)
	}
	p, err := decodeAs[wireSigned](poorer)
	if err != nil {
		t.Fatal(err)
	}
	header := wireHeader{TrustDomain: lab, Target: s.Target.Short(), Issued: 1, Rules: s.RulesSum, Fabric: s.FabricSum}
	with := func(statement []byte) []byte { return encode(t, wireSigned{statement, w.Rules, w.Fabric}) }
	if _, err := Open(with(statement(purpose, header)), root, s.Target); err != nil {
		t.Fatalf("the forger does not work: %v", err)
	}
	short := header
	short.Target = "pump-7"
	for name, tt := range map[string]struct {
		raw    []byte
		target identity.ID
		want   string
	}{
		"another target":             {raw, id(t, identity.Device, "pump-8"), "not for device:pump-8"},
		"of another fabric":          {stranger, s.Target, "writer did not sign"},
		"signed for another purpose": {with(statement("something else", header)), s.Target, "writer did not sign"},
		"rules of another slice":     {encode(t, wireSigned{p.Statement, w.Rules, w.Fabric}), s.Target, "not those that were signed"},
		"nodes of another slice":     {encode(t, wireSigned{w.Statement, w.Rules, encode(t, wireFabric{Nodes: []wireNode{}, Revoked: []wireRevoked{}})}), s.Target, "not those that were signed"},
		"a short name for a device":  {with(statement(purpose, short)), s.Target, "canonical"},
		"trailing bytes":             {append(bytes.Clone(raw), 0), s.Target, "extraneous"},
		"cut short":                  {raw[:len(raw)-1], s.Target, "EOF"},
		"nothing":                    {nil, s.Target, "EOF"},
		"too large":                  {make([]byte, MaxBytes+1), s.Target, "at most"},
		"no statement":               {encode(t, wireSigned{Rules: w.Rules, Fabric: w.Fabric}), s.Target, "statement"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Open(tt.raw, root, tt.target)
			if err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
				t.Errorf("got %v, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x20
		if _, err := Open(bad, root, s.Target); err == nil {
			t.Fatalf("byte %d can be changed", i)
		}
	}
}

// What the writer would have to sign must be what an agent takes.
func TestEncodeRefuses(t *testing.T) {
	abroad := identity.ID{TrustDomain: "other.test", Kind: identity.Node, Name: "rome"}
	if _, err := EncodeRules(lab, []Rule{{Callers: []identity.ID{abroad}}}); err == nil {
		t.Error("a caller of another trust domain was encoded")
	}
	if _, err := EncodeRules(lab, make([]Rule, maxRules+1)); err == nil {
		t.Error("too many rules were encoded")
	}
	if _, err := EncodeFabric(lab, []Node{{ID: abroad}}, nil); err == nil {
		t.Error("a node of another trust domain was encoded")
	}
	if _, err := EncodeFabric(lab, nil, []Revoked{{ID: id(t, identity.Device, "pump-7")}}); err == nil {
		t.Error("a device was encoded as a node")
	}
	if _, err := EncodeFabric(lab, make([]Node, maxNodes+1), nil); err == nil {
		t.Error("too many nodes were encoded")
	}

	// A node announces its addresses, and a grant is named by people: neither may
	// keep agents from their slices.
	long := strings.Repeat("ü", maxCite)
	d, root := writer(t)
	rules, err := EncodeRules(lab, []Rule{{Cite: long}})
	if err != nil {
		t.Fatal(err)
	}
	mesh := append([]string{"no port", ":1", "a:", "\xff:1", strings.Repeat("a", maxAddr) + ":1", "good:1"}, make([]string, maxAddrs)...)
	for i := range maxAddrs {
		mesh[6+i] = "more:" + string(rune('1'+i%9))
	}
	fabric, err := EncodeFabric(lab, []Node{{ID: id(t, identity.Node, "rome"), Mesh: mesh}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	target := id(t, identity.Device, "pump-7")
	raw, _, err := Sign(d, target, time.Now(), rules, fabric)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(raw, root, target)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Nodes[0].Mesh; len(got) != maxAddrs || got[0] != "good:1" || !strings.HasPrefix(long, s.Rules[0].Cite) {
		t.Errorf("addresses %q, cite of %d bytes", got, len(s.Rules[0].Cite))
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := encoder.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzDecode(f *testing.F) {
	d, root := writer(f)
	s, raw := signed(f, d, sampleRules(f))
	w, err := decodeAs[wireSigned](raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(w.Rules)
	f.Add(w.Fabric)
	f.Add(w.Statement)
	f.Add([]byte{0xa5})
	f.Fuzz(func(t *testing.T, b []byte) {
		if rules, err := decodeRules(lab, b); err == nil {
			if again, err := encodeRules(lab, rules); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("rules: decode and encode differ: %v", err)
			}
		}
		if nodes, revoked, err := decodeFabric(lab, b); err == nil {
			if again, err := encodeFabric(lab, nodes, revoked); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("fabric: decode and encode differ: %v", err)
			}
		}
		if got, err := Open(b, root, s.Target); err == nil && !bytes.Equal(b, raw) {
			t.Fatalf("a forgery was accepted: %v", got)
		}
	})
}

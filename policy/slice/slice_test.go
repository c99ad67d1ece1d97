package slice

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

var tcp = func(first, last uint16) PortRange { return PortRange{Network: "tcp", First: first, Last: last} }

func sample(t testing.TB, ca *testca.CA) *Slice {
	t.Helper()
	ann, bob := ca.ID(t, identity.User, "ann"), ca.ID(t, identity.User, "bob")
	s := New(ca.ID(t, identity.Device, "pump-7"), []Rule{
		{Cite: `grant "web" main.hcl:4`, Callers: []identity.ID{ann, bob}, Ports: []PortRange{tcp(80, 80), tcp(8000, 8100)}},
		{Cite: `grant "all" main.hcl:9`, Callers: []identity.ID{ann}, Ports: []PortRange{tcp(1, 65535), {Network: "udp", First: 161, Last: 161}}},
		{Cite: `deny "admin" main.hcl:20`, Deny: true, Callers: []identity.ID{ann}, Ports: []PortRange{tcp(8050, 8050)}},
	})
	s.Version, s.Issued = 7, time.Now().UTC().Truncate(time.Millisecond)
	return s
}

func TestAllow(t *testing.T) {
	ca := testca.New(t, "lab.test")
	s := sample(t, ca)
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
		id, err := identity.ParseShort("lab.test", tt.caller)
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
	ann := ca.ID(t, identity.User, "ann")
	if n := testing.AllocsPerRun(100, func() { s.Allow(ann, "tcp", 22) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNewer(t *testing.T) {
	now := time.Now()
	old := &Slice{Version: 5, Issued: now}
	for _, tt := range []struct {
		name string
		s    *Slice
		than *Slice
		want bool
	}{
		{"first", old, nil, true},
		{"later version", &Slice{Version: 6, Issued: now.Add(-time.Hour)}, old, true},
		{"earlier version, issued later", &Slice{Version: 4, Issued: now.Add(time.Hour)}, old, false},
		{"issued again", &Slice{Version: 5, Issued: now.Add(time.Second)}, old, true},
		{"the same", old, old, false},
	} {
		if got := tt.s.Newer(tt.than); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestSignAndVerify(t *testing.T) {
	ca := testca.New(t, "lab.test")
	node := ca.ID(t, identity.Node, "hub")
	svid := ca.SVID(t, node)
	s := sample(t, ca)
	raw, err := s.Sign(svid)
	if err != nil {
		t.Fatal(err)
	}
	got, signer, err := Verify(raw, ca.Bundle(), s.Target, time.Now())
	if err != nil || signer != node {
		t.Fatalf("%v, %v", signer, err)
	}
	if diff := cmp.Diff(s, got, cmpopts.IgnoreUnexported(Slice{})); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if _, ok := got.Allow(ca.ID(t, identity.User, "ann"), "tcp", 80); !ok {
		t.Error("what was read allows nothing")
	}

	// Kept on disk for longer than the node's certificate lives.
	late := time.Now().Add(30 * 24 * time.Hour)
	if _, _, err := Verify(raw, ca.Bundle(), s.Target, late); err == nil {
		t.Error("accepted from a node whose certificate has expired")
	}
	if _, _, err := VerifyStored(raw, ca.Bundle(), s.Target); err != nil {
		t.Error(err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	ca := testca.New(t, "lab.test")
	s := sample(t, ca)
	svid := ca.SVID(t, ca.ID(t, identity.Node, "hub"))
	raw, err := s.Sign(svid)
	if err != nil {
		t.Fatal(err)
	}
	// forged signs the payload as Sign would, whatever the identity.
	forged := func(by *identity.SVID, payload []byte, prefix string) []byte {
		w := wireSigned{Payload: payload}
		for _, c := range by.Chain {
			w.Chain = append(w.Chain, c.Raw)
		}
		sum := crypto.SHA256.New()
		sum.Write([]byte(prefix))
		sum.Write(payload)
		if w.Signature, err = by.Key.Sign(rand.Reader, sum.Sum(nil), crypto.SHA256); err != nil {
			t.Fatal(err)
		}
		return encode(t, w)
	}
	payload, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := forged(svid, payload, domain); len(got) < len(payload) {
		t.Fatal("the forger does not work")
	}
	if _, _, err := Verify(forged(svid, payload, domain), ca.Bundle(), s.Target, time.Now()); err != nil {
		t.Fatalf("the forger does not work: %v", err)
	}
	device := ca.SVID(t, ca.ID(t, identity.Device, "evil"))
	stranger := testca.New(t, "lab.test")
	clientOnly := ca.SVID(t, ca.ID(t, identity.Node, "site"), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	reordered := encode(t, map[int]any{1: "lab.test", 2: "device:pump-7", 3: 7, 4: 0, 5: []any{[]any{"x", false, []string{"ann"}, []any{}}}})
	abroad := New(identity.ID{TrustDomain: "other.test", Kind: identity.Device, Name: "pump-7"}, nil)
	abroadPayload, err := abroad.encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw    []byte
		target identity.ID
		want   string
	}{
		"another target":             {raw, ca.ID(t, identity.Device, "pump-8"), "not for device:pump-8"},
		"signed by a device":         {forged(device, payload, domain), s.Target, "not a node"},
		"signed by a stranger":       {forged(stranger.SVID(t, stranger.ID(t, identity.Node, "hub")), payload, domain), s.Target, "signer:"},
		"a certificate for clients":  {forged(clientOnly, payload, domain), s.Target, "signer:"},
		"signed for another purpose": {forged(svid, payload, "hpmq renewal v1\x00"), s.Target, "wrong signature"},
		"a short name for a device":  {forged(svid, reordered, domain), s.Target, "canonical"},
		"another trust domain":       {forged(svid, abroadPayload, domain), abroad.Target, "outside the signer's trust domain"},
		"trailing bytes":             {append(bytes.Clone(raw), 0), s.Target, "extraneous"},
		"cut short":                  {raw[:len(raw)-1], s.Target, "EOF"},
		"nothing":                    {nil, s.Target, "EOF"},
		"too large":                  {make([]byte, MaxBytes+1), s.Target, "at most"},
		"no chain":                   {encode(t, wireSigned{Payload: payload}), s.Target, "chain of 0"},
		"a chain of rubbish":         {encode(t, wireSigned{Payload: payload, Chain: [][]byte{{1}}}), s.Target, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := Verify(tt.raw, ca.Bundle(), tt.target, time.Now())
			if err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
				t.Errorf("got %v, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x20
		if got, _, err := Verify(bad, ca.Bundle(), s.Target, time.Now()); err == nil && !cmp.Equal(got.Rules, s.Rules) {
			t.Fatalf("byte %d can be changed", i)
		}
	}
	if _, err := s.Sign(device); err == nil {
		t.Error("a device signed")
	}
	mixed := New(s.Target, []Rule{{Callers: []identity.ID{abroad.Target}}})
	if _, err := mixed.Sign(svid); err == nil {
		t.Error("a caller of another trust domain was signed")
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
	ca := testca.New(f, "lab.test")
	s := sample(f, ca)
	payload, err := s.encode()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := s.Sign(ca.SVID(f, ca.ID(f, identity.Node, "hub")))
	if err != nil {
		f.Fatal(err)
	}
	bundle, now := ca.Bundle(), time.Now()
	f.Add(payload)
	f.Add(raw)
	f.Add([]byte{0xa5})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decode(b); err == nil {
			again, err := got.encode()
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("decode and encode differ: %v", err)
			}
		}
		got, _, err := Verify(b, bundle, s.Target, now)
		if err == nil && !cmp.Equal(got.Rules, s.Rules) {
			t.Fatal("a forgery was accepted")
		}
	})
}

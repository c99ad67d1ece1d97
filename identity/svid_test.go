package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestLeafID(t *testing.T) {
	ca := testca.New(t, "lab.test")
	pump := ca.ID(t, identity.Device, "pump-7")
	valve := ca.ID(t, identity.Device, "valve")
	for _, tt := range []struct {
		name string
		edit func(*x509.Certificate)
		want string // part of the error
	}{
		{"ours", func(*x509.Certificate) {}, ""},
		{"no URI", func(c *x509.Certificate) { c.URIs = nil }, "0 URI names"},
		{"two URIs", func(c *x509.Certificate) { c.URIs = append(c.URIs, valve.URL()) }, "2 URI names"},
		{"foreign URI", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "a", Path: "/b"}} }, "want spiffe://"},
		{"other common name", func(c *x509.Certificate) { c.Subject.CommonName = "valve" }, `common name "valve"`},
		{"a CA", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, "CA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := identity.LeafID(ca.SVID(t, pump, tt.edit).Leaf())
			if tt.want == "" {
				if err != nil || id != pump {
					t.Errorf("LeafID = %v, %v", id, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("LeafID = %v, %v, want error with %q", id, err, tt.want)
			}
		})
	}
}

func TestNewSVIDWantsItsOwnKey(t *testing.T) {
	ca := testca.New(t, "lab.test")
	a, b := ca.SVID(t, ca.ID(t, identity.Device, "a")), ca.SVID(t, ca.ID(t, identity.Device, "b"))
	if _, err := identity.NewSVID(a.Chain, a.Key); err != nil {
		t.Error(err)
	}
	if _, err := identity.NewSVID(a.Chain, b.Key); err == nil {
		t.Error("another key was accepted")
	}
	if _, err := identity.NewSVID(nil, a.Key); err == nil {
		t.Error("an empty chain was accepted")
	}
}

func TestGeneration(t *testing.T) {
	ca := testca.New(t, "lab.test")
	id := ca.ID(t, identity.Device, "pump-7")
	if gen, ok := identity.Generation(ca.SVID(t, id).Leaf()); ok {
		t.Errorf("certificate without a generation has %d", gen)
	}
	for _, want := range []uint64{1, 2, 300, 1 << 62} {
		svid := ca.SVID(t, id, testca.Generation(t, want))
		if got, ok := identity.Generation(svid.Leaf()); !ok || got != want {
			t.Errorf("Generation = %d, %v, want %d", got, ok, want)
		}
		if _, err := ca.Bundle().Verify(svid.Chain, svid.Leaf().NotBefore, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("certificate with generation %d: %v", want, err)
		}
	}
	for _, gen := range []uint64{0, 1<<62 + 1, 1 << 63} {
		if _, err := identity.GenerationExtension(gen); err == nil {
			t.Errorf("generation %d was accepted", gen)
		}
	}
}

func TestIssued(t *testing.T) {
	ca := testca.New(t, "lab.test")
	id := ca.ID(t, identity.Device, "pump-7")
	if leaf := ca.SVID(t, id).Leaf(); !identity.Issued(leaf).Equal(leaf.NotBefore) {
		t.Errorf("a certificate without the extension was issued at %v", identity.Issued(leaf))
	}
	now := time.Now().Truncate(time.Second)
	if leaf := ca.SVID(t, id, testca.Issued(t, now.Add(999*time.Millisecond))).Leaf(); !identity.Issued(leaf).Equal(now) {
		t.Errorf("issued at %v, want %v", identity.Issued(leaf), now)
	}
	// What lies outside of the validity is no time of issue.
	for _, at := range []time.Time{now.Add(-time.Hour), now.Add(2 * time.Hour)} {
		if leaf := ca.SVID(t, id, testca.Issued(t, at)).Leaf(); !identity.Issued(leaf).Equal(leaf.NotBefore) {
			t.Errorf("issued at %v", identity.Issued(leaf))
		}
	}
}

func TestCSR(t *testing.T) {
	pump, err := identity.NewID("lab.test", identity.Device, "pump-7")
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	good := newCSR(t, key, pump, "paris.example", "192.0.2.1", "::1")
	req, id, err := identity.ParseCSR(good)
	if err != nil || id != pump {
		t.Fatalf("ParseCSR = %v, %v", id, err)
	}
	if !slices.Equal(req.DNSNames, []string{"paris.example"}) || len(req.IPAddresses) != 2 {
		t.Errorf("names %v and addresses %v", req.DNSNames, req.IPAddresses)
	}
	if !key.Public().(*ecdsa.PublicKey).Equal(req.PublicKey) {
		t.Error("another key came back")
	}

	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	for name, der := range map[string][]byte{
		"other curve":    newCSR(t, p384, pump),
		"wrong name":     newCSR(t, key, identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: "a+b"}),
		"bad signature":  forged,
		"garbage":        []byte("garbage"),
		"too long":       make([]byte, 9<<10),
		"too many names": newCSR(t, key, pump, slices.Repeat([]string{"a.example"}, 33)...),
	} {
		if _, id, err := identity.ParseCSR(der); err == nil {
			t.Errorf("%s: accepted for %s", name, id)
		}
	}
}

func TestParseCertificates(t *testing.T) {
	ca := testca.New(t, "lab.test")
	svid := ca.SVID(t, ca.ID(t, identity.Device, "a"))
	one := identity.EncodeCertificates(svid.Leaf())
	two := identity.EncodeCertificates(svid.Leaf(), ca.Root)
	got, err := identity.ParseCertificates(two)
	if err != nil || len(got) != 2 || !got[0].Equal(svid.Leaf()) || !got[1].Equal(ca.Root) {
		t.Errorf("read %d certificates, %v", len(got), err)
	}
	for name, text := range map[string][]byte{
		"nothing":   nil,
		"a key":     []byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"),
		"garbage":   []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
		"too many":  bytes.Repeat(one, 7),
		"too large": bytes.Repeat([]byte("x"), 65<<10),
	} {
		if _, err := identity.ParseCertificates(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseCSR(f *testing.F) {
	id, err := identity.NewID("lab.test", identity.Device, "pump-7")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(newCSR(f, newKey(f), id, "a.example", "192.0.2.1"))
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		_, id, err := identity.ParseCSR(der)
		if err != nil {
			return
		}
		if again, err := identity.ParseID(id.String()); err != nil || again != id {
			t.Errorf("accepted for %q: %v", id, err)
		}
	})
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t testing.TB, key crypto.Signer, id identity.ID, names ...string) []byte {
	t.Helper()
	der, err := identity.NewCSR(key, id, names...)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

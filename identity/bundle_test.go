package identity_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestBundleVerify(t *testing.T) {
	lab, other := testca.New(t, "lab.test"), testca.New(t, "lab.test")
	abroad := testca.New(t, "abroad.test")
	id := lab.ID(t, identity.Device, "pump-7")
	now := time.Now()
	mine := lab.SVID(t, id).Chain
	const client, server = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		now   time.Time
		usage x509.ExtKeyUsage
		want  bool
	}{
		{"device as client", mine, now, client, true},
		{"device as server", mine, now, server, true},
		{"user as client", lab.SVID(t, lab.ID(t, identity.User, "ann")).Chain, now, client, true},
		{"user as server", lab.SVID(t, lab.ID(t, identity.User, "ann")).Chain, now, server, false},
		{"behind an intermediate", behindIntermediate(t, lab, id, newKey(t)), now, client, true},
		{"behind an RSA intermediate", behindIntermediate(t, lab, id, newRSA(t)), now, client, false},
		{"intermediate not sent", behindIntermediate(t, lab, id, newKey(t))[:1], now, client, false},
		{"expired", mine, now.Add(2 * time.Hour), client, false},
		{"not yet valid", mine, now.Add(-2 * time.Hour), client, false},
		{"another root of the same name", other.SVID(t, id).Chain, now, client, false},
		{"another trust domain", lab.SVID(t, abroad.ID(t, identity.Device, "pump-7")).Chain, now, client, false},
		{"the root itself", []*x509.Certificate{lab.Root}, now, client, false},
		{"no certificate", nil, now, client, false},
		{"endless chain", slices.Repeat(mine, 7), now, client, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := lab.Bundle().Verify(tt.chain, tt.now, tt.usage)
			if (err == nil) != tt.want {
				t.Fatalf("Verify = %v, %v", got, err)
			}
			if err != nil && !got.IsZero() {
				t.Errorf("an identity came with the error: %v", got)
			}
		})
	}
}

// TestWrongClock has clocks that are off by minutes, which not-before allows for,
// and by years, which the refusal names. The refusal is the same at each try.
func TestWrongClock(t *testing.T) {
	ca := testca.New(t, "lab.test")
	now := time.Now().Truncate(time.Second)
	ca = future(t, ca, now)
	root := *ca.Root
	root.NotBefore = now.Add(-identity.Backdate)
	ca = selfSign(t, ca, &root)
	chain := ca.SVID(t, ca.ID(t, identity.Node, "paris"), between(now.Add(-identity.Backdate), now.Add(24*time.Hour)), testca.Issued(t, now)).Chain
	const tenMinutes, thirtyYears = 10 * time.Minute, 30 * 365 * 24 * time.Hour
	for off, want := range map[time.Duration]string{
		-tenMinutes: "", tenMinutes: "",
		-thirtyYears: "it was issued at " + now.UTC().Format(time.RFC3339) + ", and this machine's clock says " + now.Add(-thirtyYears).UTC().Format(time.DateOnly) + ": is the clock right?",
		thirtyYears:  "it has expired at " + now.Add(24*time.Hour).UTC().Format(time.RFC3339) + ", and this machine's clock says " + now.Add(thirtyYears).UTC().Format(time.DateOnly),
	} {
		_, err := ca.Bundle().Verify(chain, now.Add(off), x509.ExtKeyUsageServerAuth)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("off by %s: %v, want %q", off, err, want)
		}
		wrong, ok := errors.AsType[*identity.TimeError](err)
		if ok != (want != "") || ok && wrong.Early() != (off < 0) {
			t.Errorf("off by %s: %v is a TimeError: %v", off, err, ok)
		}
		if again := now.Add(off + time.Second).UTC(); want != "" && again.Day() == now.Add(off).UTC().Day() {
			if _, second := ca.Bundle().Verify(chain, again, x509.ExtKeyUsageServerAuth); second.Error() != err.Error() {
				t.Errorf("%v a second after %v", second, err)
			}
		}
	}
}

func TestWithinValidity(t *testing.T) {
	ca := testca.New(t, "lab.test")
	chain := ca.SVID(t, ca.ID(t, identity.Device, "a")).Chain
	now := time.Now()
	for _, tt := range []struct{ now, want time.Time }{
		{now, now},
		{time.Unix(0, 0), chain[0].NotBefore},
		{now.Add(24 * time.Hour), chain[0].NotAfter},
	} {
		got := identity.WithinValidity(chain, tt.now)
		if !got.Equal(tt.want) {
			t.Errorf("WithinValidity(%v) = %v, want %v", tt.now, got, tt.want)
		}
		if _, err := ca.Bundle().Verify(chain, got, x509.ExtKeyUsageClientAuth); err != nil {
			t.Error(err)
		}
	}
}

// behindIntermediate returns a chain of two certificates.
func behindIntermediate(t *testing.T, root *testca.CA, id identity.ID, key crypto.Signer) []*x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "intermediate"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}, root.Root, key.Public(), root.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testca.CA{Root: cert, Key: key, Domain: root.Domain}
	return append(ca.SVID(t, id).Chain, cert)
}

func newRSA(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

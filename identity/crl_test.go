package identity_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func brings(text []byte) identity.CRLSource {
	return func(context.Context) ([]byte, error) { return text, nil }
}

func fails(err error) identity.CRLSource {
	return func(context.Context) ([]byte, error) { return nil, err }
}

// silent is a source that never answers.
func silent(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// storeWith returns a store with an identity of ca and its list number 5.
func storeWith(t *testing.T, ca *testca.CA) *identity.Store {
	t.Helper()
	s := openStore(t, t.TempDir())
	if err := s.Save(ca.SVID(t, ca.ID(t, identity.Device, "pump-7")), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateCRL(t.Context(), brings(ca.CRL(t, 5))); err != nil {
		t.Fatal(err)
	}
	return s
}

func crlOf(t *testing.T, s *identity.Store) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir(), identity.CRLFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestUpdateCRL: the newest list that verifies is written, and a client finds the
// revoked certificate in it.
func TestUpdateCRL(t *testing.T) {
	ca := testca.New(t, "lab.test")
	s := storeWith(t, ca)
	gone := ca.SVID(t, ca.ID(t, identity.Node, "lyon")).Leaf()
	for _, text := range [][]byte{ca.CRL(t, 5, gone), ca.CRL(t, 6, gone)} { // the same number will do
		c, err := s.UpdateCRL(t.Context(), brings(text))
		if err != nil || !c.Revokes(gone) || c.Revokes(s.SVID().Leaf()) {
			t.Errorf("%v", err)
		}
		if got := crlOf(t, s); got != string(text) {
			t.Errorf("wrote %q", got)
		}
	}
	info, err := os.Stat(filepath.Join(s.Dir(), identity.CRLFile))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// A file that a crash or a person damaged is no reason to refuse the next.
	if err := os.WriteFile(filepath.Join(s.Dir(), identity.CRLFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := string(ca.CRL(t, 7))
	if _, err := s.UpdateCRL(t.Context(), brings([]byte(want))); err != nil || crlOf(t, s) != want {
		t.Error(err)
	}
}

// TestBadCRL: what is not genuine, not whole or not newer changes nothing, and the
// next source is asked.
func TestBadCRL(t *testing.T) {
	ca := testca.New(t, "lab.test")
	good := ca.CRL(t, 9)
	other := testca.New(t, "lab.test") // another fabric of the same name
	flip := func(at int) []byte {
		block, _ := pem.Decode(good)
		der := bytes.Clone(block.Bytes)
		der[len(der)+at] ^= 1
		return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der})
	}
	twice := append(bytes.Clone(good), ca.CRL(t, 10)...)
	for _, tt := range []struct {
		name   string
		source identity.CRLSource
		want   string
	}{
		{"forged signature", brings(flip(-1)), "not signed by an authority of this fabric"},
		{"altered", brings(flip(-120)), ""},
		{"other fabric", brings(other.CRL(t, 9)), "not signed by an authority of this fabric"},
		{"other fabric with its root", brings(append(other.CRL(t, 9), identity.EncodeCertificates(other.Root)...)), "not of this fabric"},
		{"signed by a device", brings(signedByDevice(t, ca)), "not signed by an authority of this fabric"},
		{"older", brings(ca.CRL(t, 4)), "number 4, which is older than 5"},
		{"torn", brings(good[:len(good)-40]), "torn"},
		{"torn after a whole list", brings(twice[:len(twice)-40]), "torn"},
		{"two of one issuer", brings(twice), "two lists"},
		{"empty", brings(nil), "no revocation list in it"},
		{"only certificates", brings(identity.EncodeCertificates(ca.Root)), "no revocation list in it"},
		{"not a list", brings([]byte("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")), ""},
		{"a key", brings([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")), "PRIVATE KEY"},
		{"too large", brings(bytes.Repeat([]byte("x"), identity.MaxCRLBytes+1)), "at most"},
		{"too many issuers", brings(append(bytes.Clone(good), bytes.Repeat(identity.EncodeCertificates(ca.Root), 9)...)), "more than 8"},
		{"no answer", fails(errors.New("connection refused")), "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := storeWith(t, ca)
			was := crlOf(t, s)
			if _, err := s.UpdateCRL(t.Context(), tt.source); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if crlOf(t, s) != was {
				t.Error("the file changed")
			}
			if entries, err := os.ReadDir(s.Dir()); err != nil || len(entries) != 4 {
				t.Errorf("directory holds %v, %v, want four files", entries, err)
			}
			if _, err := s.UpdateCRL(t.Context(), tt.source, brings(good)); err != nil || crlOf(t, s) != string(good) {
				t.Errorf("with a good source too: %v", err)
			}
		})
	}
	s := storeWith(t, ca)
	if _, err := s.UpdateCRL(t.Context()); !errors.Is(err, identity.ErrUnreachable) {
		t.Errorf("without a source: %v", err)
	}
	if _, err := openStore(t, t.TempDir()).UpdateCRL(t.Context(), brings(good)); err == nil {
		t.Error("written beside no identity")
	}
}

// signedByDevice is a list that a device signed with its own key, and the device's
// certificate.
func signedByDevice(t *testing.T, ca *testca.CA) []byte {
	t.Helper()
	thief := ca.SVID(t, ca.ID(t, identity.Device, "thief"), func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} })
	pretender := *thief.Leaf()
	pretender.KeyUsage |= x509.KeyUsageCRLSign
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(9), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, &pretender, thief.Key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), identity.EncodeCertificates(thief.Leaf())...)
}

// TestSilentCRL: a server that answers nothing costs ten seconds.
func TestSilentCRL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		s, start := storeWith(t, ca), time.Now()
		if _, err := s.UpdateCRL(t.Context(), silent, brings(ca.CRL(t, 6))); err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		start = time.Now()
		if _, err := s.UpdateCRL(t.Context(), silent, silent, silent, silent, silent); err == nil || time.Since(start) != 30*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// TestStaleCRL: a node that passes on an old list that was genuine keeps no newer
// one from a client that knows another node. While the CA is away the old one does.
func TestStaleCRL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		s, old := storeWith(t, ca), ca.CRL(t, 6)
		<-time.After(staleAfter)
		if _, err := s.UpdateCRL(t.Context(), brings(old), silent); err != nil || crlOf(t, s) != string(old) {
			t.Errorf("nothing newer: %v", err)
		}
		fresh := ca.CRL(t, 7)
		if _, err := s.UpdateCRL(t.Context(), brings(old), brings(fresh)); err != nil || crlOf(t, s) != string(fresh) {
			t.Errorf("the second is newer: %v", err)
		}
	})
}

// staleAfter is when a client looks for a newer list than one that is passed on.
const staleAfter = 3 * 24 * time.Hour

// TestCRLCannotBeWritten: the file stays, and nothing half-written beside it.
func TestCRLCannotBeWritten(t *testing.T) {
	ca := testca.New(t, "lab.test")
	s := storeWith(t, ca)
	path := filepath.Join(s.Dir(), identity.CRLFile)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateCRL(t.Context(), brings(ca.CRL(t, 6))); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(s.Dir()); err != nil || len(entries) != 4 {
		t.Errorf("directory holds %v, %v", entries, err)
	}
	if err := os.RemoveAll(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateCRL(t.Context(), brings(ca.CRL(t, 6))); err == nil {
		t.Error("written into a directory that is gone")
	}
}

// TestEnrolWithoutCRL: an enrolment succeeds whatever becomes of the list, and says
// what did.
func TestEnrolWithoutCRL(t *testing.T) {
	for name, tt := range map[string]struct {
		crl   func(*authority) []byte
		wrong string // in the warning, "" for none
	}{
		"genuine":   {func(a *authority) []byte { return a.ca.CRL(a.t, 1) }, ""},
		"old node":  {func(*authority) []byte { return nil }, "paris:8883: no such page"},
		"forged":    {func(a *authority) []byte { return testca.New(a.t, "lab.test").CRL(a.t, 1) }, "not signed by an authority"},
		"too large": {func(*authority) []byte { return make([]byte, identity.MaxCRLBytes+1) }, "answer of more than"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, net := newAuthority(t), network{}
				a.crl = tt.crl(a)
				serve(t, net.paris(), a.node, a)
				s := openStore(t, t.TempDir())
				var last string
				if _, err := identity.Enrol(t.Context(), a.ticket("paris:8883"), s, identity.EnrolOptions{
					Dial: net.dial, Progress: func(l string) { last = l },
				}); err != nil {
					t.Fatal(err)
				}
				if warned := !strings.HasPrefix(last, "[5/5]"); warned != (tt.wrong != "") || !strings.Contains(last, tt.wrong) {
					t.Errorf("last line %q", last)
				}
				if _, err := os.Stat(filepath.Join(s.Dir(), identity.CRLFile)); (err == nil) != (tt.wrong == "") {
					t.Errorf("%s: %v", identity.CRLFile, err)
				}
			})
		})
	}
}

// TestRunUpdatesCRL: a daemon fetches the list every day and with each renewal, and
// hourly while it cannot.
func TestRunUpdatesCRL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		a.ca, a.life = future(t, a.ca, time.Now().AddDate(1, 0, 0)), 30*24*time.Hour
		log, hook := test.NewNullLogger()
		var asked atomic.Int64
		var failing atomic.Bool
		r := identity.Renewer{Store: a.enrolledStore(), Send: a.send, Log: log, CRL: func() []identity.CRLSource {
			n := asked.Add(1)
			if failing.Load() {
				return []identity.CRLSource{fails(&identity.APIError{Status: http.StatusServiceUnavailable, Message: "no CA"})}
			}
			return []identity.CRLSource{brings(a.ca.CRL(t, n))}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		for _, tt := range []struct {
			failing bool
			pass    time.Duration
			want    int64
		}{
			{false, time.Minute, 1},
			{false, 72 * time.Hour, 3},
			{true, 26 * time.Hour, 3}, // due once, and twice more an hour later each
			{false, time.Hour, 1},
		} {
			asked.Store(0)
			failing.Store(tt.failing)
			<-time.After(tt.pass)
			synctest.Wait()
			if got := asked.Load(); got != tt.want {
				t.Errorf("failing %v, %v: asked %d times, want %d", tt.failing, tt.pass, got, tt.want)
			}
		}
		if got := hook.LastEntry(); got == nil || got.Message != "revocation list not fetched" {
			t.Errorf("logged %v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		asked.Store(0)
		if err := r.Renew(t.Context()); err != nil || asked.Load() != 1 {
			t.Errorf("asked %d times with a renewal, %v", asked.Load(), err)
		}
		failing.Store(true)
		if err := r.Renew(t.Context()); err != nil {
			t.Errorf("a renewal failed for the list: %v", err)
		}
	})
}

// FuzzParseCRL: what is accepted is the same when it is read again.
func FuzzParseCRL(f *testing.F) {
	ca := testca.New(f, "lab.test")
	f.Add(ca.CRL(f, 1))
	f.Add(append(ca.CRL(f, 1, ca.Root), identity.EncodeCertificates(ca.Root)...))
	f.Add([]byte("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := identity.ParseCRL(text, ca.Bundle())
		if err != nil {
			return
		}
		again, err := identity.ParseCRL(c.Encode(), ca.Bundle())
		if err != nil || !bytes.Equal(again.Encode(), c.Encode()) || c.NextUpdate().IsZero() {
			t.Errorf("read again: %v", err)
		}
	})
}

package identity_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// addresses are the same at each question.
func addresses(addrs ...string) func() []string { return func() []string { return addrs } }

// enrolledStore returns a store with pump-7's first certificate.
func (a *authority) enrolledStore(edit ...func(*x509.Certificate)) *identity.Store {
	a.t.Helper()
	s := openStore(a.t, a.t.TempDir())
	edit = append([]func(*x509.Certificate){testca.ValidFor(a.life), testca.Generation(a.t, 1)}, edit...)
	if err := s.Save(a.ca.SVID(a.t, a.ca.ID(a.t, identity.Device, "pump-7"), edit...), a.ca.Bundle()); err != nil {
		a.t.Fatal(err)
	}
	return s
}

func TestRenewAtSpreads(t *testing.T) {
	ca := testca.New(t, "lab.test")
	id := ca.ID(t, identity.Device, "pump-7")
	seen := map[time.Duration]bool{}
	for range 20 {
		issued := time.Now().Truncate(time.Second)
		s := ca.SVID(t, id, between(issued.Add(-24*time.Hour), issued.Add(time.Hour)), testca.Issued(t, issued))
		life := s.NotAfter().Sub(issued)
		at := identity.RenewAt(s).Sub(issued)
		if at < life*30/100-time.Second || at > life*37/100 {
			t.Errorf("renewal after %v of %v", at, life)
		}
		if !identity.RenewAt(s).Equal(identity.RenewAt(s)) {
			t.Error("it moves")
		}
		if identity.Due(s, identity.RenewAt(s).Add(-time.Second)) || !identity.Due(s, identity.RenewAt(s)) {
			t.Error("Due disagrees with RenewAt")
		}
		seen[at] = true
	}
	if len(seen) < 15 {
		t.Errorf("20 certificates are due at %d instants", len(seen))
	}
}

func TestRenewerRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		s := a.enrolledStore()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var generations []uint64
		first := s.SVID()
		r := identity.Renewer{Store: s, Send: a.send, OnRenew: func(svid *identity.SVID) {
			gen, _ := identity.Generation(svid.Leaf())
			if generations = append(generations, gen); gen == 4 {
				cancel()
			}
		}}
		start := time.Now()
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if len(generations) != 3 || generations[0] != 2 {
			t.Errorf("generations %v", generations)
		}
		if got := time.Since(start); got < 3*6*time.Hour*30/100 || got > 3*6*time.Hour*37/100 {
			t.Errorf("three renewals of 6 h took %v", got)
		}
		if sameKey(first, s.SVID()) {
			t.Error("the key was not changed")
		}
		if ids := a.requestIDs(); ids != 3 {
			t.Errorf("%d request ids for three renewals", ids)
		}
	})
}

// A refusal does not stop Run, and does not make it hammer.
func TestRenewerRunRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		s := a.enrolledStore()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked := 0
		r := identity.Renewer{Store: s, Send: func(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
			if asked++; asked < 5 {
				return nil, &identity.APIError{Status: http.StatusForbidden, Message: "no"}
			}
			return a.send(ctx, req)
		}, OnRenew: func(*identity.SVID) { cancel() }}
		due := identity.RenewAt(s.SVID()) // the renewal has jitter
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
		const pauses = 4 * 6 * time.Hour / 20 // a twentieth of the life after each refusal
		if got := time.Since(due); asked != 5 || got < pauses || got > pauses+time.Minute {
			t.Errorf("asked %d times, for the last time %v after the certificate was due, want %v", asked, got, pauses)
		}
	})
}

func TestRenewerRunEmptyStore(t *testing.T) {
	r := identity.Renewer{Store: openStore(t, t.TempDir())}
	if err := r.Run(t.Context()); err == nil {
		t.Error("ran without an identity")
	}
}

// With a clock that is far behind, Run renews once and then by elapsed time.
func TestRenewerRunWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		today := func() time.Time { return time.Now().AddDate(26, 0, 0) }
		a.ca, a.now = future(t, a.ca, today()), today
		s := a.enrolledStore(between(today().Add(-5*time.Hour), today().Add(time.Hour)))
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Hour)
		defer cancel()
		if err := (&identity.Renewer{Store: s, Send: a.send}).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(a.renewals); n < 2 || n > 5 {
			t.Errorf("%d renewals in 7 h of a 6 h certificate", n)
		}
	})
}

// The answer to a renewal is lost and the process dies: the next one repeats
// the request, with the same id and key, and gets the same certificate.
func TestRenewAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		s := a.enrolledStore()
		ctx, cancel := context.WithCancel(t.Context())
		r := identity.Renewer{Store: s, Send: func(_ context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
			if _, err := a.send(ctx, req); err != nil {
				t.Error(err)
			}
			cancel()
			return nil, identity.ErrUnreachable
		}}
		if err := r.Renew(ctx); !errors.Is(err, identity.ErrUnreachable) {
			t.Fatalf("got %v", err)
		}
		again := openStore(t, s.Dir())
		if err := (&identity.Renewer{Store: again, Send: a.send}).Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a.requestIDs() != 1 || len(a.renewals) != 2 {
			t.Errorf("%d ids in %d requests, want one in two", a.requestIDs(), len(a.renewals))
		}
		if gen, _ := identity.Generation(again.SVID().Leaf()); gen != 2 || sameKey(s.SVID(), again.SVID()) {
			t.Errorf("generation %d", gen)
		}
	})
}

func TestRenewRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		tries := 0
		r := identity.Renewer{Store: a.enrolledStore(), Send: func(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
			if tries++; tries < 12 {
				return nil, errors.New("no CA in sight")
			}
			return a.send(ctx, req)
		}}
		start := time.Now()
		if err := r.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got == 0 || got > 12*5*time.Minute {
			t.Errorf("%d tries took %v", tries, got)
		}
	})
}

// An expired certificate is renewed with its own key, whether the local clock
// or only the authority's knows that it has expired.
func TestRenewExpired(t *testing.T) {
	for _, behind := range []time.Duration{0, 24 * time.Hour} {
		t.Run("clock behind by "+behind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, net := newAuthority(t), network{}
				serve(t, net.paris(), a.node, a)
				s := a.enrolledStore()
				was := s.SVID()
				a.now = func() time.Time { return time.Now().Add(behind) }
				if behind == 0 {
					<-time.After(7 * time.Hour)
				} else {
					a.ca = future(t, a.ca, a.now())
				}
				r := identity.Renewer{Store: s, Send: identity.HTTPRenewal(s, addresses("gone:1", "paris:8883"), net.dial)}
				if err := r.Renew(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !sameKey(was, s.SVID()) {
					t.Error("the key changed")
				}
				if a.requestIDs() != 1 {
					t.Errorf("%d request ids", a.requestIDs())
				}
			})
		})
	}
}

// A node asks over the mesh first. What the mesh cannot bring, HTTPS may.
func TestFirstRenewal(t *testing.T) {
	gone := func(context.Context, *identity.RenewRequest) (*identity.EnrolResponse, error) {
		return nil, &identity.APIError{Status: http.StatusServiceUnavailable, Message: "no CA can be reached now"}
	}
	refused := func(context.Context, *identity.RenewRequest) (*identity.EnrolResponse, error) {
		return nil, &identity.APIError{Status: http.StatusForbidden, Message: "revoked"}
	}
	a := newAuthority(t)
	s := a.enrolledStore()
	if err := (&identity.Renewer{Store: s, Send: identity.FirstRenewal(gone, a.send)}).Renew(t.Context()); err != nil {
		t.Errorf("by the second way: %v", err)
	}
	asked := len(a.renewals)
	if err := (&identity.Renewer{Store: s, Send: identity.FirstRenewal(refused, a.send)}).Renew(t.Context()); err == nil || len(a.renewals) != asked {
		t.Errorf("after a refusal: %v, %d requests", err, len(a.renewals)-asked)
	}
}

// After an outage longer than the certificate's life, the renewal comes within a
// twentieth of the life: the pauses have not grown beyond that.
func TestRenewAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		a.life = time.Minute
		s := a.enrolledStore(testca.Issued(t, time.Now()))
		back := time.Now().Add(150 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		r := identity.Renewer{Store: s, Send: func(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
			if time.Now().Before(back) {
				return nil, identity.ErrUnreachable
			}
			return a.send(ctx, req)
		}, OnRenew: func(*identity.SVID) { cancel() }}
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if late := time.Since(back); late > 4*time.Second {
			t.Errorf("renewed %v after the outage", late)
		}
	})
}

// Two renewals of one directory at once would look like a clone.
func TestRenewBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		s := a.enrolledStore()
		other := identity.Renewer{Store: openStore(t, s.Dir()), Send: a.send}
		r := identity.Renewer{Store: s, Send: func(ctx context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
			if err := other.Renew(ctx); !errors.Is(err, identity.ErrBusy) {
				t.Errorf("the other one got %v", err)
			}
			return a.send(ctx, req)
		}}
		if err := r.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		// It finds that the work is done.
		if err := other.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(a.renewals) != 1 || !other.Store.SVID().Leaf().Equal(s.SVID().Leaf()) {
			t.Errorf("%d renewals", len(a.renewals))
		}
	})
}

// An answer with another CA's certificate is not taken, whoever passed it on.
func TestRenewForeignAnswer(t *testing.T) {
	a, evil := newAuthority(t), newAuthority(t)
	s := a.enrolledStore()
	was := s.SVID()
	if err := (&identity.Renewer{Store: s, Send: evil.send}).Renew(t.Context()); err == nil || s.SVID() == nil || !s.SVID().Leaf().Equal(was.Leaf()) {
		t.Errorf("got %v", err)
	}
}

func TestRenewRequestVerify(t *testing.T) {
	ca := testca.New(t, "lab.test")
	svid, other := ca.SVID(t, ca.ID(t, identity.Device, "pump-7")), ca.SVID(t, ca.ID(t, identity.Device, "valve"))
	request := func() *identity.RenewRequest {
		return &identity.RenewRequest{
			Certificate: string(identity.EncodeCertificates(svid.Chain...)),
			CSR:         newCSR(t, newKey(t), svid.ID), ID: "0123456789abcdef", Time: time.Now(),
		}
	}
	good := request()
	if err := good.Sign(svid.Key); err != nil {
		t.Fatal(err)
	}
	if chain, csr, err := good.Verify(); err != nil || !chain[0].Equal(svid.Leaf()) || csr == nil {
		t.Fatalf("Verify = %v", err)
	}
	for name, forge := range map[string]func(*identity.RenewRequest){
		"another key signs": func(r *identity.RenewRequest) { sign(t, r, other) },
		"unsigned":          func(r *identity.RenewRequest) { r.Signature = nil },
		"another CSR":       func(r *identity.RenewRequest) { r.CSR = newCSR(t, newKey(t), svid.ID) },
		"another id":        func(r *identity.RenewRequest) { r.ID = "fedcba9876543210" },
		"another time":      func(r *identity.RenewRequest) { r.Time = r.Time.Add(1) },
		"no id":             func(r *identity.RenewRequest) { r.ID = ""; sign(t, r, svid) },
		"endless id":        func(r *identity.RenewRequest) { r.ID = string(make([]byte, 65)); sign(t, r, svid) },
		"CSR of another":    func(r *identity.RenewRequest) { r.CSR = newCSR(t, newKey(t), other.ID); sign(t, r, svid) },
		"no certificate":    func(r *identity.RenewRequest) { r.Certificate = ""; sign(t, r, svid) },
		"a root": func(r *identity.RenewRequest) {
			r.Certificate = string(identity.EncodeCertificates(ca.Root))
			sign(t, r, svid)
		},
	} {
		r := request()
		sign(t, r, svid)
		forge(r)
		if _, _, err := r.Verify(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func sign(t *testing.T, r *identity.RenewRequest, by *identity.SVID) {
	t.Helper()
	if err := r.Sign(by.Key); err != nil {
		t.Fatal(err)
	}
}

func sameKey(a, b *identity.SVID) bool {
	return string(a.Leaf().RawSubjectPublicKeyInfo) == string(b.Leaf().RawSubjectPublicKeyInfo)
}

func (a *authority) requestIDs() int {
	ids := map[string]bool{}
	for _, r := range a.renewals {
		ids[r.ID] = true
	}
	return len(ids)
}

func between(from, to time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
}

// future returns the CA with the same key and a root valid around then as well.
func future(t *testing.T, ca *testca.CA, then time.Time) *testca.CA {
	t.Helper()
	root := *ca.Root
	root.NotAfter = then.Add(48 * time.Hour)
	return selfSign(t, ca, &root)
}

func selfSign(t *testing.T, ca *testca.CA, template *x509.Certificate) *testca.CA {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.Key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testca.CA{Root: root, Key: ca.Key, Domain: ca.Domain}
}

// The answer says what the authority's clock says.
func TestRenewNamesClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for behind, want := range map[time.Duration]int{0: 0, 4 * time.Minute: 0, 10 * time.Minute: 1, -10 * time.Minute: 1} {
			a := newAuthority(t)
			a.now = func() time.Time { return time.Now().Add(behind) }
			log, lines := logrustest.NewNullLogger()
			if err := (&identity.Renewer{Store: a.enrolledStore(), Send: a.send, Log: log}).Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			warned := 0
			for _, e := range lines.AllEntries() {
				if e.Level == logrus.WarnLevel && strings.Contains(e.Message, "clock differs") {
					warned++
				}
			}
			if warned != want {
				t.Errorf("%s behind: %d warnings", behind, warned)
			}
		}
	})
}

package identity_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestEnrol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), network{}
		a.crl = a.ca.CRL(t, 1)
		serve(t, net.paris(), a.node, a)
		s := openStore(t, filepath.Join(t.TempDir(), "pump-7"))
		var lines []string
		ticket := a.ticket("gone:8883", "paris:8883")
		answer, err := identity.Enrol(t.Context(), ticket, s, identity.EnrolOptions{
			Dial: net.dial, Progress: func(l string) { lines = append(lines, strings.SplitN(l, " (", 2)[0]) },
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"[1/5] broker paris:8883 reachable", "[2/5] CA pinned by ticket", "[3/5] clock agrees with the broker's certificate",
			"[4/5] key made", "[5/5] certificate saved in " + s.Dir() + ", valid until " + answer.NotAfter.UTC().Format(time.RFC3339),
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Error(diff)
		}
		if got := openStore(t, s.Dir()).SVID(); got.ID.Short() != "device:pump-7" {
			t.Errorf("saved %v", got.ID)
		}
		record, err := s.Enrolment()
		if err != nil {
			t.Fatal(err)
		}
		wantRecord := &identity.Enrolment{
			ID: ticket.Identity(), Site: "paris", Signer: ticketPub, API: ticket.Addrs, Ticket: ticket.Addrs,
			MQTT: []string{"localhost:8883"}, Mesh: []string{"127.0.0.1:7844"},
		}
		if diff := cmp.Diff(wantRecord, record); diff != "" {
			t.Error(diff)
		}
		if _, err := os.Stat(filepath.Join(s.Dir(), "pending.json")); err == nil {
			t.Error("the pending key was left behind")
		}
		// The same ticket again is the same key.
		if _, err := identity.Enrol(t.Context(), ticket, s, identity.EnrolOptions{Dial: net.dial}); err != nil {
			t.Error(err)
		}
	})
}

// Overload and lost answers are tried again, with the same key; a crash in
// between changes nothing.
func TestEnrolTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), network{}
		serve(t, net.paris(), a.node, a)
		dir := t.TempDir()
		asked := 0
		a.refuse = func(path string) *identity.APIError {
			if path != identity.EnrolPath {
				return nil
			}
			asked++
			switch asked {
			case 1:
				return &identity.APIError{Status: http.StatusServiceUnavailable}
			case 2:
				return &identity.APIError{Status: http.StatusTooManyRequests}
			}
			return nil
		}
		a.lose = func(path string) bool { return path == identity.EnrolPath && asked < 6 }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		start := time.Now()
		opts := identity.EnrolOptions{Dial: net.dial, Progress: func(line string) {
			if asked == 4 {
				cancel() // the process is killed
			}
			t.Log(time.Since(start), line)
		}}
		_, err := identity.Enrol(ctx, a.ticket("paris:8883"), openStore(t, dir), opts)
		if !errors.Is(err, identity.ErrUnreachable) {
			t.Fatalf("got %v, want an unreachable authority", err)
		}
		if got := time.Since(start); got < 30*time.Second {
			t.Errorf("Retry-After was not honoured: only %v passed", got)
		}
		if _, err := identity.Enrol(t.Context(), a.ticket("paris:8883"), openStore(t, dir), opts); err != nil {
			t.Fatal(err)
		}
		if len(a.enrolled) < 4 {
			t.Errorf("asked %d times", len(a.enrolled))
		}
	})
}

func TestEnrolRefused(t *testing.T) {
	lab := testca.New(t, "lab.test")
	for _, tt := range []struct {
		name  string
		setup func(a *authority)
		edit  func(*identity.Ticket)
		want  string
	}{
		{"conflict", func(a *authority) { a.enrolled = [][32]byte{{1}} }, nil, "used by another key"},
		{"denied", func(a *authority) {
			a.refuse = func(path string) *identity.APIError {
				if path == identity.EnrolPath {
					return &identity.APIError{Status: http.StatusForbidden, Message: "ticket was withdrawn"}
				}
				return nil
			}
		}, nil, "ticket was withdrawn"},
		{"another CA than pinned", func(*authority) {}, func(t *identity.Ticket) { t.RootHash[0]++ }, "does not know the CA"},
		{"root shown but not the server's", func(a *authority) {
			a.node = lab.Issue(a.t, lab.ID(a.t, identity.Node, "paris"))
		}, nil, "unknown authority"},
		{"server is a device", func(a *authority) {
			a.node = a.ca.Issue(a.t, a.ca.ID(a.t, identity.Device, "valve"))
		}, nil, "want a node"},
		{"expired ticket", func(*authority) {}, func(t *identity.Ticket) { t.NotAfter = time.Now().Add(-time.Minute) }, "ticket expired"},
		{"certificate of another CA", func(a *authority) { a.by = lab }, nil, "answer: certificate of device:pump-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, net := newAuthority(t), network{}
				ticket := a.ticket("paris:8883")
				tt.setup(a)
				if tt.edit != nil {
					tt.edit(ticket)
					signed(t, ticket)
				}
				serve(t, net.paris(), a.node, a)
				s := openStore(t, t.TempDir())
				start := time.Now()
				_, err := identity.Enrol(t.Context(), ticket, s, identity.EnrolOptions{Dial: net.dial})
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if s.SVID() != nil {
					t.Error("an identity was saved")
				}
				if got := time.Since(start); got > 0 {
					t.Errorf("tried for %v; no wait can mend this", got)
				}
			})
		})
	}
}

// A device whose clock is wrong enrols all the same: the ticket pins the CA.
func TestEnrolWithWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble's clock begins in 2000
		a, net := newAuthority(t), network{}
		today := func() time.Time { return time.Now().AddDate(26, 0, 0) }
		a.ca, a.now = future(t, a.ca, today()), today
		a.node = a.ca.Issue(t, a.ca.ID(t, identity.Node, "paris"), between(today().Add(-time.Hour), today().Add(time.Hour)))
		serve(t, net.paris(), a.node, a)
		ticket := a.ticket("paris:8883")
		ticket.NotAfter = today().Add(time.Hour).UTC()
		signed(t, ticket)
		s := openStore(t, t.TempDir())
		var clock string
		_, err := identity.Enrol(t.Context(), ticket, s, identity.EnrolOptions{Dial: net.dial, Progress: func(line string) {
			if strings.HasPrefix(line, "[3/5]") {
				clock = line
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(clock, "2000-01-01") {
			t.Errorf("said %q about the clock", clock)
		}
		if !identity.Due(s.SVID(), time.Now()) {
			t.Error("with a clock before the certificate's beginning, it is due")
		}
	})
}

func TestEnrolAnotherIdentityHere(t *testing.T) {
	ca := testca.New(t, "lab.test")
	s := openStore(t, t.TempDir())
	if err := s.Save(ca.SVID(t, ca.ID(t, identity.Device, "valve")), ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	ticket := newTicket(func(t *identity.Ticket) { t.NotAfter = time.Now().Add(time.Hour) })
	_, err := identity.Enrol(t.Context(), ticket, s, identity.EnrolOptions{})
	if err == nil || !strings.Contains(err.Error(), "already holds device:valve") {
		t.Errorf("got %v", err)
	}
}

func TestEnrolUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a := newAuthority(t)
		_, err := identity.Enrol(ctx, a.ticket("a:1", "b:2"), openStore(t, t.TempDir()), identity.EnrolOptions{Dial: network{}.dial})
		if !errors.Is(err, identity.ErrUnreachable) || err.Error() != "cannot reach a:1: connection refused; cannot reach b:2: connection refused" {
			t.Errorf("got %v", err)
		}
	})
}

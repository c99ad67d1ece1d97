package authority

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

func TestRenew(t *testing.T) {
	l := newLab(t)
	first := l.enrol(t, "pump-7")
	key := newDeviceKey(t)
	req := renewalOf(t, first, key, "0123456789abcdef")
	answer, err := l.Renew(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	second := svid(t, answer, key)
	if answer.Generation != 2 {
		t.Errorf("generation %d, want 2", answer.Generation)
	}
	if p, _ := l.dir.Identity(first.ID); p.Labels["role"] != "sensor" {
		t.Errorf("labels %v after a renewal", p.Labels)
	}
	l.restart(t)
	again, err := l.Renew(t.Context(), req)
	if err != nil || again.Certificate != answer.Certificate {
		t.Errorf("the same request again, after a restart: %v", err)
	}

	_, err = l.Renew(t.Context(), renewalOf(t, first, newDeviceKey(t), "another-request-id"))
	wantRefusal(t, err, http.StatusConflict, "renewed before")
	if got := l.Clones(); got != 1 {
		t.Errorf("%d clone alarms, want 1", got)
	}
	if e := l.hook.LastEntry(); e == nil || e.Level.String() != "warning" || !strings.HasPrefix(e.Message, "clone alarm") {
		t.Errorf("clone alarm not logged: %v", e)
	}

	third, err := l.Renew(t.Context(), renewalOf(t, second, second.Key, "third-request-id"))
	if err != nil || third.Generation != 3 {
		t.Fatalf("with the same key: generation %d, %v", third.Generation, err)
	}
	// Once the answer was used, the old question is a clone's.
	_, err = l.Renew(t.Context(), req)
	wantRefusal(t, err, http.StatusConflict, "renewed before")

	signedByOther := renewalOf(t, second, key, "0123456789abcdef")
	if err := signedByOther.Sign(newDeviceKey(t)); err != nil {
		t.Fatal(err)
	}
	_, err = l.Renew(t.Context(), signedByOther)
	wantRefusal(t, err, http.StatusBadRequest, "not signed")
	stranger := newLab(t).enrol(t, "pump-7")
	_, err = l.Renew(t.Context(), renewalOf(t, stranger, stranger.Key, "0123456789abcdef"))
	wantRefusal(t, err, http.StatusForbidden, "certificate of device:pump-7")
}

// TestRenewalsAreBounded has a device that renews without end: each renewal
// stays in every node's directory.
func TestRenewalsAreBounded(t *testing.T) {
	l := newLab(t)
	s, other := l.enrol(t, "pump-7"), l.enrol(t, "pump-8")
	begin := l.dir.Tip().Count
	for i := range 3 * recordLimit.burst {
		answer, err := l.Renew(t.Context(), renewalOf(t, s, s.Key, fmt.Sprintf("request-%016d", i)))
		if err != nil {
			wantRefusal(t, err, http.StatusTooManyRequests, "too often")
			continue
		}
		s = svid(t, answer, s.Key)
	}
	if got := l.dir.Tip().Count - begin; got != uint64(recordLimit.burst) {
		t.Errorf("%d records, want %d", got, recordLimit.burst)
	}
	if _, err := l.Renew(t.Context(), renewalOf(t, other, other.Key, "0123456789abcdef")); err != nil {
		t.Errorf("another device: %v", err)
	}
	l.pass(time.Hour)
	if _, err := l.Renew(t.Context(), renewalOf(t, s, s.Key, "0123456789abcdef")); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}

func TestRenewUnrecorded(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	p, _ := l.dir.Identity(s.ID)
	p.SPKI = [32]byte{1}
	if _, err := l.dir.Put(p); err != nil {
		t.Fatal(err)
	}
	_, err := l.Renew(t.Context(), renewalOf(t, s, s.Key, "0123456789abcdef"))
	wantRefusal(t, err, http.StatusForbidden, "not the one on record")
}

func TestExpiredRenewal(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	l.pass(identity.DeviceLifetime + time.Hour)
	_, err := l.Renew(t.Context(), renewalOf(t, s, newDeviceKey(t), "0123456789abcdef"))
	wantRefusal(t, err, http.StatusForbidden, "a new key is not accepted")
	// The client tries once more with the same id and its old key.
	answer, err := l.Renew(t.Context(), renewalOf(t, s, s.Key, "0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	renewed := svid(t, answer, s.Key)
	if !renewed.NotAfter().After(l.clock()) {
		t.Errorf("renewed until %v", renewed.NotAfter())
	}
	l.pass(identity.DeviceLifetime + DefaultGrace + time.Hour)
	_, err = l.Renew(t.Context(), renewalOf(t, renewed, s.Key, "fedcba9876543210"))
	wantRefusal(t, err, http.StatusForbidden, "grace")
}

// TestLifetimes has an authority for a lab: certificates of a minute, whose
// renewals are not held to the bound for those of a month.
func TestLifetimes(t *testing.T) {
	l := newLab(t)
	l.life = Lifetimes{Device: time.Minute, Node: 5 * time.Minute, User: 2 * time.Minute}
	for kind, want := range map[identity.Kind]time.Duration{
		identity.Device: time.Minute, identity.Service: time.Minute, identity.Node: 5 * time.Minute, identity.User: 2 * time.Minute,
	} {
		s, err := l.Issue(t.Context(), Local{ID: identity.ID{TrustDomain: domain, Kind: kind, Name: "x"}, Key: newDeviceKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.NotAfter().Sub(identity.Issued(s.Leaf())); got != want {
			t.Errorf("%s for %v, want %v", kind, got, want)
		}
	}
	s := l.enrol(t, "pump-7")
	for i := range 60 {
		l.pass(20 * time.Second)
		answer, err := l.Renew(t.Context(), renewalOf(t, s, s.Key, fmt.Sprintf("request-%016d", i)))
		if err != nil {
			t.Fatalf("renewal %d: %v", i, err)
		}
		s = svid(t, answer, s.Key)
	}
}

// TestOwnLifetimes has an identity with a lifetime and a grace of its own.
func TestOwnLifetimes(t *testing.T) {
	l := newLab(t)
	l.own = func(p directory.Identity) (lifetime, grace time.Duration) {
		switch p.ID.Name {
		case "guest-1":
			return time.Hour, 2 * time.Hour
		case "old":
			return 1000 * 24 * time.Hour, 0
		}
		return 0, 0
	}
	lasts := func(s *identity.SVID) time.Duration { return s.NotAfter().Sub(identity.Issued(s.Leaf())) }
	guest, pump, old := l.enrol(t, "guest-1"), l.enrol(t, "pump-7"), l.enrol(t, "old")
	if lasts(guest) != time.Hour || lasts(pump) != identity.DeviceLifetime {
		t.Errorf("guest-1 for %v, pump-7 for %v", lasts(guest), lasts(pump))
	}
	if end := old.Chain[1].NotAfter; old.NotAfter().After(end) {
		t.Errorf("until %v, its issuer until %v", old.NotAfter(), end)
	}
	for i := range 60 { // a third of an hour apart, for longer than the burst lasts
		l.pass(20 * time.Minute)
		answer, err := l.Renew(t.Context(), renewalOf(t, guest, guest.Key, fmt.Sprintf("request-%016d", i)))
		if err != nil {
			t.Fatalf("renewal %d: %v", i, err)
		}
		if guest = svid(t, answer, guest.Key); lasts(guest) != time.Hour {
			t.Fatalf("renewed for %v", lasts(guest))
		}
	}
	l.pass(2 * time.Hour) // an hour after the end
	answer, err := l.Renew(t.Context(), renewalOf(t, guest, guest.Key, "within-the-grace"))
	if err != nil {
		t.Fatal(err)
	}
	guest = svid(t, answer, guest.Key)
	l.pass(3*time.Hour + time.Minute)
	_, err = l.Renew(t.Context(), renewalOf(t, guest, guest.Key, "after-the-grace-"))
	wantRefusal(t, err, http.StatusForbidden, "grace")
}

// TestSlowClocks has peers that verify a chain of a new fabric by clocks that
// are behind or ahead.
func TestSlowClocks(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	for behind, want := range map[time.Duration]bool{
		0: true, 10 * time.Minute: true, 23 * time.Hour: true, -10 * time.Minute: true,
		30 * 365 * 24 * time.Hour: false, -30 * 365 * 24 * time.Hour: false,
	} {
		if _, err := l.Bundle().Verify(s.Chain, l.clock().Add(-behind), x509.ExtKeyUsageServerAuth); (err == nil) != want {
			t.Errorf("a clock %v behind: %v", behind, err)
		}
	}
}

// TestExpiredUser: the lifetime of a login is its lifetime.
func TestExpiredUser(t *testing.T) {
	l := newLab(t)
	key := newDeviceKey(t)
	anna, err := l.Issue(t.Context(), Local{ID: identity.ID{TrustDomain: domain, Kind: identity.User, Name: "anna"}, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	l.pass(identity.UserLifetime - time.Minute)
	answer, err := l.Renew(t.Context(), renewalOf(t, anna, key, "0123456789abcdef"))
	if err != nil {
		t.Fatalf("in time: %v", err)
	}
	l.pass(identity.UserLifetime + time.Minute)
	_, err = l.Renew(t.Context(), renewalOf(t, svid(t, answer, key), key, "fedcba9876543210"))
	wantRefusal(t, err, http.StatusForbidden, "users' are not renewed")
}

// TestAnnouncementsAreBounded has a node that announces a new address each time.
func TestAnnouncementsAreBounded(t *testing.T) {
	l := newLab(t)
	lyon := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon"}
	if _, err := l.Issue(t.Context(), Local{ID: lyon, Key: newDeviceKey(t), Site: "lyon"}); err != nil {
		t.Fatal(err)
	}
	begin := l.dir.Tip().Count
	for i := range 3 * recordLimit.burst {
		if err := l.Announce(lyon, directory.Node{ID: lyon, Site: "lyon", Mesh: []string{fmt.Sprint("10.0.0.2:", i)}}); err != nil {
			wantRefusal(t, err, http.StatusTooManyRequests, "too often")
		}
	}
	if got := l.dir.Tip().Count - begin; got != uint64(recordLimit.burst) {
		t.Errorf("%d records, want %d", got, recordLimit.burst)
	}
}

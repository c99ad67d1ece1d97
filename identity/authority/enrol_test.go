package authority

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

func TestEnrol(t *testing.T) {
	l := newLab(t)
	if err := l.startNode(t); err != nil {
		t.Fatal(err)
	}
	key := newDeviceKey(t)
	ticket := l.ticket(t, identity.Device, "pump-7")
	req := request(t, ticket, csrFor(t, key, device("pump-7")))
	answer, err := l.Enrol(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	s := svid(t, answer, key)
	id, err := l.Bundle().Verify(s.Chain, l.clock(), x509.ExtKeyUsageClientAuth)
	if err != nil || id != device("pump-7") {
		t.Errorf("certificate of %v, %v", id, err)
	}
	if _, err := l.Bundle().Verify(s.Chain, l.clock(), x509.ExtKeyUsageServerAuth); err != nil {
		t.Errorf("as a server: %v", err)
	}
	leaf := s.Leaf()
	if gen, ok := identity.Generation(leaf); !ok || gen != 1 || answer.Generation != 1 {
		t.Errorf("generation %d, %v, answer %d", gen, ok, answer.Generation)
	}
	if issued := identity.Issued(leaf); !issued.Equal(l.clock()) || issued.Sub(leaf.NotBefore) != identity.Backdate || leaf.NotAfter.Sub(issued) != identity.DeviceLifetime {
		t.Errorf("issued at %v, valid from %v to %v", issued, leaf.NotBefore, leaf.NotAfter)
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) > 0 || leaf.Subject.CommonName != "pump-7" || len(leaf.Subject.Names) != 1 {
		t.Errorf("names %v %v %v", leaf.DNSNames, leaf.IPAddresses, leaf.Subject)
	}
	p, ok := l.dir.Identity(id)
	want := directory.Identity{
		ID: id, Labels: map[string]string{"role": "sensor"}, Site: "paris", State: directory.Active, Generation: 1,
		SPKI: sha256.Sum256(leaf.RawSubjectPublicKeyInfo), NotAfter: leaf.NotAfter, Leaf: leaf.Raw, Request: p.Request,
	}
	if diff := cmp.Diff(p, want); !ok || diff != "" {
		t.Errorf("recorded: %s", diff)
	}
	if diff := cmp.Diff(answer.MQTT, []string{"10.0.0.1:8883"}); diff != "" || answer.Site != "paris" {
		t.Errorf("site %q, MQTT %s", answer.Site, diff)
	}

	again, err := l.Enrol(t.Context(), req)
	if err != nil || again.Certificate != answer.Certificate {
		t.Errorf("the same request again: %v, same certificate: %v", err, again != nil && again.Certificate == answer.Certificate)
	}
	other := csrFor(t, newDeviceKey(t), device("pump-7"))
	_, err = l.Enrol(t.Context(), request(t, ticket, other))
	wantRefusal(t, err, http.StatusConflict, "hpmq device replace pump-7")
	ticket = l.ticket(t, identity.Device, "pump-7")
	_, err = l.Enrol(t.Context(), request(t, ticket, other))
	wantRefusal(t, err, http.StatusConflict, "another key")
	// A fresh ticket and the same key.
	answer, err = l.Enrol(t.Context(), request(t, ticket, csrFor(t, key, device("pump-7"))))
	if err != nil || answer.Generation != 2 {
		t.Errorf("new ticket for the same key: generation %d, %v", answer.Generation, err)
	}
}

func TestEnrolRefuses(t *testing.T) {
	l, other := newLab(t), newLab(t)
	id := device("pump-7")
	good := l.ticket(t, identity.Device, "pump-7")
	csr := csrFor(t, newDeviceKey(t), id)
	forged, err := identity.ParseTicket(good)
	if err != nil {
		t.Fatal(err)
	}
	forged.Name = "admin"
	node := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon"}
	nodeTicket := l.ticket(t, identity.Node, "lyon")
	for name, tt := range map[string]struct {
		ticket string
		csr    []byte
		status int
		text   string
	}{
		"no ticket":           {"", csr, http.StatusBadRequest, "ticket"},
		"no request":          {good, nil, http.StatusBadRequest, "request"},
		"forged":              {forged.String(), csr, http.StatusForbidden, "not from this CA"},
		"another CA's":        {other.ticket(t, identity.Device, "pump-7"), csr, http.StatusForbidden, "not from this CA"},
		"another name":        {good, csrFor(t, newDeviceKey(t), device("pump-8")), http.StatusForbidden, "pump-8"},
		"device with a name":  {good, csrFor(t, newDeviceKey(t), id, "localhost"), http.StatusForbidden, "only nodes"},
		"another node's name": {nodeTicket, csrFor(t, newDeviceKey(t), node, "paris.node.lab.test"), http.StatusForbidden, "lyon.node.lab.test"},
		"the trust domain":    {nodeTicket, csrFor(t, newDeviceKey(t), node, "LAB.test"), http.StatusForbidden, "lyon.node.lab.test"},
		"wildcard":            {nodeTicket, csrFor(t, newDeviceKey(t), node, "*.example.com"), http.StatusForbidden, "not a host name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.Enrol(t.Context(), request(t, tt.ticket, tt.csr))
			wantRefusal(t, err, tt.status, tt.text)
		})
	}
	l.pass(DefaultTicketLifetime + time.Second)
	_, err = l.Enrol(t.Context(), request(t, good, csr))
	wantRefusal(t, err, http.StatusForbidden, "expired")
	if got := l.dir.Tip().Count; got != 0 {
		t.Errorf("refusals left %d records", got)
	}
}

// TestSeenTicket has a node that passes an enrolment on, or a node of old whose
// certificate a device without a clock still believes, try to enrol its own key
// with what it saw.
func TestSeenTicket(t *testing.T) {
	l := newLab(t)
	mine := csrFor(t, newDeviceKey(t), device("pump-7"))
	seen := request(t, l.ticket(t, identity.Device, "pump-7"), mine)
	thief := csrFor(t, newDeviceKey(t), device("pump-7"))
	shown, err := identity.ParseTicket(seen.Ticket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shown.Request(thief); err == nil {
		t.Error("the request holds the ticket's secret")
	}
	for _, proof := range [][]byte{nil, seen.Proof} {
		_, err := l.Enrol(t.Context(), &identity.EnrolRequest{Ticket: seen.Ticket, CSR: thief, Proof: proof})
		wantRefusal(t, err, http.StatusForbidden, "secret")
	}
	if _, err := l.Enrol(t.Context(), seen); err != nil {
		t.Errorf("the device itself: %v", err)
	}
}

func TestKeyOfAnotherIdentityIsRefused(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	_, err := l.Enrol(t.Context(), request(t, l.ticket(t, identity.Device, "pump-8"), csrFor(t, s.Key, device("pump-8"))))
	wantRefusal(t, err, http.StatusConflict, "device:pump-7")
}

func TestTicketUses(t *testing.T) {
	l := newLab(t)
	text, err := l.Mint(&identity.Ticket{Kind: identity.Device, Name: "pump-7", Addrs: []string{"x:1"}, Uses: 2})
	if err != nil {
		t.Fatal(err)
	}
	for use := range 3 {
		_, err := l.Enrol(t.Context(), request(t, text, csrFor(t, newDeviceKey(t), device("pump-7"))))
		if use == 2 {
			wantRefusal(t, err, http.StatusForbidden, "used up")
		} else if err != nil {
			t.Fatal(err)
		}
		if err := l.Replace(device("pump-7")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestVoidTickets: a ticket that leaked before it was used.
func TestVoidTickets(t *testing.T) {
	l := newLab(t)
	l.pass(2 * time.Hour)
	leaked, other := l.ticket(t, identity.Device, "pump-7"), l.ticket(t, identity.Device, "pump-8")
	used, key := l.ticket(t, identity.Device, "pump-9"), newDeviceKey(t)
	enrol := func(ticket, name string, key crypto.Signer) error {
		_, err := l.Enrol(t.Context(), request(t, ticket, csrFor(t, key, device(name))))
		return err
	}
	if err := enrol(used, "pump-9", key); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pump-7", "pump-9"} {
		if err := l.VoidTickets(device(name)); err != nil {
			t.Fatal(err)
		}
	}
	l.restart(t)
	wantRefusal(t, enrol(leaked, "pump-7", newDeviceKey(t)), http.StatusForbidden, "void")
	if err := enrol(other, "pump-8", newDeviceKey(t)); err != nil {
		t.Errorf("a ticket for another name: %v", err)
	}
	if err := enrol(used, "pump-9", key); err != nil {
		t.Errorf("an answer that was lost: %v", err)
	}
	l.pass(-time.Hour) // the next ticket is good, whatever the clock does
	if err := enrol(l.ticket(t, identity.Device, "pump-7"), "pump-7", newDeviceKey(t)); err != nil {
		t.Errorf("the next ticket: %v", err)
	}
}

func TestConcurrentEnrolment(t *testing.T) {
	l := newLab(t)
	const n = 24
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { l.enrol(t, fmt.Sprint("pump-", i)) })
	}
	shared, key := l.ticket(t, identity.Device, "same"), newDeviceKey(t)
	answers := make([]string, n)
	for i := range n {
		all.Go(func() {
			a, err := l.Enrol(t.Context(), request(t, shared, csrFor(t, key, device("same"))))
			if err != nil {
				t.Error(err)
				return
			}
			answers[i] = a.Certificate
		})
	}
	raced := l.ticket(t, identity.Device, "raced")
	won := make([]bool, n)
	for i := range n {
		all.Go(func() {
			_, err := l.Enrol(t.Context(), request(t, raced, csrFor(t, newDeviceKey(t), device("raced"))))
			won[i] = err == nil
			if err != nil {
				wantRefusal(t, err, http.StatusConflict, "another key")
			}
		})
	}
	all.Wait()
	if len(slices.Compact(answers)) != 1 {
		t.Error("one ticket and key got different certificates")
	}
	winners := slices.DeleteFunc(won, func(b bool) bool { return !b })
	if len(winners) != 1 {
		t.Errorf("%d keys won one name", len(winners))
	}
	if got, want := l.dir.Tip().Count, uint64(2*(n+2)); got != want {
		t.Errorf("%d records, want %d", got, want)
	}
	if len(l.names.held) > 0 || len(l.db.asked) > 0 {
		t.Errorf("left behind: %d locks, %d requests", len(l.names.held), len(l.db.asked))
	}
}

func TestNothingLeavesUnrecorded(t *testing.T) {
	l := newLab(t)
	req := request(t, l.ticket(t, identity.Device, "pump-7"), csrFor(t, newDeviceKey(t), device("pump-7")))
	l.dir.Close() // the disk is gone
	answer, err := l.Enrol(t.Context(), req)
	if err == nil || answer != nil {
		t.Fatal("a certificate left that was not recorded")
	}
	if isRefusal(err) {
		t.Errorf("a failure looks like a refusal: %v", err)
	}
	if got := asRefusal(err); got.Status != http.StatusServiceUnavailable || strings.Contains(got.Message+got.Hint, l.path) {
		t.Errorf("a stranger reads %+v", got)
	}
}

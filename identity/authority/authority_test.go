package authority

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	stdlog "log"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/smallstep/certificates/db"
	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "lab.test"

var paris = identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "paris"}

// lab is an authority with its own clock and directories.
type lab struct {
	*Authority

	dir  *directory.Directory
	path string
	hook *test.Hook

	mu   sync.Mutex
	time time.Time
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{path: t.TempDir(), time: time.Now().Truncate(time.Second)}
	l.start(t)
	t.Cleanup(func() { l.dir.Close() })
	return l
}

// start opens the lab's directories, again after a restart.
func (l *lab) start(t testing.TB) {
	t.Helper()
	keys, err := OpenKeys(filepath.Join(l.path, "ca"), domain, l.clock)
	if err != nil {
		t.Fatal(err)
	}
	l.dir, err = directory.Open(filepath.Join(l.path, "log"), keys.SignerKey(), directory.Options{Signer: keys.Signer(), Now: l.clock})
	if err != nil {
		t.Fatal(err)
	}
	var log *logrus.Logger
	log, l.hook = test.NewNullLogger()
	l.Authority, err = New(keys, l.dir, Options{Node: paris, Site: "paris", Now: l.clock, Log: log})
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lab) restart(t testing.TB) {
	t.Helper()
	if err := l.dir.Close(); err != nil {
		t.Fatal(err)
	}
	l.start(t)
}

func (l *lab) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.time
}

func (l *lab) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.time = l.time.Add(d)
}

func (l *lab) ticket(t testing.TB, kind identity.Kind, name string) string {
	t.Helper()
	s, err := l.Mint(&identity.Ticket{Kind: kind, Name: name, Addrs: []string{"127.0.0.1:8883"}, Labels: map[string]string{"role": "sensor"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newDeviceKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrFor(t testing.TB, key crypto.Signer, id identity.ID, names ...string) []byte {
	t.Helper()
	csr, err := identity.NewCSR(key, id, names...)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func device(name string) identity.ID {
	return identity.ID{TrustDomain: domain, Kind: identity.Device, Name: name}
}

// request is what the holder of a ticket sends, whatever is wrong with it.
func request(t testing.TB, ticket string, csr []byte) *identity.EnrolRequest {
	t.Helper()
	parsed, err := identity.ParseTicket(ticket)
	if err != nil {
		return &identity.EnrolRequest{Ticket: ticket, CSR: csr}
	}
	r, err := parsed.Request(csr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// enrol enrols a device with a new ticket and key.
func (l *lab) enrol(t testing.TB, name string) *identity.SVID {
	t.Helper()
	key := newDeviceKey(t)
	answer, err := l.Enrol(t.Context(), request(t, l.ticket(t, identity.Device, name), csrFor(t, key, device(name))))
	if err != nil {
		t.Fatal(err)
	}
	return svid(t, answer, key)
}

func svid(t testing.TB, answer *identity.EnrolResponse, key crypto.Signer) *identity.SVID {
	t.Helper()
	chain, err := identity.ParseCertificates([]byte(answer.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.NewSVID(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func renewalOf(t testing.TB, s *identity.SVID, key crypto.Signer, request string) *identity.RenewRequest {
	t.Helper()
	r := &identity.RenewRequest{
		Certificate: string(identity.EncodeCertificates(s.Chain...)), CSR: csrFor(t, key, s.ID), ID: request, Time: time.Now().UTC(),
	}
	if err := r.Sign(s.Key); err != nil {
		t.Fatal(err)
	}
	return r
}

// wantRefusal checks that err is a refusal with this status whose message or
// hint holds text.
func wantRefusal(t testing.TB, err error, status int, text string) {
	t.Helper()
	var refusal *identity.APIError
	if !errors.As(err, &refusal) || refusal.Status != status || !strings.Contains(refusal.Message+"\n"+refusal.Hint, text) {
		t.Errorf("got %v, want a refusal with status %d and %q", err, status, text)
	}
}

// startNode issues the node's own certificate and says where it is.
func (l *lab) startNode(t testing.TB) error {
	if _, err := l.Issue(t.Context(), Local{ID: paris, Key: newDeviceKey(t)}); err != nil {
		return err
	}
	return l.Announce(paris, directory.Node{ID: paris, Site: "paris", MQTT: []string{"10.0.0.1:8883"}, Roles: []string{"ca"}})
}

// TestIssuedNodeCertificate checks with Go's verifier what stock clients check.
func TestIssuedNodeCertificate(t *testing.T) {
	l := newLab(t)
	names := []string{"localhost", "127.0.0.1", "::1", "10.1.2.3", "paris.node.lab.test", "gw-paris"}
	s, err := l.Issue(t.Context(), Local{ID: paris, Key: newDeviceKey(t), Names: names, Labels: map[string]string{"role": "node"}})
	if err != nil {
		t.Fatal(err)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(l.Roots()[0])
	for _, c := range s.Chain[1:] {
		inter.AddCert(c)
	}
	for _, name := range names {
		if _, err := s.Leaf().Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: inter}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Leaf().Verify(x509.VerifyOptions{DNSName: "lyon.node.lab.test", Roots: roots, Intermediates: inter}); err == nil {
		t.Error("verified under another name")
	}
	again, err := l.Issue(t.Context(), Local{ID: paris, Key: s.Key, Names: names[:2]}) // addresses changed
	if err != nil {
		t.Fatal(err)
	}
	if gen, _ := identity.Generation(again.Leaf()); gen != 2 || len(again.Leaf().IPAddresses) != 1 {
		t.Errorf("generation %d, addresses %v", gen, again.Leaf().IPAddresses)
	}
	user := identity.ID{TrustDomain: domain, Kind: identity.User, Name: "admin"}
	u, err := l.Issue(t.Context(), Local{ID: user, Key: newDeviceKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	if issued := identity.Issued(u.Leaf()); u.NotAfter().Sub(issued) != identity.UserLifetime || issued.Sub(u.Leaf().NotBefore) != identity.UserBackdate {
		t.Errorf("user certificate from %v, issued at %v, to %v", u.Leaf().NotBefore, issued, u.NotAfter())
	}
	if _, err := l.Bundle().Verify(u.Chain, l.clock(), x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("a user may be a server")
	}
}

func TestDatabase(t *testing.T) {
	l := newLab(t)
	s := l.enrol(t, "pump-7")
	serial := s.Leaf().SerialNumber.String()
	if err := l.db.StoreCertificate(s.Leaf()); err == nil {
		t.Error("a certificate that nobody asked for was stored")
	}
	// There is one way to revoke, and this is not it.
	if err := l.db.Revoke(&db.RevokedCertificateInfo{Serial: serial, Reason: "lost"}); err == nil || l.dir.Revoked(s.ID, 1) {
		t.Errorf("revoked by serial number: %v", err)
	}
	if revoked, err := l.db.IsRevoked(serial); !revoked || err == nil {
		t.Errorf("judged by serial number: %v, %v", revoked, err)
	}
}

func TestSmallstepIsQuiet(t *testing.T) {
	var out bytes.Buffer
	defer stdlog.SetOutput(stdlog.Writer())
	stdlog.SetOutput(&out)
	newLab(t).enrol(t, "pump-7")
	if out.Len() > 0 {
		t.Errorf("printed %q", out.String())
	}
}

func TestNewRefuses(t *testing.T) {
	l := newLab(t)
	replica, err := directory.Open(filepath.Join(t.TempDir(), "log"), l.keys.SignerKey(), directory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	if _, err := New(l.keys, replica, Options{Node: paris}); err == nil {
		t.Error("an authority on a replica")
	}
	elsewhere := paris
	elsewhere.TrustDomain = "other.test"
	if _, err := New(l.keys, l.dir, Options{Node: elsewhere}); err == nil {
		t.Error("an authority outside its trust domain")
	}
}

// TestNearest: tickets and answers name the nodes of the home site first, then CAs,
// then others.
func TestNearest(t *testing.T) {
	l := newLab(t)
	node := func(name, site string, roles ...string) {
		id := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: name}
		if _, err := l.Issue(t.Context(), Local{ID: id, Key: newDeviceKey(t), Site: site}); err != nil {
			t.Fatal(err)
		}
		if err := l.Announce(id, directory.Node{ID: id, Site: site, API: []string{name + ":8883"}, Mesh: []string{name + ":7844"}, Roles: roles}); err != nil {
			t.Fatal(err)
		}
	}
	node("paris", "paris", "ca")
	node("lyon", "lyon")
	node("lyon-2", "lyon")
	node("nice", "nice")
	node("gone", "lyon")
	if err := l.Revoke(identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "gone"}, RevokeOptions{Reason: "lost"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind       identity.Kind
		name, site string
		want       string
	}{
		{identity.Device, "pump-7", "lyon", "lyon:8883 lyon-2:8883 paris:8883 nice:8883"},
		{identity.Device, "pump-8", "", "paris:8883 lyon:8883 lyon-2:8883 nice:8883"},
		{identity.Node, "lyon-3", "lyon", "paris:8883 lyon:8883 lyon-2:8883 nice:8883"},
	} {
		text, err := l.Mint(&identity.Ticket{Kind: tt.kind, Name: tt.name, Site: tt.site})
		if err != nil {
			t.Fatal(err)
		}
		ticket, err := identity.ParseTicket(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(ticket.Addrs, " "); got != tt.want {
			t.Errorf("ticket of %s: %s, want %s", tt.name, got, tt.want)
		}
	}
	for i := range 20 {
		node(fmt.Sprintf("x%d", i), "far")
	}
	text, err := l.Mint(&identity.Ticket{Kind: identity.Device, Name: "pump-9", Site: "lyon"})
	if err != nil {
		t.Fatal(err)
	}
	if ticket, err := identity.ParseTicket(text); err != nil || len(ticket.Addrs) != ticketAddrs || len(text) > 1000 {
		t.Errorf("a ticket of %d characters, %v", len(text), err)
	}
}

package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noSource is a process before its first certificate.
type noSource struct{}

func (noSource) SVID() *identity.SVID     { return nil }
func (noSource) Bundle() *identity.Bundle { return nil }

func TestHandshake(t *testing.T) {
	lab, other := testca.New(t, "lab.test"), testca.New(t, "lab.test")
	paris, lyon := lab.Issue(t, lab.ID(t, identity.Node, "paris")), lab.Issue(t, lab.ID(t, identity.Node, "lyon"))
	ann := lab.Issue(t, lab.ID(t, identity.User, "ann"))
	stale := lab.Issue(t, lyon.SVID().ID, testca.ValidFor(-time.Second))
	stranger := other.Issue(t, lyon.SVID().ID)
	serveStale := identity.ServeEnded(func(leaf *x509.Certificate) bool { return leaf.Equal(stale.SVID().Leaf()) })
	serveNone := identity.ServeEnded(func(*x509.Certificate) bool { return false })
	staleStranger := other.Issue(t, lyon.SVID().ID, testca.ValidFor(-time.Second))
	serveAll := identity.ServeEnded(func(*x509.Certificate) bool { return true })
	staleUser := lab.Issue(t, ann.SVID().ID, testca.ValidFor(-time.Second))
	revoked := identity.Revoked(func(leaf *x509.Certificate) bool { return leaf.Subject.CommonName == "lyon" })
	const must, may = tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven
	any := identity.ID{}
	for _, tt := range []struct {
		name   string
		client *tls.Config
		server *tls.Config
		want   string // part of the error at either end
	}{
		{"any peer", identity.ClientConfig(lyon, nil, any), identity.ServerConfig(paris, nil, must), ""},
		{"expected peer", identity.ClientConfig(lyon, nil, paris.SVID().ID), identity.ServerConfig(paris, nil, must), ""},
		{"RequireAnyClientCert", identity.ClientConfig(ann, nil, any), identity.ServerConfig(paris, nil, tls.RequireAnyClientCert), ""},
		{"another peer than expected", identity.ClientConfig(lyon, nil, paris.SVID().ID), identity.ServerConfig(lyon, nil, must), "want spiffe://lab.test/node/paris"},
		{"a user as server", identity.ClientConfig(lyon, nil, any), identity.ServerConfig(ann, nil, must), "incompatible key usage"},
		{"no client certificate", bare(), identity.ServerConfig(paris, nil, must), "certificate required"},
		{"none needed", bare(), identity.ServerConfig(paris, nil, may), ""},
		{"expired client", identity.ClientConfig(stale, nil, any), identity.ServerConfig(paris, nil, must), "expired"},
		{"expired though optional", identity.ClientConfig(stale, nil, any), identity.ServerConfig(paris, nil, may), "expired"},
		{"expired though only requested", identity.ClientConfig(stale, nil, any), identity.ServerConfig(paris, nil, tls.RequestClientCert), "expired"},
		{"expired server", identity.ClientConfig(lyon, nil, any), identity.ServerConfig(stale, nil, must), "expired"},
		{"expired client that is served", identity.ClientConfig(stale, nil, any), identity.ServerConfig(paris, nil, must, serveStale), ""},
		{"expired server that is served", identity.ClientConfig(lyon, nil, any, serveStale), identity.ServerConfig(stale, nil, must), ""},
		{"expired client that is not served", identity.ClientConfig(stale, nil, any), identity.ServerConfig(paris, nil, must, serveNone), "expired"},
		{"expired client of another root", identity.ClientConfig(trusting{staleStranger, lab.Bundle()}, nil, any), identity.ServerConfig(paris, nil, must, serveAll), "expired"},
		{"expired and revoked", identity.ClientConfig(stale, nil, any), identity.ServerConfig(paris, nil, must, serveAll, revoked), "revoked"},
		{"expired user as server", identity.ClientConfig(lyon, nil, any, serveAll), identity.ServerConfig(staleUser, nil, must), "expired"},
		{"client of another root", identity.ClientConfig(trusting{stranger, lab.Bundle()}, nil, any), identity.ServerConfig(paris, nil, must), "unknown authority"},
		{"server of another root", identity.ClientConfig(lyon, nil, any), identity.ServerConfig(stranger, nil, must), "unknown authority"},
		{"revoked client", identity.ClientConfig(lyon, nil, any), identity.ServerConfig(paris, nil, must, revoked), "node:lyon is revoked"},
		{"revoked server", identity.ClientConfig(paris, nil, any, revoked), identity.ServerConfig(lyon, nil, must), "node:lyon is revoked"},
		{"TLS 1.2", maxTLS12(bare()), identity.ServerConfig(paris, nil, may), "protocol version"},
		{"TLS 1.2 allowed", maxTLS12(bare()), identity.ServerConfig(paris, nil, may, identity.AllowTLS12), ""},
		{"server without a certificate", bare(), identity.ServerConfig(noSource{}, nil, may), "no certificate yet"},
		{"ALPN", identity.ClientConfig(lyon, []string{"b"}, any), identity.ServerConfig(paris, []string{"a", "b"}, must), ""},
		{"no common ALPN", identity.ClientConfig(lyon, []string{"x"}, any), identity.ServerConfig(paris, []string{"a", "b"}, must), "application protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := loopback(t)
			_, _, cerr, serr := handshake(t, a, b, tt.client, tt.server)
			errs := ""
			for _, err := range []error{cerr, serr} {
				if err != nil {
					errs += err.Error() + "\n"
				}
			}
			if tt.want == "" && errs != "" || !strings.Contains(errs, tt.want) {
				t.Errorf("got %q, want %q", errs, tt.want)
			}
		})
	}
}

func TestPeerID(t *testing.T) {
	lab := testca.New(t, "lab.test")
	paris, pump := lab.Issue(t, lab.ID(t, identity.Node, "paris")), lab.Issue(t, lab.ID(t, identity.Device, "pump-7"))
	a, b := loopback(t)
	atClient, atServer, cerr, serr := handshake(t, a, b, identity.ClientConfig(pump, nil, identity.ID{}), identity.ServerConfig(paris, nil, tls.RequireAnyClientCert))
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	if id, err := identity.PeerID(atClient, lab.Bundle()); err != nil || id.Short() != "node:paris" {
		t.Errorf("client sees %v, %v", id, err)
	}
	if id, err := identity.PeerID(atServer, lab.Bundle()); err != nil || id.Short() != "device:pump-7" {
		t.Errorf("server sees %v, %v", id, err)
	}
	if id, err := identity.PeerID(atServer, identity.NewBundle("other.test")); err == nil {
		t.Errorf("another trust domain sees %v", id)
	}
	if id, err := identity.PeerID(tls.ConnectionState{}, lab.Bundle()); err != nil || !id.IsZero() {
		t.Errorf("no certificate is %v, %v", id, err)
	}
}

func TestRenewedCertificateIsPresented(t *testing.T) {
	lab := testca.New(t, "lab.test")
	paris, lyon := lab.Issue(t, lab.ID(t, identity.Node, "paris")), lab.Issue(t, lab.ID(t, identity.Node, "lyon"))
	client, server := identity.ClientConfig(lyon, nil, identity.ID{}), identity.ServerConfig(paris, nil, tls.RequireAnyClientCert)
	for range 2 {
		paris.Set(lab.SVID(t, paris.SVID().ID))
		lyon.Set(lab.SVID(t, lyon.SVID().ID))
		a, b := loopback(t)
		atClient, atServer, cerr, serr := handshake(t, a, b, client, server)
		if cerr != nil || serr != nil {
			t.Fatal(cerr, serr)
		}
		if !atClient.PeerCertificates[0].Equal(paris.SVID().Leaf()) || !atServer.PeerCertificates[0].Equal(lyon.SVID().Leaf()) {
			t.Error("an old certificate was presented")
		}
	}
}

// A session ticket spares a device the costly part of a handshake but never the
// checks: it dies with the certificate and does not outlive a revocation.
func TestResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testResumption(t, version) })
		})
	}
}

func testResumption(t *testing.T, version uint16) {
	lab := testca.New(t, "lab.test")
	paris, pump := lab.Issue(t, lab.ID(t, identity.Node, "paris")), lab.Issue(t, lab.ID(t, identity.Device, "pump-7"), testca.ValidFor(10*time.Minute))
	var gone, serve atomic.Bool
	server := identity.ServerConfig(paris, nil, tls.RequireAnyClientCert, identity.AllowTLS12,
		identity.Revoked(func(*x509.Certificate) bool { return gone.Load() }),
		identity.ServeEnded(func(*x509.Certificate) bool { return serve.Load() }))
	client := identity.ClientConfig(pump, nil, identity.ID{}, identity.AllowTLS12)
	client.MaxVersion, client.ServerName, client.ClientSessionCache = version, "paris", tls.NewLRUClientSessionCache(4)
	connect := func(step string, resumed, ok bool) {
		t.Helper()
		a, b := newPipe()
		_, state, cerr, serr := handshake(t, a, b, client, server)
		if ok != (cerr == nil && serr == nil) {
			t.Fatalf("%s: %v, %v", step, cerr, serr)
		}
		if ok && state.DidResume != resumed {
			t.Errorf("%s: resumed is %v", step, state.DidResume)
		}
	}
	connect("first", false, true)
	connect("again", true, true)
	<-time.After(11 * time.Minute)
	pump.Set(lab.SVID(t, pump.SVID().ID))
	connect("certificate of the session expired, new one at hand", false, true)
	connect("new session", true, true)
	<-time.After(2 * time.Hour)
	paris.Set(lab.SVID(t, paris.SVID().ID))
	serve.Store(true)
	connect("ended, and served", false, true)
	connect("ended, and served again", false, true)
	serve.Store(false)
	connect("ended, and not served any more", false, false)
	pump.Set(lab.SVID(t, pump.SVID().ID))
	connect("renewed", false, true)
	gone.Store(true)
	connect("revoked", true, false)
}

func bare() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true}
}

func maxTLS12(c *tls.Config) *tls.Config {
	c.MaxVersion = tls.VersionTLS12
	return c
}

// trusting has one source's certificate and other roots.
type trusting struct {
	identity.Source
	bundle *identity.Bundle
}

func (s trusting) Bundle() *identity.Bundle { return s.bundle }

// handshake connects the two and sends a byte to the client, so that it knows
// the outcome and has its session ticket.
func handshake(t *testing.T, a, b net.Conn, client, server *tls.Config) (atClient, atServer tls.ConnectionState, cerr, serr error) {
	t.Helper()
	c, s := tls.Client(a, client), tls.Server(b, server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		if serr = s.Handshake(); serr == nil {
			_, serr = s.Write([]byte{1})
		}
		atServer = s.ConnectionState()
	}()
	if cerr = c.Handshake(); cerr == nil {
		_, cerr = io.ReadFull(c, make([]byte, 1))
	}
	atClient = c.ConnectionState()
	a.Close()
	<-done
	return atClient, atServer, cerr, serr
}

// loopback returns the two ends of a TCP connection.
func loopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

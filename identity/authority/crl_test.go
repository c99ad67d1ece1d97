package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// mustCRL returns the lists that l signs now, as text and verified.
func (l *lab) mustCRL(t testing.TB) ([]byte, *identity.CRL) {
	t.Helper()
	text, err := l.CRL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.ParseCRL(text, l.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	return text, c
}

// firstList returns the list of the current intermediate.
func firstList(t testing.TB, text []byte) *x509.RevocationList {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no list")
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (l *lab) renewed(t testing.TB, s *identity.SVID) *identity.SVID {
	t.Helper()
	key := newDeviceKey(t)
	answer, err := l.Renew(t.Context(), renewalOf(t, s, key, fmt.Sprintf("renewal-%016d", l.clock().UnixNano())))
	if err != nil {
		t.Fatal(err)
	}
	return svid(t, answer, key)
}

// TestCRL follows identities through revocation, replacement and renewal: the list
// has what was ended before its time, and nothing else.
func TestCRL(t *testing.T) {
	l := newLab(t)
	first := l.enrol(t, "pump-7")
	l.pass(10 * 24 * time.Hour)
	second := l.renewed(t, first)
	other := l.enrol(t, "pump-8")
	given := l.enrol(t, "pump-9")
	text, c := l.mustCRL(t)
	list := firstList(t, text)
	if len(list.RevokedCertificateEntries) != 0 {
		t.Errorf("%d entries before a revocation", len(list.RevokedCertificateEntries))
	}
	if !list.ThisUpdate.Equal(l.clock().Add(-identity.Backdate)) || list.NextUpdate.Sub(list.ThisUpdate) != crlLife || !c.NextUpdate().Equal(list.NextUpdate) {
		t.Errorf("from %v to %v", list.ThisUpdate, list.NextUpdate)
	}
	if err := l.Revoke(first.ID, RevokeOptions{Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Replace(given.ID); err != nil { // clears Leaf in the directory
		t.Fatal(err)
	}
	want := func(revoked ...*identity.SVID) {
		t.Helper()
		text, c := l.mustCRL(t)
		for _, s := range []*identity.SVID{first, second, other, given} {
			if got := c.Revokes(s.Leaf()); got != slices.Contains(revoked, s) {
				gen, _ := identity.Generation(s.Leaf())
				t.Errorf("%s generation %d: listed %v", s.ID.Short(), gen, got)
			}
		}
		if got := len(firstList(t, text).RevokedCertificateEntries); got != len(revoked) {
			t.Errorf("%d entries, want %d", got, len(revoked))
		}
	}
	want(first, second, given)
	l.restart(t)
	want(first, second, given)
	l.pass(21*24*time.Hour + time.Second) // first ended a day ago
	want(second, given)
	l.pass(30 * 24 * time.Hour)
	want()
}

// TestCRLIsSignedWhenNeeded: one signature a day and per revocation, whoever asks;
// the number always grows, over restarts and clocks that go back too.
func TestCRLIsSignedWhenNeeded(t *testing.T) {
	l := newLab(t)
	number := func() *big.Int {
		text, _ := l.mustCRL(t)
		return firstList(t, text).Number
	}
	last := number()
	check := func(what string, newer bool) {
		t.Helper()
		got := number()
		if want := map[bool]int{true: 1, false: 0}[newer]; got.Cmp(last) != want {
			t.Errorf("%s: number %v after %v", what, got, last)
		}
		last = got
	}
	check("asked again", false)
	pump := l.enrol(t, "pump-7")
	l.pass(23 * time.Hour)
	check("after 23 hours and an enrolment", false)
	l.pass(time.Hour)
	check("after a day", true)
	if err := l.Revoke(pump.ID, RevokeOptions{}); err != nil {
		t.Fatal(err)
	}
	check("after a revocation", true)
	check("asked again", false)
	l.restart(t)
	check("after a restart", true)
	l.pass(-48 * time.Hour)
	check("clock went back", true)
	l.restart(t)
	check("clock went back, restart", true)
	if err := os.WriteFile(filepath.Join(l.keys.dir, crlFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.pass(72 * time.Hour)
	l.restart(t)
	check("file torn, restart", true)
}

// TestCRLOfEarlierIntermediates: certificates of an intermediate that was renewed
// are listed by it, since a client looks for a list of the certificate's issuer.
func TestCRLOfEarlierIntermediates(t *testing.T) {
	l := newLab(t)
	l.pass(intermediateLifetime*2/3 - 24*time.Hour)
	early, honest := l.enrol(t, "pump-7"), l.enrol(t, "pump-8")
	l.pass(48 * time.Hour)
	late := l.enrol(t, "pump-9")
	if early.Chain[1].Equal(late.Chain[1]) {
		t.Fatal("the intermediate was not renewed")
	}
	for range 2 {
		for _, s := range []*identity.SVID{early, late} {
			if err := l.Revoke(s.ID, RevokeOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		text, c := l.mustCRL(t)
		if !c.Revokes(early.Leaf()) || !c.Revokes(late.Leaf()) || c.Revokes(honest.Leaf()) {
			t.Error("wrong certificates listed")
		}
		if got := strings.Count(string(text), "BEGIN X509 CRL"); got != 3 {
			t.Errorf("%d lists, want one of each intermediate and the root's", got)
		}
		l.restart(t)
	}
	// A version without revocation lists takes the last key of the file.
	file, err := os.ReadFile(filepath.Join(l.keys.dir, intermediateFile))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.SplitAfter(string(file), "-----END PRIVATE KEY-----\n")
	lastKey, _ := pem.Decode([]byte(blocks[len(blocks)-2]))
	key, err := parseKey(lastKey.Bytes)
	if err != nil || !l.keys.issuer.key.Public().(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Errorf("the last key is not the issuer's: %v", err)
	}
	l.leaveOut(t, early)
	l.pass(intermediateLifetime / 2)
	if text, _ := l.mustCRL(t); strings.Count(string(text), "BEGIN X509 CRL") != 2 {
		t.Error("the earlier intermediate has ended, and still has a list")
	}
}

// leaveOut has a node pass on the newest list without that of the earlier
// intermediate: a client keeps the one that it has.
func (l *lab) leaveOut(t *testing.T, early *identity.SVID) {
	t.Helper()
	store, err := identity.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(early, l.Bundle()); err != nil {
		t.Fatal(err)
	}
	text, _ := l.mustCRL(t)
	if _, err := store.UpdateCRL(t.Context(), l.CRL); err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	_, rest = pem.Decode(rest)
	cut := append(pem.EncodeToMemory(block), rest...)
	c, err := store.UpdateCRL(t.Context(), func(context.Context) ([]byte, error) { return cut, nil })
	if err != nil || !c.Revokes(early.Leaf()) {
		t.Errorf("the earlier intermediate's list is gone: %v", err)
	}
}

// TestCRLWithoutEarlierKey: a version before revocation lists kept no key of an
// earlier intermediate.
func TestCRLWithoutEarlierKey(t *testing.T) {
	l := newLab(t)
	l.pass(intermediateLifetime*2/3 + 24*time.Hour)
	before := l.keys.issuer.cert
	l.enrol(t, "pump-7")
	text, err := encodeIssuer(l.keys.issuer, []issuer{{cert: before}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.keys.dir, intermediateFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	l.restart(t)
	if text, _ := l.mustCRL(t); strings.Count(string(text), "BEGIN X509 CRL") != 2 {
		t.Error("want the lists of the current intermediate and the root")
	}
}

// TestRootListWithoutRootKey: with the root key away and no list of the root there
// is none, and the others are signed.
func TestRootListWithoutRootKey(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{rootKeyFile, rootListFile} {
		if err := os.Remove(filepath.Join(l.keys.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	l.restart(t)
	if text, _ := l.mustCRL(t); strings.Count(string(text), "BEGIN X509 CRL") != 1 {
		t.Error("want the list of the intermediate alone")
	}
}

// TestCRLNotKept: a number that a restart would forget is not given away.
func TestCRLNotKept(t *testing.T) {
	l := newLab(t)
	if err := os.MkdirAll(filepath.Join(l.keys.dir, crlFile, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if text, err := l.CRL(t.Context()); err == nil {
		t.Errorf("handed out %d bytes", len(text))
	}
	addr := l.serve(t, l)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := c.Get("https://" + addr + identity.CRLPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestRelayedCRL: a relay passes the lists on, and serves the newest that it has
// seen while no CA answers.
func TestRelayedCRL(t *testing.T) {
	l := newLab(t)
	r := l.relay(t)
	open := r.Open
	r.Open = func(context.Context) (io.ReadWriteCloser, error) { return nil, errors.New("no way") }
	_, err := r.CRL(t.Context())
	wantRefusal(t, err, http.StatusServiceUnavailable, "no CA can be reached")
	r.Open = open
	want, _ := l.mustCRL(t)
	for range 2 {
		got, err := r.CRL(t.Context())
		if err != nil || string(got) != string(want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		r.Open = func(context.Context) (io.ReadWriteCloser, error) { return nil, errors.New("no way") }
	}
}

// TestLargeCRL: what does not fit is said, not cut.
func TestLargeCRL(t *testing.T) {
	if testing.Short() {
		t.Skip("with -short: it signs a list of more than 4 MiB, which takes seconds")
	}
	l := newLab(t)
	pump := l.enrol(t, "pump-7")
	leaf := *pump.Leaf()
	by := l.keys.issuer
	for _, tt := range []struct {
		n    int
		fits bool
	}{{80_000, true}, {100_000, false}} {
		leaves := make([]directory.RevokedLeaf, tt.n)
		for i := range leaves {
			one := leaf
			one.SerialNumber = new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 126), big.NewInt(int64(i)))
			leaves[i] = directory.RevokedLeaf{Leaf: &one, Time: l.clock()}
		}
		text, err := signList(by, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: l.clock(), NextUpdate: l.clock().Add(crlLife), RevokedCertificateEntries: entriesOf(by, leaves),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.ParseCRL(append(text, identity.EncodeCertificates(by.cert)...), l.Bundle())
		if (err == nil) != tt.fits {
			t.Errorf("%d entries, %d bytes: %v", tt.n, len(text), err)
		}
	}
}

// TestStockClientsReadCRL has OpenSSL, curl and Go refuse a revoked node by the
// files that an enrolled device has, and trust another.
func TestStockClientsReadCRL(t *testing.T) {
	l := newLab(t)
	good, bad := l.tlsServer(t, "good"), l.tlsServer(t, "bad")
	store, err := identity.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(l.enrol(t, "pump-7"), l.Bundle()); err != nil {
		t.Fatal(err)
	}
	check := func(addr string, trusted bool) {
		t.Helper()
		if _, err := store.UpdateCRL(t.Context(), l.CRL); err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(addr)
		ca, crl := filepath.Join(store.Dir(), identity.RootsFile), filepath.Join(store.Dir(), identity.CRLFile)
		both := joinFiles(t, ca, crl)
		for _, words := range [][]string{
			{"openssl", "s_client", "-connect", addr, "-CAfile", ca, "-CRL", crl, "-crl_check", "-verify_return_error"},
			{"openssl", "s_client", "-connect", addr, "-CAfile", both, "-crl_check_all", "-verify_return_error"},
			{"curl", "-sS", "--cacert", ca, "--crlfile", crl, "https://localhost:" + port},
			{"python3", "-c", pythonWithCRL, port, ca, crl},
		} {
			if _, err := exec.LookPath(words[0]); err != nil {
				t.Logf("%s is not here", words[0])
				continue
			}
			cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
			out, err := cmd.CombinedOutput()
			if (err == nil) != trusted || !trusted && !strings.Contains(string(out), "revoked") {
				t.Errorf("%v: trusted %v, want %v\n%s", words, err == nil, trusted, out)
			}
		}
		if err := dialWithCRL(addr, ca, crl); (err == nil) != trusted {
			t.Errorf("Go: %v, want trusted %v", err, trusted)
		}
	}
	check(good, true)
	check(bad, true)
	if err := l.Revoke(identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "bad"}, RevokeOptions{}); err != nil {
		t.Fatal(err)
	}
	check(good, true)
	check(bad, false)
}

// joinFiles returns a file that holds what two files hold.
func joinFiles(t *testing.T, a, b string) string {
	t.Helper()
	one, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "trust.pem")
	if err := os.WriteFile(path, slices.Concat(one, two), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const pythonWithCRL = `
import socket, ssl, sys
c = ssl.create_default_context(cafile=sys.argv[2])
c.load_verify_locations(cafile=sys.argv[3])
c.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
c.wrap_socket(socket.create_connection(("localhost", int(sys.argv[1]))), server_hostname="localhost").close()
`

// dialWithCRL connects with nothing but the standard library and the two files.
func dialWithCRL(addr, ca, crl string) error {
	roots := x509.NewCertPool()
	text, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(text)
	if text, err = os.ReadFile(crl); err != nil {
		return err
	}
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "localhost", VerifyConnection: func(state tls.ConnectionState) error {
		leaf, issuer := state.VerifiedChains[0][0], state.VerifiedChains[0][1]
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			list, err := x509.ParseRevocationList(block.Bytes)
			if err != nil || list.CheckSignatureFrom(issuer) != nil {
				continue
			}
			if slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(leaf.SerialNumber) == 0 }) {
				return errors.New("revoked")
			}
			return nil
		}
		return errors.New("no list of the issuer")
	}})
	if err != nil {
		return err
	}
	return c.Close()
}

// tlsServer serves HTTP under the certificate of a new node.
func (l *lab) tlsServer(t *testing.T, name string) string {
	t.Helper()
	id := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: name}
	s, err := l.Issue(t.Context(), Local{ID: id, Key: newDeviceKey(t), Names: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute, ErrorLog: stdlog.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() {
		conf := identity.ServerConfig(fixedSource{s, l.Bundle()}, []string{"http/1.1"}, tls.NoClientCert, identity.AllowTLS12)
		if err := srv.Serve(tls.NewListener(nl, conf)); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
	return nl.Addr().String()
}

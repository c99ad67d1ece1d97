package authority

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// fixedSource is an unchanging identity.Source.
type fixedSource struct {
	svid   *identity.SVID
	bundle *identity.Bundle
}

func (s fixedSource) SVID() *identity.SVID     { return s.svid }
func (s fixedSource) Bundle() *identity.Bundle { return s.bundle }

// serve starts the API of backend b on a loopback address under the node
// certificate of l, and returns the address.
func (l *lab) serve(t *testing.T, b Backend) string {
	t.Helper()
	s, err := l.Issue(t.Context(), Local{ID: paris, Key: newDeviceKey(t), Names: []string{"localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(Handler(b, nil))
	srv.Listener = tls.NewListener(srv.Listener, identity.ServerConfig(fixedSource{s, l.Bundle()}, []string{"http/1.1"}, tls.NoClientCert))
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// TestDeviceLife takes a device through its life over HTTPS, with the client
// that devices run; once with the authority itself, once through a relay.
func TestDeviceLife(t *testing.T) {
	for _, relayed := range []bool{false, true} {
		t.Run(fmt.Sprint("relayed=", relayed), func(t *testing.T) {
			l := newLab(t)
			var backend Backend = l
			if relayed {
				backend = l.relay(t)
			}
			addr := l.serve(t, backend)
			store, err := identity.OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			text, err := l.Mint(&identity.Ticket{Kind: identity.Device, Name: "pump-7", Addrs: []string{addr}})
			if err != nil {
				t.Fatal(err)
			}
			ticket, err := identity.ParseTicket(text)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := identity.Enrol(t.Context(), ticket, store, identity.EnrolOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if answer.ID != device("pump-7") || store.SVID().ID != device("pump-7") {
				t.Errorf("enrolled as %v", answer.ID)
			}
			renewer := &identity.Renewer{Store: store, Send: identity.HTTPRenewal(store, func() []string { return []string{addr} }, nil)}
			before := store.SVID().Leaf()
			if err := renewer.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			if gen, _ := identity.Generation(store.SVID().Leaf()); gen != 2 || store.SVID().Leaf().Equal(before) {
				t.Errorf("generation %d after a renewal", gen)
			}
			if err := l.Revoke(device("pump-7"), RevokeOptions{Reason: "lost"}); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, renewer.Renew(t.Context()), http.StatusForbidden, "lost")
			_, err = identity.Enrol(t.Context(), ticket, store, identity.EnrolOptions{})
			wantRefusal(t, err, http.StatusForbidden, "device replace pump-7")
		})
	}
}

// relay returns a relay to l over in-memory streams.
func (l *lab) relay(t *testing.T) *Relay {
	t.Helper()
	var served sync.WaitGroup
	t.Cleanup(served.Wait)
	lyon := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon"}
	return &Relay{
		Bundle: l.Bundle,
		Open: func(context.Context) (io.ReadWriteCloser, error) {
			a, b := net.Pipe()
			served.Go(func() {
				if err := l.ServeStream(t.Context(), lyon, b); err != nil {
					t.Error(err)
				}
			})
			return a, nil
		},
	}
}

func TestRelay(t *testing.T) {
	l := newLab(t)
	r := l.relay(t)
	lyon := identity.ID{TrustDomain: domain, Kind: identity.Node, Name: "lyon"}
	err := r.Announce(t.Context(), directory.Node{ID: lyon, Site: "lyon"})
	wantRefusal(t, err, http.StatusForbidden, "not an active identity")
	if _, err := l.Issue(t.Context(), Local{ID: lyon, Key: newDeviceKey(t), Site: "lyon"}); err != nil {
		t.Fatal(err)
	}
	if err := r.Announce(t.Context(), directory.Node{ID: lyon, Site: "lyon", Mesh: []string{"10.0.0.2:7844"}}); err != nil {
		t.Fatal(err)
	}
	if n, ok := l.dir.Node(lyon); !ok || len(n.Mesh) != 1 {
		t.Errorf("announced %+v, %v", n, ok)
	}
	if _, err := r.ask(t.Context(), &question{}); !isRefusal(err) {
		t.Errorf("empty question: %v", err)
	}

	r.Open = func(context.Context) (io.ReadWriteCloser, error) { return nil, errors.New("no path to paris") }
	_, err = r.Renew(t.Context(), &identity.RenewRequest{})
	wantRefusal(t, err, http.StatusServiceUnavailable, "no CA can be reached")
	r.Open = func(context.Context) (io.ReadWriteCloser, error) {
		a, b := net.Pipe()
		b.Close()
		return a, nil
	}
	_, err = r.Renew(t.Context(), &identity.RenewRequest{})
	wantRefusal(t, err, http.StatusServiceUnavailable, "no CA can be reached")
	// A reply that would be no valid answer to a client, as another version or a
	// node in wrong hands may send it.
	for _, odd := range []string{`{}`, `{"status":200}`, `{"error":{"error":"x"}}`, `{"status":7,"error":{"error":"x"}}`, `{"status":200,"error":{"error":"x"}}`, `{"status":200,"crl":"x"}`} {
		var b bytes.Buffer
		if err := writeJSON(&b, json.RawMessage(odd), identity.MaxBodyBytes); err != nil {
			t.Fatal(err)
		}
		r.Open = func(context.Context) (io.ReadWriteCloser, error) { return memoryStream{&b, io.Discard}, nil }
		_, err = r.Renew(t.Context(), &identity.RenewRequest{})
		wantRefusal(t, err, http.StatusServiceUnavailable, "no CA can be reached")
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.Open = func(context.Context) (io.ReadWriteCloser, error) {
		a, b := net.Pipe()
		t.Cleanup(func() { b.Close() })
		cancel() // the caller gives up while nobody answers
		return a, nil
	}
	if _, err = r.Renew(ctx, &identity.RenewRequest{}); err == nil {
		t.Error("an answer out of nowhere")
	}
}

func TestHandler(t *testing.T) {
	l := newLab(t)
	sum := sha256.Sum256(l.Roots()[0].Raw)
	for name, tt := range map[string]struct {
		method, path, contentType, body string
		status                          int
		text                            string
	}{
		"root":          {http.MethodGet, identity.RootsPath + hex.EncodeToString(sum[:]), "", "", http.StatusOK, "BEGIN CERTIFICATE"},
		"unknown root":  {http.MethodGet, identity.RootsPath + "00", "", "", http.StatusNotFound, "no root"},
		"unknown path":  {http.MethodGet, "/api/v1/secrets", "", "", http.StatusNotFound, "no such"},
		"method":        {http.MethodGet, identity.EnrolPath, "", "", http.StatusNotFound, "no such"},
		"form":          {http.MethodPost, identity.EnrolPath, "application/x-www-form-urlencoded", "a=b", http.StatusUnsupportedMediaType, "application/json"},
		"no type":       {http.MethodPost, identity.EnrolPath, "", "{}", http.StatusUnsupportedMediaType, "application/json"},
		"not JSON":      {http.MethodPost, identity.EnrolPath, "application/json", "{", http.StatusBadRequest, "JSON"},
		"wrong type":    {http.MethodPost, identity.RenewPath, "application/json", `{"csr": 7}`, http.StatusBadRequest, "JSON"},
		"empty":         {http.MethodPost, identity.EnrolPath, "application/json", "{}", http.StatusBadRequest, "ticket"},
		"empty renewal": {http.MethodPost, identity.RenewPath, "application/json; charset=utf-8", "{}", http.StatusBadRequest, "renewal"},
		"large":         {http.MethodPost, identity.EnrolPath, "application/json", `{"ticket": "` + strings.Repeat("x", identity.MaxBodyBytes) + `"}`, http.StatusRequestEntityTooLarge, "65536"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, strings.NewReader(tt.body))
			r.Header.Set("Content-Type", tt.contentType)
			Handler(l, nil).ServeHTTP(w, r)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.text) {
				t.Errorf("status %d, body %s", w.Code, w.Body)
			}
			if tt.status != http.StatusOK {
				var refusal identity.APIError
				if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || refusal.Message == "" {
					t.Errorf("body %s: %v", w.Body, err)
				}
			}
		})
	}
}

func TestHandlerLimitsRates(t *testing.T) {
	h := Handler(newLab(t), nil)
	ask := func(from string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, identity.EnrolPath, strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = from
		h.ServeHTTP(w, r)
		return w
	}
	limited := 0
	for i := range 3 * requestLimit.burst {
		w := ask(fmt.Sprintf("[2001:db8::%x]:1000", i)) // one network
		if w.Code == http.StatusTooManyRequests {
			limited++
			if w.Header().Get("Retry-After") == "" {
				t.Fatal("no Retry-After")
			}
		}
	}
	if limited < requestLimit.burst {
		t.Errorf("%d of %d requests limited", limited, 3*requestLimit.burst)
	}
	if w := ask("192.0.2.1:1000"); w.Code == http.StatusTooManyRequests {
		t.Error("a neighbour was limited too")
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter[netip.Prefix](requestLimit)
	for i := range 2 * maxLimited {
		l.allow(source(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)), time.Now())
	}
	l.allow(source("not an address"), time.Now())
	if got := len(l.keys); got > maxLimited {
		t.Errorf("%d addresses remembered", got)
	}
}

// TestFailuresAreNotTold checks that a stranger learns nothing of the inside.
func TestFailuresAreNotTold(t *testing.T) {
	l := newLab(t)
	body, err := json.Marshal(*request(t, l.ticket(t, identity.Device, "pump-7"), csrFor(t, newDeviceKey(t), device("pump-7"))))
	if err != nil {
		t.Fatal(err)
	}
	l.dir.Close()
	log, lines := test.NewNullLogger()
	h := Handler(l, log)
	for range 20 {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, identity.EnrolPath, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "directory") {
			t.Fatalf("status %d, body %s", w.Code, w.Body)
		}
	}
	if got := len(lines.AllEntries()); got == 0 || got > 5 {
		t.Errorf("20 failures make %d lines", got)
	}
}

// memoryStream is a question that is all there and an answer nobody reads.
type memoryStream struct {
	io.Reader
	io.Writer
}

func (memoryStream) Close() error { return nil }

func FuzzServeStream(f *testing.F) {
	l := newLab(f)
	for _, q := range []question{
		{},
		{Enrol: request(f, l.ticket(f, identity.Device, "pump-7"), csrFor(f, newDeviceKey(f), device("pump-8")))},
		{Renew: renewalOf(f, l.enrol(f, "pump-9"), newDeviceKey(f), "0123456789abcdef")},
		{Announce: &announcement{Site: "lyon"}},
		{CRL: true},
	} {
		var b bytes.Buffer
		if err := writeJSON(&b, q, identity.MaxBodyBytes); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		err := l.ServeStream(t.Context(), device("pump-9"), memoryStream{bytes.NewReader(b), &out})
		var got reply
		if rerr := readJSON(&out, &got, identity.MaxBodyBytes+identity.MaxCRLBytes); err == nil && rerr != nil {
			t.Fatalf("no answer: %v", rerr)
		}
	})
}

package identity_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// authority is the small part of a CA that the client needs: it answers
// enrolments and renewals the way the API promises.
type authority struct {
	t    *testing.T
	ca   *testca.CA
	by   *testca.CA // issues; nil is ca
	node identity.Source
	life time.Duration
	now  func() time.Time

	mu       sync.Mutex
	enrolled [][32]byte                           // keys, in order of asking
	renewals []*identity.RenewRequest             // in order of asking
	answers  map[string]*identity.EnrolResponse   // by renewal id
	refuse   func(path string) *identity.APIError // nil error lets the request through
	lose     func(path string) bool               // carry out, then drop the connection
	crl      []byte                               // nil is none
}

func newAuthority(t *testing.T) *authority {
	ca := testca.New(t, "lab.test")
	return &authority{
		t: t, ca: ca, life: 6 * time.Hour, now: time.Now,
		node:    ca.Issue(t, ca.ID(t, identity.Node, "paris"), testca.ValidFor(20*time.Hour)),
		answers: map[string]*identity.EnrolResponse{},
	}
}

// ticket returns a ticket for pump-7 at the addresses.
func (a *authority) ticket(addrs ...string) *identity.Ticket {
	return signed(a.t, newTicket(func(t *identity.Ticket) {
		t.Addrs, t.RootHash, t.NotAfter = addrs, sha256.Sum256(a.ca.Root.Raw), time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	}))
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer, err := a.answer(r)
	w.Header().Set("Date", a.now().UTC().Format(http.TimeFormat))
	if err == nil && a.lose != nil && a.lose(r.URL.Path) {
		panic(http.ErrAbortHandler)
	}
	refusal, refused := errors.AsType[*identity.APIError](err)
	switch {
	case refused:
		if refusal.Status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "30")
		}
		w.WriteHeader(refusal.Status)
		writeJSON(a.t, w, refusal)
	case err != nil:
		a.t.Error(err)
		w.WriteHeader(http.StatusInternalServerError)
	case r.URL.Path == identity.CRLPath:
		if _, err := w.Write(a.crl); err != nil {
			a.t.Error(err)
		}
	case strings.HasPrefix(r.URL.Path, identity.RootsPath):
		if _, err := w.Write(identity.EncodeCertificates(a.ca.Root)); err != nil {
			a.t.Error(err)
		}
	default:
		writeJSON(a.t, w, answer)
	}
}

func (a *authority) answer(r *http.Request) (*identity.EnrolResponse, error) {
	if a.refuse != nil {
		if refusal := a.refuse(r.URL.Path); refusal != nil {
			return nil, refusal
		}
	}
	switch r.URL.Path {
	case identity.RootsPath + hex.EncodeToString(func() []byte { h := sha256.Sum256(a.ca.Root.Raw); return h[:] }()):
		return nil, nil
	case identity.CRLPath:
		if a.crl != nil {
			return nil, nil
		}
	case identity.EnrolPath:
		return a.enrol(r)
	case identity.RenewPath:
		var req identity.RenewRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		return a.renew(&req)
	}
	return nil, &identity.APIError{Status: http.StatusNotFound, Message: "no such page"}
}

func (a *authority) enrol(r *http.Request) (*identity.EnrolResponse, error) {
	var req identity.EnrolRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, err
	}
	ticket, err := identity.ParseTicket(req.Ticket)
	if err != nil {
		return nil, err
	}
	if err := ticket.Verify(ticketPub); err != nil {
		return nil, err
	}
	if err := ticket.CheckTime(a.now()); err != nil {
		return nil, &identity.APIError{Status: http.StatusForbidden, Message: err.Error()}
	}
	csr, id, err := identity.ParseCSR(req.CSR)
	if err != nil || id != ticket.Identity() {
		return nil, errors.Join(err, errors.New("ticket and request differ"))
	}
	a.enrolled = append(a.enrolled, sha256.Sum256(csr.RawSubjectPublicKeyInfo))
	if a.enrolled[0] != a.enrolled[len(a.enrolled)-1] {
		return nil, &identity.APIError{Status: http.StatusConflict, Message: "ticket was used by another key", Hint: "ask for a new one"}
	}
	return a.issue(id, csr, 1), nil
}

// renew is also a Renewal once it is given a context.
func (a *authority) renew(req *identity.RenewRequest) (*identity.EnrolResponse, error) {
	chain, csr, err := req.Verify()
	if err != nil {
		return nil, err
	}
	a.renewals = append(a.renewals, req)
	if again := a.answers[req.ID]; again != nil {
		return again, nil
	}
	if a.now().After(chain[0].NotAfter) && string(csr.RawSubjectPublicKeyInfo) != string(chain[0].RawSubjectPublicKeyInfo) {
		return nil, &identity.APIError{Status: http.StatusForbidden, Message: "expired: renew with the same key"}
	}
	id, err := identity.LeafID(chain[0])
	if err != nil {
		return nil, err
	}
	gen, _ := identity.Generation(chain[0])
	a.answers[req.ID] = a.issue(id, csr, gen+1)
	return a.answers[req.ID], nil
}

func (a *authority) send(_ context.Context, req *identity.RenewRequest) (*identity.EnrolResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.renew(req)
}

func (a *authority) issue(id identity.ID, csr *x509.CertificateRequest, gen uint64) *identity.EnrolResponse {
	ext, err := identity.GenerationExtension(gen)
	if err != nil {
		a.t.Error(err)
	}
	now, by := a.now(), a.ca
	issued, err := identity.IssuedExtension(now)
	if err != nil {
		a.t.Error(err)
	}
	if a.by != nil {
		by = a.by
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: id.Name}, URIs: csr.URIs,
		NotBefore: now.Add(-identity.Backdate), NotAfter: now.Add(a.life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{ext, issued},
	}, by.Root, csr.PublicKey, by.Key)
	if err != nil {
		a.t.Error(err)
	}
	return &identity.EnrolResponse{
		ID: id, Site: "paris", Generation: gen,
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Roots:       string(identity.EncodeCertificates(a.ca.Root)),
		MQTT:        []string{"localhost:8883"}, Mesh: []string{"127.0.0.1:7844"},
		NotAfter: now.Add(a.life), ServerTime: now,
	}
}

// serve runs the API on l until the test ends.
func serve(t *testing.T, l net.Listener, node identity.Source, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() {
		cfg := identity.ServerConfig(node, []string{"http/1.1"}, tls.VerifyClientCertIfGiven)
		if err := srv.Serve(tls.NewListener(l, cfg)); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
}

// network is the addresses that answer, inside a synctest bubble.
type network map[string]*listener

// paris makes the address that the tickets of these tests name answer.
func (n network) paris() *listener {
	l := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	n["paris:8883"] = l
	return l
}

func (n network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l := n[addr]
	if l == nil {
		return nil, errors.New("connection refused")
	}
	a, b := newPipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-ctx.Done():
		a.Close()
		b.Close()
		return nil, ctx.Err()
	}
}

type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func writeJSON(t *testing.T, w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

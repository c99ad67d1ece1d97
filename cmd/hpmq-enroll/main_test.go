package main

import (
	"bytes"
	"crypto/ed25519"
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
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hpmq-enroll": main})
}

// The scripts find a CA at $CA, tickets for it in $TICKET, $EXPIRED, $USER,
// $NODE, $REFUSED, $CONFLICT and $UNKNOWN, and one of a CA that is gone in
// $GONE. The CA's revocation list has the number in the file crl-number, which may
// say "forged" or "none" instead.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitcode},
		Setup: func(env *testscript.Env) error {
			a := newFakeCA(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			a.crlNumber = filepath.Join(env.WorkDir, "crl-number")
			env.Defer(a.serve(l))
			addr := l.Addr().String()
			env.Setenv("CA", addr)
			for name, ticket := range map[string]*identity.Ticket{
				"TICKET":   a.ticket(addr, identity.Device, "pump-7", time.Hour),
				"EXPIRED":  a.ticket(addr, identity.Device, "pump-7", -12*time.Minute-30*time.Second),
				"USER":     a.ticket(addr, identity.User, "ann", time.Hour),
				"NODE":     a.ticket(addr, identity.Node, "lyon-1", time.Hour),
				"REFUSED":  a.ticket(addr, identity.Device, "status-403", time.Hour),
				"UNKNOWN":  a.ticket(addr, identity.Device, "status-404", time.Hour),
				"CONFLICT": a.ticket(addr, identity.Device, "status-409", time.Hour),
				"GONE":     a.ticket("127.0.0.1:1", identity.Device, "pump-7", time.Hour),
			} {
				if err := ticket.Sign(a.signer); err != nil {
					return err
				}
				env.Setenv(name, ticket.String())
			}
			return nil
		},
	})
}

// exitcode N ARGS… runs hpmq-enroll and wants it to exit with N.
func exitcode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exitcode N ARGS…")
	}
	want := args[0]
	got := "0"
	if err := ts.Exec("hpmq-enroll", args[1:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("hpmq-enroll: %v", err)
		}
		got = strconv.Itoa(exit.ExitCode())
	}
	if got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

// fakeCA signs what it is asked for; a name "status-N" is refused with N.
type fakeCA struct {
	t      *testing.T
	ca     *testca.CA
	node   identity.Source
	signer ed25519.PrivateKey

	crlNumber string // path of the file with the number of the list
}

func newFakeCA(t *testing.T) *fakeCA {
	ca := testca.New(t, "lab.test")
	return &fakeCA{
		t: t, ca: ca,
		node:   ca.Issue(t, ca.ID(t, identity.Node, "paris")),
		signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)),
	}
}

func (a *fakeCA) ticket(addr string, kind identity.Kind, name string, ttl time.Duration) *identity.Ticket {
	return &identity.Ticket{
		ID: "01JD9Z3NDEKTSV4RRFFQ69G5FA", Kind: kind, Name: name, TrustDomain: a.ca.Domain, Addrs: []string{addr},
		RootHash: sha256.Sum256(a.ca.Root.Raw), Signer: a.signer.Public().(ed25519.PublicKey),
		Site: "home", NotAfter: time.Now().Add(ttl), Uses: 1,
	}
}

// serve answers on l until the returned function is called.
func (a *fakeCA) serve(l net.Listener) (stop func()) {
	srv := &http.Server{Handler: a, ErrorLog: log.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() {
		cfg := identity.ServerConfig(a.node, []string{"http/1.1"}, tls.VerifyClientCertIfGiven)
		if err := srv.Serve(tls.NewListener(l, cfg)); !errors.Is(err, http.ErrServerClosed) {
			a.t.Error(err)
		}
	})
	return func() {
		srv.Close()
		wg.Wait()
	}
}

func (a *fakeCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	root := sha256.Sum256(a.ca.Root.Raw)
	switch r.URL.Path {
	case identity.RootsPath + hex.EncodeToString(root[:]):
		if _, err := w.Write(identity.EncodeCertificates(a.ca.Root)); err != nil {
			a.t.Error(err)
		}
	case identity.CRLPath:
		a.serveCRL(w)
	case identity.EnrolPath:
		var req identity.EnrolRequest
		err := a.decode(r, &req)
		if ticket, terr := identity.ParseTicket(req.Ticket); terr == nil {
			if late := ticket.CheckTime(time.Now()); late != nil {
				a.refuse(w, http.StatusForbidden, &identity.APIError{Message: late.Error()})
				return
			}
		}
		a.reply(w, err, req.CSR, 1)
	case identity.RenewPath:
		var req identity.RenewRequest
		err := a.decode(r, &req)
		if err == nil {
			_, _, err = req.Verify()
		}
		a.reply(w, err, req.CSR, 2)
	default:
		http.NotFound(w, r)
	}
}

func (a *fakeCA) serveCRL(w http.ResponseWriter) {
	by, number := a.ca, int64(1)
	text, err := os.ReadFile(a.crlNumber)
	switch said := strings.TrimSpace(string(text)); {
	case err != nil: // as at first
	case said == "none":
		a.refuse(w, http.StatusServiceUnavailable, &identity.APIError{Message: "no CA can be reached now"})
		return
	case said == "forged":
		by = testca.New(a.t, "lab.test")
	default:
		if number, err = strconv.ParseInt(said, 10, 64); err != nil {
			a.t.Error(err)
		}
	}
	if _, err := w.Write(by.CRL(a.t, number)); err != nil {
		a.t.Error(err)
	}
}

func (a *fakeCA) decode(r *http.Request, into any) error { return json.NewDecoder(r.Body).Decode(into) }

func (a *fakeCA) reply(w http.ResponseWriter, err error, der []byte, gen uint64) {
	csr, id, cerr := identity.ParseCSR(der)
	if err := errors.Join(err, cerr); err != nil {
		a.t.Error(err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if text, ok := strings.CutPrefix(id.Name, "status-"); ok {
		status := map[string]int{"403": http.StatusForbidden, "404": http.StatusNotFound, "409": http.StatusConflict}[text]
		a.refuse(w, status, &identity.APIError{Message: "refused with " + text, Hint: "ask somebody"})
		return
	}
	if err := json.NewEncoder(w).Encode(a.issue(id, csr, gen)); err != nil {
		a.t.Error(err)
	}
}

func (a *fakeCA) refuse(w http.ResponseWriter, status int, refusal *identity.APIError) {
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(refusal); err != nil {
		a.t.Error(err)
	}
}

func (a *fakeCA) issue(id identity.ID, csr *x509.CertificateRequest, gen uint64) *identity.EnrolResponse {
	ext, err := identity.GenerationExtension(gen)
	if err != nil {
		a.t.Error(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: id.Name}, URIs: csr.URIs,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, ExtraExtensions: []pkix.Extension{ext},
	}, a.ca.Root, csr.PublicKey, a.ca.Key)
	if err != nil {
		a.t.Error(err)
	}
	return &identity.EnrolResponse{
		ID: id, Site: "home", Generation: gen,
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Roots:       string(identity.EncodeCertificates(a.ca.Root)),
		MQTT:        []string{"localhost:8883", "192.0.2.7:8883"}, Mesh: []string{"192.0.2.7:7844"},
		NotAfter: now.Add(time.Hour), ServerTime: now,
	}
}

// The help must name every flag and every exit code.
func TestUsageIsComplete(t *testing.T) {
	for _, word := range []string{"--out", "-o json", "--force", "--timeout", "0 ok", "1 failure", "2 usage", "3 cannot reach", "4 denied", "5 not found", "6\nconflict", "6 conflict"} {
		if !strings.Contains(strings.ReplaceAll(usage, "\n", " "), strings.ReplaceAll(word, "\n", " ")) {
			t.Errorf("usage lacks %q", word)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"pump-7/ca.pem": "pump-7/ca.pem",
		"my pump":       "'my pump'",
		"ann's":         `'ann'\''s'`,
		"":              "''",
		"site/#":        "'site/#'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

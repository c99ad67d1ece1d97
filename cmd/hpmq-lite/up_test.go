package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// site is a node, a person at it, and the directory of an enrolled device.
type site struct {
	*testca.CA
	t      *testing.T
	writer *writer
	svid   *identity.SVID
	node   *overlay.Node
	relay  *access.Relay
	anna   *testca.Source
	store  *identity.Store
	port   uint16 // of the web server on the device
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{CA: testca.New(t, "lab.test"), writer: newWriter(t), t: t}
	s.anna = s.Issue(t, s.ID(t, identity.User, "anna"))
	s.startNode("paris", "127.0.0.1:0")
	s.store = enrol(t, s.CA, t.TempDir(), s.ID(t, identity.Device, "pump-7"), s.node.Addr().String(), s.writer.root)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pressure 4.2 bar") }))
	t.Cleanup(web.Close)
	u, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	s.port = uint16(port)
	return s
}

// startNode runs a node for the test's time or until the returned function is
// called.
func (s *site) startNode(name, addr string) (stop func()) {
	s.t.Helper()
	src := s.Issue(s.t, s.ID(s.t, identity.Node, name))
	n, err := overlay.New(overlay.Options{
		Source: src, Listen: addr,
		Accept: func(identity.ID) error { return nil },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	relay := access.NewRelay(access.RelayOptions{Node: n})
	n.Handle(access.Protocol, relay.Handle)
	s.node, s.relay, s.svid = n, relay, src.SVID()
	return background(s.t, n.Run)
}

// background runs f for the test's time or until the returned function is
// called, which waits for it.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// output is what an agent prints.
type output struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written sync.Cond
}

func newOutput() *output {
	o := &output{}
	o.written.L = &o.mu
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.written.Broadcast()
	return o.b.Write(p)
}

// await returns once text was printed; the test's deadline bounds it.
func (o *output) await(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !strings.Contains(o.b.String(), text) {
		o.written.Wait()
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func logTo(w io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	return log
}

// up runs an agent in the device's directory and waits for its connection.
func (s *site) up() (l *lite, out *output, stop func()) {
	s.t.Helper()
	out = newOutput()
	l, err := newLite(s.store, []uint16{s.port}, "", out, logTo(out))
	if err != nil {
		s.t.Fatal(err)
	}
	stop = background(s.t, l.run)
	s.await()
	out.await("connected to node:") // the node knows of the connection first
	return l, out, stop
}

func (s *site) await() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	if err := s.node.Wait(ctx, s.store.SVID().ID); err != nil {
		s.t.Fatal(err)
	}
}

// writer is the directory's writer, as far as an agent knows one.
type writer struct {
	*directory.Directory

	root  ed25519.PublicKey
	until time.Time // of what it signs
	nodes []slice.Node
	gone  []slice.Revoked
}

func newWriter(t *testing.T) *writer {
	t.Helper()
	root, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := directory.Open(filepath.Join(t.TempDir(), "log"), root, directory.Options{Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &writer{Directory: d, root: root, until: time.Now().Add(slice.MaxStale)}
}

func (w *writer) sign(t *testing.T, target identity.ID, rules ...slice.Rule) []byte {
	t.Helper()
	part, err := slice.EncodeRules(target.TrustDomain, rules)
	if err != nil {
		t.Fatal(err)
	}
	fabric, err := slice.EncodeFabric(target.TrustDomain, w.nodes, w.gone)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := slice.Sign(w.Directory, target, w.until, part, fabric)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// push gives the agent new rules.
func (s *site) push(rules ...slice.Rule) error {
	s.t.Helper()
	return s.bring(s.writer.sign(s.t, s.store.SVID().ID, rules...))
}

// bring has the node bring the agent what may be a slice.
func (s *site) bring(raw []byte) error {
	s.t.Helper()
	stream, err := s.node.Open(s.t.Context(), s.store.SVID().ID, access.SliceProtocol)
	if err != nil {
		return err
	}
	defer stream.Close()
	return access.SendSlice(s.t.Context(), stream, raw)
}

func (s *site) mustPush(rules ...slice.Rule) {
	s.t.Helper()
	if err := s.push(rules...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) grant() slice.Rule {
	return slice.Rule{
		Cite: `grant "vendor" main.hcl:40`, Callers: []identity.ID{s.anna.SVID().ID},
		Ports: []slice.PortRange{{Network: "tcp", First: s.port, Last: s.port}},
	}
}

func (s *site) dial(ctx context.Context) (net.Conn, error) {
	target := s.store.SVID().ID
	carrier, err := s.relay.Carrier(ctx, target)
	if err != nil {
		return nil, err
	}
	return access.Dial(ctx, carrier, s.anna, target, "tcp", s.port)
}

// get asks the device's web server through the fabric.
func (s *site) get() (string, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	resp, err := client.Get("http://pump-7/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func (s *site) wantDenied(reason string) {
	s.t.Helper()
	_, err := s.get()
	denied, ok := errors.AsType[*access.Denied](err)
	if !ok || !strings.Contains(denied.Reason, reason) {
		s.t.Errorf("get: %v, want a refusal with %q", err, reason)
	}
}

func (s *site) wantServed() {
	s.t.Helper()
	if got, err := s.get(); err != nil || got != "pressure 4.2 bar" {
		s.t.Errorf("get returned %q, %v", got, err)
	}
}

func TestAgent(t *testing.T) {
	s := newSite(t)
	l, out, stop := s.up()
	s.wantDenied("has no policy yet")
	s.mustPush(s.grant())
	s.wantServed()

	conn, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st := l.status()
	for began := time.Now(); len(st.Flows) != 1 && time.Since(began) < 10*time.Second; st = l.status() {
		runtime.Gosched() // the flow before this one is still being closed at both ends
	}
	if st.Node == nil || st.Node.ID.Name != "paris" || st.Policy == nil || st.Policy.Rules != 1 ||
		len(st.Flows) != 1 || st.Flows[0].Rule != `grant "vendor" main.hcl:40` || st.Allowed != 2 || st.Denied != 1 {
		t.Errorf("status: %+v", st)
	}
	start := time.Now()
	s.mustPush()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the open connection ended with %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("the open connection ended after %v", d)
	}
	s.wantDenied("no grant for tcp/" + strconv.Itoa(int(s.port)) + " from user:anna at device:pump-7")
	stop()
	for _, want := range []string{
		"device:pump-7 offers tcp/" + strconv.Itoa(int(s.port)),
		"connected to node:paris at 127.0.0.1:",
		`msg="access allowed"`, `msg="access denied"`, `msg="access ended"`, `msg="policy received"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

// The policy outlives the agent's process and its node.
func TestPolicyIsKept(t *testing.T) {
	s := newSite(t)
	_, _, stop := s.up()
	older := s.writer.sign(t, s.store.SVID().ID)
	s.mustPush(s.grant())
	stop()
	l, _, stop := s.up()
	s.wantServed()
	if err := s.bring(older); !errors.Is(err, access.ErrRefused) {
		t.Errorf("an older policy after a restart: %v", err)
	}
	var text strings.Builder
	now := l.status()
	if err := now.print(&text); err != nil || !strings.Contains(text.String(), "policies of nodes: 1 earlier") {
		t.Errorf("status lacks the refusal, %v:\n%s", err, &text)
	}
	stop()

	// One that was tampered with is none.
	file := filepath.Join(s.store.Dir(), rulesFile)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s.up()
	s.wantDenied("has no policy yet")
}

// A policy that cannot be written is in force, and the one before it does not
// come back.
func TestPolicyNotWritten(t *testing.T) {
	s := newSite(t)
	l, out, _ := s.up()
	s.mustPush(s.grant())
	file := filepath.Join(s.store.Dir(), rulesFile)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil { // a rename onto it fails
		t.Fatal(err)
	}
	s.mustPush()
	s.wantDenied("no grant for")
	if got := l.status().Policy.Rules; got != 0 {
		t.Errorf("%d rules in force", got)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("what was there before is left")
	}
	if !strings.Contains(out.String(), "policy not kept") {
		t.Errorf("output:\n%s", out)
	}
}

// The agent finds its node again after that was away, and another node at the
// same address as well.
func TestReconnect(t *testing.T) {
	s := newSite(t)
	s.store = enrol(t, s.CA, t.TempDir(), s.store.SVID().ID, "127.0.0.1:1", s.writer.root)
	addr := s.node.Addr().String()
	l, err := newLite(s.store, []uint16{s.port}, addr, io.Discard, logTo(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	background(t, l.run)
	s.await()
	s.mustPush(s.grant())
	before := s.node.Peers()[0].Since
	s.node.Disconnect(s.store.SVID().ID, "test")
	for {
		changed := s.node.Changed()
		if p := s.node.Peers(); len(p) == 1 && p[0].Since.After(before) {
			break
		}
		<-changed
	}
	s.wantServed()
}

func TestAnotherNodeAtTheAddress(t *testing.T) {
	s := &site{CA: testca.New(t, "lab.test"), t: t}
	stopNode := s.startNode("paris", "127.0.0.1:0")
	addr := s.node.Addr().String()
	s.store = enrol(t, s.CA, t.TempDir(), s.ID(t, identity.Device, "pump-7"), addr, nil)
	out := newOutput()
	l, err := newLite(s.store, []uint16{1}, "", out, logTo(out))
	if err != nil {
		t.Fatal(err)
	}
	l.link.giveUp = 100 * time.Millisecond
	background(t, l.run)
	s.await()
	out.await("connected to node:paris")
	stopNode()
	s.startNode("lyon", addr)
	s.await()
	out.await("connected to node:lyon")
}

// After a renewal the agent connects with its new certificate while the old
// connection still stands.
func TestConnectsAnewWithRenewedCertificate(t *testing.T) {
	s := newSite(t)
	l, _, _ := s.up()
	before := s.node.Peers()[0]
	if err := s.store.Save(s.SVID(t, before.ID), s.Bundle()); err != nil {
		t.Fatal(err)
	}
	changed := s.node.Changed()
	l.link.certificateRenewed()
	<-changed
	peers := s.node.Peers()
	if len(peers) != 1 || peers[0].Conns != 2 || !peers[0].Since.After(before.Since) {
		t.Errorf("connections: %+v, before: %+v", peers, before)
	}
}

// The agent learns from its rules where nodes are reached. It keeps that, and what it
// knew.
func TestLearnsAddresses(t *testing.T) {
	s := newSite(t)
	l, _, _ := s.up()
	paris := s.node.Addr().String()
	s.writer.nodes = []slice.Node{
		{ID: s.ID(t, identity.Node, "abroad"), Site: "abroad", Mesh: []string{"abroad:7844"}},
		{ID: s.ID(t, identity.Node, "paris"), Site: "home", Mesh: []string{"127.0.0.1:2"}, API: []string{"127.0.0.1:3"}},
		{ID: s.ID(t, identity.Node, "rome"), Site: "rome", CA: true, Mesh: []string{"rome:7844"}, API: []string{"rome:8883"}},
	}
	s.mustPush()
	if diff := cmp.Diff([]string{"127.0.0.1:2", "rome:7844", "abroad:7844", paris}, l.addrs()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:3", "rome:8883"}, l.enrolment().Known().API); diff != "" {
		t.Error(diff)
	}
}

// An agent that found its own node away comes back when its rules say where it is now.
func TestMovesToNearerNode(t *testing.T) {
	s := &site{CA: testca.New(t, "lab.test"), writer: newWriter(t), t: t}
	stopParis := s.startNode("paris", "127.0.0.1:0")
	paris := s.node.Addr().String()
	stopParis()
	s.startNode("lyon", "127.0.0.1:0")
	lyon := s.node
	s.store = enrol(t, s.CA, t.TempDir(), s.ID(t, identity.Device, "pump-7"), paris, s.writer.root)
	if err := s.store.ChangeEnrolment(func(e *identity.Enrolment) { e.Mesh = append(e.Mesh, lyon.Addr().String()) }); err != nil {
		t.Fatal(err)
	}
	out := newOutput()
	l, err := newLite(s.store, []uint16{1}, "", out, logTo(out))
	if err != nil {
		t.Fatal(err)
	}
	background(t, l.run)
	s.await()
	out.await("connected to node:lyon")

	s.startNode("paris", "127.0.0.1:0") // at another address
	back := s.node
	s.writer.nodes = []slice.Node{
		{ID: lyon.ID(), Site: "lyon", Mesh: []string{lyon.Addr().String()}},
		{ID: back.ID(), Site: "home", Mesh: []string{back.Addr().String()}},
	}
	s.node = lyon
	_ = s.push() // the agent may be gone before it has said that it took them
	s.node = back
	s.await()
	out.await("connected to node:paris")
	for changed := lyon.Changed(); lyon.Connected(s.store.SVID().ID); changed = lyon.Changed() {
		<-changed
	}
}

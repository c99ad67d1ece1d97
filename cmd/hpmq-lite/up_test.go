package main

import (
	"bytes"
	"context"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// site is a node, a person at it, and the directory of an enrolled device.
type site struct {
	*testca.CA
	t     *testing.T
	svid  *identity.SVID
	node  *overlay.Node
	relay *access.Relay
	anna  *testca.Source
	store *identity.Store
	port  uint16 // of the web server on the device
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{CA: testca.New(t, "lab.test"), t: t}
	s.anna = s.Issue(t, s.ID(t, identity.User, "anna"))
	s.startNode("paris", "127.0.0.1:0")
	s.store = enrol(t, s.CA, t.TempDir(), s.ID(t, identity.Device, "pump-7"), s.node.Addr().String())
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

// push gives the agent a version of the policy.
func (s *site) push(signer *identity.SVID, version uint64, rules ...slice.Rule) error {
	s.t.Helper()
	target := s.store.SVID().ID
	raw, err := (&slice.Slice{Target: target, Version: version, Issued: time.Now(), Rules: rules}).Sign(signer)
	if err != nil {
		s.t.Fatal(err)
	}
	stream, err := s.node.Open(s.t.Context(), target, access.SliceProtocol)
	if err != nil {
		return err
	}
	defer stream.Close()
	return access.SendSlice(s.t.Context(), stream, raw)
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
	if err := s.push(s.svid, 7, s.grant()); err != nil {
		t.Fatal(err)
	}
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
	if st.Node == nil || st.Node.ID.Name != "paris" || st.Policy == nil || st.Policy.Version != 7 ||
		len(st.Flows) != 1 || st.Flows[0].Rule != `grant "vendor" main.hcl:40` || st.Allowed != 2 || st.Denied != 1 {
		t.Errorf("status: %+v", st)
	}
	start := time.Now()
	if err := s.push(s.svid, 8); err != nil {
		t.Fatal(err)
	}
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

// What a node may not make an agent do.
func TestSliceRefused(t *testing.T) {
	s := newSite(t)
	s.up()
	if err := s.push(s.svid, 7); err != nil {
		t.Fatal(err)
	}
	forged := testca.New(t, s.Domain)
	for _, tt := range []struct {
		name    string
		signer  *identity.SVID
		version uint64
		want    string
	}{
		{"an older version", s.svid, 6, "version 6 of"},
		{"of another node", s.SVID(t, s.ID(t, identity.Node, "lyon")), 9, "node:paris brings the rules of node:lyon"},
		{"of another authority", forged.SVID(t, s.svid.ID), 9, "unknown authority"},
	} {
		err := s.push(tt.signer, tt.version, s.grant())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	s.wantDenied("no grant for")
}

// The policy outlives the agent's process and its node.
func TestPolicyIsKept(t *testing.T) {
	s := newSite(t)
	_, _, stop := s.up()
	if err := s.push(s.svid, 7, s.grant()); err != nil {
		t.Fatal(err)
	}
	stop()
	_, _, stop = s.up()
	s.wantServed()
	if err := s.push(s.svid, 6); err == nil {
		t.Error("an older version was taken after a restart")
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
	if err := s.push(s.svid, 7, s.grant()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.store.Dir(), rulesFile)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil { // a rename onto it fails
		t.Fatal(err)
	}
	if err := s.push(s.svid, 8); err != nil {
		t.Fatal(err)
	}
	s.wantDenied("no grant for")
	if got := l.status().Policy.Version; got != 8 {
		t.Errorf("version %d in force", got)
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
	s.store = enrol(t, s.CA, t.TempDir(), s.store.SVID().ID, "127.0.0.1:1")
	addr := s.node.Addr().String()
	l, err := newLite(s.store, []uint16{s.port}, addr, io.Discard, logTo(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	background(t, l.run)
	s.await()
	if err := s.push(s.svid, 7, s.grant()); err != nil {
		t.Fatal(err)
	}
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
	s.store = enrol(t, s.CA, t.TempDir(), s.ID(t, identity.Device, "pump-7"), addr)
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

// A node tells of another that the agent does not know from its enrolment. The agent
// keeps that, and what it knew.
func TestLearnsAddresses(t *testing.T) {
	s := newSite(t)
	l, _, _ := s.up()
	tell := func(a *access.Addresses) error {
		t.Helper()
		stream, err := s.node.Open(t.Context(), s.store.SVID().ID, access.AddressProtocol)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		return access.SendAddresses(t.Context(), stream, a)
	}
	paris := s.node.Addr().String()
	if err := tell(&access.Addresses{API: []string{"lyon:8883"}, Mesh: []string{"lyon:7844", paris}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lyon:7844", paris}, l.addrs()); diff != "" {
		t.Error(diff)
	}
	if got := l.enrolment().Known().API; !slices.Contains(got, "lyon:8883") {
		t.Errorf("renews at %v", got)
	}
	for i := range 20 { // a node in wrong hands
		if err := tell(&access.Addresses{Mesh: []string{fmt.Sprintf("evil:%d", i+1)}}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"evil:20", paris}, l.addrs()); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []*access.Addresses{
		{Mesh: []string{"no port"}},
		{API: slices.Repeat([]string{"a:1"}, access.MaxAddresses+1)},
	} {
		if err := tell(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

// An agent that found its own node away comes back when a node says where it is now.
func TestMovesToNearerNode(t *testing.T) {
	s := &site{CA: testca.New(t, "lab.test"), t: t}
	stopParis := s.startNode("paris", "127.0.0.1:0")
	paris := s.node.Addr().String()
	stopParis()
	s.startNode("lyon", "127.0.0.1:0")
	lyon := s.node
	s.store = enrol(t, s.CA, t.TempDir(), s.ID(t, identity.Device, "pump-7"), paris)
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
	stream, err := lyon.Open(t.Context(), s.store.SVID().ID, access.AddressProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := access.SendAddresses(t.Context(), stream, &access.Addresses{Mesh: []string{s.node.Addr().String(), lyon.Addr().String()}}); err != nil {
		t.Fatal(err)
	}
	s.await()
	out.await("connected to node:paris")
	for changed := lyon.Changed(); lyon.Connected(s.store.SVID().ID); changed = lyon.Changed() {
		<-changed
	}
}

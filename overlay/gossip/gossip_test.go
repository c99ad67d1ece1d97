package gossip

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/serf/serf"
	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/overlay"
)

// TestMain looks for goroutines that are left. memberlist does not wait for its
// own: a probe that is under way at the shutdown ends by itself, after the probe
// interval of a second or so.
func TestMain(m *testing.M) {
	code := m.Run()
	err := goleak.Find()
	for began := time.Now(); err != nil && time.Since(began) < 10*time.Second; err = goleak.Find() {
		runtime.Gosched() // Find itself waits for most of a second
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goleak:", err)
		code = 1
	}
	os.Exit(code)
}

// limit is how long a test waits; failure detection takes 5 to 7 s.
const limit = 30 * time.Second

// member is a node that gossips.
type member struct {
	id     identity.ID
	node   *overlay.Node
	gossip *Gossip
	leave  func() // ends gossip, then the overlay
	crash  func() // ends the overlay under it

	changes chan Member
	events  chan string
}

func startMember(t testing.TB, ca *testca.CA, name string, known func(identity.ID) bool) *member {
	t.Helper()
	m := &member{
		id:      ca.ID(t, identity.Node, name),
		changes: make(chan Member, 1000),
		events:  make(chan string, 1000),
	}
	var err error
	m.node, err = overlay.New(overlay.Options{Source: ca.Issue(t, m.id), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	m.gossip, err = New(Options{
		Node: m.node, Site: "site-" + name, Known: known,
		OnMember: func(c Member) { m.changes <- c },
		OnEvent:  func(name string, payload []byte) { m.events <- name + "=" + string(payload) },
	})
	if err != nil {
		t.Fatal(err)
	}
	runTask := func(run func(context.Context) error) func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		return sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	stopNode := runTask(m.node.Run)
	stopGossip := runTask(m.gossip.Run)
	m.crash = func() { stopNode(); stopGossip() }
	m.leave = func() { stopGossip(); stopNode() }
	t.Cleanup(m.leave)
	return m
}

// connect dials from each member to each one after it.
func connect(t testing.TB, members []*member) {
	t.Helper()
	for i, a := range members {
		for _, b := range members[i+1:] {
			if _, err := a.node.Dial(t.Context(), b.node.Addr().String(), b.id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func group(t testing.TB, n int) []*member {
	t.Helper()
	ca := testca.New(t, "lab.test")
	members := make([]*member, n)
	for i := range members {
		members[i] = startMember(t, ca, fmt.Sprintf("n%d", i), nil)
	}
	connect(t, members)
	for _, m := range members {
		m.await(t, fmt.Sprintf("%d alive", n), func() bool { return m.count(Alive) == n })
	}
	return members
}

// await waits for a change of the member's list that makes ok true.
func (m *member) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-m.changes:
		case <-deadline.C:
			t.Fatalf("%s: waited %v for %s, has %v", m.id.Name, limit, what, m.gossip.Members())
		}
	}
}

func (m *member) count(s Status) int {
	n := 0
	for _, x := range m.gossip.Members() {
		if x.Status == s {
			n++
		}
	}
	return n
}

func (m *member) status(id identity.ID) Status {
	for _, x := range m.gossip.Members() {
		if x.ID == id {
			return x.Status
		}
	}
	return ""
}

func TestConvergeAndBroadcast(t *testing.T) {
	begin := time.Now()
	members := group(t, 5)
	t.Logf("5 nodes converge in %v", time.Since(begin))
	for _, m := range members[1].gossip.Members() {
		if want := "site-" + m.ID.Name; m.Site != want {
			t.Errorf("site of %s is %q, want %q", m.ID.Short(), m.Site, want)
		}
	}
	begin = time.Now()
	payload := string(make([]byte, MaxEventPayload))
	if err := members[0].gossip.Broadcast("revoked", []byte(payload)); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		select {
		case got := <-m.events:
			if got != "revoked="+payload {
				t.Errorf("%s got %.20q", m.id.Name, got)
			}
		case <-time.After(limit):
			t.Fatalf("%s got no event", m.id.Name)
		}
	}
	t.Logf("an event reaches all after %v", time.Since(begin))
	if err := members[0].gossip.Broadcast("big", make([]byte, MaxEventPayload+1)); err == nil {
		t.Error("an event over the limit was sent")
	}
}

func TestLeave(t *testing.T) {
	t.Parallel()
	members := group(t, 3)
	begin := time.Now()
	members[2].leave()
	if d := time.Since(begin); d > limit {
		t.Errorf("leaving took %v", d)
	}
	for _, m := range members[:2] {
		m.await(t, "n2 left", func() bool { return m.status(members[2].id) == Left })
	}
	if got := members[2].gossip.Members(); got != nil {
		t.Errorf("members after leaving: %v", got)
	}
	if err := members[2].gossip.Broadcast("x", nil); err == nil {
		t.Error("Broadcast after leaving succeeded")
	}
}

// TestLeaveWhileJoined has another node ask for the state of the one that leaves
// before gossip has carried the news.
func TestLeaveWhileJoined(t *testing.T) {
	members := group(t, 2)
	stays, leaves := members[0], members[1]
	leaving := leaves.gossip.run.Load().serf
	left := make(chan struct{})
	go func() {
		defer close(left)
		leaves.leave()
	}()
	for leaving.State() == serf.SerfAlive {
		runtime.Gosched()
	}
	if err := stays.gossip.Join(leaves.id); err == nil {
		t.Error("joined a member that leaves")
	}
	<-left
	stays.await(t, "n1 left", func() bool { return stays.status(leaves.id) == Left })
}

func TestCrashIsNoticed(t *testing.T) {
	t.Parallel()
	members := group(t, 4)
	begin := time.Now()
	members[3].crash()
	for _, m := range members[:3] {
		m.await(t, "n3 failed", func() bool { return m.status(members[3].id) == Failed })
	}
	d := time.Since(begin)
	t.Logf("a crash is known to all after %v", d)
}

// TestUnknownIsNotListed has a node that one member does not vouch for: others
// list it, that member must not, whatever they say.
func TestUnknownIsNotListed(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "lab.test")
	stranger := ca.ID(t, identity.Node, "n2")
	strict := startMember(t, ca, "n0", func(id identity.ID) bool { return id != stranger })
	members := []*member{strict, startMember(t, ca, "n1", nil), startMember(t, ca, "n2", nil)}
	connect(t, members)
	members[1].await(t, "three alive", func() bool { return members[1].count(Alive) == 3 })
	strict.await(t, "n1", func() bool { return strict.status(members[1].id) == Alive })
	if err := strict.gossip.Join(members[1].id); err != nil {
		t.Fatal(err)
	}
	if got := strict.status(stranger); got != "" {
		t.Errorf("the stranger is %s", got)
	}
	if err := members[2].gossip.Join(strict.id); err == nil {
		t.Error("the stranger joined")
	}
}

// TestOutsider has a device, which the overlay lets in, speak gossip's protocol.
func TestOutsider(t *testing.T) {
	ca := testca.New(t, "lab.test")
	m := startMember(t, ca, "n0", nil)
	foreign := startMember(t, testca.New(t, "lab.test"), "n1", nil)
	if _, err := foreign.node.Dial(t.Context(), m.node.Addr().String(), m.id); err == nil {
		t.Error("a node of another CA connected")
	}
	if err := foreign.gossip.Join(m.id); err == nil {
		t.Error("a node of another CA joined")
	}

	accept := overlay.Options{Listen: "127.0.0.1:0", Accept: func(identity.ID) error { return nil }}
	accept.Source = ca.Issue(t, ca.ID(t, identity.Node, "n2"))
	node, err := overlay.New(accept)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Node: node}); err != nil {
		t.Fatal(err)
	}
	accept.Source = ca.Issue(t, ca.ID(t, identity.Device, "pump-7"))
	device, err := overlay.New(accept)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Node: device}); err == nil {
		t.Error("a device can gossip")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, n := range []*overlay.Node{node, device} {
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := device.Dial(ctx, node.Addr().String(), node.ID()); err != nil {
		t.Fatal(err)
	}
	s, err := device.Open(ctx, node.ID(), Protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("a device was served")
	}
}

// TestHostileMember sends what no member would, from a genuine node.
func TestHostileMember(t *testing.T) {
	t.Parallel()
	members := group(t, 2)
	m, liar := members[0], members[1]
	for i := range 256 {
		b := append([]byte{byte(i)}, slices.Repeat([]byte{0xff}, 200)...)
		if err := liar.node.SendDatagram(m.id, Channel, b); err != nil {
			t.Fatal(err)
		}
		s, err := liar.node.Open(t.Context(), m.id, Protocol)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		// The other end may end the stream at any of these.
		_, _ = s.Write(b)
		_ = s.CloseWrite()
		_, _ = s.Read(make([]byte, 1))
		s.Close()
	}
	if err := liar.gossip.Broadcast("still", []byte("here")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-m.events:
		if got != "still=here" {
			t.Errorf("got %q", got)
		}
	case <-time.After(limit):
		t.Error("no event after garbage")
	}
}

func TestRejoinAfterRestart(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "lab.test")
	members := []*member{startMember(t, ca, "n0", nil), startMember(t, ca, "n1", nil)}
	connect(t, members)
	n0 := members[0]
	n0.await(t, "n1 alive", func() bool { return n0.status(members[1].id) == Alive })
	members[1].leave()
	n0.await(t, "n1 left", func() bool { return n0.status(members[1].id) == Left })
	again := startMember(t, ca, "n1", nil)
	connect(t, []*member{again, n0})
	n0.await(t, "n1 alive again", func() bool { return n0.status(again.id) == Alive })
	again.await(t, "two alive", func() bool { return again.count(Alive) == 2 })
}

package overlay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestMutualAuthentication(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris, lyon := start(t, ca, "paris"), start(t, ca, "lyon")
	got, err := lyon.Dial(timeout(t), paris.Addr().String(), identity.ID{})
	if err != nil || got != paris.ID() {
		t.Fatalf("Dial = %v, %v, want %v", got, err, paris.ID())
	}
	if err := paris.Wait(timeout(t), lyon.ID()); err != nil {
		t.Fatal(err)
	}
	here, there := lyon.Peers(), paris.Peers()
	if len(here) != 1 || len(there) != 1 {
		t.Fatalf("peers %v and %v, want one each", here, there)
	}
	if here[0].ID != paris.ID() || !here[0].Dialled || here[0].Remote != paris.Addr() || here[0].Conns != 1 {
		t.Errorf("lyon sees %+v", here[0])
	}
	if there[0].ID != lyon.ID() || there[0].Dialled || there[0].Remote != lyon.Addr() {
		t.Errorf("paris sees %+v", there[0])
	}
}

func TestRefused(t *testing.T) {
	ca, foreign := testca.New(t, "lab.test"), testca.New(t, "lab.test")
	node := func(name string) identity.ID { return ca.ID(t, identity.Node, name) }
	revoked := ca.Issue(t, node("revoked"))
	paris := start(t, ca, "paris", func(o *Options) {
		o.Revoked = func(leaf *x509.Certificate) bool { return leaf.Equal(revoked.SVID().Leaf()) }
	})
	for _, tt := range []struct {
		name   string
		src    identity.Source
		expect identity.ID
		want   string
	}{
		{"certificate of another CA", foreign.Issue(t, node("lyon")), paris.ID(), "unknown authority"},
		{"expects another node", ca.Issue(t, node("lyon")), node("nice"), "want spiffe://lab.test/node/nice"},
		{"not a node", ca.Issue(t, ca.ID(t, identity.Device, "pump-7")), paris.ID(), "device:pump-7 is not a node"},
		{"revoked", revoked, paris.ID(), "certificate of node:revoked is revoked"},
		{"the same identity from elsewhere", ca.Issue(t, paris.ID()), identity.ID{}, "ourselves"},
		{"expired", ca.Issue(t, node("old"), testca.ValidFor(-time.Second)), paris.ID(), "it is refused there, or a clock is wrong, here or there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := prepare(t, tt.src)
			run(t, n)
			_, err := n.Dial(timeout(t), paris.Addr().String(), tt.expect)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Dial: %v, want …%s…", err, tt.want)
			}
			if got := n.Peers(); len(got) != 0 {
				t.Errorf("connected to %v", got)
			}
		})
	}
	until(t, paris, "no connections", func() bool { return len(paris.Peers()) == 0 })
	if got := paris.Counters(); got.Refused == 0 || got.Accepted != 0 {
		t.Errorf("counters %+v, want refusals only", got)
	}
}

func TestForeignServerRefused(t *testing.T) {
	ca, foreign := testca.New(t, "lab.test"), testca.New(t, "lab.test")
	paris, liar := start(t, ca, "paris"), start(t, foreign, "lyon")
	if _, err := paris.Dial(timeout(t), liar.Addr().String(), liar.ID()); err == nil {
		t.Fatal("connected to a node of another CA")
	}
}

func TestDialSelf(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris := start(t, ca, "paris")
	for _, expect := range []identity.ID{paris.ID(), {}} {
		if _, err := paris.Dial(timeout(t), paris.Addr().String(), expect); err == nil {
			t.Errorf("Dial of ourselves expecting %q succeeded", expect)
		}
	}
}

func TestDialNobody(t *testing.T) {
	ca := testca.New(t, "lab.test")
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	paris := start(t, ca, "paris", func(o *Options) { o.HandshakeTimeout = 50 * time.Millisecond })
	if _, err := paris.Dial(timeout(t), silent.LocalAddr().String(), identity.ID{}); err == nil {
		t.Error("Dial of a silent port succeeded")
	}
	for _, addr := range []string{"", "127.0.0.1", "127.0.0.1:hpmq?"} {
		if _, err := paris.Dial(timeout(t), addr, identity.ID{}); err == nil {
			t.Errorf("Dial(%q) succeeded", addr)
		}
	}
}

// TestDialWithoutNameServer has a name server that does not answer.
func TestDialWithoutNameServer(t *testing.T) {
	was := net.DefaultResolver
	defer func() { net.DefaultResolver = was }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	ca := testca.New(t, "lab.test")
	paris := start(t, ca, "paris", func(o *Options) { o.HandshakeTimeout = 50 * time.Millisecond })
	began := time.Now()
	if _, err := paris.Dial(timeout(t), "lyon.hpmq.example:7844", identity.ID{}); err == nil {
		t.Error("Dial of a name that is not known succeeded")
	}
	if took := time.Since(began); took > limit/4 {
		t.Errorf("Dial took %v", took)
	}
}

func TestDevicesWhenAccepted(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris := start(t, ca, "paris", func(o *Options) { o.Accept = func(identity.ID) error { return nil } })
	paris2 := prepare(t, ca.Issue(t, ca.ID(t, identity.Device, "pump-7")))
	run(t, paris2)
	dial(t, paris2, paris)
	user := prepare(t, ca.Issue(t, ca.ID(t, identity.User, "ann")))
	run(t, user)
	dial(t, user, paris)
	until(t, paris, "two peers", func() bool { return len(paris.Peers()) == 2 })
}

func TestDialOnly(t *testing.T) {
	ca := testca.New(t, "lab.test")
	agent := start(t, ca, "paris", func(o *Options) { o.DialOnly = true })
	lyon := start(t, ca, "lyon")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := lyon.Dial(ctx, agent.Addr().String(), agent.ID()); err == nil {
		t.Error("connected to a node that dials only")
	}
	dial(t, agent, lyon)
	until(t, lyon, "connected", func() bool { return lyon.Connected(agent.ID()) })
}

// TestRevokedIsCutAtOnce has duplicates in both directions, as simultaneous
// opens leave them: a cut that misses one is no cut.
func TestRevokedIsCutAtOnce(t *testing.T) {
	ca := testca.New(t, "lab.test")
	var revoked atomic.Bool
	paris := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")), func(o *Options) {
		o.Revoked = func(leaf *x509.Certificate) bool { return leaf.Subject.CommonName == "lyon" && revoked.Load() }
	})
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	paris.Handle("hold/1", func(ctx context.Context, _ *Stream) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
	})
	run(t, paris)
	lyon, nice := start(t, ca, "lyon"), start(t, ca, "nice")
	dial(t, nice, paris)
	dial(t, lyon, paris)
	dial(t, paris, lyon)
	dial(t, lyon, paris)
	until(t, paris, "three connections to lyon", func() bool { return len(paris.conns(lyon.ID())) == 3 })
	until(t, lyon, "three connections to paris", func() bool { return len(lyon.conns(paris.ID())) == 3 })
	s := open(t, lyon, paris, "hold/1")
	receive(t, began, "the stream")

	revoked.Store(true)
	paris.Recheck()
	if paris.Connected(lyon.ID()) {
		t.Error("connected right after Recheck")
	}
	receive(t, ended, "the end of the stream")
	until(t, lyon, "paris is gone", func() bool { return !lyon.Connected(paris.ID()) })
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrDisconnected) {
		t.Errorf("Read on a cut stream: %v, want %v", err, ErrDisconnected)
	}
	if _, err := lyon.Dial(timeout(t), paris.Addr().String(), paris.ID()); err == nil {
		t.Error("the revoked node connected again")
	}
	if !paris.Connected(nice.ID()) {
		t.Error("another node was cut too")
	}
}

func TestDisconnect(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris, lyon := start(t, ca, "paris"), start(t, ca, "lyon")
	dial(t, lyon, paris)
	dial(t, paris, lyon)
	until(t, paris, "two connections", func() bool { return len(paris.conns(lyon.ID())) == 2 })
	paris.Disconnect(lyon.ID(), "maintenance")
	if paris.Connected(lyon.ID()) {
		t.Error("connected right after Disconnect")
	}
	if _, err := paris.Open(timeout(t), lyon.ID(), "echo/1"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("open right after Disconnect: %v", err)
	}
	until(t, paris, "none", func() bool { return len(paris.Peers()) == 0 })
	until(t, lyon, "none", func() bool { return len(lyon.Peers()) == 0 })
}

func TestTooManyConnections(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris, lyon := start(t, ca, "paris", func(o *Options) { o.MaxConns = 2 }), start(t, ca, "lyon")
	dial(t, lyon, paris)
	first := lyon.newest(paris.ID())
	dial(t, lyon, paris)
	dial(t, lyon, paris)
	receive(t, first.qc.Context().Done(), "the end of the oldest connection")
	until(t, lyon, "two", func() bool { return len(lyon.conns(paris.ID())) == 2 })
}

func TestIdleDuplicatesEnd(t *testing.T) {
	ca := testca.New(t, "lab.test")
	a := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "a")))
	began := make(chan struct{})
	a.Handle("hold/1", func(ctx context.Context, _ *Stream) {
		close(began)
		<-ctx.Done()
	})
	run(t, a)
	b := start(t, ca, "b")
	dial(t, b, a)
	open(t, b, a, "hold/1") // the oldest is in use
	dial(t, b, a)
	dial(t, b, a)
	until(t, a, "three connections", func() bool { return len(a.conns(b.ID())) == 3 })
	receive(t, began, "the stream")
	if got := b.duplicates(time.Now().Add(time.Hour)); got != nil {
		t.Errorf("the higher identity ends %d connections", len(got))
	}
	if got := a.duplicates(time.Now()); got != nil {
		t.Errorf("%d duplicates end while the newest is young", len(got))
	}
	got := a.duplicates(time.Now().Add(time.Hour))
	if conns := a.conns(b.ID()); len(got) != 1 || got[0] != conns[1] {
		t.Errorf("ends %d connections, want the idle one in the middle", len(got))
	}
}

func TestCertificateExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		src := ca.Issue(t, ca.ID(t, identity.Node, "lyon"), testca.ValidFor(time.Minute))
		end := src.SVID().NotAfter()
		m := &memnet{delay: time.Millisecond, ports: make(map[int]*memConn)}
		paris := m.node(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")), "127.0.0.1:1")
		lyon := m.node(t, src, "127.0.0.1:2")
		run(t, paris)
		run(t, lyon)
		dial(t, lyon, paris)
		until(t, paris, "connected", func() bool { return paris.Connected(lyon.ID()) })
		<-time.After(time.Until(end) - time.Millisecond)
		if !paris.Connected(lyon.ID()) {
			t.Error("ended before the certificate")
		}
		<-time.After(2 * time.Millisecond)
		if paris.Connected(lyon.ID()) {
			t.Error("connected after the certificate's end")
		}
		if _, err := lyon.Dial(timeout(t), paris.Addr().String(), paris.ID()); err == nil {
			t.Error("an expired certificate connected")
		}
		src.Set(ca.SVID(t, lyon.ID()))
		dial(t, lyon, paris) // the renewed one is used without a restart
	})
}

// A peer is served beyond its certificate's end while ServeEnded says so, on the
// connection that it has and on new ones.
func TestServeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		src := ca.Issue(t, ca.ID(t, identity.Node, "lyon"), testca.ValidFor(time.Minute))
		var serve atomic.Bool
		serve.Store(true)
		m := &memnet{delay: time.Millisecond, ports: make(map[int]*memConn)}
		paris := m.node(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")), "127.0.0.1:1", func(o *Options) {
			o.ServeEnded = func(leaf *x509.Certificate) bool { return serve.Load() && leaf.Equal(src.SVID().Leaf()) }
		})
		lyon := m.node(t, src, "127.0.0.1:2")
		run(t, paris)
		run(t, lyon)
		dial(t, lyon, paris)
		<-time.After(5 * time.Minute)
		if !paris.Connected(lyon.ID()) || !lyon.Connected(paris.ID()) {
			t.Error("the connection ended with the certificate")
		}
		paris.Disconnect(lyon.ID(), "for the test")
		synctest.Wait()
		dial(t, lyon, paris)
		until(t, paris, "connected again", func() bool { return paris.Connected(lyon.ID()) })
		serve.Store(false)
		<-time.After(sweepInterval + time.Second)
		if paris.Connected(lyon.ID()) {
			t.Error("connected when it is served no more")
		}
		if _, err := lyon.Dial(timeout(t), paris.Addr().String(), paris.ID()); err == nil {
			t.Error("connects when it is served no more")
		}
	})
}

func TestGarbagePackets(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris, lyon := start(t, ca, "paris"), start(t, ca, "lyon")
	c, err := net.Dial("udp", paris.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	junk := make([]byte, 1400)
	for first := range 256 {
		for _, size := range []int{1, 20, 1200, 1400} {
			_, _ = rand.Read(junk) // never fails
			junk[0] = byte(first)
			if _, err := c.Write(junk[:size]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.Write(nil); err != nil {
		t.Fatal(err)
	}
	dial(t, lyon, paris)
	got := paris.Counters()
	if got.WireGuardPackets == 0 || got.ProbePackets == 0 || got.GarbagePackets == 0 {
		t.Errorf("counters %+v, want each sort of packet", got)
	}
}

func TestDatagrams(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")))
	got := make(chan []byte, 1)
	paris.HandleDatagram(7, func(_ identity.ID, b []byte) { got <- b })
	run(t, paris)
	lyon := start(t, ca, "lyon")
	if err := lyon.SendDatagram(paris.ID(), 7, []byte("x")); !errors.Is(err, ErrNotConnected) {
		t.Errorf("before connecting: %v", err)
	}
	dial(t, lyon, paris)
	want := bytes.Repeat([]byte{1}, MaxDatagram)
	if err := lyon.SendDatagram(paris.ID(), 8, want); err != nil { // nobody handles it
		t.Error(err)
	}
	if err := lyon.SendDatagram(paris.ID(), 7, want); err != nil {
		t.Fatal(err)
	}
	if b := receive(t, got, "the datagram"); !bytes.Equal(b, want) {
		t.Errorf("got %d bytes, want %d", len(b), len(want))
	}
	if err := lyon.SendDatagram(paris.ID(), 7, append(want, 0)); err == nil {
		t.Error("a datagram over the limit was taken")
	}
}

func TestOpenWithoutConnection(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris := start(t, ca, "paris")
	if _, err := paris.Open(timeout(t), ca.ID(t, identity.Node, "lyon"), "echo/1"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("Open: %v, want %v", err, ErrNotConnected)
	}
}

func TestStopsWhileBusy(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")))
	paris.Handle("hold/1", func(ctx context.Context, _ *Stream) { <-ctx.Done() })
	stop := run(t, paris)
	lyon := start(t, ca, "lyon")
	dial(t, lyon, paris)
	for range 10 {
		open(t, lyon, paris, "hold/1")
	}
	var dials sync.WaitGroup
	for range 4 {
		dials.Go(func() { _, _ = lyon.Dial(timeout(t), paris.Addr().String(), paris.ID()) })
	}
	stop()
	dials.Wait()
	if _, err := paris.Dial(timeout(t), lyon.Addr().String(), lyon.ID()); !errors.Is(err, ErrStopped) {
		t.Errorf("Dial of a stopped node: %v", err)
	}
	if err := paris.Wait(timeout(t), lyon.ID()); !errors.Is(err, ErrStopped) {
		t.Errorf("Wait of a stopped node: %v", err)
	}
}

func TestNewNeeds(t *testing.T) {
	ca := testca.New(t, "lab.test")
	src := ca.Issue(t, ca.ID(t, identity.Node, "paris"))
	paris := start(t, ca, "paris")
	for _, opts := range []Options{
		{Listen: "127.0.0.1:0"},
		{Source: src},
		{Source: src, Listen: "nowhere"},
		{Source: src, Listen: paris.Addr().String()},
	} {
		if n, err := New(opts); err == nil {
			n.Close()
			t.Errorf("New(%+v) succeeded", opts)
		}
	}
}

// deadNIC refuses every packet as a kernel does whose interface is down.
type deadNIC struct{ net.PacketConn }

func (deadNIC) WriteTo([]byte, net.Addr) (int, error) { return 0, syscall.ENETUNREACH }

func TestInterfaceDownIsLoss(t *testing.T) {
	var c counters
	s := &socket{PacketConn: deadNIC{}, counters: &c}
	to := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7844}
	if n, err := s.WriteTo([]byte("packet"), to); n != 6 || err != nil {
		t.Errorf("WriteTo: %d, %v, want the packet taken for lost", n, err)
	}
	if c.unsendable.Load() != 1 {
		t.Error("the packet was not counted")
	}
	if err := s.explain(to, context.DeadlineExceeded); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("a failed dial says %q, not what the kernel said", err)
	}
}

func TestAddress(t *testing.T) {
	ca := testca.New(t, "lab.test")
	a, b := Address(ca.ID(t, identity.Node, "a")), Address(ca.ID(t, identity.Node, "b"))
	if a == b || !a.IsPrivate() || a != Address(ca.ID(t, identity.Node, "a")) {
		t.Errorf("addresses %v and %v", a, b)
	}
	prefix := func(s fmt.Stringer) string { return s.String()[:14] }
	if prefix(a) != prefix(b) {
		t.Errorf("%v and %v are in different networks", a, b)
	}
}

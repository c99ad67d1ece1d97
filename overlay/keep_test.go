package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// bubble is two nodes, each keeping the other, on a network in memory.
type bubble struct {
	net         *memnet
	paris, lyon *Node
	ctx         context.Context
	stop        func()
}

func newBubble(t *testing.T, delay time.Duration, edit ...func(*Options)) *bubble {
	t.Helper()
	ca := testca.New(t, "lab.test")
	src := func(name string) identity.Source { return ca.Issue(t, ca.ID(t, identity.Node, name)) }
	m := &memnet{delay: delay, ports: make(map[int]*memConn)}
	b := &bubble{net: m, paris: m.node(t, src("paris"), "127.0.0.1:1", edit...), lyon: m.node(t, src("lyon"), "127.0.0.1:2")}
	b.paris.Handle("echo/1", func(_ context.Context, s *Stream) {
		if _, err := io.Copy(s, s); err != nil {
			s.Reset()
		}
	})
	b.paris.Handle("sink/1", func(_ context.Context, s *Stream) { _, _ = io.Copy(io.Discard, s) })
	ctx, cancel := context.WithCancel(context.Background())
	b.ctx = ctx
	var running sync.WaitGroup
	b.stop = func() { cancel(); running.Wait() }
	for _, n := range []*Node{b.paris, b.lyon} {
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	keep := func(n, other *Node) {
		running.Go(func() {
			addrs := func() []string { return []string{other.Addr().String()} }
			if err := n.Keep(ctx, Target{ID: other.ID(), Addrs: addrs}); err != nil {
				t.Error(err)
			}
		})
	}
	keep(b.paris, b.lyon)
	keep(b.lyon, b.paris)
	return b
}

// echo sends one byte on a stream and waits for it.
func echo(s io.ReadWriter) error {
	if _, err := s.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(s, make([]byte, 1))
	return err
}

// open opens a stream that works, some time after the nodes have met.
func (b *bubble) open(t *testing.T, after time.Duration) *Stream {
	t.Helper()
	if err := b.lyon.Wait(b.ctx, b.paris.ID()); err != nil {
		t.Fatal(err)
	}
	<-time.After(after)
	s, err := b.lyon.Open(b.ctx, b.paris.ID(), "echo/1")
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// attempt opens a stream and uses it.
func (b *bubble) attempt(d time.Duration) error {
	s, err := b.lyon.Open(b.ctx, b.paris.ID(), "echo/1")
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	return echo(s)
}

// recover measures from now until a new stream works.
func (b *bubble) recover(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < time.Minute {
		if b.attempt(250*time.Millisecond) == nil {
			return time.Since(begin)
		}
		<-tick.C
	}
	t.Fatal("no recovery within a minute")
	return 0
}

// TestCut cuts the path between two nodes that keep each other. Streams of
// every load must work within 2 s of the cable's return.
func TestCut(t *testing.T) {
	for _, tt := range []struct {
		cut  time.Duration
		load string // what is under way when the cable goes
	}{
		{10 * time.Second, "idle"},
		{10 * time.Second, "little"},
		{10 * time.Second, "full"},
		{20 * time.Second, "little"},
		{20 * time.Second, "full"},
		{40 * time.Second, "little"}, // beyond the idle timeout
		{10 * time.Minute, "idle"},
	} {
		for _, delay := range []time.Duration{500 * time.Microsecond, 100 * time.Millisecond} {
			t.Run(fmt.Sprintf("%v/%s/delay=%v", tt.cut, tt.load, delay), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got, same := cutAndRecover(t, tt.cut, tt.load, delay)
					t.Logf("a new stream works %v after the cable is back; the old one survived: %v", got, same)
					want := 2 * time.Second
					if tt.cut > 30*time.Second {
						want = maxPause + time.Second
					}
					if got > want {
						t.Errorf("recovered after %v, want %v", got, want)
					}
					if tt.load != "full" && tt.cut < 30*time.Second && !same {
						t.Error("the open stream was lost")
					}
				})
			})
		}
	}
}

func cutAndRecover(t *testing.T, cut time.Duration, load string, delay time.Duration) (after time.Duration, survived bool) {
	b := newBubble(t, delay)
	defer b.stop()
	s := b.open(t, 7*time.Second)
	defer s.Reset()
	<-time.After(time.Second)
	b.net.setCut(true)
	var bulk sync.WaitGroup
	defer bulk.Wait()
	switch load {
	case "little":
		if _, err := s.Write([]byte("x")); err != nil { // one more than echo reads
			t.Fatal(err)
		}
	case "full":
		sink, err := b.lyon.Open(b.ctx, b.paris.ID(), "sink/1")
		if err != nil {
			t.Fatal(err)
		}
		bulk.Go(func() { _, _ = io.Copy(sink, zeros{}) }) // until the stream is reset
		defer sink.Reset()
	}
	<-time.After(cut)
	b.net.setCut(false)
	after = b.recover(t)
	if err := s.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	err := echo(s)
	if err != nil {
		t.Log(err)
	}
	return after, err == nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestIdleIsNotSilent speaks on an idle connection at every phase of the looks at
// it. That its answer is under way is no reason to dial beside it.
func TestIdleIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 100*time.Millisecond)
		defer b.stop()
		if err := b.lyon.Wait(b.ctx, b.paris.ID()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		c := b.lyon.newest(b.paris.ID())
		for range 20 {
			<-time.After(5*time.Second + watchInterval/20)
			if err := b.attempt(time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if b.lyon.newest(b.paris.ID()) != c {
			t.Error("a connection that always answered was replaced")
		}
	})
}

// TestKilledPeer starts a peer again that went without a word. What waits on a
// stream of the old connection must hear of it long before the idle timeout, and
// a connection that answers must not end because there is a newer one.
func TestKilledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 10*time.Millisecond)
		defer b.stop()
		s := b.open(t, time.Second)
		defer s.Reset()
		if _, err := b.lyon.Dial(b.ctx, "127.0.0.1:1", b.paris.ID()); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * silentAfter)
		if err := echo(s); err != nil {
			t.Fatalf("a stream of a connection that answers, beside a newer one: %v", err)
		}

		again := b.net.node(t, b.paris.opts.Source, "127.0.0.1:1")
		ended := make(chan error, 1)
		go func() { ended <- again.Run(b.ctx) }()
		defer func() {
			b.stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		if _, err := again.Dial(b.ctx, "127.0.0.1:2", b.lyon.ID()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("a stream to the process before still reads")
		}
		if took := time.Since(began); took > silentAfter+2*watchInterval {
			t.Errorf("the stream to the process before ended after %v", took)
		}
	})
}

// TestReplacedConnectionDies cuts one of two paths to a peer: that of the older
// connection, which answered for long beside the newer one.
func TestReplacedConnectionDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 10*time.Millisecond)
		defer b.stop()
		s := b.open(t, time.Second)
		defer s.Reset()
		if _, err := b.lyon.Dial(b.ctx, "127.0.0.2:1", b.paris.ID()); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * silentAfter)
		b.net.setDead("127.0.0.1:1")
		began := time.Now()
		if err := echo(s); err == nil {
			t.Error("a stream on a dead path still works")
		}
		if took := time.Since(began); took > silentAfter+2*watchInterval {
			t.Errorf("the stream on the dead path ended after %v", took)
		}
	})
}

// onLog is a logrus.Hook.
type onLog func(*logrus.Entry)

func (onLog) Levels() []logrus.Level { return logrus.AllLevels }

func (f onLog) Fire(e *logrus.Entry) error { f(e); return nil }

// TestPeerDialsFirst has a silent peer connect anew between the last look at its
// connection and the first dial: there is nothing left to dial for.
func TestPeerDialsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		m := &memnet{delay: 10 * time.Millisecond, ports: make(map[int]*memConn)}
		log := logrus.New()
		log.SetOutput(io.Discard)
		paris := m.node(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")), "127.0.0.1:1", func(o *Options) { o.Log = log })
		lyon := m.node(t, ca.Issue(t, ca.ID(t, identity.Node, "lyon")), "127.0.0.1:2")
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		log.AddHook(onLog(func(e *logrus.Entry) {
			if e.Message != "overlay peer silent" {
				return
			}
			m.setCut(false)
			if _, err := lyon.Dial(ctx, "127.0.0.1:1", paris.ID()); err != nil {
				t.Error(err)
			}
		}))
		for _, run := range []func(context.Context) error{paris.Run, lyon.Run, func(ctx context.Context) error {
			return paris.Keep(ctx, Target{ID: lyon.ID(), Addrs: func() []string { return []string{"127.0.0.1:2"} }})
		}} {
			running.Go(func() {
				if err := run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		if err := paris.Wait(ctx, lyon.ID()); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * stableAfter)
		before := paris.Counters()
		m.setCut(true)
		<-time.After(paris.opts.KeepAlive + 2*silentAfter)
		now := paris.Counters()
		if accepted, dialled := now.Accepted-before.Accepted, now.Dialled-before.Dialled; accepted != 1 || dialled != 0 {
			t.Errorf("%d connections accepted and %d dialled, want 1 and 0", accepted, dialled)
		}
	})
}

// TestForgottenConnection starts a peer again that went without a word and dials
// nobody. With its reset key it tells of the lost connection as soon as it is
// spoken to.
func TestForgottenConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := [32]byte{7}
		b := newBubble(t, 10*time.Millisecond, func(o *Options) { o.ResetKey = &key })
		defer b.stop()
		s := b.open(t, time.Second)
		defer s.Reset()

		again := b.net.node(t, b.paris.opts.Source, "127.0.0.1:1", func(o *Options) { o.ResetKey = &key })
		ended := make(chan error, 1)
		go func() { ended <- again.Run(b.ctx) }()
		defer func() {
			b.stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		began := time.Now()
		if err := echo(s); !errors.Is(err, ErrDisconnected) {
			t.Errorf("stream to the process before: got %v, want %v", err, ErrDisconnected)
		}
		if took := time.Since(began); took > 2*watchInterval+100*time.Millisecond {
			t.Errorf("the stream ended after %v", took)
		}
		if err := again.Wait(b.ctx, b.lyon.ID()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*watchInterval+500*time.Millisecond {
			t.Errorf("connected again after %v", took)
		}
	})
}

// TestKnock starts a peer again that went without a word, whose only connection
// is idle. Its knock brings the other end back before any keep-alive does.
func TestKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		m := &memnet{delay: 10 * time.Millisecond, ports: make(map[int]*memConn)}
		source, key := ca.Issue(t, ca.ID(t, identity.Node, "paris")), [32]byte{7}
		node := func() *Node {
			return m.node(t, source, "127.0.0.1:1", func(o *Options) {
				o.ResetKey, o.Accept = &key, func(identity.ID) error { return nil }
			})
		}
		paris, agent := node(), m.node(t, ca.Issue(t, ca.ID(t, identity.Device, "pump-7")), "127.0.0.1:2", func(o *Options) { o.DialOnly = true })
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		run := func(f func(context.Context) error) {
			running.Go(func() {
				if err := f(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		run(paris.Run)
		run(agent.Run)
		run(func(ctx context.Context) error {
			return agent.Keep(ctx, Target{ID: paris.ID(), Addrs: func() []string { return []string{"127.0.0.1:1"} }})
		})
		if err := paris.Wait(ctx, agent.ID()); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * stableAfter)
		known := paris.Peers()[0].Remote

		again := node()
		run(again.Run)
		began := time.Now()
		again.Knock([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:3"), known})
		if err := again.Wait(ctx, agent.ID()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the agent was back after %v", took)
		}
	})
}

// TestKeepWaitsForPeer keeps a peer that comes up later and then restarts.
func TestKeepWaitsForPeer(t *testing.T) {
	ca := testca.New(t, "lab.test")
	paris, lyon := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "paris"))), start(t, ca, "lyon")
	var addr atomic.Pointer[string]
	set := func(s string) { addr.Store(&s) }
	set("127.0.0.1:1")
	ctx, cancel := context.WithCancel(context.Background())
	kept := make(chan error, 1)
	go func() {
		kept <- lyon.Keep(ctx, Target{ID: paris.ID(), Addrs: func() []string { return []string{*addr.Load()} }})
	}()
	stop := run(t, paris)
	set(paris.Addr().String())
	if err := lyon.Wait(timeout(t), paris.ID()); err != nil {
		t.Fatal(err)
	}
	stop()
	until(t, lyon, "paris is gone", func() bool { return !lyon.Connected(paris.ID()) })
	again := start(t, ca, "paris")
	set(again.Addr().String())
	if err := lyon.Wait(timeout(t), paris.ID()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := receive(t, kept, "the end of Keep"); err != nil {
		t.Errorf("Keep: %v", err)
	}
	for _, id := range []identity.ID{{}, lyon.ID()} {
		if err := lyon.Keep(timeout(t), Target{ID: id}); err == nil {
			t.Errorf("Keep of %q succeeded", id)
		}
	}
}

// TestKeepTriesEveryAddress has more addresses that never answer than dials are
// under way at a time.
func TestKeepTriesEveryAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "lab.test")
		m := &memnet{delay: 10 * time.Millisecond, ports: make(map[int]*memConn)}
		paris := m.node(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")), "127.0.0.1:1")
		lyon := m.node(t, ca.Issue(t, ca.ID(t, identity.Node, "lyon")), "127.0.0.1:2")
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		for _, run := range []func(context.Context) error{paris.Run, lyon.Run, func(ctx context.Context) error {
			return lyon.Keep(ctx, Target{ID: paris.ID(), Addrs: func() []string {
				return []string{"127.0.0.1:11", "127.0.0.1:12", "127.0.0.1:13", "127.0.0.1:14", "127.0.0.1:15", "127.0.0.1:1"}
			}})
		}} {
			running.Go(func() {
				if err := run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wait, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		if err := lyon.Wait(wait, paris.ID()); err != nil {
			t.Error(err)
		}
	})
}

func TestPauseBounds(t *testing.T) {
	for _, lost := range []time.Duration{-time.Hour, 0, time.Second, time.Minute, 24 * time.Hour} {
		for range 100 {
			if d := pauseFor(lost); d < 0 || d >= maxPause || (lost <= 0 && d >= minPause) {
				t.Fatalf("pause after %v is %v", lost, d)
			}
		}
	}
}

package overlay

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long a test waits for what should take milliseconds.
const limit = 10 * time.Second

// timeout returns a context that ends with the test or after limit.
func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// prepare makes a node on a free loopback port that is not run yet.
func prepare(t testing.TB, src identity.Source, edit ...func(*Options)) *Node {
	t.Helper()
	opts := Options{Source: src, Listen: "127.0.0.1:0"}
	for _, f := range edit {
		f(&opts)
	}
	n, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a node until the returned function is called or the test ends.
func run(t testing.TB, n *Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run of %s: %v", n.ID().Short(), err)
			}
		case <-time.After(limit):
			t.Errorf("Run of %s does not return", n.ID().Short())
		}
	}
	t.Cleanup(stop)
	return stop
}

// start makes and runs a node called name.
func start(t testing.TB, ca *testca.CA, name string, edit ...func(*Options)) *Node {
	t.Helper()
	n := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, name)), edit...)
	run(t, n)
	return n
}

// dial connects from to to.
func dial(t testing.TB, from, to *Node) {
	t.Helper()
	if _, err := from.Dial(timeout(t), to.Addr().String(), to.ID()); err != nil {
		t.Fatal(err)
	}
}

// until waits for a change of n's connections that makes ok true.
func until(t testing.TB, n *Node, what string, ok func() bool) {
	t.Helper()
	ctx := timeout(t)
	for {
		changed := n.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: waited %v for: %s", n.ID().Short(), limit, what)
		}
	}
}

// open opens a stream or fails the test.
func open(t testing.TB, from, to *Node, protocol string) *Stream {
	t.Helper()
	s, err := from.Open(timeout(t), to.ID(), protocol)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// receive takes from ch or fails the test.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(limit):
		t.Fatalf("waited %v for: %s", limit, what)
	}
	panic("unreachable")
}

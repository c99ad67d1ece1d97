package access

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fabric is a trust domain with the identities that the tests need.
type fabric struct {
	*testca.CA
	anna, device *testca.Source
	target       identity.ID
}

func newFabric(t testing.TB) *fabric {
	t.Helper()
	ca := testca.New(t, "lab.test")
	target := ca.ID(t, identity.Device, "pump-7")
	return &fabric{
		CA:     ca,
		anna:   ca.Issue(t, ca.ID(t, identity.User, "anna")),
		device: ca.Issue(t, target),
		target: target,
	}
}

// grants is a Decider: rules by caller and port; "!" begins a deny.
type grants map[identity.ID]map[uint16]string

func (g grants) Allow(caller identity.ID, network string, port uint16) (string, bool) {
	rule, ok := g[caller][port]
	if !ok || network != "tcp" {
		return "", false
	}
	if rule[0] == '!' {
		return rule[1:], false
	}
	return rule, true
}

// grant lets one caller reach one port.
func grant(caller identity.ID, port uint16) grants {
	return grants{caller: {port: `grant "vendor" main.hcl:3`}}
}

// pair returns two ends of a TCP connection, which has half closes and buffers
// as the real carriers do.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// serviceOn runs a TCP service on the device for the test's time and returns
// its port. Every connection is closed when serve returns.
func serviceOn(t testing.TB, serve func(net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return portOf(t, l.Addr())
}

func portOf(t testing.TB, a net.Addr) uint16 {
	t.Helper()
	_, text, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// carrierTo opens a carrier straight to agent, as the last node on the way does.
func carrierTo(t testing.TB, agent *Agent, target identity.ID) net.Conn {
	t.Helper()
	node, far := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer far.Close()
		agent.serve(ctx, far)
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	if st := exchange(node, &header{Target: target}); st != statusOK {
		t.Fatalf("carrier to %s: status %d", target, st)
	}
	return node
}

// within fails the test if ctx, which the caller ends, lives longer than d.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func TestAllowed(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{port}})
	agent.SetDecider(grant(f.anna.SVID().ID, port))
	conn, err := Dial(within(t, 5*time.Second), carrierTo(t, agent, f.target), f.anna, f.target, "tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 1<<20)
	rand.Read(sent)
	var got []byte
	var wg sync.WaitGroup
	wg.Go(func() { got, err = io.ReadAll(conn) })
	if _, err := conn.Write(sent); err != nil {
		t.Error(err)
	}
	closeWrite(conn) // the service answers until it has all of it
	wg.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("echo returned %d of %d bytes, error %v", len(got), len(sent), err)
	}
	conn.Close()
	if allowed, denied := agent.Counters(); allowed != 1 || denied != 0 {
		t.Errorf("counters %d allowed, %d denied", allowed, denied)
	}
}

func TestRefused(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := portOf(t, closed.Addr())
	closed.Close()
	anna := f.anna.SVID().ID
	all := grants{anna: {port: "all", silent: "all", 22: "all", 23: `!deny "telnet" main.hcl:9`}}
	exposed := []uint16{port, silent, 23}
	isDenied := func(rule, reason string) func(error) bool {
		return func(err error) bool {
			var d *Denied
			return errors.As(err, &d) && d.Rule == rule && strings.Contains(d.Reason, reason)
		}
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, tt := range []struct {
		name    string
		decider Decider
		revoked identity.Revoked
		network string
		port    uint16
		want    func(error) bool
	}{
		{"no policy yet", nil, nil, "tcp", port, isDenied("", "device:pump-7 has no policy yet")},
		{"no grant", grants{}, nil, "tcp", 8080, isDenied("", "no grant for tcp/8080 from user:anna at device:pump-7")},
		{"deny rule", all, nil, "tcp", 23, isDenied(`deny "telnet" main.hcl:9`, `denied by deny "telnet" main.hcl:9`)},
		{"not exposed", all, nil, "tcp", 22, isDenied("", "add 22 to --expose")},
		{"revoked caller", all, func(*x509.Certificate) bool { return true }, "tcp", port, isDenied("", "does not accept our certificate")},
		{"nothing listens", all, nil, "tcp", silent, is(ErrNoService)},
		{"another network", all, nil, "udp", port, isDenied("", "no grant for udp/")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			agent := NewAgent(AgentOptions{Source: f.device, Expose: exposed, Revoked: tt.revoked})
			agent.SetDecider(tt.decider)
			conn, err := Dial(within(t, 5*time.Second), carrierTo(t, agent, f.target), f.anna, f.target, tt.network, tt.port)
			if err == nil {
				conn.Close()
			}
			if !tt.want(err) {
				t.Errorf("dial: %v", err)
			}
			if n := len(agent.flows.all()); n != 0 {
				t.Errorf("%d flows left", n)
			}
		})
	}
}

// The caller may name a host of the device, and it must be the device itself.
func TestHost(t *testing.T) {
	f := newFabric(t)
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{80}})
	for host, want := range map[string]int{"": 2, "localhost": 2, "127.0.0.1": 1, "::1": 1, "192.168.0.10": 0, "127.0.0.2": 0} {
		addrs, refusal := agent.service(&flow{request: request{Network: "tcp", Port: 80, Host: host}})
		if len(addrs) != want || (refusal == nil) != (want > 0) {
			t.Errorf("host %q: %v, %v", host, addrs, refusal)
		}
	}
}

// openFlow returns a flow to an echo service that has carried a byte.
func openFlow(t *testing.T, f *fabric, agent *Agent, port uint16) net.Conn {
	t.Helper()
	conn, err := Dial(within(t, 5*time.Second), carrierTo(t, agent, f.target), f.anna, f.target, "tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { abort(conn) })
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// wantCut fails unless conn ends with an error, not in order.
func wantCut(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("read after the flow was refused: %v", err)
	}
	t.Logf("cut after %v with: %v", time.Since(start), err)
}

func TestRecheckEndsOpenFlow(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	changes := make(chan struct{}, 16)
	agent := NewAgent(AgentOptions{
		Source: f.device, Expose: []uint16{port},
		OnChange: func() { changes <- struct{}{} },
	})
	anna := f.anna.SVID().ID
	agent.SetDecider(grant(anna, port))
	conn := openFlow(t, f, agent, port)
	<-changes
	flows := agent.Flows()
	if len(flows) != 1 || flows[0].Caller != anna || flows[0].Port != port || flows[0].Rule == "" || flows[0].Sent != 1 {
		t.Fatalf("flows: %+v", flows)
	}
	agent.SetDecider(grant(anna, port)) // the same rights in a new version
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatalf("a version with the same grant cut the flow: %v", err)
	}
	agent.SetDecider(grants{anna: {port: `!deny "maintenance" main.hcl:12`}})
	wantCut(t, conn)
	<-changes
	if flows := agent.Flows(); len(flows) != 0 {
		t.Errorf("flows after the deny: %+v", flows)
	}
	_, err := Dial(within(t, 5*time.Second), carrierTo(t, agent, f.target), f.anna, f.target, "tcp", port)
	var denied *Denied
	if !errors.As(err, &denied) || denied.Rule != `deny "maintenance" main.hcl:12` {
		t.Errorf("next connection: %v", err)
	}
}

// A flow whose service neither reads nor writes is cut as fast: the agent's own
// end must not wait for buffers to drain.
func TestRecheckEndsStuckFlow(t *testing.T) {
	f := newFabric(t)
	hang := make(chan struct{})
	port := serviceOn(t, func(net.Conn) { <-hang })
	t.Cleanup(func() { close(hang) }) // before the service is waited for
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{port}})
	agent.SetDecider(grant(f.anna.SVID().ID, port))
	conn, err := Dial(within(t, 5*time.Second), carrierTo(t, agent, f.target), f.anna, f.target, "tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	defer abort(conn)
	err = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for err == nil { // until every buffer on the way is full
		_, err = conn.Write(make([]byte, 64<<10))
	}
	agent.SetDecider(nil)
	wantCut(t, conn)
}

func TestRevokedCallerIsCut(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	var revoked atomic.Bool
	agent := NewAgent(AgentOptions{
		Source: f.device, Expose: []uint16{port},
		Revoked: func(*x509.Certificate) bool { return revoked.Load() },
	})
	agent.SetDecider(grant(f.anna.SVID().ID, port))
	conn := openFlow(t, f, agent, port)
	revoked.Store(true)
	agent.Recheck()
	wantCut(t, conn)
}

func TestFlowEndsWithCertificate(t *testing.T) {
	f := newFabric(t)
	f.anna = f.Issue(t, f.anna.SVID().ID, testca.ValidFor(3*time.Second))
	port := serviceOn(t, echo)
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{port}})
	agent.SetDecider(grant(f.anna.SVID().ID, port))
	conn := openFlow(t, f, agent, port)
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || time.Now().Before(f.anna.SVID().NotAfter()) {
		t.Errorf("ended with %v before %v", err, f.anna.SVID().NotAfter())
	}
}

func TestLimits(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{port}, MaxFlows: 3, MaxFlowsPerCaller: 2})
	bert := f.Issue(t, f.ID(t, identity.User, "bert"))
	rules := grant(f.anna.SVID().ID, port)
	rules[bert.SVID().ID] = rules[f.anna.SVID().ID]
	agent.SetDecider(rules)
	openFlow(t, f, agent, port)
	openFlow(t, f, agent, port)
	dial := func(src identity.Source) error {
		conn, err := Dial(within(t, 5*time.Second), carrierTo(t, agent, f.target), src, f.target, "tcp", port)
		if err == nil {
			t.Cleanup(func() { abort(conn) })
		}
		return err
	}
	if err := dial(f.anna); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "user:anna has 2 connections open") {
		t.Errorf("third flow of one caller: %v", err)
	}
	if err := dial(bert); err != nil {
		t.Errorf("first flow of another caller: %v", err)
	}
	if err := dial(bert); !errors.Is(err, ErrBusy) {
		t.Errorf("fourth flow in all: %v", err)
	}
}

func TestConcurrentFlows(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{port}})
	rules := grant(f.anna.SVID().ID, port)
	agent.SetDecider(rules)
	var wg sync.WaitGroup
	for range 12 {
		carrier := carrierTo(t, agent, f.target)
		wg.Go(func() {
			conn, err := Dial(t.Context(), carrier, f.anna, f.target, "tcp", port)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			want := make([]byte, 200<<10)
			rand.Read(want)
			var reader sync.WaitGroup
			reader.Go(func() {
				if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			})
			if _, err := conn.Write(want); err != nil {
				t.Error(err)
			}
			closeWrite(conn)
			reader.Wait()
		})
		agent.SetDecider(rules)
		agent.Flows()
	}
	wg.Wait()
}

// A carrier on which nobody speaks is given up.
func TestSilentCaller(t *testing.T) {
	f := newFabric(t)
	agent := NewAgent(AgentOptions{Source: f.device})
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		start := time.Now()
		agent.serve(t.Context(), far)
		if got := time.Since(start); got != handshakeTimeout {
			t.Errorf("gave up after %v, want %v", got, handshakeTimeout)
		}
	})
}

func TestManySilentCallers(t *testing.T) {
	f := newFabric(t)
	agent := NewAgent(AgentOptions{Source: f.device})
	for range maxHandshakes {
		carrierTo(t, agent, f.target)
	}
	near, far := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { agent.serve(ctx, far) })
	if st := exchange(near, &header{Target: f.target}); st != statusBusy {
		t.Errorf("status %d, want busy", st)
	}
}

func TestCarrierForAnother(t *testing.T) {
	f := newFabric(t)
	agent := NewAgent(AgentOptions{Source: f.device})
	near, far := pair(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { agent.serve(t.Context(), far) })
	if st := exchange(near, &header{Target: f.ID(t, identity.Device, "valve-1")}); st != statusNotHere {
		t.Errorf("status %d, want not here", st)
	}
}

// When the agent stops, its flows end and no goroutine outlives the context.
func TestStop(t *testing.T) {
	f := newFabric(t)
	port := serviceOn(t, echo)
	agent := NewAgent(AgentOptions{Source: f.device, Expose: []uint16{port}})
	agent.SetDecider(grant(f.anna.SVID().ID, port))
	near, far := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		agent.serve(ctx, far)
	}()
	if st := exchange(near, &header{Target: f.target}); st != statusOK {
		t.Fatal(st)
	}
	conn, err := Dial(t.Context(), near, f.anna, f.target, "tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	wantCut(t, conn)
}

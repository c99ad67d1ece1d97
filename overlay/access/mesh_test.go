package access

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/overlay"
)

// run runs an overlay node for the test's time.
func run(t testing.TB, src identity.Source, handle func(n *overlay.Node)) *overlay.Node {
	t.Helper()
	n, err := overlay.New(overlay.Options{
		Source: src, Listen: "127.0.0.1:0",
		Accept: func(identity.ID) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if handle != nil {
		handle(n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return n
}

func connect(t testing.TB, from, to *overlay.Node) {
	t.Helper()
	ctx := within(t, 5*time.Second)
	if _, err := from.Dial(ctx, to.Addr().String(), to.ID()); err != nil {
		t.Fatal(err)
	}
	if err := to.Wait(ctx, from.ID()); err != nil {
		t.Fatal(err)
	}
}

// mesh is two nodes and an agent that is connected to the second.
type mesh struct {
	*fabric
	paris, lyon *Relay
	device      *overlay.Node
	agent       *Agent
}

func newMesh(t testing.TB, o AgentOptions) *mesh {
	t.Helper()
	m := &mesh{fabric: newFabric(t)}
	m.paris, m.lyon = m.newRelay(t, "paris"), m.newRelay(t, "lyon")
	o.Source = m.fabric.device
	m.agent = NewAgent(o)
	m.device = run(t, o.Source, func(n *overlay.Node) { n.Handle(Protocol, m.agent.Handle) })
	connect(t, m.paris.node, m.lyon.node)
	connect(t, m.device, m.lyon.node)
	return m
}

func (m *mesh) newRelay(t testing.TB, name string) *Relay {
	t.Helper()
	var r *Relay
	run(t, m.Issue(t, m.ID(t, identity.Node, name)), func(n *overlay.Node) {
		r = NewRelay(RelayOptions{Node: n})
		n.Handle(Protocol, r.Handle)
	})
	return r
}

// dialer returns how user:anna at the node of r dials the device.
func (m *mesh) dialer(r *Relay, port uint16) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		carrier, err := r.Carrier(ctx, m.target)
		if err != nil {
			return nil, err
		}
		return Dial(ctx, carrier, m.anna, m.target, "tcp", port)
	}
}

// forward runs a forward for the test's time and returns its address and what
// Forward returned.
func forwardOf(t testing.TB, dial func(context.Context) (net.Conn, error)) (addr string, done <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { result <- Forward(ctx, l, dial, nil) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l.Addr().String(), result
}

// webServer serves HTTP on the device: GET /big returns 5 MB, anything else a
// greeting.
func webServer(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, big))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pressure 4.2 bar") })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	server := &http.Server{Handler: mux}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		wg.Wait()
	})
	return portOf(t, l.Addr())
}

// big is a response of more than a stream's window.
const big = 2 << 20

func TestHTTPThroughMesh(t *testing.T) {
	port := webServer(t)
	m := newMesh(t, AgentOptions{Expose: []uint16{port}})
	anna := m.anna.SVID().ID
	m.agent.SetDecider(grant(anna, port))
	for name, r := range map[string]*Relay{"two nodes": m.paris, "one node": m.lyon} {
		t.Run(name, func(t *testing.T) {
			addr, done := forwardOf(t, m.dialer(r, port))
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if got, err := get(client, "http://"+addr+"/"); err != nil || string(got) != "pressure 4.2 bar" {
						t.Errorf("GET / returned %q, %v", got, err)
					}
					if got, err := get(client, "http://"+addr+"/big"); err != nil || len(got) != big {
						t.Errorf("GET /big returned %d bytes, %v", len(got), err)
					}
				})
			}
			wg.Wait()

			resp, err := client.Get("http://" + addr + "/slow")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			m.agent.SetDecider(grants{anna: {port: `!deny "maintenance" main.hcl:12`}})
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("the response ended as if it were complete")
			}
			_, err = m.dialer(r, port)(within(t, 5*time.Second))
			var denied *Denied
			if !errors.As(err, &denied) || denied.Rule != `deny "maintenance" main.hcl:12` {
				t.Errorf("next connection: %v", err)
			}
			m.agent.SetDecider(grant(anna, port))
			if got, err := get(client, "http://"+addr+"/"); err != nil || string(got) != "pressure 4.2 bar" {
				t.Errorf("granted again: GET / returned %q, %v", got, err)
			}
			select {
			case err := <-done:
				t.Errorf("forward ended with %v", err)
			default:
			}
		})
	}
}

func get(client *http.Client, url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func TestForwardEndsWithFirstDenial(t *testing.T) {
	m := newMesh(t, AgentOptions{Expose: []uint16{8080}})
	m.agent.SetDecider(grants{})
	addr, done := forwardOf(t, m.dialer(m.paris, 8080))
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		defer conn.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) { // it may be refused before Dial returns
		t.Fatal(err)
	}
	err = <-done
	var denied *Denied
	if !errors.As(err, &denied) || !strings.Contains(err.Error(), "no grant for tcp/8080 from user:anna at device:pump-7") {
		t.Errorf("forward ended with %v", err)
	}
}

func TestCarrierErrors(t *testing.T) {
	m := newMesh(t, AgentOptions{})
	for _, tt := range []struct {
		name   string
		target identity.ID
		want   error
		text   string
	}{
		{"unknown", m.ID(t, identity.Device, "valve-1"), ErrNotFound, "device:valve-1 has no agent connected at any reachable site; is hpmq-lite up running there?"},
		{"a node", m.lyon.node.ID(), ErrNotFound, "is a node, which offers no ports"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := m.paris.Carrier(within(t, 10*time.Second), tt.target)
			if c != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("carrier %v, error %v", c, err)
			}
		})
	}
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.paris.Carrier(ctx, m.target); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// An agent that is connected and does not answer is another thing than one that
// is not there.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	f := newFabric(t)
	m := &mesh{fabric: f}
	m.paris, m.lyon = m.newRelay(t, "paris"), m.newRelay(t, "lyon")
	device := run(t, f.device, func(n *overlay.Node) {
		n.Handle(Protocol, func(_ context.Context, s *overlay.Stream) { s.Reset() })
	})
	connect(t, m.paris.node, m.lyon.node)
	connect(t, device, m.lyon.node)
	for _, r := range []*Relay{m.lyon, m.paris} {
		if _, err := r.Carrier(within(t, 10*time.Second), f.target); !errors.Is(err, ErrUnreachable) {
			t.Errorf("carrier at %s: %v", r.node.ID().Short(), err)
		}
	}
}

// A carrier that came from a node goes to no third node: paris - lyon - metz
// with the device at metz is not a way.
func TestOneHopOnly(t *testing.T) {
	m := newMesh(t, AgentOptions{})
	metz := m.newRelay(t, "metz")
	connect(t, metz.node, m.paris.node)
	if _, err := metz.Carrier(within(t, 10*time.Second), m.target); !errors.Is(err, ErrNotFound) {
		t.Errorf("carrier over two nodes: %v", err)
	}
	s, err := m.paris.node.Open(t.Context(), m.lyon.node.ID(), Protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if st := exchange(s, &header{Target: m.target}); st != statusNotHere {
		t.Errorf("a carrier without hops left: status %d", st)
	}
}

// Devices and users may not open carriers: they go to their own node's socket.
func TestOnlyNodesOpenCarriers(t *testing.T) {
	m := newMesh(t, AgentOptions{})
	valve := run(t, m.Issue(t, m.ID(t, identity.Device, "valve-1")), nil)
	connect(t, valve, m.lyon.node)
	connect(t, valve, m.device)
	for _, to := range []identity.ID{m.lyon.node.ID(), m.device.ID()} {
		s, err := valve.Open(t.Context(), to, Protocol)
		if err != nil {
			t.Fatal(err)
		}
		err = writeFrame(s, &header{Target: m.target, Hops: 1})
		if _, readErr := s.Read(make([]byte, 1)); err == nil {
			err = readErr
		}
		s.Close()
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s answered a device: %v", to.Short(), err)
		}
	}
}

func TestCarrierLimit(t *testing.T) {
	f := newFabric(t)
	m := &mesh{fabric: f}
	run(t, f.Issue(t, f.ID(t, identity.Node, "lyon")), func(n *overlay.Node) {
		m.lyon = NewRelay(RelayOptions{Node: n, MaxCarriers: 2})
		n.Handle(Protocol, m.lyon.Handle)
	})
	m.agent = NewAgent(AgentOptions{Source: f.device})
	m.device = run(t, f.device, func(n *overlay.Node) { n.Handle(Protocol, m.agent.Handle) })
	connect(t, m.device, m.lyon.node)
	var open []net.Conn
	for range 2 {
		c, err := m.lyon.Carrier(within(t, 5*time.Second), f.target)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := m.lyon.Carrier(within(t, 5*time.Second), f.target); !errors.Is(err, ErrBusy) {
		t.Errorf("third carrier: %v", err)
	}
	for _, c := range open {
		c.Close()
		c.Close() // counts once
	}
	c, err := m.lyon.Carrier(within(t, 5*time.Second), f.target)
	if err != nil {
		t.Fatalf("after the first two were closed: %v", err)
	}
	abort(c)
	if n := len(m.lyon.carriers); n != 0 {
		t.Errorf("%d peers with carriers left", n)
	}
}

// The end of the agent's connection, which is how a node acts on a revocation,
// ends what runs through it.
func TestDisconnectEndsFlows(t *testing.T) {
	port := serviceOn(t, echo)
	m := newMesh(t, AgentOptions{Expose: []uint16{port}})
	m.agent.SetDecider(grant(m.anna.SVID().ID, port))
	conn, err := m.dialer(m.paris, port)(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.lyon.node.Disconnect(m.target, "revoked")
	wantCut(t, conn)
	_, err = m.dialer(m.paris, port)(within(t, 5*time.Second))
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("next connection: %v", err)
	}
}

func TestSlice(t *testing.T) {
	f := newFabric(t)
	var mu sync.Mutex
	var got []string
	large := make(chan identity.ID, 1)
	device := run(t, f.device, func(n *overlay.Node) {
		n.Handle(SliceProtocol, ReceiveSlice(func(_ identity.ID, b []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if string(b) == "old" {
				return errors.New("not newer than version 7")
			}
			got = append(got, string(b))
			return nil
		}, func(node identity.ID, _ error) { large <- node }))
	})
	node := run(t, f.Issue(t, f.ID(t, identity.Node, "lyon")), nil)
	connect(t, device, node)
	send := func(n *overlay.Node, slice []byte) error {
		s, err := n.Open(t.Context(), f.target, SliceProtocol)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return SendSlice(t.Context(), s, slice)
	}
	big := strings.Repeat("r", 300<<10)
	for _, slice := range []string{"rules", "", big} {
		if err := send(node, []byte(slice)); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(node, []byte("old")); err == nil || !strings.Contains(err.Error(), "refused: not newer than version 7") {
		t.Errorf("refused slice: %v", err)
	}
	if err := send(node, make([]byte, MaxSlice+1)); err == nil {
		t.Error("a slice over the limit was sent")
	}
	s, err := node.Open(t.Context(), f.target, SliceProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write(binary.BigEndian.AppendUint32(nil, MaxSlice+1)); err != nil {
		t.Fatal(err)
	}
	select {
	case by := <-large:
		if by != node.ID() {
			t.Errorf("by %s", by)
		}
	case <-within(t, 5*time.Second).Done():
		t.Error("a slice over the limit was not told of")
	}
	valve := run(t, f.Issue(t, f.ID(t, identity.Device, "valve-1")), nil)
	connect(t, valve, device)
	if err := send(valve, []byte("mine")); err == nil {
		t.Error("a slice from a device was taken")
	}
	if len(got) != 3 || got[0] != "rules" || got[1] != "" || got[2] != big {
		t.Errorf("%d slices arrived", len(got))
	}
}

func BenchmarkFlow(b *testing.B) {
	port := serviceOn(b, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	m := newMesh(b, AgentOptions{Expose: []uint16{port}})
	m.agent.SetDecider(grant(m.anna.SVID().ID, port))
	for name, r := range map[string]*Relay{"nodes=1": m.lyon, "nodes=2": m.paris} {
		b.Run(name, func(b *testing.B) {
			conn, err := m.dialer(r, port)(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			chunk := make([]byte, 64<<10)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

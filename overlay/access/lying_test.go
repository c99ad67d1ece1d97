package access

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// These tests put a node that lies between the caller and the agent. It has a
// genuine node certificate, sees every byte and may do with them what it wants.

// scene is a caller who may reach a port, the agent, and the lying node.
type scene struct {
	*fabric
	agent *Agent
	evil  *testca.Source
	port  uint16
	seen  chan string // what the service on the device was sent
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{fabric: newFabric(t), seen: make(chan string, 16)}
	s.evil = s.Issue(t, s.ID(t, identity.Node, "evil"))
	s.port = serviceOn(t, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		s.seen <- string(b)
	})
	s.agent = NewAgent(AgentOptions{Source: s.device, Expose: []uint16{s.port}})
	s.agent.SetDecider(grant(s.anna.SVID().ID, s.port))
	return s
}

// call dials the target with a carrier whose far end serve has.
func (s *scene) call(t *testing.T, serve func(far net.Conn)) (net.Conn, error) {
	t.Helper()
	near, far := pair(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer far.Close()
		serve(far)
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { near.Close() })
	return Dial(within(t, 5*time.Second), near, s.anna, s.target, "tcp", s.port)
}

// A node that answers the caller's TLS itself is found out by its certificate,
// before the caller has said what it wants.
func TestNodeThatTerminates(t *testing.T) {
	s := newScene(t)
	forged := testca.New(t, s.Domain) // its own authority, of the same name
	for _, tt := range []struct {
		name string
		src  identity.Source
		want string
	}{
		{"as itself", s.evil, "peer is spiffe://lab.test/node/evil, want spiffe://lab.test/device/pump-7"},
		{"as another device", s.Issue(t, s.ID(t, identity.Device, "valve-1")), "want spiffe://lab.test/device/pump-7"},
		{"with a forged certificate", forged.Issue(t, s.target), "unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			read := make(chan string, 1)
			conn, err := s.call(t, func(far net.Conn) {
				server := tls.Server(far, identity.ServerConfig(tt.src, []string{Protocol}, tls.NoClientCert))
				b, _ := io.ReadAll(server)
				read <- string(b)
			})
			if err == nil {
				conn.Close()
				t.Fatal("the caller took the node for the device")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("dial: %v, want %q", err, tt.want)
			}
			if got := <-read; got != "" {
				t.Errorf("the node read %q", got)
			}
		})
	}
}

// A node that calls the agent in somebody's place is who its certificate says.
func TestNodeThatCalls(t *testing.T) {
	s := newScene(t)
	_, err := Dial(within(t, 5*time.Second), carrierTo(t, s.agent, s.target), s.evil, s.target, "tcp", s.port)
	var denied *Denied
	if !errors.As(err, &denied) || !strings.Contains(denied.Reason, "from node:evil") {
		t.Errorf("dial as the node: %v", err)
	}
	forged := testca.New(t, s.Domain).Issue(t, s.anna.SVID().ID)
	both := &mixedSource{svid: forged.SVID(), bundle: s.Bundle()}
	_, err = Dial(within(t, 5*time.Second), carrierTo(t, s.agent, s.target), both, s.target, "tcp", s.port)
	if !errors.As(err, &denied) || !strings.Contains(denied.Reason, "does not accept our certificate, or its clock is wrong") {
		t.Errorf("dial with a forged certificate of the caller: %v", err)
	}
	if len(s.seen) != 0 {
		t.Error("the service was reached")
	}
}

// mixedSource presents a certificate and trusts roots that are strangers.
type mixedSource struct {
	svid   *identity.SVID
	bundle *identity.Bundle
}

func (m *mixedSource) SVID() *identity.SVID     { return m.svid }
func (m *mixedSource) Bundle() *identity.Bundle { return m.bundle }

// A node that sends a caller's recorded bytes again gets nowhere.
func TestNodeThatReplays(t *testing.T) {
	s := newScene(t)
	var recorded bytes.Buffer
	ended := make(chan struct{})
	conn, err := s.call(t, func(far net.Conn) {
		defer close(ended)
		honest := carrierTo(t, s.agent, s.target)
		_ = Splice(t.Context(), &recordingConn{TCPConn: far.(*net.TCPConn), in: &recorded}, honest)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("open the valve")); err != nil {
		t.Fatal(err)
	}
	closeWrite(conn)
	if got := <-s.seen; got != "open the valve" {
		t.Fatalf("the service was sent %q", got)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-ended
	if bytes.Contains(recorded.Bytes(), []byte("valve")) || bytes.Contains(recorded.Bytes(), []byte("network")) {
		t.Error("the node saw what was sent")
	}

	again := carrierTo(t, s.agent, s.target)
	if _, err := again.Write(recorded.Bytes()); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, again) // until the agent has had enough
	if allowed, _ := s.agent.Counters(); allowed != 1 {
		t.Errorf("%d connections allowed, want the first only", allowed)
	}
	if len(s.seen) != 0 {
		t.Errorf("the service was sent %q again", <-s.seen)
	}
}

// recordingConn keeps what was read.
type recordingConn struct {
	*net.TCPConn
	in *bytes.Buffer
}

func (c *recordingConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.in.Write(b[:n])
	return n, err
}

// A node that brings the caller to another device, which would let it in, is
// found out by that device's certificate.
func TestNodeThatRedirects(t *testing.T) {
	s := newScene(t)
	other := s.Issue(t, s.ID(t, identity.Device, "valve-1"))
	agent := NewAgent(AgentOptions{Source: other, Expose: []uint16{s.port}})
	agent.SetDecider(grant(s.anna.SVID().ID, s.port))
	conn, err := s.call(t, func(far net.Conn) {
		_ = Splice(t.Context(), far, carrierTo(t, agent, other.SVID().ID))
	})
	if err == nil {
		conn.Close()
		t.Fatal("the caller took one device for another")
	}
	if allowed, denied := agent.Counters(); allowed+denied != 0 {
		t.Errorf("the other device heard the request: %d allowed, %d denied", allowed, denied)
	}
}

// A node that changes bytes ends the connection and changes nothing.
func TestNodeThatTampers(t *testing.T) {
	s := newScene(t)
	tamper := make(chan struct{})
	conn, err := s.call(t, func(far net.Conn) {
		_ = Splice(t.Context(), &tamperingConn{TCPConn: far.(*net.TCPConn), from: tamper}, carrierTo(t, s.agent, s.target))
	})
	if err != nil {
		t.Fatal(err)
	}
	close(tamper)
	if _, err := conn.Write([]byte("open the valve")); err != nil {
		t.Fatal(err)
	}
	if got := <-s.seen; got != "" {
		t.Errorf("the service was sent %q", got)
	}
	wantCut(t, conn)
}

// tamperingConn flips the last bit of what is read once from is closed.
type tamperingConn struct {
	*net.TCPConn
	from chan struct{}
}

func (c *tamperingConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	select {
	case <-c.from:
		if n > 0 {
			b[n-1] ^= 1
		}
	default:
	}
	return n, err
}

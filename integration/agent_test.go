package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// agentStatus is what the tests read of hpmq-lite status -o json.
type agentStatus struct {
	ID      string
	Running bool
	Node    *struct{ ID string }
	Policy  *struct{ Rules, Nodes, Revoked int }
	Flows   []struct{ Caller, Rule string }
	Denied  int
}

func (d *device) agent(t *testing.T) *agentStatus {
	t.Helper()
	st := new(agentStatus)
	r := d.try(t, "hpmq-lite", "status", "--dir", d.dir, "-o", "json")
	if r.code != 0 && r.code != 3 {
		t.Fatalf("hpmq-lite status: exit code %d\n%s", r.code, r.stderr)
	}
	if r.stdout == "" {
		return st // it has never run
	}
	if err := json.Unmarshal([]byte(r.stdout), st); err != nil {
		t.Fatal(err)
	}
	return st
}

// TestAgent: an agent at one site serves people at another, tells what it does,
// and finds its node again after that was restarted and after a cut.
func TestAgent(t *testing.T) {
	need(t, "netns", "ip")
	f := newFabric(t)
	pump := f.net.addHost("device").enrol(t, f.paris, "pump-7")
	pump.serveEcho(t, 8080)
	f.lyon.run(t, "hpmq", "login", f.paris.ticket(t, "user", "add", "anna"))

	pump.try(t, "hpmq-lite", "status", "--dir", pump.dir).refused(t, 3, "no agent runs", "hpmq-lite up")
	f.lyon.try(t, "hpmq", "forward", "pump-7:8080").refused(t, 5, "no agent connected", "hpmq-lite up")
	pump.cut()
	pump.start(t, "hpmq-lite", "up", "--dir", pump.dir, "--expose", "8080,8081", "--node", f.paris.address+":7844")
	eventually(t, 5*time.Second, "the agent says that it refuses everybody", func() bool {
		r := pump.try(t, "hpmq-lite", "status", "--dir", pump.dir)
		return r.code == 0 && strings.Contains(r.stdout, "none yet: everybody is refused") && strings.Contains(r.stdout, "not connected")
	})
	pump.heal()
	eventually(t, 20*time.Second, "it has connected and has a policy", func() bool {
		st := pump.agent(t)
		return st.Node != nil && st.Policy != nil
	})
	f.lyon.try(t, "hpmq", "forward", "pump-7:8080").refused(t, 4, "no grant for tcp/8080 from user:anna at device:pump-7", "hpmq why")

	f.paris.setPolicy(t, "vendor.hcl", `
grant "vendor" {
  to = ["user:anna"]
  network {
    dst   = ["device:pump-7"]
    allow = ["tcp/8000-8100"]
  }
}
deny "panel" {
  to     = ["user:*"]
  reason = "the panel is for the plant's own people"
  network {
    dst   = ["device:pump-7"]
    ports = ["tcp/8081"]
  }
}
`)
	var denied result
	eventually(t, 10*time.Second, "the deny rule has reached the agent", func() bool {
		denied = f.lyon.try(t, "hpmq", "forward", "pump-7:8081", "--listen", "127.0.0.1:0")
		return denied.code == 4 && strings.Contains(denied.stderr, `deny "panel" vendor.hcl:`)
	})
	denied.refused(t, 4, `denied by deny "panel" vendor.hcl:9`, "hpmq why")

	forward := f.lyon.start(t, "hpmq", "forward", "pump-7:8080")
	forward.waitLine("forwarding", 10*time.Second)
	f.echoMany(t, 8, 4<<20)

	conn := f.lyon.mustDial(t, "127.0.0.1:8080")
	if err := echo(conn, []byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the open flow shows", func() bool {
		st := pump.agent(t)
		return len(st.Flows) == 1 && strings.HasSuffix(st.Flows[0].Caller, "/user/anna") && strings.Contains(st.Flows[0].Rule, `grant "vendor"`) && st.Denied >= 2
	})
	conn.Close()

	f.parisNode.stop()
	f.parisNode = f.paris.up(t)
	f.awaitEcho(t, 20*time.Second, "its node was restarted")
	pump.cut()
	if f.echo(3*time.Second) == nil {
		t.Error("a forward works over a cable that is out")
	}
	pump.heal()
	f.awaitEcho(t, 20*time.Second, "its cable was out")
}

// serveEcho answers on a port of the device with what it hears.
func (d *device) serveEcho(t *testing.T, port int) {
	t.Helper()
	var l net.Listener
	err := d.onNetwork(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until the caller leaves
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
}

// echo sends data and wants it back.
func echo(conn net.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(conn, got)
	if werr := <-sent; werr != nil {
		err = werr
	}
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%d bytes came back changed", len(data))
	}
	return err
}

// echo tries one short connection through the forward at lyon.
func (f *fabric) echo(limit time.Duration) error {
	conn, err := f.lyon.dial("127.0.0.1:8080")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return echo(conn, []byte("hello"))
}

func (f *fabric) awaitEcho(t *testing.T, limit time.Duration, after string) {
	t.Helper()
	took := eventually(t, limit, "the forward works after "+after, func() bool { return f.echo(2*time.Second) == nil })
	t.Logf("the forward works %s after %s", took.Round(100*time.Millisecond), after)
}

// echoMany moves size bytes both ways on each of n connections at a time.
func (f *fabric) echoMany(t *testing.T, n, size int) {
	t.Helper()
	var all sync.WaitGroup
	began := time.Now()
	for range n {
		data := make([]byte, size)
		_, _ = rand.Read(data) // never fails
		conn := f.lyon.mustDial(t, "127.0.0.1:8080")
		all.Go(func() {
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Error(err)
			}
			if err := echo(conn, data); err != nil {
				t.Errorf("one of %d connections: %v", n, err)
			}
		})
	}
	all.Wait()
	t.Logf("%d connections moved %d MiB both ways in %s", n, n*size>>20, time.Since(began).Round(time.Millisecond))
}

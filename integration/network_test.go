package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// network is a router namespace and hosts around it, each in a namespace of its
// own on a subnet of its own: host i has 10.77.i.2, the router 10.77.i.1.
type network struct {
	t      *testing.T
	prefix string
	hosts  int
}

var networks atomic.Int32

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, prefix: fmt.Sprintf("t%d-", networks.Add(1))}
	n.must("ip", "netns", "add", n.router())
	t.Cleanup(func() { n.must("ip", "netns", "del", n.router()) })
	n.must("ip", "netns", "exec", n.router(), "sysctl", "-qw", "net.ipv4.ip_forward=1")
	return n
}

func (n *network) router() string { return n.prefix + "router" }

func (n *network) must(args ...string) {
	n.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// host is one machine of the network.
type host struct {
	net      *network
	name, ns string
	address  string
	uplink   string // the router's end of its cable
	home     string // $HOME, empty at first
}

// addHost makes a namespace with a cable to the router.
func (n *network) addHost(name string) *host {
	n.t.Helper()
	n.hosts++
	h := &host{
		net: n, name: name, ns: n.prefix + name,
		address: fmt.Sprintf("10.77.%d.2", n.hosts), uplink: fmt.Sprintf("up%d", n.hosts),
		home: n.t.TempDir(),
	}
	n.must("ip", "netns", "add", h.ns)
	n.t.Cleanup(func() { n.must("ip", "netns", "del", h.ns) })
	n.must("ip", "link", "add", h.uplink, "netns", n.router(), "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	gateway := fmt.Sprintf("10.77.%d.1", n.hosts)
	n.must("ip", "-n", n.router(), "addr", "add", gateway+"/24", "dev", h.uplink)
	n.must("ip", "-n", n.router(), "link", "set", h.uplink, "up")
	n.must("ip", "-n", h.ns, "addr", "add", h.address+"/24", "dev", "eth0")
	n.must("ip", "-n", h.ns, "link", "set", "lo", "up")
	n.must("ip", "-n", h.ns, "link", "set", "eth0", "up")
	n.must("ip", "-n", h.ns, "route", "add", "default", "via", gateway)
	return h
}

// cut takes the host's cable out; heal puts it back.
func (h *host) cut() { h.net.must("ip", "-n", h.net.router(), "link", "set", h.uplink, "down") }

func (h *host) heal() { h.net.must("ip", "-n", h.net.router(), "link", "set", h.uplink, "up") }

// onNetwork runs f on a thread that is on h's network; sockets made there stay on
// it. The thread is thrown away afterwards.
func (h *host) onNetwork(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + h.ns)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), syscall.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// dial connects from h.
func (h *host) dial(addr string) (conn net.Conn, err error) {
	err = h.onNetwork(func() (err error) {
		conn, err = net.Dial("tcp", addr)
		return err
	})
	return conn, err
}

// mustDial is dial where somebody listens.
func (h *host) mustDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := h.dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// occupy takes a port of h, as another program would.
func (h *host) occupy(t *testing.T, network string, port int) (release func()) {
	t.Helper()
	var l interface{ Close() error }
	err := h.onNetwork(func() (err error) {
		if network == "udp" {
			l, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		} else {
			l, err = net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() { l.Close() }
}

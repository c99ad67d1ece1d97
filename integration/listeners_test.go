package integration

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPlainListener: whoever runs the node is service:local there, every other
// user of the machine is a guest, and other machines are nobody.
func TestPlainListener(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub", "setpriv")
	n := newNetwork(t)
	h, other := n.addHost("paris"), n.addHost("other")
	h.up(t)
	pub := []string{"-h", "127.0.0.1", "-V", "5", "-q", "1", "-d", "-m", "x", "-t"}
	for _, tt := range []struct {
		uid, topic string
		allowed    bool
	}{
		{"0", "site/home/any/thing", true},
		{"0", "any/thing", true}, // here, and nowhere else
		{"0", "$SYS/x", false},
		{"65534", "demo/x", true},
		{"65534", "site/home/any/thing", false},
		{"65534", "$SYS/x", false},
	} {
		r := h.as(t, tt.uid, "mosquitto_pub", append(pub, tt.topic)...)
		if denied := strings.Contains(r.stdout, "RC:135"); denied == tt.allowed || r.code != 0 && tt.allowed {
			t.Errorf("uid %s publishes %s: exit code %d, want allowed=%v\n%s%s", tt.uid, tt.topic, r.code, tt.allowed, r.stdout, r.stderr)
		}
	}
	for filter, allowed := range map[string]bool{"demo/#": true, "#": false, "site/home/#": false, "$SYS/#": false} {
		r := h.as(t, "65534", "mosquitto_sub", "-h", "127.0.0.1", "-V", "5", "-d", "-t", filter, "-W", "1")
		if denied := strings.Contains(r.stdout, "): 135"); denied == allowed {
			t.Errorf("a guest subscribes to %s: want allowed=%v\n%s%s", filter, allowed, r.stdout, r.stderr)
		}
	}
	if r := other.try(t, "mosquitto_pub", "-h", h.address, "-t", "demo/x", "-m", "x"); r.code == 0 {
		t.Error("another machine reaches the plain listener")
	}
}

// TestUnixSocket: the same rule as on loopback, for whoever the directory lets
// reach the socket.
func TestUnixSocket(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub", "setpriv")
	h := newNetwork(t).addHost("paris")
	dir, err := os.MkdirTemp("", "hpmq-data-") //nolint:usetesting // t.TempDir is where other users may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.net.must("chmod", "700", dir)
	node := h.up(t, "--data", dir)
	pub := []string{"--unix", filepath.Join(dir, "mqtt.sock"), "-V", "5", "-q", "1", "-d", "-m", "x", "-t"}
	try := func(uid, topic string, allowed bool) {
		t.Helper()
		r := h.as(t, uid, "mosquitto_pub", append(pub, topic)...)
		if got := r.code == 0 && !strings.Contains(r.stdout, "RC:135"); got != allowed {
			t.Errorf("uid %s publishes %s: exit code %d, want allowed=%v\n%s%s", uid, topic, r.code, allowed, r.stdout, r.stderr)
		}
	}
	try("0", "site/home/any/thing", true)
	try("65534", "demo/x", false) // the directory is not theirs
	h.net.must("chmod", "711", dir)
	try("65534", "demo/x", true)
	try("65534", "site/home/any/thing", false)
	if r := h.as(t, "65534", "hpmq", "status", "--data", dir); r.code == 0 {
		t.Error("who reaches the MQTT socket reaches the control socket")
	}
	node.kill() // and leaves the socket behind
	h.up(t, "--data", dir)
	try("0", "site/home/any/thing", true)
}

// TestTLSListener: a stock client gets in by every name of the node, and nobody
// without a certificate.
func TestTLSListener(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "curl")
	h := newNetwork(t).addHost("paris")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(h.home, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n::1 localhost\n"+h.address+" "+name+"\n"), 0o644); err != nil { //nolint:gosec // read by resolvers
		t.Fatal(err)
	}
	h.net.must("mount", "--bind", hosts, "/etc/hosts") // of this test's mount namespace
	t.Cleanup(func() { h.net.must("umount", "/etc/hosts") })

	node := h.up(t)
	pump := h.enrol(t, h, "pump-7")
	for _, host := range []string{"localhost", "127.0.0.1", "::1", h.address, name} {
		flags := pump.flags(h, "-q", "1", "-t", "site/home/pump-7/raw", "-m", "x")
		flags[1] = host
		if r := h.try(t, "mosquitto_pub", flags...); r.code != 0 {
			t.Errorf("-h %s: exit code %d\n%s%s", host, r.code, r.stdout, r.stderr)
		}
	}

	if r := h.try(t, "mosquitto_pub", "-h", "localhost", "-p", "8883", "--cafile", "pump-7/ca.pem", "-t", "demo/x", "-m", "x"); r.code == 0 {
		t.Error("a client without a certificate got in")
	}
	node.waitLine("no client certificate: enrol with hpmq-enroll", 5*time.Second)
	for _, url := range []string{"http://localhost:8883/", "http://localhost:1883/", "https://localhost:8883/"} {
		if r := h.try(t, "curl", "-sk", "-m", "5", "-o", "/dev/null", url); r.code == 28 {
			t.Errorf("%s: no answer and no end", url)
		}
	}
	garbage := make([]byte, 4096)
	for _, addr := range []string{"127.0.0.1:1883", "127.0.0.1:8883"} {
		for range 20 {
			_, _ = rand.Read(garbage) // never fails
			garbage[0] |= 0x20        // no CONNECT, which could be a long one that is waited for
			conn := h.mustDial(t, addr)
			_, _ = conn.Write(garbage) // the other end may be quicker
			if took := closed(t, conn); took > 5*time.Second {
				t.Errorf("%s: garbage was listened to for %s", addr, took)
			}
		}
	}
	pump.mustPub(t, h, "site/home/pump-7/raw", "alive")
}

// TestSilentConnections: those who say nothing are hung up on, and hold up
// nobody meanwhile.
func TestSilentConnections(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	h := newNetwork(t).addHost("paris")
	h.up(t)
	pump := h.enrol(t, h, "pump-7")
	const each = 300
	began := time.Now()
	var silent []net.Conn
	for range each {
		silent = append(silent, h.mustDial(t, "127.0.0.1:1883"))
		half := h.mustDial(t, h.address+":8883")
		if _, err := half.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil { // the beginning of a ClientHello
			t.Fatal(err)
		}
		silent = append(silent, half)
	}
	var waits promptness
	for range 3 {
		start := time.Now()
		pump.mustPub(t, h, "site/home/pump-7/raw", "x")
		h.run(t, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "demo/x", "-m", "x")
		waits.add(time.Since(start))
	}
	waits.check(t)
	for _, conn := range silent {
		closed(t, conn)
	}
	if took := time.Since(began); took < 8*time.Second || took > 20*time.Second {
		t.Errorf("silent connections were closed after %s, want about 10 s", took)
	}
}

// closed waits until the other end hangs up.
func closed(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if err := conn.SetReadDeadline(began.Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(new(bytes.Buffer), conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("not hung up on: %v", err)
	}
	conn.Close()
	return time.Since(began)
}

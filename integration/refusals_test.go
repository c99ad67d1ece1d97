package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused checks that a program ended with an exit code and, after its progress,
// one line of what happened and at most one of what to do.
func (r result) refused(t *testing.T, code int, want, hint string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	for len(lines) > 0 && !strings.HasPrefix(lines[0], "hpmq") {
		lines = lines[1:]
	}
	what, then := "", ""
	if len(lines) > 0 {
		what, then = lines[0], strings.Join(lines[1:], "\n")
	}
	good := strings.Contains(what, want) && strings.Contains(then, hint) && !strings.Contains(then, "\n")
	if r.code != code || !good || hint != "" && !strings.HasPrefix(then, "hint: ") {
		t.Errorf("exit code %d, want %d, one line with %q and a hint with %q; got\n%s", r.code, code, want, hint, r.stderr)
	}
}

// as runs a program of this project as another user.
func (h *host) as(t *testing.T, uid, program string, args ...string) result {
	t.Helper()
	if strings.HasPrefix(program, "hpmq") {
		program = filepath.Join(bin, program)
	}
	return h.try(t, "setpriv", append([]string{"--reuid", uid, "--regid", uid, "--clear-groups", program}, args...)...)
}

func TestRefusesPortInUse(t *testing.T) {
	need(t, "netns", "ip")
	h := newNetwork(t).addHost("paris")
	for _, tt := range []struct {
		network string
		port    int
		want    string
	}{
		{"tcp", 1883, "mqtt: port 1883 is in use"},
		{"tcp", 8883, "mqtts: port 8883 is in use"},
		{"tcp", 8480, "http: port 8480 is in use"},
		{"udp", 7844, "overlay: port 7844 is in use"},
	} {
		release := h.occupy(t, tt.network, tt.port)
		h.try(t, "hpmq", "up", "--data", "data").refused(t, 1, tt.want, "--ports +100")
		release()
	}
	if _, err := os.Stat(filepath.Join(h.home, "data", "node.json")); err == nil {
		t.Error("a port in use made a fabric")
	}
}

func TestRefusesDataDirectory(t *testing.T) {
	need(t, "netns", "ip", "setpriv")
	h := newNetwork(t).addHost("paris")
	dir, err := os.MkdirTemp("", "hpmq-data-") //nolint:usetesting // t.TempDir is where other users may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.net.must("chmod", "755", dir)
	h.as(t, "65534", "hpmq", "up", "--data", dir).refused(t, 1, dir+"/lock: permission denied", "--data DIR")
	h.as(t, "65534", "hpmq", "up", "--data", dir+"/deep").refused(t, 1, dir+"/deep: permission denied", "--data DIR")
	h.try(t, "hpmq", "up", "--data", "/dev/null").refused(t, 1, "/dev/null", "--data DIR")

	h.up(t, "--data", dir)
	h.try(t, "hpmq", "up", "--data", dir).refused(t, 6, "a node runs in "+dir+" already", "--ports +100")
	h.as(t, "65534", "hpmq", "status", "--data", dir).refused(t, 3, "permission denied", "")
}

func TestRefusesFullDisk(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	h := newNetwork(t).addHost("paris")
	disk := filepath.Join(h.home, "hpmq")
	mount := func(size string) {
		h.net.must("mkdir", "-p", disk)
		h.net.must("mount", "-t", "tmpfs", "-o", "mode=0700,size="+size, "tmpfs", disk)
		t.Cleanup(func() { h.net.must("umount", disk) })
	}
	mount("4k")
	h.try(t, "hpmq", "up").refused(t, 1, "no space left on device", "make room")
	for _, size := range []string{"16k", "32k", "48k"} { // each stops somewhere else in the making of a fabric
		h.net.must("mount", "-o", "remount,size="+size, disk)
		h.try(t, "hpmq", "up").refused(t, 1, "no space left on device", "make room")
	}
	h.net.must("mount", "-o", "remount,size=256k", disk)
	node := h.up(t) // what was begun four times is finished

	fill := func() {
		_ = os.WriteFile(filepath.Join(disk, "fill"), make([]byte, 1<<20), 0o600) // ends with the space
	}
	fill()
	name, ticket, r := "", "", result{}
	for n := range 20 { // the block that the directory ends in has room for some
		name = fmt.Sprintf("pump-%d", n)
		ticket = h.ticket(t, "enroll", "ticket", "--name", name, "--role", "sensor")
		if r = h.try(t, "hpmq-enroll", "--timeout", "2s", "--out", name, ticket); r.code != 0 {
			break
		}
	}
	r.refused(t, 1, "the CA cannot answer now", "node's log")
	node.waitLine("no space left on device", 5*time.Second)
	h.run(t, "hpmq", "pub", "-t", "demo/full", "-m", "x")
	node.kill()
	// It removes files of its last run before it writes, so a start may find room.
	again := h.start(t, "hpmq", "up")
	again.wait(20*time.Second, "a start, or a refusal that says what to do", func(lines []string) bool {
		said := strings.Join(lines, "\n")
		return strings.Contains(said, "ready in") || strings.Contains(said, "no space left on device") && strings.Contains(said, "make room")
	})
	again.kill()
	if err := os.Remove(filepath.Join(disk, "fill")); err != nil {
		t.Fatal(err)
	}
	h.up(t)
	h.run(t, "hpmq-enroll", "--out", name, ticket)
	(&device{h, name}).mustPub(t, h, "site/home/"+name+"/raw", "x")

	// The device's own disk.
	fill()
	h.try(t, "hpmq-enroll", "--timeout", "2s", "--out", "hpmq/valve", h.ticket(t, "enroll", "ticket", "--name", "valve")).
		refused(t, 1, "no space left on device", "make room")
}

func TestRefusesTickets(t *testing.T) {
	need(t, "netns", "ip")
	net := newNetwork(t)
	h, dev := net.addHost("paris"), net.addHost("device")
	h.up(t)
	mint := func(args ...string) string { return h.ticket(t, append([]string{"enroll", "ticket"}, args...)...) }

	short, minted := mint("--name", "pump-1", "--ttl", "1s"), time.Now()
	good := mint("--name", "pump-2")
	dev.run(t, "hpmq-enroll", "--out", "pump-2", good)
	dev.run(t, "hpmq-enroll", "--out", "pump-2", good) // the same key again: the same answer
	dev.try(t, "hpmq-enroll", "--out", "thief", good).refused(t, 6, "device:pump-2 is enrolled with another key", "hpmq device replace pump-2")
	dev.try(t, "hpmq-enroll", "--out", "thief", mint("--name", "pump-2")).refused(t, 6, "another key", "hpmq device replace pump-2")

	damaged := good[:len(good)/2] + "AAAA" + good[len(good)/2+4:]
	dev.try(t, "hpmq-enroll", "--out", "x", damaged).refused(t, 2, "ticket damaged", "")
	dev.try(t, "hpmq-enroll", "--out", "x", good[:len(good)-5]).refused(t, 2, "ticket damaged", "")
	dev.try(t, "hpmq-enroll", "--out", "x", "no-ticket").refused(t, 2, "not an enrolment ticket", "hpmq enroll ticket")

	site, user := h.ticket(t, "site", "invite", "lyon"), h.ticket(t, "user", "add", "anna")
	dev.try(t, "hpmq-enroll", "--out", "x", site).refused(t, 2, "this ticket is for a node", "hpmq up --join")
	dev.try(t, "hpmq", "up", "--join", good).refused(t, 2, "this ticket is for a device", "")
	dev.try(t, "hpmq", "up", "--join", user).refused(t, 2, "this ticket is for a user", "")
	dev.try(t, "hpmq", "up", "--join", site, "--site", "nice").refused(t, 2, "the ticket is for site lyon, not nice", "")
	h.try(t, "hpmq", "login", good).refused(t, 2, "this ticket is for a device", "")
	h.try(t, "hpmq", "login", damaged).refused(t, 2, "ticket damaged", "hpmq user add")

	eventually(t, 5*time.Second, "the short ticket is over", func() bool { return time.Since(minted) > 1100*time.Millisecond })
	dev.try(t, "hpmq-enroll", "--out", "late", short).refused(t, 4, "ticket expired", "")
	if _, err := os.Stat(filepath.Join(dev.home, "late", "cert.pem")); err == nil {
		t.Error("an expired ticket gave a certificate")
	}

	h.try(t, "hpmq", "device", "revoke", "pump-9").refused(t, 5, "pump-9", "hpmq device list")
	h.run(t, "hpmq", "device", "revoke", "pump-2")
	dev.try(t, "hpmq-enroll", "--out", "pump-2", good).refused(t, 4, "revoked", "")
	h.cut()
	dev.try(t, "hpmq-enroll", "--timeout", "1s", "--out", "x", mint("--name", "pump-3")).refused(t, 3, "cannot reach "+h.address, "node running")
}

func TestRefusesPolicyAtStart(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	h := newNetwork(t).addHost("paris")
	node := h.up(t)
	pump := h.enrol(t, h, "pump-7")
	h.setPolicy(t, "more.hcl", `
grant "more" {
  to     = ["device:pump-7"]
  topics { publish = ["more/#"] }
}
`)
	eventually(t, 5*time.Second, "the second version is in force", func() bool { return h.status(t).Policy.Version == 2 })
	node.kill()
	h.setPolicy(t, "more.hcl", "grant \"more\" {\n  to = [\n}\n")
	node = h.up(t)
	node.waitLine("more.hcl:3:1", 5*time.Second)
	if p := h.status(t).Policy; p.Version != 2 || !strings.Contains(p.Error, "more.hcl:3:1") {
		t.Errorf("policy %+v, want version 2 and what is wrong with the files", p)
	}
	pump.mustPub(t, h, "more/x", "x")
	if r := h.try(t, "hpmq", "policy", "check"); r.code != 2 || !strings.Contains(r.stdout+r.stderr, "more.hcl:3:1") {
		t.Errorf("policy check: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if err := os.Remove(h.policyFile("more.hcl")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the files are in force again", func() bool {
		p := h.status(t).Policy
		return p.Version == 3 && p.Error == ""
	})
}

func TestRefusesToGuessTheNode(t *testing.T) {
	need(t, "netns", "ip")
	h := newNetwork(t).addHost("paris")
	h.try(t, "hpmq", "status").refused(t, 3, "no node runs here", "hpmq up")
	h.up(t)
	h.up(t, "--data", "other", "--ports", "+100")
	r := h.try(t, "hpmq", "status")
	r.refused(t, 2, "2 nodes run here", "--data "+filepath.Join(h.home, "hpmq"))
	r.refused(t, 2, "2 nodes run here", "--data "+filepath.Join(h.home, "other"))
}

func TestRefusesForeigners(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	net := newNetwork(t)
	paris, lyon := net.addHost("paris"), net.addHost("lyon")
	theirs := paris.up(t, "--data", "theirs")
	lyonNode := lyon.up(t, "--site", "lyon", "--join", paris.ticket(t, "site", "invite", "lyon"))
	foreign := lyon.enrol(t, paris, "pump-7")
	theirs.stop()

	ours := paris.up(t, "--data", "ours") // another fabric at the same address
	lyonNode.waitLine("overlay dial failed", 20*time.Second)
	paris.run(t, "hpmq-enroll", "--out", "pump-7", paris.ticket(t, "enroll", "ticket", "--name", "pump-7", "--role", "sensor"))
	copyFile(t, filepath.Join(paris.home, "pump-7", "ca.pem"), filepath.Join(lyon.home, "ours.pem"))
	for _, cert := range []string{foreign.dir, "hpmq/identity"} {
		r := lyon.try(t, "mosquitto_pub", "-h", paris.address, "-p", "8883", "--cafile", "ours.pem",
			"--cert", cert+"/cert.pem", "--key", cert+"/key.pem", "-q", "1", "-t", "site/home/pump-7/raw", "-m", "x")
		if r.code == 0 {
			t.Errorf("a certificate of another fabric (%s) may publish", cert)
		}
	}
	ours.waitLine("TLS handshake: ", 5*time.Second)
	lyon.start(t, "hpmq-lite", "up", "--dir", foreign.dir, "--expose", "80", "--node", paris.address+":7844").
		waitLine("no node reached", 20*time.Second)
	if n := len(paris.status(t).Peers); n != 0 {
		t.Errorf("our node has %d peers of another fabric", n)
	}
}

// TestWrongClock enrols devices whose clock is years off: the ticket pins the CA
// and needs none.
func TestWrongClock(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	net := newNetwork(t)
	h, dev := net.addHost("paris"), net.addHost("device")
	h.up(t)
	for _, tt := range []struct{ name, years string }{{"past", "-30"}, {"future", "30"}} {
		t.Run(tt.name, func(t *testing.T) {
			program := buildSkewed(t, tt.years)
			ticket := h.ticket(t, "enroll", "ticket", "--name", tt.name, "--role", "sensor")
			r := dev.try(t, program, "--out", tt.name, ticket)
			if r.code != 0 || !strings.Contains(r.stderr, "which cannot be right") {
				t.Fatalf("exit code %d\n%s", r.code, r.stderr)
			}
			(&device{dev, tt.name}).mustPub(t, h, "site/home/"+tt.name+"/raw", "x")
		})
	}
}

// buildSkewed compiles hpmq-enroll with a standard library whose clock is off by
// so many years. A static program asks the kernel directly, so that libfaketime
// cannot lie to it.
func buildSkewed(t *testing.T, years string) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const at = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	before, after, ok := strings.Cut(string(text), at)
	if !ok {
		t.Fatal("this Go's time.Now is written differently: replace what is there now")
	}
	dir := t.TempDir()
	skewed := filepath.Join(dir, "time.go")
	overlay := filepath.Join(dir, "overlay.json")
	text = []byte(before + "\tsec, nsec, mono := runtimeNow()\n\tsec += " + years + " * 31556952\n\tif mono == 0 {" + after)
	if err := os.WriteFile(skewed, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, []byte(`{"Replace":{"`+source+`":"`+skewed+`"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "enroll-"+years)
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, "../cmd/hpmq-enroll").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

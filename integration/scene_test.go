package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestScene is the main job from end to end: three sites and a device, each a
// machine of its own, and a router between them.
func TestScene(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	need(t, "curl", "curl")
	guest := buildGuest(t, "../examples/functions/normalise")
	web := buildProgram(t, "quickstart/web")

	net := newNetwork(t)
	s := &scene{paris: net.addHost("paris"), lyon: net.addHost("lyon"), oslo: net.addHost("oslo"), device: net.addHost("device"), web: web}

	s.startSites(t)
	s.enrolDevice(t)
	s.deniedPublish(t)
	s.convert(t, guest)
	s.reach(t)
	s.cutLink(t)
	s.revoke(t)
}

type scene struct {
	paris, lyon, oslo, device *host

	web        string   // path of the device's web server
	parisNode  *process // hpmq up
	subscriber *process // stock mosquitto_sub at lyon
	printed    []string // the words of the command line that hpmq-enroll printed
}

// startSites is step 1: a CA at paris, and the others join with site tickets. The
// CA restarts once before anything else happens.
func (s *scene) startSites(t *testing.T) {
	s.parisNode = s.paris.up(t, "--site", "paris")
	s.lyon.join(t, s.paris)
	s.oslo.join(t, s.paris)
	sites := []*host{s.paris, s.lyon, s.oslo}
	for _, h := range sites {
		h.awaitLinks(t, 2)
	}
	s.parisNode.stop()
	s.parisNode = s.paris.up(t)
	for _, h := range sites {
		h.awaitLinks(t, 2)
	}
	s.subscriber = s.lyon.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v", "-q", "1")
	eventually(t, 10*time.Second, "paris knows what lyon wants", func() bool {
		return s.paris.link(t, "lyon").Interest > 0
	})
}

// enrolDevice is step 2.
func (s *scene) enrolDevice(t *testing.T) {
	ticket := s.paris.ticket(t, "enroll", "ticket", "--name", "pump-7", "--role", "sensor")
	out := s.device.run(t, "hpmq-enroll", "--out", "pump-7", ticket)
	line := out[strings.LastIndex(out, "mosquitto_pub"):]
	s.printed = strings.Fields(line)
	if r := s.device.try(t, s.printed[0], append(s.printed[1:], "-q", "1")...); r.code != 0 {
		t.Fatalf("the line that hpmq-enroll printed does not work: %s\n%s", line, r.stderr)
	}
	s.subscriber.waitLine("site/paris/pump-7/raw hello", 10*time.Second)
}

// credentials are the flags that make a stock client the device.
func (s *scene) credentials() []string {
	var flags []string
	for i, word := range s.printed {
		if slices.Contains([]string{"-h", "-p", "--cafile", "--cert", "--key"}, word) {
			flags = append(flags, word, s.printed[i+1])
		}
	}
	return flags
}

// publish sends a payload as the device with a stock client.
func (s *scene) publish(t *testing.T, topic string, payload []byte) {
	t.Helper()
	file := filepath.Join(s.device.home, "payload")
	if err := os.WriteFile(file, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	s.device.run(t, "mosquitto_pub", append(s.credentials(), "-q", "1", "-t", topic, "-f", file)...)
}

// deniedPublish is step 3.
func (s *scene) deniedPublish(t *testing.T) {
	r := s.device.try(t, "mosquitto_pub", append(s.credentials(), "-V", "5", "-q", "1", "-d", "-t", "site/paris/valve/set", "-m", "open")...)
	if !strings.Contains(r.stdout+r.stderr, "RC:135") {
		t.Errorf("a stock client was not told of reason code 0x87:\n%s%s", r.stdout, r.stderr)
	}
	own := s.device.try(t, "hpmq", append(append([]string{"pub"}, s.credentials()...), "-t", "site/paris/valve/set", "-m", "open")...)
	if own.code != 4 || !strings.Contains(own.stderr, `"sensor"`) || !strings.Contains(own.stderr, "main.hcl:") {
		t.Errorf("hpmq pub: exit code %d, %q; want 4 and the nearest grant with its line", own.code, own.stderr)
	}
	s.parisNode.waitLine("site/paris/valve/set", 5*time.Second)
	if n := s.paris.status(t).Broker["denied_publish"]; n < 2 {
		t.Errorf("denied_publish counts %d, want at least 2", n)
	}
	metrics := s.paris.run(t, "curl", "-s", "http://127.0.0.1:8480/metrics")
	if !strings.Contains(metrics, `hpmq_mqtt_denied_total{action="publish"}`) {
		t.Errorf("no metric counts the denial")
	}
	why := s.paris.try(t, "hpmq", "why", "pump-7", "publish", "site/paris/valve/set")
	if why.code != 4 || !strings.Contains(why.stdout, "main.hcl:") {
		t.Errorf("hpmq why: exit code %d\n%s", why.code, why.stdout)
	}
}

// convert is steps 4 and 5: real payloads become one JSON, repeats are dropped,
// and lyon sees the converted ones only.
func (s *scene) convert(t *testing.T, guest string) {
	copyFile(t, "../examples/quickstart/policy-function.hcl", filepath.Join(s.paris.home, "hpmq", "policy", "function.hcl"))
	eventually(t, 10*time.Second, "the binding is in force", func() bool { return s.paris.status(t).Policy.Version >= 2 })
	s.paris.run(t, "hpmq", "func", "add", "normalise", guest)
	eventually(t, 20*time.Second, "lyon has the function", func() bool {
		f := s.lyon.status(t).Functions
		return len(f) == 1 && f[0].Loaded
	})
	records := append(readRecords(t, "tasmota"), readRecords(t, "modbus")...)
	if len(records) < 2 {
		t.Fatal("too few records to convert")
	}
	before := len(s.subscriber.output())
	for _, r := range records {
		s.publish(t, "site/paris/pump-7/raw", r.payload)
		s.publish(t, "site/paris/pump-7/raw", r.payload) // a repeat
	}
	s.publish(t, "site/paris/pump-7/end", []byte("end"))
	s.subscriber.waitLine("site/paris/pump-7/end", 20*time.Second)
	lines := s.subscriber.output()[before:]
	converted := 0
	for _, line := range lines {
		topic, payload, _ := strings.Cut(line, " ")
		switch topic {
		case "site/paris/pump-7/telemetry":
			if converted < len(records) {
				records[converted].check(t, payload)
			}
			converted++
		case "site/paris/pump-7/raw":
			t.Errorf("lyon received a raw message: %s", line)
		}
	}
	if converted != len(records) {
		t.Errorf("lyon received %d converted messages, want %d: each record once\n%s", converted, len(records), strings.Join(lines, "\n"))
	}
}

// reach is step 6: the device's web server, through the mesh, by policy.
func (s *scene) reach(t *testing.T) {
	s.device.start(t, s.web)
	s.device.start(t, "hpmq-lite", "up", "--dir", "pump-7", "--expose", "8080")
	ticket := s.paris.ticket(t, "user", "add", "anna")
	s.lyon.run(t, "hpmq", "login", ticket)

	grant := filepath.Join(s.paris.home, "hpmq", "policy", "vendor.hcl")
	denied := s.lyon.try(t, "hpmq", "forward", "pump-7:8080")
	eventually(t, 20*time.Second, "the agent is connected and denies by policy", func() bool {
		if denied.code != 4 {
			denied = s.lyon.try(t, "hpmq", "forward", "pump-7:8080")
		}
		return denied.code == 4
	})
	copyFile(t, "../examples/quickstart/policy-vendor.hcl", grant)
	forward := s.forward(t)
	if body := s.lyon.run(t, "curl", "-s", "http://127.0.0.1:8080/"); !strings.Contains(body, "3.2 bar") {
		t.Errorf("through the forward: %q", body)
	}

	stream := s.stream(t)
	if err := os.Remove(grant); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if !stream.ended(5 * time.Second) {
		t.Fatal("an open connection outlived its grant by 5 s")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("an open connection outlived its grant by %s, want at most 1 s", took)
	}
	if r := s.lyon.try(t, "curl", "-s", "-m", "5", "http://127.0.0.1:8080/"); r.code == 0 {
		t.Errorf("a new connection passed without a grant: %q", r.stdout)
	}
	forward.waitLine("no grant", 5*time.Second)
	forward.stop()
	if r := s.lyon.try(t, "hpmq", "forward", "pump-7:8080"); r.code != 4 || !strings.Contains(r.stderr, "no grant") {
		t.Errorf("a new forward: exit code %d, %q; want 4 and why", r.code, r.stderr)
	}
	copyFile(t, "../examples/quickstart/policy-vendor.hcl", grant)
	s.forward(t) // for the steps to come
}

// forward starts hpmq forward at lyon as soon as the grant has reached the
// device.
func (s *scene) forward(t *testing.T) *process {
	t.Helper()
	eventually(t, 10*time.Second, "the grant reaches the device", func() bool {
		return s.lyon.try(t, "timeout", "-s", "INT", "2", filepath.Join(bin, "hpmq"), "forward", "pump-7:8080", "--listen", "127.0.0.1:0").code == 124 // ended by timeout: it was serving
	})
	p := s.lyon.start(t, "hpmq", "forward", "pump-7:8080")
	p.waitLine("forwarding", 10*time.Second)
	return p
}

// stream opens a connection through the forward that lasts.
func (s *scene) stream(t *testing.T) *process {
	t.Helper()
	p := s.lyon.start(t, "curl", "-sN", "http://127.0.0.1:8080/stream")
	p.waitLine("line 3", 10*time.Second)
	return p
}

// cutLink is step 8: ten seconds without the cable between the sites.
func (s *scene) cutLink(t *testing.T) {
	const messages = 200 // 20 a second
	local := s.paris.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/paris/pump-7/seq", "-q", "1")
	pub := s.device.command(t.Context(), "mosquitto_pub", append(s.credentials(), "-q", "1", "-t", "site/paris/pump-7/seq", "-l")...)
	feed, err := pub.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Start(); err != nil {
		t.Fatal(err)
	}
	s.subscriber.wait(10*time.Second, "a first message before the cut", func([]string) bool {
		_, err := fmt.Fprintln(feed, "first")
		return err == nil
	})
	s.subscriber.waitLine("seq first", 10*time.Second)
	before := len(s.subscriber.output())

	s.lyon.cut()
	tick := time.NewTicker(10 * time.Second / messages)
	defer tick.Stop()
	for n := range messages {
		if _, err := fmt.Fprintln(feed, n); err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	local.waitLine(fmt.Sprint(messages-1), 10*time.Second) // paris went on serving
	if got := len(s.subscriber.output()) - before; got >= messages {
		t.Errorf("lyon received %d messages while it was cut off", got)
	}
	feed.Close()
	if err := pub.Wait(); err != nil { // every message was acknowledged
		t.Fatalf("the device's publisher: %v", err)
	}
	s.lyon.heal()
	s.subscriber.waitLine(fmt.Sprintf("seq %d", messages-1), 30*time.Second)
	var got []string
	for _, line := range s.subscriber.output()[before:] {
		if n, ok := strings.CutPrefix(line, "site/paris/pump-7/seq "); ok && n != "first" {
			got = append(got, n)
		}
	}
	for n := range messages {
		if n >= len(got) || got[n] != fmt.Sprint(n) {
			t.Fatalf("after the cut lyon has %d messages, and number %d is not %d in order, once: %v", len(got), n, n, got)
		}
	}
	if len(got) != messages {
		t.Errorf("lyon received %d messages, want %d", len(got), messages)
	}
	if dropped := s.paris.link(t, "lyon").Dropped; dropped != 0 {
		t.Errorf("the link dropped %d messages", dropped)
	}
}

// revoke is step 7: it ends everything, everywhere, for good.
func (s *scene) revoke(t *testing.T) {
	s.device.start(t, "mosquitto_sub", append(s.credentials(), "-t", "site/paris/pump-7/cmd/#")...)
	eventually(t, 10*time.Second, "the device has a session", func() bool { return s.sessions(t) == 1 })
	var stream *process
	eventually(t, 20*time.Second, "the forward works again", func() bool {
		return s.lyon.try(t, "curl", "-s", "-m", "3", "http://127.0.0.1:8080/").code == 0
	})
	stream = s.stream(t)

	began := time.Now()
	s.paris.run(t, "hpmq", "device", "revoke", "pump-7", "--reason", "stolen")
	if !stream.ended(5*time.Second) || time.Since(began) > 2*time.Second {
		t.Errorf("the forward outlived the revocation: ended after %s, want at most 2 s", time.Since(began))
	}
	if took := eventually(t, 5*time.Second, "the session ends", func() bool { return s.sessions(t) == 0 }); took > 2*time.Second {
		t.Errorf("the session ended after %s", took)
	}
	if r := s.device.try(t, "mosquitto_pub", append(s.credentials(), "-q", "1", "-t", "site/paris/pump-7/raw", "-m", "x")...); r.code == 0 {
		t.Error("a revoked device published")
	}
	for _, h := range []*host{s.lyon, s.oslo} {
		there := strings.ReplaceAll(strings.Join(s.credentials(), " "), s.paris.address, h.address)
		if r := s.device.try(t, "mosquitto_pub", append(strings.Fields(there), "-q", "1", "-t", "site/paris/pump-7/raw", "-m", "x")...); r.code == 0 {
			t.Errorf("a revoked device published at %s", h.name)
		}
	}
	if r := s.device.try(t, "hpmq-enroll", "renew", "--force", "--out", "pump-7"); r.code != 4 {
		t.Errorf("renewal of a revoked device: exit code %d, want 4\n%s", r.code, r.stderr)
	}
	if r := s.lyon.try(t, "curl", "-s", "-m", "3", "http://127.0.0.1:8080/"); r.code == 0 {
		t.Error("the forward to a revoked device works")
	}
}

func (s *scene) sessions(t *testing.T) int {
	t.Helper()
	id, ok := s.paris.identity(t, "/device/pump-7")
	if !ok {
		t.Fatal("device list does not know pump-7")
	}
	return id.Sessions
}

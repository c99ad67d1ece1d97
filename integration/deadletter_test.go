package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDeadLetter: what a function cannot do is told where it happened, and the
// publisher hears what on_error says.
func TestDeadLetter(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	guest := buildGuest(t, "../examples/functions/normalise")
	f := newFabric(t)
	pump := f.net.addHost("device").enrol(t, f.paris, "pump-7")
	f.paris.run(t, "hpmq", "func", "add", "normalise", guest)
	copyFile(t, "../examples/quickstart/policy-function.hcl", f.paris.policyFile("function.hcl"))
	eventually(t, 10*time.Second, "both sites have the binding", func() bool {
		return f.paris.status(t).Policy.Version == 2 && f.lyon.status(t).Policy.Version == 2
	})
	letters := f.paris.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "$hpmq/func/normalise/dlq")
	lyon := f.lyon.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "$hpmq/func/#", "-t", "site/#", "-v", "-q", "1")
	eventually(t, 10*time.Second, "all subscribers are there", func() bool {
		return f.paris.status(t).Broker["subscriptions"] == 1 && f.paris.link(t, "lyon").Interest > 0
	})

	pump.mustPub(t, f.paris, "site/paris/pump-7/raw", "not a frame") // dead-letter: acknowledged
	letters.waitLine(`"function":"normalise"`, 10*time.Second)
	var letter struct {
		Function, Binding, Direction, Topic, Identity, Error string
		Payload                                              []byte
	}
	if err := json.Unmarshal([]byte(letters.output()[0]), &letter); err != nil {
		t.Fatal(err)
	}
	if letter.Function != "normalise" || letter.Binding != "normalise" || letter.Direction != "upstream" ||
		letter.Topic != "site/paris/pump-7/raw" || !strings.HasSuffix(letter.Identity, "/device/pump-7") ||
		string(letter.Payload) != "not a frame" || !strings.Contains(letter.Error, "neither a JSON object nor a Modbus RTU answer") {
		t.Errorf("dead letter: %+v", letter)
	}
	pump.mustPub(t, f.paris, "site/paris/pump-7/raw", `{"good":1}`)
	lyon.waitLine(`"good":1`, 10*time.Second)
	if got := lyon.output(); len(got) != 1 {
		t.Errorf("lyon received more than the good message:\n%s", strings.Join(got, "\n"))
	}

	f.paris.setPolicy(t, "function.hcl", `
binding "normalise" {
  function = "normalise"
  on       = "upstream"
  topics   = ["site/+/+/raw"]
  to       = ["group:sensor"]
  on_error = "reject"
}
grant "normalise" {
  to = ["function:normalise"]
  function {
    publish      = ["site/+/+/telemetry"]
    capabilities = ["prev"]
  }
}
`)
	eventually(t, 10*time.Second, "the binding rejects", func() bool { return f.paris.status(t).Policy.Version == 3 })
	eventually(t, 5*time.Second, "the publisher is told 0x83", func() bool {
		return strings.Contains(pump.pub(t, f.paris, "site/paris/pump-7/raw", "bad").stdout, "RC:131")
	})
}

// TestLoopingFunction: a function that does not return is stopped, and the
// messages of other clients pass it meanwhile.
func TestLoopingFunction(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	guest := buildGuest(t, "testdata/loop")
	net := newNetwork(t)
	h, dev := net.addHost("paris"), net.addHost("device")
	h.up(t)
	bad, good := dev.enrol(t, h, "bad"), dev.enrol(t, h, "good")
	h.setPolicy(t, "loop.hcl", `
binding "loop" {
  function = "loop"
  on       = "upstream"
  topics   = ["site/+/+/raw"]
  to       = ["group:sensor"]
  on_error = "reject"
}
grant "loop" {
  to = ["function:loop"]
  function {
    publish = ["site/#"]
    timeout = "50ms"
  }
}
`)
	h.run(t, "hpmq", "func", "add", "loop", guest)
	eventually(t, 10*time.Second, "the binding is in force", func() bool { return h.status(t).Policy.Version == 2 })
	sub := h.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v", "-q", "1")
	eventually(t, 10*time.Second, "the subscriber is there", func() bool { return h.status(t).Broker["subscriptions"] == 1 })

	looping := bad.start(t, "mosquitto_pub", bad.flags(h, "-V", "5", "-q", "1", "-d", "-t", "site/home/bad/raw", "-m", "loop", "--repeat", "20")...)
	looping.waitLine("RC:131", 10*time.Second) // one was stopped
	var waits promptness
	for n := range 5 {
		began := time.Now()
		good.mustPub(t, h, "site/home/good/raw", fmt.Sprint("good ", n))
		waits.add(time.Since(began))
	}
	waits.check(t)
	sub.waitLine("site/home/good/raw good 4", 10*time.Second)
	if !looping.ended(20 * time.Second) {
		t.Fatal("the looping client is not done")
	}
	rejected := 0
	for _, line := range looping.output() {
		if strings.Contains(line, "RC:131") {
			rejected++
		}
	}
	if rejected != 20 {
		t.Errorf("%d of 20 looping messages were answered with 0x83", rejected)
	}
	if f := h.status(t).Functions[0]; f.Errors < 20 || !f.Loaded {
		t.Errorf("function: %+v, want 20 errors and loaded", f)
	}
	eventually(t, 5*time.Second, "the client that broke it is let in again", func() bool {
		r := bad.pub(t, h, "site/home/bad/raw", "mended")
		return r.code == 0 && strings.Contains(r.stdout, "RC:0")
	})
}

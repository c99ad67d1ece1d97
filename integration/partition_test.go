package integration

import (
	"strings"
	"testing"
	"time"
)

// TestPartition shows that a site goes on without the node that holds the CA,
// and catches up when it is back.
func TestPartition(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	need(t, "curl", "curl")
	web := buildProgram(t, "quickstart/web")
	f := newFabric(t)
	pump := f.net.addHost("device").enrol(t, f.paris, "pump-7")
	f.lyon.run(t, "hpmq", "login", f.paris.ticket(t, "user", "add", "anna"))
	copyFile(t, "../examples/quickstart/policy-vendor.hcl", f.paris.policyFile("vendor.hcl"))
	eventually(t, 10*time.Second, "lyon has all that was decided at paris", func() bool {
		_, known := f.lyon.identity(t, "/device/pump-7")
		_, anna := f.lyon.identity(t, "/user/anna")
		return known && anna && f.lyon.status(t).Policy.Version == 2
	})

	// The rules of an agent are the writer's: lyon gets them while paris is there.
	agent := pump.agentAtLyon(t, f)
	agent.waitLine("policy received", 20*time.Second)
	agent.stop()

	f.parisNode.kill()
	lyonDecides(t, f, pump)
	lyonReaches(t, f, pump, web)
	if r := f.lyon.try(t, "hpmq", "device", "revoke", "pump-7"); r.code != 1 || !strings.Contains(r.stderr, "at site paris") {
		t.Errorf("lyon cannot revoke alone and says where to: exit code %d, %q", r.code, r.stderr)
	}

	f.parisNode = f.paris.up(t)
	f.awaitLinks(t)
	lyonFollows(t, f, pump)
}

// lyonDecides: a device of paris is known at lyon, with its rights.
func lyonDecides(t *testing.T, f *fabric, pump *device) {
	t.Helper()
	sub := f.lyon.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v", "-q", "1")
	eventually(t, 10*time.Second, "the subscriber is there", func() bool { return f.lyon.status(t).Broker["subscriptions"] == 1 })
	pump.mustPub(t, f.lyon, "site/paris/pump-7/raw", "alone")
	sub.waitLine("site/paris/pump-7/raw alone", 5*time.Second)
	for _, topic := range []string{"site/lyon/pump-7/raw", "site/paris/valve/set"} {
		if r := pump.pub(t, f.lyon, topic, "x"); !strings.Contains(r.stdout, "RC:135") {
			t.Errorf("without paris, lyon let pump-7 publish %s:\n%s", topic, r.stdout)
		}
	}
}

// agentAtLyon starts the agent of a device, which connects to lyon.
func (d *device) agentAtLyon(t *testing.T, f *fabric) *process {
	t.Helper()
	return d.start(t, "hpmq-lite", "up", "--dir", d.dir, "--expose", "8080", "--node", f.lyon.address+":7844")
}

// lyonReaches: an agent that starts again without the CA has its rules still.
func lyonReaches(t *testing.T, f *fabric, pump *device, web string) {
	t.Helper()
	pump.start(t, web)
	pump.agentAtLyon(t, f).waitLine("connected to node:lyon", 20*time.Second)
	f.lyon.start(t, "hpmq", "forward", "pump-7:8080").waitLine("forwarding", 10*time.Second)
	if body := f.lyon.run(t, "curl", "-s", "http://127.0.0.1:8080/"); !strings.Contains(body, "3.2 bar") {
		t.Errorf("through the forward without paris: %q", body)
	}
}

// lyonFollows: what paris decides after it is back holds at lyon.
func lyonFollows(t *testing.T, f *fabric, pump *device) {
	t.Helper()
	pump.enrol(t, f.paris, "pump-8")
	eventually(t, 10*time.Second, "lyon hears of a new device", func() bool {
		_, ok := f.lyon.identity(t, "/device/pump-8")
		return ok
	})
	f.paris.setPolicy(t, "stop.hcl", `
deny "quiet" {
  to     = ["device:pump-7"]
  topics { publish = ["site/paris/#"] }
}
`)
	eventually(t, 10*time.Second, "the new policy reaches lyon", func() bool { return f.lyon.status(t).Policy.Version == 3 })
	if r := pump.pub(t, f.lyon, "site/paris/pump-7/raw", "x"); !strings.Contains(r.stdout, "RC:135") {
		t.Errorf("lyon goes on by the old policy:\n%s", r.stdout)
	}
}

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The lifetime of the devices of TestMaxStale, and the max_stale that a grant gives
// some of them, the lowest allowed. They bound how long the test takes.
const (
	staleLifetime = 30 * time.Second
	staleLimit    = time.Minute
)

const stalePolicy = `
group "contractors" { members = ["device:contractor-*"] }
grant "contractors" {
  to = ["group:contractors"]
  certificate {
    max_stale = "1m"
  }
}
`

// TestMaxStale has a group of devices with a max_stale, and the CA away for longer:
// at the other sites their ended certificates are refused then, and the rules of
// their agents end, while the others go on.
func TestMaxStale(t *testing.T) {
	t.Parallel() // it waits for certificates to end, and does little meanwhile
	need(t, "mosquitto_pub")
	net := newNetwork(t)
	paris, lyon, oslo := net.addHost("paris"), net.addHost("lyon"), net.addHost("oslo")
	parisNode := paris.up(t, "--site", "paris", "--device-lifetime", staleLifetime.String())
	lyonNode := lyon.join(t, paris)
	osloNode := oslo.join(t, paris)
	paris.setPolicy(t, "stale.hcl", stalePolicy)
	machine := net.addHost("machine")
	agent := machine.enrolAt(t, paris, "contractor-8", "lyon")
	agent.start(t, "hpmq-lite", "up", "--dir", agent.dir, "--expose", "8080", "--node", lyon.address+":7844").
		waitLine("policy received", 20*time.Second)
	brief, pump := machine.enrolAt(t, paris, "contractor-7", "lyon"), machine.enrolAt(t, paris, "pump-7", "oslo")
	home := map[*device]string{brief: "lyon", pump: "oslo"}
	pub := func(d *device, at *host) result {
		t.Helper()
		return d.pub(t, at, "site/"+home[d]+"/"+d.dir+"/raw", "x")
	}
	served := func(when string, devices ...*device) {
		t.Helper()
		for _, d := range devices {
			for _, at := range []*host{lyon, oslo} {
				if r := pub(d, at); r.code != 0 {
					t.Errorf("%s: %s is refused at %s:\n%s%s", when, d.dir, at.name, r.stdout, r.stderr)
				}
			}
		}
	}
	served("with the CA", brief, pump)
	for _, at := range []*host{lyon, oslo} {
		eventually(t, 10*time.Second, at.name+" has the policy", func() bool {
			return at.status(t).Policy.Version == paris.status(t).Policy.Version && at.status(t).Policy.Version > 1
		})
	}
	parisNode.stop()
	heard := lyon.status(t).Directory.Signed
	if end := brief.end(t); !end.After(heard) {
		t.Fatalf("the certificate ended at %s, before the CA was last heard at %s", end, heard)
	}

	<-time.After(time.Until(pump.end(t).Add(time.Second)))
	served(fmt.Sprintf("ended, %s after the CA", time.Since(heard).Round(time.Second)), brief, pump)
	<-time.After(time.Until(heard.Add(staleLimit + 2*time.Second)))
	for at, node := range map[*host]*process{lyon: lyonNode, oslo: osloNode} {
		if pub(brief, at).code == 0 {
			t.Errorf("after its max_stale %s is served at %s", brief.dir, at.name)
		}
		node.waitLine("certificate of device:contractor-7: it has expired", 2*time.Second)
	}
	served("beyond the others' max_stale", pump)
	if text := agent.try(t, "hpmq-lite", "status", "--dir", agent.dir).stdout; !strings.Contains(text, "ended at") {
		t.Errorf("the rules of %s go on:\n%s", agent.dir, text)
	}

	paris.up(t)
	for _, d := range []*device{brief, pump} {
		d.run(t, "hpmq-enroll", "renew", "--out", d.dir)
	}
	served("with the CA again", brief, pump)
	eventually(t, 30*time.Second, "the agent has rules again", func() bool {
		return strings.Contains(agent.try(t, "hpmq-lite", "status", "--dir", agent.dir).stdout, "good until")
	})
}

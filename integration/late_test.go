package integration

import (
	"strings"
	"testing"
	"time"
)

// TestChangeWhileCut: a site takes messages before it hears of a change of policy. A
// grant that is gone loses none of them, also when the other node restarts
// meanwhile; a deny refuses them.
func TestChangeWhileCut(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	f := newFabric(t)
	f.paris.setPolicy(t, "loan.hcl", `
grant "loan" {
  to = ["service:local"]
  topics { publish = ["loan/#"] }
}
`)
	eventually(t, 10*time.Second, "lyon has the grant", func() bool { return f.lyon.status(t).Policy.Version == 2 })
	sub := f.paris.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "loan/#", "-t", "demo/#", "-v", "-q", "1", "-c", "-i", "watcher")
	eventually(t, 10*time.Second, "lyon hears of the subscriber", func() bool { return f.lyon.link(t, "paris").Interest == 2 })

	f.lyon.cut()
	for _, topic := range []string{"loan/open", "loan/shut"} {
		f.lyon.run(t, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", topic, "-m", "waited")
	}
	f.paris.setPolicy(t, "loan.hcl", `
deny "loan" {
  to     = ["service:local"]
  topics { publish = ["loan/shut"] }
}
`)
	eventually(t, 10*time.Second, "the grant is gone", func() bool { return f.paris.status(t).Policy.Version == 3 })
	f.parisNode.kill()
	f.parisNode = f.paris.up(t)
	eventually(t, 10*time.Second, "the subscriber is back", func() bool { return f.paris.status(t).Broker["clients"] == 1 })
	f.lyon.heal()
	f.awaitLinks(t)

	sub.waitLine("loan/open waited", 20*time.Second)
	f.lyon.run(t, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "demo/last", "-m", "1")
	sub.waitLine("demo/last 1", 10*time.Second)
	if strings.Contains(strings.Join(sub.output(), "\n"), "loan/shut") {
		t.Error("a deny does not hold for what waited at another site")
	}
	eventually(t, 10*time.Second, "lyon has the new policy", func() bool { return f.lyon.status(t).Policy.Version == 3 })
}

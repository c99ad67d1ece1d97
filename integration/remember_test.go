package integration

import (
	"fmt"
	"testing"
	"time"
)

// TestFunctionsRemember kills the node right after an acknowledgement: the
// function knows a repeat when it sees it, whatever is published then.
func TestFunctionsRemember(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	guest := buildGuest(t, "../examples/functions/normalise")
	h := newNetwork(t).addHost("paris")
	node := h.up(t, "--site", "paris")
	pump := h.enrol(t, h, "pump-7")
	copyFile(t, "../examples/quickstart/policy-function.hcl", h.policyFile("function.hcl"))
	h.run(t, "hpmq", "func", "add", "normalise", guest)
	eventually(t, 20*time.Second, "policy and function are there", func() bool {
		st := h.status(t)
		return st.Policy.Version == 2 && len(st.Functions) == 1 && st.Functions[0].Loaded
	})
	topic := "site/paris/pump-7/raw"
	reading := func(n int) string { return fmt.Sprintf(`{"n":%d}`, n) }
	for n := range 5 {
		pump.mustPub(t, h, topic, reading(n))
		node.kill()
		node = h.up(t)
		sub := h.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/paris/#", "-v", "-q", "1")
		eventually(t, 10*time.Second, "the subscriber counts", func() bool { return h.status(t).Broker["clients"] == 1 })
		pump.mustPub(t, h, topic, reading(n)) // again
		pump.mustPub(t, h, topic, reading(n+100))
		sub.waitLine(fmt.Sprintf(`"n":%d}`, n+100), 5*time.Second)
		if got := sub.output(); len(got) != 1 {
			t.Errorf("the subscriber got %q, want the last reading alone", got)
		}
		sub.stop()
	}
}

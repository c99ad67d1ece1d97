package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestRevocationReachesAll measures how long a revocation takes to every node:
// from the start of the command to its end, which is when all of them have the
// record. HPMQ_REVOKE_NODES=20 makes it a fabric of twenty.
func TestRevocationReachesAll(t *testing.T) {
	nodes := 5
	if text := os.Getenv("HPMQ_REVOKE_NODES"); text != "" {
		var err error
		if nodes, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	need(t, "netns", "ip")
	const rounds, limit = 20, 2 * time.Second
	net := newNetwork(t)
	ca := net.addHost("paris")
	ca.up(t, "--site", "paris")
	for n := range nodes - 1 {
		net.addHost(fmt.Sprint("site-", n)).join(t, ca)
	}
	device := net.addHost("device")
	var took []time.Duration
	for n := range rounds {
		name := fmt.Sprint("pump-", n)
		device.enrol(t, ca, name)
		began := time.Now()
		r := ca.revoke(t, name)
		took = append(took, time.Since(began))
		if len(r.HeldBy) != nodes-1 || len(r.Missing) != 0 {
			t.Fatalf("%s: known at %d nodes, missing at %v; want it at %d", name, len(r.HeldBy), r.Missing, nodes-1)
		}
	}
	slices.Sort(took)
	t.Logf("%d nodes, %d revocations: median %s, slowest %s", nodes, rounds, took[rounds/2], took[rounds-1])
	if slowest := took[rounds-1]; slowest > limit {
		t.Errorf("the slowest of %d revocations took %s to %d nodes, want at most %s", rounds, slowest, nodes, limit)
	}
}

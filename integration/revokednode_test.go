package integration

import (
	"strings"
	"testing"
	"time"
)

// TestAgentLeavesRevokedNode: the node of a device's own site falls into wrong hands
// and is revoked. It hears nothing of that, and goes on taking the device's agent,
// which learns it from a node of another site and goes there.
func TestAgentLeavesRevokedNode(t *testing.T) {
	need(t, "netns", "ip")
	f := newFabric(t)
	pump := f.net.addHost("device").enrolAt(t, f.paris, "pump-7", "lyon")
	up := func() *process { return pump.start(t, "hpmq-lite", "up", "--dir", pump.dir, "--expose", "8080") }
	agent := up()
	agent.waitLine("connected to node:lyon", 20*time.Second)
	eventually(t, 20*time.Second, "it has rules that name all nodes", func() bool {
		p := pump.agent(t).Policy
		return p != nil && p.Nodes == 3 && p.Revoked == 0
	})
	agent.stop()

	out := f.paris.run(t, "hpmq", "device", "revoke", "node:"+f.lyon.status(t).Node, "--wait", "0")
	if !strings.Contains(out, "trust its certificate until") {
		t.Errorf("the command does not say how long stock clients trust the node:\n%s", out)
	}
	up()
	eventually(t, 60*time.Second, "it has left lyon", func() bool {
		st := pump.agent(t)
		return st.Policy.Revoked == 1 && st.Node != nil && !strings.Contains(st.Node.ID, "/node/lyon")
	})
}

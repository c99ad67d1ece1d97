package integration

import (
	"os"
	"path/filepath"
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

// TestRevokedNodeAndCRL: curl with the list that hpmq-enroll fetched, through a node
// that is no CA, trusts all nodes until one is revoked, and all others afterwards.
func TestRevokedNodeAndCRL(t *testing.T) {
	need(t, "netns", "ip", "curl")
	f := newFabric(t)
	pump := f.net.addHost("device").enrolAt(t, f.paris, "pump-7", "oslo")
	file := func(name string) string { return pump.dir + "/" + name }
	fetch := func(from *host) result {
		return pump.try(t, "curl", "-sS", "--cacert", file("ca.pem"), "--crlfile", file("crl.pem"), "https://"+from.address+":8883/api/v1/crl")
	}
	for _, h := range f.sites() {
		if r := fetch(h); r.code != 0 || !strings.Contains(r.stdout, "BEGIN X509 CRL") {
			t.Errorf("from %s: exit code %d\n%s%s", h.name, r.code, r.stdout, r.stderr)
		}
		eventually(t, 20*time.Second, h.name+" has it too", func() bool {
			_, err := os.Stat(filepath.Join(h.home, "hpmq", "identity", "crl.pem"))
			return err == nil
		})
	}
	f.paris.run(t, "hpmq", "device", "revoke", "node:"+f.lyon.status(t).Node)
	if r := fetch(f.lyon); r.code != 0 {
		t.Errorf("the list of before knows of lyon: %s", r.stderr)
	}
	pump.run(t, "hpmq-enroll", "renew", "--out", pump.dir)
	for _, h := range f.sites() {
		r := fetch(h)
		if refused := strings.Contains(r.stderr, "revoked"); refused != (h == f.lyon) || (r.code == 0) != (h != f.lyon) {
			t.Errorf("from %s: exit code %d\n%s", h.name, r.code, r.stderr)
		}
	}
}

package integration

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestRestart kills nodes in the middle of traffic and starts them again in
// their data directories.
func TestRestart(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	guest := buildGuest(t, "../examples/functions/normalise")
	f := newFabric(t)
	pump := f.net.addHost("device").enrol(t, f.paris, "pump-7")
	copyFile(t, "../examples/quickstart/policy-function.hcl", f.paris.policyFile("function.hcl"))
	f.paris.run(t, "hpmq", "func", "add", "normalise", guest)
	eventually(t, 20*time.Second, "lyon has policy and function", func() bool {
		st := f.lyon.status(t)
		return st.Policy.Version == 2 && len(st.Functions) == 1 && st.Functions[0].Loaded
	})
	lyonSub := f.lyon.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/#", "-v", "-q", "1")
	commands := f.paris.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/paris/pump-7/cmd/#", "-v")
	eventually(t, 10*time.Second, "both subscribers count", func() bool {
		return f.paris.status(t).Broker["clients"] == 1 && f.paris.link(t, "lyon").Interest > 0
	})
	before, known := f.paris.status(t), f.paris.identities(t)

	stopTraffic := traffic(t, pump, f.paris)
	lyonSub.waitLine(`"n":20}`, 10*time.Second)
	f.parisNode.kill()
	f.parisNode = f.paris.up(t)
	f.awaitLinks(t)
	stopTraffic()
	checkKept(t, f.paris, before, known)
	eventually(t, 10*time.Second, "lyon's wishes are known again", func() bool { return f.paris.link(t, "lyon").Interest > 0 })
	pump.mustPub(t, f.paris, "site/paris/pump-7/raw", `{"paris":"again"}`)
	lyonSub.waitLine(`"paris":"again"`, 10*time.Second) // through the function and the link
	eventually(t, 10*time.Second, "the client at paris is back", func() bool { return f.paris.status(t).Broker["clients"] == 1 })
	f.paris.run(t, "hpmq", "pub", "-t", "site/paris/pump-7/cmd/go", "-m", "1")
	commands.waitLine("cmd/go 1", 5*time.Second)

	before, known = f.lyon.status(t), f.lyon.identities(t)
	stopTraffic = traffic(t, pump, f.paris)
	f.lyonNode.kill()
	f.lyonNode = f.lyon.up(t) // without --join and --site: the directory remembers
	f.awaitLinks(t)
	stopTraffic()
	checkKept(t, f.lyon, before, known)
	eventually(t, 10*time.Second, "lyon's subscriber is back", func() bool { return f.paris.link(t, "lyon").Interest > 0 })
	pump.mustPub(t, f.paris, "site/paris/pump-7/raw", `{"lyon":"again"}`)
	lyonSub.waitLine(`"lyon":"again"`, 10*time.Second)
}

// traffic publishes through the function, 50 a second, until it is stopped.
func traffic(t *testing.T, d *device, to *host) (stop func()) {
	t.Helper()
	pub := d.command(t.Context(), "mosquitto_pub", d.flags(to, "-q", "1", "-t", "site/paris/pump-7/raw", "-l")...)
	feed, err := pub.StdinPipe()
	if err == nil {
		err = pub.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			_, _ = fmt.Fprintf(feed, "{\"n\":%d}\n", n) // the client may end with its broker
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(end)
		<-ended
		_ = pub.Process.Kill()
		_ = pub.Wait() // killed
	}
}

// checkKept compares a node with what it was before it was killed.
func checkKept(t *testing.T, h *host, before *status, known []identity) {
	t.Helper()
	after := h.status(t)
	if after.ID != before.ID || after.Site != before.Site {
		t.Errorf("%s was %s at %s and is %s at %s", h.name, before.ID, before.Site, after.ID, after.Site)
	}
	if after.Policy.Version != before.Policy.Version || after.Policy.Error != "" {
		t.Errorf("%s: policy version %d (%s), before %d", h.name, after.Policy.Version, after.Policy.Error, before.Policy.Version)
	}
	if len(after.Functions) != 1 || !after.Functions[0].Loaded || after.Functions[0].SHA256 != before.Functions[0].SHA256 {
		t.Errorf("%s: functions %+v, before %+v", h.name, after.Functions, before.Functions)
	}
	var was, is []string
	for _, id := range known {
		was = append(was, fmt.Sprint(id.ID, id.Site, id.Labels, id.State, id.Generation))
	}
	for _, id := range h.identities(t) {
		is = append(is, fmt.Sprint(id.ID, id.Site, id.Labels, id.State, id.Generation))
	}
	if !slices.Equal(was, is) {
		t.Errorf("%s: identities\n%q\nbefore\n%q", h.name, is, was)
	}
}

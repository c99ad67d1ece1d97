package integration

import (
	"strings"
	"testing"
	"time"
)

// TestSitesReceiveWhatTheyMay shows what the first policy lets a site read: all but
// the commands of other sites, whatever its subscribers ask for.
func TestSitesReceiveWhatTheyMay(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	f := newFabric(t)
	f.paris.setPolicy(t, "orders.hcl", `
grant "orders" {
  to = ["service:local"]
  topics {
    publish = ["site/+/+/cmd/#"]
    retain  = ["site/+/+/cmd/#"]
  }
}
`)
	for _, h := range f.sites() {
		eventually(t, 10*time.Second, h.name+" has the grant", func() bool { return h.status(t).Policy.Version == 2 })
	}
	everything := map[*host]*process{}
	for _, h := range []*host{f.lyon, f.oslo} {
		everything[h] = h.start(t, "hpmq", "sub", "-t", "#", "-v")
	}
	eventually(t, 10*time.Second, "both sites want everything", func() bool {
		return f.paris.link(t, "lyon").Interest == 1 && f.paris.link(t, "oslo").Interest == 1
	})
	publish := func(retain bool, topic, payload string) {
		args := []string{"-h", "127.0.0.1", "-q", "1", "-t", topic, "-m", payload}
		if retain {
			args = append(args, "-r")
		}
		f.paris.run(t, "mosquitto_pub", args...)
	}
	publish(false, "site/paris/pump-7/telemetry", "3.2")
	publish(false, "site/paris/pump-7/cmd/open", "secret")
	publish(false, "site/lyon/valve-1/cmd/open", "for lyon")
	publish(true, "site/lyon/valve-1/cmd/mode", "for lyon too")
	publish(false, "demo/end", "end")
	want := map[*host][]string{
		f.lyon: {"site/paris/pump-7/telemetry 3.2", "site/lyon/valve-1/cmd/open for lyon", "site/lyon/valve-1/cmd/mode for lyon too", "demo/end end"},
		f.oslo: {"site/paris/pump-7/telemetry 3.2", "demo/end end"},
	}
	for h, sub := range everything {
		sub.waitLine("demo/end end", 10*time.Second)
		if got := strings.Join(sub.output(), "\n"); got != strings.Join(want[h], "\n") {
			t.Errorf("%s received\n%s\nwant\n%s", h.name, got, strings.Join(want[h], "\n"))
		}
	}
	if kept := f.oslo.run(t, "hpmq", "retained", "#"); strings.Contains(kept, "valve-1") {
		t.Errorf("oslo has a copy of a command for lyon:\n%s", kept)
	}
	if r := f.paris.try(t, "hpmq", "why", "site:lyon", "receive", "site/paris/pump-7/cmd/open"); r.code != 4 {
		t.Errorf("hpmq why: exit code %d, want 4\n%s", r.code, r.stdout)
	}
	f.denySite(t, everything[f.oslo])
	f.removeSite(t)
}

// denySite: a deny for a site holds at once, also for what was published before.
func (f *fabric) denySite(t *testing.T, sub *process) {
	t.Helper()
	f.oslo.cut()
	eventually(t, 10*time.Second, "the link is down", func() bool { return f.paris.link(t, "oslo").State != "up" })
	f.paris.run(t, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "site/paris/pump-7/secret", "-m", "waited")
	f.paris.setPolicy(t, "stop.hcl", `
deny "oslo" {
  to     = ["site:oslo"]
  topics { receive = ["site/paris/+/secret"] }
}
`)
	eventually(t, 10*time.Second, "the deny is in force", func() bool { return f.paris.status(t).Policy.Version == 3 })
	f.oslo.heal()
	f.awaitLinks(t)
	f.paris.run(t, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "demo/after", "-m", "the deny")
	sub.waitLine("demo/after the deny", 30*time.Second)
	if got := strings.Join(sub.output(), "\n"); strings.Contains(got, "waited") {
		t.Errorf("oslo received what waited after the deny:\n%s", got)
	}
}

// removeSite: nothing waits for a site that was removed, and it is listed no more.
func (f *fabric) removeSite(t *testing.T) {
	t.Helper()
	f.osloNode.stop()
	f.paris.run(t, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "demo/lost", "-m", "nobody")
	eventually(t, 10*time.Second, "it waits for oslo", func() bool { return f.paris.link(t, "oslo").Queued > 0 })
	if out := f.paris.run(t, "hpmq", "site", "remove", "oslo"); !strings.Contains(out, "known at lyon") {
		t.Errorf("hpmq site remove says:\n%s", out)
	}
	for _, h := range []*host{f.paris, f.lyon} {
		eventually(t, 10*time.Second, h.name+" has forgotten oslo", func() bool {
			return !strings.Contains(h.run(t, "hpmq", "site", "list"), "oslo")
		})
	}
	if r := f.paris.try(t, "hpmq", "site", "remove", "nowhere"); r.code != 5 {
		t.Errorf("hpmq site remove nowhere: exit code %d, want 5", r.code)
	}
	f.oslo.home = t.TempDir()
	f.osloNode = f.oslo.join(t, f.paris)
	f.awaitLinks(t)
	if q := f.paris.link(t, "oslo").Queued; q != 0 {
		t.Errorf("%d messages wait for a site that began anew", q)
	}
}

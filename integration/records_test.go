package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRecordsReachEverySite restarts the CA of a fabric of three sites, in two
// ways, and asks whether the other sites hear of what it decides afterwards.
func TestRecordsReachEverySite(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	f := newFabric(t)
	device := f.net.addHost("device")
	for _, tt := range []struct {
		name, pump string
		end        func()
	}{
		{"stopped", "pump-1", f.parisNode.stop},
		{"killed", "pump-2", func() { f.parisNode.kill() }},
	} {
		pump := device.enrol(t, f.paris, tt.pump)
		for _, h := range f.sites() {
			f.awaitIdentity(t, h, tt.pump)
			pump.mustPub(t, h, "site/paris/"+tt.pump+"/raw", "allowed")
		}
		tt.end()
		f.othersFollowEachOther(t)
		f.parisNode = f.paris.up(t)
		f.awaitLinks(t)
		f.revoked(t, pump)
		late := device.enrol(t, f.paris, tt.pump+"-late")
		for _, h := range f.sites() {
			f.awaitIdentity(t, h, late.dir)
		}
		if t.Failed() {
			t.Fatalf("after the CA was %s", tt.name)
		}
	}
	f.siteAway(t, device)
	f.clearRetained(t, device)
}

// clearRetained: what a stolen device left behind goes with it, at every site that
// has it.
func (f *fabric) clearRetained(t *testing.T, device *host) {
	t.Helper()
	thief := device.enrol(t, f.paris, "pump-10")
	for _, h := range f.sites() {
		h.start(t, "hpmq", "sub", "-t", "site/#")
	}
	f.awaitIdentity(t, f.lyon, "pump-10")
	eventually(t, 10*time.Second, "every site wants it", func() bool {
		for _, l := range f.paris.status(t).Links {
			if l.Interest == 0 {
				return false
			}
		}
		return true
	})
	retained := func(h *host) int { return h.status(t).Broker["retained"] }
	before := retained(f.lyon)
	thief.run(t, "mosquitto_pub", thief.flags(f.paris, "-q", "1", "-r", "-t", "site/paris/pump-10/state", "-m", "mine")...)
	for _, h := range f.sites() {
		eventually(t, 10*time.Second, h.name+" has a copy", func() bool { return retained(h) == before+1 })
	}
	f.paris.revoke(t, "pump-10", "--clear-retained")
	for _, h := range f.sites() {
		eventually(t, 10*time.Second, h.name+" has cleared it", func() bool { return retained(h) == before })
	}
}

func (f *fabric) awaitIdentity(t *testing.T, h *host, name string) {
	t.Helper()
	eventually(t, 10*time.Second, h.name+" knows "+name, func() bool {
		_, ok := h.identity(t, "/device/"+name)
		return ok
	})
}

// othersFollowEachOther waits until lyon and oslo have nothing but each other.
func (f *fabric) othersFollowEachOther(t *testing.T) {
	t.Helper()
	for _, h := range []*host{f.lyon, f.oslo} {
		eventually(t, 60*time.Second, h.name+" has lost the CA", func() bool { return len(h.status(t).Peers) == 1 })
	}
}

// recorded is what the tests read of hpmq device revoke -o json.
type recorded struct {
	Records int
	HeldBy  []struct{ Site string } `json:"held_by"`
	Missing []struct {
		Site      string
		Connected bool
	}
}

func (h *host) revoke(t *testing.T, name string, flags ...string) (r recorded) {
	t.Helper()
	out := h.run(t, "hpmq", append([]string{"device", "revoke", name, "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// revoked: once the command has listed all sites, none takes the device.
func (f *fabric) revoked(t *testing.T, pump *device) {
	t.Helper()
	if r := f.paris.revoke(t, pump.dir); len(r.HeldBy) != 2 || len(r.Missing) != 0 {
		t.Errorf("the revocation is known at %v, not at %v; want it at two others", r.HeldBy, r.Missing)
	}
	for _, h := range f.sites() {
		if r := pump.pub(t, h, "site/paris/"+pump.dir+"/raw", "x"); r.code == 0 {
			t.Errorf("%s publishes at %s after its revocation", pump.dir, h.name)
		}
	}
	st := f.paris.status(t)
	for _, n := range st.Nodes {
		if n.Records != st.Directory.Records || n.Policy != st.Policy.Version || !n.Connected {
			t.Errorf("paris believes that %s has %d records, policy %d, connected %t; want %d, %d", n.Site, n.Records, n.Policy, n.Connected, st.Directory.Records, st.Policy.Version)
		}
	}
}

// siteAway: a site that is cut off is listed, has the record soon after it is
// back, and the command that does not wait does not wait.
func (f *fabric) siteAway(t *testing.T, device *host) {
	t.Helper()
	pump := device.enrol(t, f.paris, "pump-9")
	f.awaitIdentity(t, f.oslo, "pump-9")
	f.oslo.cut()
	r := f.paris.revoke(t, "pump-9", "--wait", "2s")
	if len(r.HeldBy) != 1 || r.HeldBy[0].Site != "lyon" || len(r.Missing) != 1 || r.Missing[0].Site != "oslo" {
		t.Errorf("oslo is cut off: known at %v, missing at %v", r.HeldBy, r.Missing)
	}
	text := f.paris.run(t, "hpmq", "enroll", "void", "pump-9", "--wait", "0")
	if !strings.Contains(text, "not known yet at oslo") {
		t.Errorf("hpmq enroll void does not name the site that is cut off:\n%s", text)
	}
	f.oslo.heal()
	eventually(t, 10*time.Second, "oslo has the record", func() bool {
		id, ok := f.oslo.identity(t, "/device/pump-9")
		return ok && id.State == "revoked"
	})
	if r := pump.pub(t, f.oslo, "site/paris/pump-9/raw", "x"); r.code == 0 {
		t.Error("oslo takes a revoked device after it is back")
	}
	eventually(t, 10*time.Second, "paris knows it", func() bool {
		st := f.paris.status(t)
		return !slices.ContainsFunc(st.Nodes, func(n nodeRecords) bool { return n.Records != st.Directory.Records })
	})
}

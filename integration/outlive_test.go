package integration

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The lifetimes of TestOutlive, so short that a certificate that was just renewed
// ends while the CA is away. Its pauses are fractions of them.
const (
	outliveDevice = 40 * time.Second
	outliveNode   = 75 * time.Second
	outliveAway   = 110 * time.Second
)

// outlive is three sites with brief certificates: paris with the CA, lyon and nice.
type outlive struct {
	paris, lyon, nice *host
	lyonNode          *process
	pump, old, anna   *device // renewed by its agent; never renewed; a user
	agent             *process
}

// TestOutlive has a CA away for longer than every certificate lasts. What was valid
// when it was last heard of goes on, and everything is renewed when it is back.
func TestOutlive(t *testing.T) {
	t.Parallel() // it waits for certificates to end, and does little meanwhile
	need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	o := newOutlive(t)
	o.endBeforeCut(t)
	o.cut(t)
	o.back(t)
}

func newOutlive(t *testing.T) *outlive {
	t.Helper()
	net := newNetwork(t)
	o := &outlive{paris: net.addHost("paris"), lyon: net.addHost("lyon"), nice: net.addHost("nice")}
	o.paris.up(t, "--site", "paris", "--device-lifetime", outliveDevice.String(),
		"--node-lifetime", outliveNode.String(), "--user-lifetime", outliveDevice.String())
	o.lyonNode = o.lyon.up(t, "--site", "lyon", "--join", o.paris.ticket(t, "site", "invite", "lyon"))
	o.nice.up(t, "--site", "nice", "--join", o.paris.ticket(t, "site", "invite", "nice"))
	o.old = net.addHost("old").enrolAt(t, o.paris, "old", "lyon")
	o.pump = net.addHost("pump").enrolAt(t, o.paris, "pump-7", "lyon")
	o.anna = &device{net.addHost("person"), "anna"}
	o.agent = o.pump.start(t, "hpmq-lite", "up", "--dir", o.pump.dir, "--expose", "8080", "--node", o.lyon.address+":7844")
	o.awaitLinks(t)
	return o
}

// enrolAt is enrol with a home site.
func (h *host) enrolAt(t *testing.T, ca *host, name, site string) *device {
	t.Helper()
	h.run(t, "hpmq-enroll", "--out", name, ca.ticket(t, "enroll", "ticket", "--name", name, "--role", "sensor", "--site", site))
	return &device{h, name}
}

func (o *outlive) awaitLinks(t *testing.T) {
	t.Helper()
	for _, h := range []*host{o.paris, o.lyon, o.nice} {
		eventually(t, 60*time.Second, h.name+" has its links", func() bool {
			up := 0
			for _, l := range h.status(t).Links {
				if l.State == "up" {
					up++
				}
			}
			return up == 2
		})
	}
}

// end is the end of the certificate in a device's directory.
func (d *device) end(t *testing.T) time.Time {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.home, d.dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf.NotAfter
}

// endBeforeCut waits until the certificate that nobody renews has ended and the
// other sites have heard of the CA since.
func (o *outlive) endBeforeCut(t *testing.T) {
	t.Helper()
	end := o.old.end(t)
	o.old.mustPub(t, o.lyon, "site/lyon/old/raw", "in time")
	<-time.After(time.Until(end.Add(time.Second)))
	for _, h := range []*host{o.lyon, o.nice} {
		eventually(t, 70*time.Second, h.name+" has heard of the CA", func() bool { return h.status(t).Directory.Signed.After(end) })
	}
	o.awaitLinks(t)
	o.agent.waitLine("policy received", 10*time.Second)
}

// cut takes the CA away until all certificates have ended.
func (o *outlive) cut(t *testing.T) {
	t.Helper()
	// The certificate of a stock client is in files that nobody renews now.
	stock := o.stock(t)
	o.anna.run(t, "hpmq-enroll", "--out", o.anna.dir, o.paris.ticket(t, "user", "add", "anna"))
	sub := stock.start(t, "mosquitto_sub", append(stock.flags(o.lyon), "-t", "site/lyon/pump-7/cmd", "-q", "1")...)
	o.awaitRulesOfLyon(t)
	o.paris.cut()
	began := time.Now()

	<-time.After(time.Until(o.anna.end(t).Add(time.Second)))
	if !time.Now().After(stock.end(t)) {
		t.Fatal("the device's certificate, renewed before the user enrolled, ends later")
	}
	if end := o.lyon.status(t).Certificate; !end.After(time.Now()) {
		t.Fatalf("lyon's own certificate ended at %s, too early for stock clients", end)
	}
	stock.mustPub(t, o.lyon, "site/lyon/pump-7/raw", "late")
	stock.mustPub(t, o.nice, "site/lyon/pump-7/raw", "late")
	o.lyon.run(t, "hpmq", "pub", "-t", "site/lyon/pump-7/cmd", "-m", "still here", "-q", "1")
	sub.waitLine("still here", 10*time.Second)
	for _, d := range []*device{o.old, o.anna} {
		if r := d.pub(t, o.lyon, "site/lyon/"+d.dir+"/raw", "x"); r.code == 0 {
			t.Errorf("%s is served:\n%s%s", d.dir, r.stdout, r.stderr)
		}
	}
	eventually(t, 40*time.Second, "lyon warns of its own end", func() bool {
		return strings.Contains(strings.Join(o.lyon.status(t).Warnings, "\n"), "from then on stock clients refuse it")
	})

	<-time.After(time.Until(began.Add(outliveAway)))
	if end := o.lyon.status(t).Certificate; end.After(time.Now()) {
		t.Fatalf("lyon's own certificate ends at %s, too late for this test", end)
	}
	if r := stock.pub(t, o.lyon, "site/lyon/pump-7/raw", "x"); r.code == 0 {
		t.Error("a stock client accepted an expired server")
	}
	o.meshGoesOn(t)
}

// awaitRulesOfLyon waits until the agent's rules have lyon's current key. The writer
// gathers new keys of nodes for a 64th of their certificates' time: a cut within that
// time leaves the agent with the key before it.
func (o *outlive) awaitRulesOfLyon(t *testing.T) {
	t.Helper()
	const gathered = outliveNode/64 + 2*time.Second
	eventually(t, outliveNode, "lyon's certificate is some seconds old", func() bool {
		return time.Until(o.lyon.status(t).Certificate) < outliveNode-gathered
	})
}

// stock copies the agent's identity for a stock client.
func (o *outlive) stock(t *testing.T) *device {
	t.Helper()
	dir := filepath.Join(o.pump.home, "stock")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		copyFile(t, filepath.Join(o.pump.home, o.pump.dir, name), filepath.Join(dir, name))
	}
	return &device{o.pump.host, "stock"}
}

// meshGoesOn: without one valid certificate the sites exchange messages, and the
// agent is connected, also when it connects anew.
func (o *outlive) meshGoesOn(t *testing.T) {
	t.Helper()
	sub := o.nice.start(t, "mosquitto_sub", "-h", "127.0.0.1", "-t", "site/lyon/#", "-q", "1", "-v")
	eventually(t, 10*time.Second, "the subscriber is there", func() bool { return o.nice.status(t).Broker["subscriptions"] == 1 })
	for i := range 2 {
		eventually(t, 30*time.Second, "lyon and nice are linked", func() bool {
			for _, l := range o.lyon.status(t).Links {
				if l.State == "up" && l.Interest > 0 {
					return true
				}
			}
			return false
		})
		text := fmt.Sprint("over the mesh ", i)
		o.lyon.run(t, "hpmq", "pub", "-t", "site/lyon/test", "-m", text, "-q", "1")
		sub.waitLine(text, 20*time.Second)
		eventually(t, 30*time.Second, "the agent is connected", func() bool { return o.pump.agent(t).Node != nil })
		if i == 0 {
			o.lyonNode.stop() // what it knows is on disk
			o.lyonNode = o.lyon.up(t)
		}
	}
}

// back: everything is renewed without a hand.
func (o *outlive) back(t *testing.T) {
	t.Helper()
	o.paris.heal()
	began := time.Now()
	for _, h := range []*host{o.lyon, o.nice} {
		eventually(t, 60*time.Second, h.name+" is renewed", func() bool { return h.status(t).Certificate.After(time.Now()) })
	}
	eventually(t, 60*time.Second, "the agent is renewed", func() bool { return o.pump.end(t).After(time.Now()) })
	t.Logf("all were renewed %s after the CA was back", time.Since(began).Round(time.Second))
	o.awaitLinks(t)
	eventually(t, 30*time.Second, "the agent is connected", func() bool { return o.pump.agent(t).Node != nil })
	o.pump.mustPub(t, o.lyon, "site/lyon/pump-7/raw", "renewed")
	if r := o.old.pub(t, o.lyon, "site/lyon/old/raw", "x"); r.code == 0 {
		t.Error("what had ended before the cut is served after it")
	}
	o.old.run(t, "hpmq-enroll", "renew", "--out", o.old.dir)
	o.old.mustPub(t, o.lyon, "site/lyon/old/raw", "renewed late")
}

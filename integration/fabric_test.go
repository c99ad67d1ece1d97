package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fabric is three sites, each a machine of its own, joined and linked.
type fabric struct {
	net                           *network
	paris, lyon, oslo             *host
	parisNode, lyonNode, osloNode *process
}

// newFabric starts paris with its CA, and lyon and oslo with site tickets.
func newFabric(t *testing.T) *fabric {
	t.Helper()
	net := newNetwork(t)
	f := &fabric{net: net, paris: net.addHost("paris"), lyon: net.addHost("lyon"), oslo: net.addHost("oslo")}
	f.parisNode = f.paris.up(t, "--site", "paris")
	f.lyonNode = f.lyon.join(t, f.paris)
	f.osloNode = f.oslo.join(t, f.paris)
	f.awaitLinks(t)
	return f
}

// join starts a node that joins the fabric of ca as the site of its host's name.
func (h *host) join(t *testing.T, ca *host) *process {
	t.Helper()
	return h.up(t, "--site", h.name, "--join", ca.ticket(t, "site", "invite", h.name))
}

func (f *fabric) sites() []*host { return []*host{f.paris, f.lyon, f.oslo} }

// awaitLinks waits until every site says that its links are up.
func (f *fabric) awaitLinks(t *testing.T) {
	t.Helper()
	for _, h := range f.sites() {
		h.awaitLinks(t, len(f.sites())-1)
	}
}

// awaitLinks waits until h says that its links to so many sites are up.
func (h *host) awaitLinks(t *testing.T, sites int) {
	t.Helper()
	eventually(t, 30*time.Second, h.name+" has its links", func() bool {
		up := 0
		for _, l := range h.status(t).Links {
			if l.State == "up" {
				up++
			}
		}
		return up == sites
	})
}

// linkStatus is what the tests read of a link.
type linkStatus struct {
	Site     string
	Peer     string
	State    string
	Interest int
	Queued   int
	Dropped  int
}

// nodeRecords is what the tests read of how far another node is.
type nodeRecords struct {
	Site            string
	Connected       bool
	Records, Policy int
}

// link is the link of h to another site.
func (h *host) link(t *testing.T, site string) linkStatus {
	t.Helper()
	for _, l := range h.status(t).Links {
		if l.Site == site {
			return l
		}
	}
	return linkStatus{}
}

// up starts a node and waits until it serves.
func (h *host) up(t *testing.T, args ...string) *process {
	t.Helper()
	p := h.start(t, "hpmq", append([]string{"up"}, args...)...)
	p.waitLine("ready in", 20*time.Second)
	return p
}

// ticket runs a command that mints a ticket.
func (h *host) ticket(t *testing.T, args ...string) string {
	t.Helper()
	var minted struct{ Ticket string }
	text := h.run(t, "hpmq", append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(text), &minted); err != nil || minted.Ticket == "" {
		t.Fatalf("no ticket in %s (%v)", text, err)
	}
	return minted.Ticket
}

// policyFile is a policy file of the node on h.
func (h *host) policyFile(name string) string { return filepath.Join(h.home, "hpmq", "policy", name) }

// setPolicy writes a policy file at once and whole.
func (h *host) setPolicy(t *testing.T, name, text string) {
	t.Helper()
	path := h.policyFile(name)
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// device is an enrolled identity in a directory of its machine.
type device struct {
	*host
	dir string
}

// enrol makes name an identity on h with a ticket from the CA node at ca.
func (h *host) enrol(t *testing.T, ca *host, name string) *device {
	t.Helper()
	ticket := ca.ticket(t, "enroll", "ticket", "--name", name, "--role", "sensor")
	h.run(t, "hpmq-enroll", "--out", name, ticket)
	return &device{h, name}
}

// flags make a stock client the device, at the broker of the node on h.
func (d *device) flags(h *host, more ...string) []string {
	return append([]string{
		"-h", h.address, "-p", "8883", "--cafile", d.dir + "/ca.pem", "--cert", d.dir + "/cert.pem", "--key", d.dir + "/key.pem",
	}, more...)
}

// pub publishes once as the device with a stock client, at QoS 1.
func (d *device) pub(t *testing.T, h *host, topic, payload string) result {
	t.Helper()
	return d.try(t, "mosquitto_pub", d.flags(h, "-V", "5", "-q", "1", "-d", "-t", topic, "-m", payload)...)
}

// mustPub is pub where policy allows it; that the broker took it shows in the
// reason code that a stock client prints.
func (d *device) mustPub(t *testing.T, h *host, topic, payload string) {
	t.Helper()
	if r := d.pub(t, h, topic, payload); r.code != 0 || strings.Contains(r.stdout, "RC:135") {
		t.Fatalf("%s may not publish %s at %s: exit code %d\n%s%s", d.dir, topic, h.name, r.code, r.stdout, r.stderr)
	}
}

// status is what the tests read of hpmq status -o json.
type status struct {
	Node      string
	ID        string
	Site      string
	Links     []linkStatus
	Nodes     []nodeRecords
	Warnings  []string
	Broker    map[string]int
	Directory struct {
		Records int
		Signed  time.Time `json:"head_signed"`
	}
	Certificate time.Time `json:"certificate_not_after"`
	Policy      struct {
		Version int
		Error   string
	}
	Peers     []struct{ ID string }
	Functions []struct {
		Name   string
		SHA256 string
		Loaded bool
		Errors int
	}
}

func (h *host) status(t *testing.T) *status {
	t.Helper()
	st := new(status)
	if err := json.Unmarshal([]byte(h.run(t, "hpmq", "status", "-o", "json")), st); err != nil {
		t.Fatal(err)
	}
	return st
}

// identity is what the tests read of hpmq device list -o json.
type identity struct {
	ID         string
	Site       string
	Labels     map[string]string
	State      string
	Generation int
	Sessions   int
	Agent      bool
}

func (h *host) identities(t *testing.T) []identity {
	t.Helper()
	var ids []identity
	for line := range strings.Lines(h.run(t, "hpmq", "device", "list", "-o", "json")) {
		var id identity
		if err := json.Unmarshal([]byte(line), &id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// identity finds one by the end of its ID, as /device/pump-7.
func (h *host) identity(t *testing.T, suffix string) (identity, bool) {
	t.Helper()
	ids := h.identities(t)
	i := slices.IndexFunc(ids, func(id identity) bool { return strings.HasSuffix(id.ID, suffix) })
	if i < 0 {
		return identity{}, false
	}
	return ids[i], true
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

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

// fabric is two sites, each a machine of its own, joined and linked.
type fabric struct {
	net                 *network
	paris, lyon         *host
	parisNode, lyonNode *process
}

// newFabric starts paris with its CA, and lyon with a site ticket.
func newFabric(t *testing.T) *fabric {
	t.Helper()
	net := newNetwork(t)
	f := &fabric{net: net, paris: net.addHost("paris"), lyon: net.addHost("lyon")}
	f.parisNode = f.paris.up(t, "--site", "paris")
	ticket := f.paris.ticket(t, "site", "invite", "lyon")
	f.lyonNode = f.lyon.up(t, "--site", "lyon", "--join", ticket)
	f.awaitLinks(t)
	return f
}

// awaitLinks waits until both sites say that their link is up.
func (f *fabric) awaitLinks(t *testing.T) {
	t.Helper()
	for _, h := range []*host{f.paris, f.lyon} {
		eventually(t, 30*time.Second, h.name+" has a link", func() bool {
			links := h.status(t).Links
			return len(links) == 1 && links[0].State == "up"
		})
	}
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
	Node  string
	ID    string
	Site  string
	Links []struct {
		State    string
		Interest int
		Queued   int
		Dropped  int
	}
	Broker    map[string]int
	Directory struct{ Records int }
	Policy    struct {
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
	if err := json.Unmarshal([]byte(h.run(t, "hpmq", "device", "list", "-o", "json")), &ids); err != nil {
		t.Fatal(err)
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

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// TestAcknowledged has three sites, and publishers at one that keep what is not
// acknowledged: what is acknowledged arrives at the other two, in order and once,
// whatever is cut, restarted and killed meanwhile.
func TestAcknowledged(t *testing.T) {
	need(t, "netns", "ip")
	a := newAcknowledged(t)
	a.restartWhileCut(t)
	a.killUnderLoad(t)
	a.clearRetained(t)
	a.setUpAgain(t)
}

type acknowledged struct {
	paris, lyon, oslo *host
	nodes             map[*host]*process

	publishers []*publisher
	receivers  map[*host]*receiver
	faults     faults
	acks       atomic.Int64
	pace       *time.Ticker // of all publishers

	publishing sync.WaitGroup
	receiving  map[*host]*sync.WaitGroup
}

const (
	loadPublishers = 3
	loadTime       = 2 * time.Minute // at most, of a connection
)

func newAcknowledged(t *testing.T) *acknowledged {
	t.Helper()
	net := newNetwork(t)
	a := &acknowledged{
		paris: net.addHost("paris"), lyon: net.addHost("lyon"), oslo: net.addHost("oslo"), nodes: make(map[*host]*process),
		receivers: make(map[*host]*receiver), receiving: make(map[*host]*sync.WaitGroup), pace: time.NewTicker(time.Millisecond),
	}
	t.Cleanup(a.pace.Stop)
	a.nodes[a.paris] = a.paris.up(t, "--site", "paris")
	for _, h := range a.others() {
		a.nodes[h] = h.up(t, "--site", h.name, "--join", a.paris.ticket(t, "site", "invite", h.name))
	}
	a.awaitLinks(t)
	sources := make(map[string]*publisher)
	for i := range loadPublishers {
		topic := fmt.Sprintf("site/paris/load/%d", i)
		p := &publisher{name: topic, qos: 1, window: 50, acks: &a.acks, faults: &a.faults}
		p.message = func(seq uint64) *packets.Publish {
			<-a.pace.C
			return &packets.Publish{Topic: topic, Payload: strconv.AppendUint(nil, seq, 10)}
		}
		p.init()
		sources[topic] = p
		a.publishers = append(a.publishers, p)
	}
	for _, h := range a.others() {
		r := &receiver{name: "away", qos: 1, sources: sources, faults: &a.faults}
		r.init()
		a.receivers[h], a.receiving[h] = r, new(sync.WaitGroup)
		w := h.mustOpenWire(t, persistent(r.name))
		for _, filter := range []string{"site/paris/load/#", markTopic} {
			if err := w.subscribe(filter, 1); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
	}
	a.awaitInterest(t, 1)
	return a
}

func (a *acknowledged) others() []*host { return []*host{a.lyon, a.oslo} }

// awaitLinks waits until every site has its two links.
func (a *acknowledged) awaitLinks(t *testing.T) {
	t.Helper()
	for h := range a.nodes {
		eventually(t, 30*time.Second, h.name+" has its links", func() bool {
			links := h.status(t).Links
			return len(links) == 2 && links[0].State == "up" && links[1].State == "up"
		})
	}
}

// awaitInterest waits until paris knows that each of the other sites has n filters of
// its own.
func (a *acknowledged) awaitInterest(t *testing.T, n int) {
	t.Helper()
	eventually(t, 20*time.Second, "paris knows what the others want", func() bool {
		links := a.paris.status(t).Links
		return links[0].Interest >= n && links[1].Interest >= n
	})
}

// publish connects the publishers, which repeat what is not acknowledged.
func (a *acknowledged) publish(t *testing.T) {
	t.Helper()
	for _, p := range a.publishers {
		w := a.paris.mustOpenWire(t, persistent(p.name))
		if err := w.setDeadline(loadTime); err != nil {
			t.Fatal(err)
		}
		a.publishing.Go(func() { p.run(w) })
	}
}

// receive connects the receiver at a host. cut tells that its node was killed.
func (a *acknowledged) receive(t *testing.T, h *host, cut bool) {
	t.Helper()
	r := a.receivers[h]
	w := h.mustOpenWire(t, persistent(r.name))
	if !w.present {
		a.faults.add("%s: the session is gone", h.name)
	}
	if err := w.setDeadline(loadTime); err != nil {
		t.Fatal(err)
	}
	a.receiving[h].Go(func() { r.run(w, cut) })
}

// awaitAcks waits for n acknowledgements more.
func (a *acknowledged) awaitAcks(t *testing.T, n int64) {
	t.Helper()
	n += a.acks.Load()
	eventually(t, 30*time.Second, "messages are acknowledged", func() bool { return a.acks.Load() >= n })
}

// settle lets the publishers finish, and compares what arrived with what they sent.
func (a *acknowledged) settle(t *testing.T, when string) {
	t.Helper()
	for _, p := range a.publishers {
		p.mu.Lock()
		p.last = true
		p.mu.Unlock()
	}
	a.publishing.Wait()
	for _, p := range a.publishers {
		p.last = false
		if p.inFlight() > 0 {
			t.Fatalf("%s: %s has %d messages in flight", when, p.name, p.inFlight())
		}
	}
	eventually(t, 30*time.Second, "nothing is queued at paris", func() bool {
		for _, l := range a.paris.status(t).Links {
			if l.Queued > 0 {
				return false
			}
		}
		return true
	})
	for _, l := range a.paris.status(t).Links {
		if l.Dropped != 0 {
			t.Errorf("%s: %d messages for %s count as dropped", when, l.Dropped, l.Site)
		}
	}
	for _, h := range a.others() {
		control := h.mustOpenWire(t, packets.Connect{ClientID: "control", CleanStart: true})
		mark := h.name + " " + when
		if err := control.publish(markTopic, mark); err != nil {
			t.Fatal(err)
		}
		control.Close()
		for got, patience := "", time.After(30*time.Second); got != mark; { // the other site's marks come too
			select {
			case got = <-a.receivers[h].marked:
			case <-patience:
				t.Fatalf("%s: %s did not read all", when, h.name)
			}
		}
		a.receivers[h].holds()
	}
	if err := a.faults.err(); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	t.Logf("%s: %d messages acknowledged so far", when, a.acks.Load())
}

// restart ends a node, or kills it, and starts it again.
func (a *acknowledged) restart(t *testing.T, h *host, kill bool) {
	t.Helper()
	if kill {
		a.nodes[h].kill()
	} else {
		a.nodes[h].stop()
	}
	a.nodes[h] = h.up(t)
}

// restartWhileCut publishes after a restart of a site that reaches no other.
func (a *acknowledged) restartWhileCut(t *testing.T) {
	for _, kill := range []bool{false, true} {
		a.paris.cut()
		a.restart(t, a.paris, kill)
		a.publish(t)
		a.awaitAcks(t, 100)
		for _, p := range a.publishers {
			p.mu.Lock()
			p.last = true
			p.mu.Unlock()
		}
		a.publishing.Wait()
		a.paris.heal()
		if !kill {
			for _, h := range a.others() {
				a.receive(t, h, false)
			}
		}
		a.settle(t, fmt.Sprintf("a restart while cut off, killed %t", kill))
	}
}

// killUnderLoad kills the sending node, a receiving one, and both.
func (a *acknowledged) killUnderLoad(t *testing.T) {
	a.awaitLinks(t)
	a.publish(t)
	a.awaitAcks(t, 1000)
	a.restart(t, a.paris, true)
	a.publishing.Wait()
	a.publish(t)

	a.awaitAcks(t, 1000)
	a.restart(t, a.lyon, true)
	a.receiving[a.lyon].Wait()
	a.receive(t, a.lyon, true)

	a.awaitAcks(t, 1000)
	a.nodes[a.paris].kill()
	a.restart(t, a.lyon, true)
	a.nodes[a.paris] = a.paris.up(t)
	a.publishing.Wait()
	a.receiving[a.lyon].Wait()
	a.receive(t, a.lyon, true)
	a.publish(t)

	a.awaitAcks(t, 1000)
	a.settle(t, "kills under load")
}

// clearRetained clears a message while another site, which has a copy, has no
// subscriber.
func (a *acknowledged) clearRetained(t *testing.T) {
	retain := func(payload string) {
		t.Helper()
		c := a.paris.mustOpenWire(t, packets.Connect{ClientID: "retain", CleanStart: true})
		defer c.Close()
		p, err := c.ask(&packets.Publish{
			Topic: "site/paris/r", Payload: []byte(payload), QoS: 1, PacketID: 1, Retain: true, Properties: &packets.Properties{},
		})
		if err != nil {
			t.Fatal(err)
		}
		if ack, ok := p.Content.(*packets.Puback); !ok || ack.ReasonCode >= 0x80 {
			t.Fatal(p)
		}
	}
	kept := func(h *host) bool {
		return strings.Contains(h.run(t, "hpmq", "retained", "site/paris/#"), "site/paris/r")
	}
	a.awaitLinks(t)
	sub := a.lyon.mustOpenWire(t, packets.Connect{ClientID: "once", CleanStart: true})
	if err := sub.subscribe("site/paris/r", 1); err != nil {
		t.Fatal(err)
	}
	retain("keep")
	eventually(t, 10*time.Second, "lyon has a copy", func() bool { return kept(a.lyon) })
	before := a.paris.status(t)
	sub.Close()
	eventually(t, 10*time.Second, "lyon's interest is gone", func() bool {
		for i, l := range a.paris.status(t).Links {
			if l.Site == "lyon" {
				return l.Interest < before.Links[i].Interest
			}
		}
		return false
	})
	retain("")
	eventually(t, 10*time.Second, "lyon's copy is gone", func() bool { return !kept(a.lyon) })
}

// setUpAgain loses the disk of a node, which joins again under another name while the
// record of the first is active.
func (a *acknowledged) setUpAgain(t *testing.T) {
	old := a.oslo.status(t).Node
	a.nodes[a.oslo].kill()
	a.receiving[a.oslo].Wait()
	if err := os.RemoveAll(filepath.Join(a.oslo.home, "hpmq")); err != nil {
		t.Fatal(err)
	}
	invited := a.paris.run(t, "hpmq", "site", "invite", "oslo", "-o", "json")
	if !strings.Contains(invited, "site oslo has a node, "+old) {
		t.Errorf("an invitation to a site that has a node: %s", invited)
	}
	a.nodes[a.oslo] = a.oslo.up(t, "--site", "oslo", "--join", a.paris.ticket(t, "site", "invite", "oslo"))
	a.oslo.awaitLinks(t, 2)
	sub := a.oslo.mustOpenWire(t, packets.Connect{ClientID: "new", CleanStart: true})
	defer sub.Close()
	if err := sub.subscribe("site/paris/again", 1); err != nil {
		t.Fatal(err)
	}
	if err := sub.setDeadline(loadTime); err != nil {
		t.Fatal(err)
	}
	eventually(t, 45*time.Second, "paris knows what the new node wants", func() bool {
		list := a.paris.run(t, "hpmq", "site", "list")
		if !strings.Contains(list, old) {
			t.Fatalf("site list lacks %s:\n%s", old, list)
		}
		for _, l := range a.paris.status(t).Links {
			if l.Site == "oslo" {
				return l.Peer != old && l.Interest == 1
			}
		}
		return false
	})
	control := a.paris.mustOpenWire(t, packets.Connect{ClientID: "control", CleanStart: true})
	defer control.Close()
	if err := control.publish("site/paris/again", "hello"); err != nil {
		t.Fatal(err)
	}
	p, err := sub.next()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := p.Content.(*packets.Publish); !ok || string(m.Payload) != "hello" {
		t.Fatalf("the new node's subscriber received %v", p)
	}
}

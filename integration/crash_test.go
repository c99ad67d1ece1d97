package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// Settings of TestCrash: how often it kills the node, and the seed of the
// instants, which a failed run prints.
const (
	killsEnv = "HPMQ_CRASH_KILLS"
	seedEnv  = "HPMQ_CRASH_SEED"
)

const (
	markTopic = "demo/crash/mark"
	willTopic = "demo/crash/will"

	crashPublishers = 4    // of each QoS
	crashWindow     = 150  // of each publisher
	crashInFlight   = 500  // at least, when the node is killed
	crashAcks       = 4000 // at most between two kills, about: queues hold 10,000
	retainedTopics  = 8
	sessionTopics   = 10
)

// TestCrash kills the node at random instants under load and starts it again.
// Nothing that was acknowledged may be lost, nothing come in another order or
// more often than its QoS allows: for a subscriber that is away while the node
// is killed and one of each QoS that is not, for retained messages and their
// removal, for wills, and for the subscriptions of a session.
func TestCrash(t *testing.T) {
	need(t, "netns", "ip")
	kills, seed := setting(t, killsEnv, 10), setting(t, seedEnv, rand.Uint64()>>1)
	t.Logf("%s=%d %s=%d", killsEnv, kills, seedEnv, seed)
	c := newCrash(t, newNetwork(t).addHost("paris"), seed)
	for n := range kills {
		c.check(t, n)
		c.load(t, n)
		c.fail(t, fmt.Sprintf("kill %d", n))
	}
	c.check(t, kills)
	c.settle(t, kills)
	c.report(t)
}

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// crash is what the clients of a node that is killed know.
type crash struct {
	host *host
	node *process
	rng  *rand.Rand

	publishers []*publisher // of crash/…
	keeper     *publisher   // of retained messages
	receivers  []*receiver
	session    sessionChanges
	faults     faults
	acks       atomic.Int64

	running  sync.WaitGroup // clients that the kill ends
	inFlight []int          // at each kill
	starts   []time.Duration
}

func newCrash(t *testing.T, h *host, seed uint64) *crash {
	c := &crash{host: h, rng: rand.New(rand.NewPCG(seed, 0))}
	sources := make(map[string]*publisher)
	for i := range 2 * crashPublishers {
		qos := byte(1 + i%2)
		topic := fmt.Sprintf("demo/crash/qos%d/%d", qos, i)
		p := &publisher{name: topic, qos: qos, window: crashWindow, acks: &c.acks, faults: &c.faults}
		p.message = func(seq uint64) *packets.Publish {
			return &packets.Publish{Topic: topic, Payload: strconv.AppendUint(nil, seq, 10)}
		}
		sources[topic] = p
		c.publishers = append(c.publishers, p)
	}
	c.keeper = &publisher{name: "keeper", qos: 1, window: 20, acks: &c.acks, faults: &c.faults, message: retainedMessage}
	for _, r := range []*receiver{{name: "away", qos: 2, leaves: true}, {name: "online2", qos: 2}, {name: "online1", qos: 1}} {
		r.sources, r.faults = sources, &c.faults
		r.init()
		c.receivers = append(c.receivers, r)
	}
	for _, p := range append(c.publishers, c.keeper) {
		p.init()
	}
	c.session.init(&c.faults)
	c.start(t)
	for _, r := range c.receivers {
		w := h.mustOpenWire(t, persistent(r.name))
		if err := w.subscribe("demo/crash/#", r.qos); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	return c
}

func (c *crash) start(t *testing.T) {
	t.Helper()
	began := time.Now()
	c.node = c.host.up(t)
	c.starts = append(c.starts, time.Since(began))
	if slices.ContainsFunc(c.node.output(), func(line string) bool { return strings.Contains(line, "set aside") }) {
		c.faults.add("a file counts as damaged")
	}
}

// fail ends the test if something was wrong.
func (c *crash) fail(t *testing.T, when string) {
	t.Helper()
	if err := c.faults.err(); err != nil {
		t.Fatalf("%s: %v\nthe node printed: %q", when, err, c.node.output())
	}
}

// check compares what the node has with what it acknowledged.
func (c *crash) check(t *testing.T, n uint64) {
	t.Helper()
	control := c.host.mustOpenWire(t, packets.Connect{ClientID: "control", CleanStart: true})
	defer control.Close()
	c.read(t, control, fmt.Sprint(n), n > 0, c.receivers...)
	for _, r := range c.receivers {
		r.holds()
	}
	c.checkRetained(t)
	c.session.check(t, c.host, control)
	c.fail(t, fmt.Sprintf("after start %d", n))
}

// read connects receivers and waits until they have read what waits for them.
// cut tells that those which do not leave were cut off before.
func (c *crash) read(t *testing.T, control *wire, mark string, cut bool, receivers ...*receiver) {
	t.Helper()
	for _, r := range receivers {
		w := c.host.mustOpenWire(t, persistent(r.name))
		if !w.present {
			c.faults.add("%s: the session is gone", r.name)
		}
		c.running.Go(func() { r.run(w, cut && !r.leaves) })
	}
	if err := control.publish(markTopic, mark); err != nil {
		t.Fatal(err)
	}
	for _, r := range receivers {
		select {
		case got := <-r.marked:
			if got != mark {
				c.faults.add("%s received mark %s, want %s", r.name, got, mark)
			}
		case <-time.After(30 * time.Second):
			c.fail(t, "mark "+mark)
			t.Fatalf("%s did not receive mark %s", r.name, mark)
		}
	}
}

// load publishes and kills the node at a random instant.
func (c *crash) load(t *testing.T, n uint64) {
	t.Helper()
	c.willClients(t, n)
	c.session.load(t, c)
	target := c.acks.Load() + c.rng.Int64N(crashAcks)
	later := time.Duration(c.rng.Int64N(int64(3 * time.Millisecond)))
	c.publish(t)
	limit := time.Now().Add(30 * time.Second)
	for c.acks.Load() < target || c.unacknowledged() < crashInFlight {
		if time.Now().After(limit) {
			c.fail(t, "under load")
			t.Fatalf("%d messages acknowledged of %d within 30 s, %d in flight", c.acks.Load(), target, c.unacknowledged())
		}
		<-time.After(200 * time.Microsecond)
	}
	<-time.After(later)
	c.inFlight = append(c.inFlight, c.unacknowledged())
	c.node.kill()
	c.running.Wait()
	c.start(t)
}

// publish connects all publishers.
func (c *crash) publish(t *testing.T) {
	t.Helper()
	for _, p := range append(c.publishers, c.keeper) {
		w := c.host.mustOpenWire(t, persistent(p.name))
		if p.sent > 0 && !w.present {
			c.faults.add("%s: the session is gone", p.name)
		}
		c.running.Go(func() { p.run(w) })
	}
}

func (c *crash) unacknowledged() int {
	n := 0
	for _, p := range c.publishers {
		n += p.inFlight()
	}
	return n
}

// settle finishes all exchanges and checks that everything came, wills too.
func (c *crash) settle(t *testing.T, kills uint64) {
	t.Helper()
	for _, p := range append(c.publishers, c.keeper) {
		p.last = true
	}
	c.publish(t)
	eventually(t, 30*time.Second, "all is acknowledged", func() bool { return c.unacknowledged() == 0 })
	c.node.kill()
	c.running.Wait()
	c.start(t)
	c.check(t, kills+1)
	away := c.receivers[0]
	for _, p := range c.publishers {
		if p.acked != p.sent || away.last[p.name] != p.sent {
			c.faults.add("%s: sent %d, acknowledged %d, received %d", p.name, p.sent, p.acked, away.last[p.name])
		}
	}
	control := c.host.mustOpenWire(t, packets.Connect{ClientID: "control", CleanStart: true})
	defer control.Close()
	eventually(t, 10*time.Second, "the last wills came", func() bool {
		c.read(t, control, "wills", false, away)
		return len(away.wills) >= int(kills)*(len(willKinds)-1)
	})
	for n := range kills {
		for _, kind := range willKinds {
			payload, want := kind.payload(n), 1
			if kind.leaves {
				want = 0
			}
			if got := away.wills[payload]; got != want {
				c.faults.add("will %s came %d times, want %d", payload, got, want)
			}
		}
	}
	c.fail(t, "at the end")
}

func (c *crash) report(t *testing.T) {
	t.Helper()
	acked := uint64(0)
	for _, p := range c.publishers {
		acked += p.acked
	}
	slices.Sort(c.inFlight)
	slices.Sort(c.starts)
	t.Logf("%d kills, %d to %d messages in flight; %d acknowledged, 0 lost; QoS 1 duplicates: %d away, %d online; start: median %s, longest %s",
		len(c.inFlight), c.inFlight[0], c.inFlight[len(c.inFlight)-1], acked, c.receivers[0].duplicates,
		c.receivers[1].duplicates+c.receivers[2].duplicates, c.starts[len(c.starts)/2], c.starts[len(c.starts)-1])
}

// retainedMessage numbers the values of some topics; every fifth is a removal.
func retainedMessage(seq uint64) *packets.Publish {
	m := &packets.Publish{Topic: fmt.Sprintf("demo/keep/%d", seq%retainedTopics), Retain: true}
	if seq/retainedTopics%5 != 4 {
		m.Payload = strconv.AppendUint(nil, seq, 10)
	}
	return m
}

// checkRetained expects of each topic the last value that was acknowledged, or
// one that was sent after it.
func (c *crash) checkRetained(t *testing.T) {
	t.Helper()
	w := c.host.mustOpenWire(t, packets.Connect{ClientID: "retained", CleanStart: true})
	defer w.Close()
	if err := w.subscribe("demo/keep/+", 1); err != nil {
		t.Fatal(err)
	}
	if err := w.send(&packets.Publish{Topic: "demo/keep/mark", QoS: 1, PacketID: 1, Properties: &packets.Properties{}}); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for got["demo/keep/mark"] == "" {
		p, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		m, ok := p.Content.(*packets.Publish)
		if !ok {
			continue
		}
		if got[m.Topic] = string(m.Payload); m.Topic == "demo/keep/mark" {
			break
		}
		if err := w.put(&packets.Puback{PacketID: m.PacketID, Properties: &packets.Properties{}}); err != nil {
			t.Fatal(err)
		}
	}
	k := c.keeper
	for topic := range uint64(retainedTopics) {
		name := fmt.Sprintf("demo/keep/%d", topic)
		possible := []string{}
		for seq := k.sent; seq > 0; seq-- {
			if seq%retainedTopics != topic {
				continue
			}
			possible = append(possible, string(retainedMessage(seq).Payload))
			if seq <= k.acked {
				break
			}
		}
		if len(possible) == 0 || k.acked < retainedTopics {
			possible = append(possible, "")
		}
		if !slices.Contains(possible, got[name]) {
			c.faults.add("retained on %s: %q, want one of %q", name, got[name], possible)
		}
	}
}

// willKind is a client with a will that is on when the node is killed, or goes
// away a little before.
type willKind struct {
	name   string
	delay  uint32 // seconds
	drops  bool   // its connection breaks before
	leaves bool   // it disconnects before, in order
}

var willKinds = []willKind{
	{name: "held", delay: 1},
	{name: "held at once"},
	{name: "dropped", delay: 1, drops: true},
	{name: "dropped at once", drops: true},
	{name: "left", leaves: true},
}

func (k willKind) payload(n uint64) string { return fmt.Sprintf("%s %d", k.name, n) }

// willClients connects a client of each kind. Those that go away do so at an
// instant of their own.
func (c *crash) willClients(t *testing.T, n uint64) {
	t.Helper()
	for _, k := range willKinds {
		connect := persistent(k.payload(n))
		connect.WillFlag, connect.WillTopic, connect.WillQOS = true, willTopic, 1
		connect.WillMessage = []byte(k.payload(n))
		connect.WillProperties = &packets.Properties{WillDelayInterval: &k.delay}
		w := c.host.mustOpenWire(t, connect)
		t.Cleanup(func() { w.Close() })
		if k.leaves {
			err := w.send(&packets.Disconnect{Properties: &packets.Properties{}})
			if err == nil {
				_, err = w.r.ReadByte() // until the broker has taken it
			}
			if err == nil {
				t.Fatal("an answer to DISCONNECT")
			}
		}
		if k.drops {
			wait := time.Duration(c.rng.Int64N(int64(150 * time.Millisecond)))
			c.running.Go(func() {
				<-time.After(wait)
				w.Close()
			})
		}
	}
}

// sessionChanges is a client that subscribes and unsubscribes at random.
type sessionChanges struct {
	faults *faults
	in     map[string]bool // acknowledged
	asked  string          // the filter whose change is not acknowledged
}

const sessionClient = "changes"

func (s *sessionChanges) init(f *faults) { s.faults, s.in = f, make(map[string]bool) }

func sessionTopic(i int) string { return fmt.Sprintf("demo/changes/%d", i) }

// load makes changes until the connection ends.
func (s *sessionChanges) load(t *testing.T, c *crash) {
	t.Helper()
	w := c.host.mustOpenWire(t, persistent(sessionClient))
	rng := rand.New(rand.NewPCG(c.rng.Uint64(), 0))
	c.running.Go(func() {
		defer w.Close()
		for {
			filter := sessionTopic(rng.IntN(sessionTopics))
			s.asked = filter
			var err error
			if s.in[filter] {
				_, err = w.ask(&packets.Unsubscribe{PacketID: 1, Topics: []string{filter}, Properties: &packets.Properties{}})
			} else {
				err = w.subscribe(filter, 1)
			}
			if err != nil {
				return
			}
			s.in[filter], s.asked = !s.in[filter], ""
		}
	})
}

// check publishes on every topic and expects what was acknowledged.
func (s *sessionChanges) check(t *testing.T, h *host, control *wire) {
	t.Helper()
	w := h.mustOpenWire(t, persistent(sessionClient))
	defer w.Close()
	if err := w.subscribe("demo/changes/mark", 1); err != nil {
		t.Fatal(err)
	}
	for i := range sessionTopics {
		if err := control.publish(sessionTopic(i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := control.publish("demo/changes/mark", "x"); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for !got["demo/changes/mark"] {
		p, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := p.Content.(*packets.Publish); ok {
			got[m.Topic] = true
			if err := w.put(&packets.Puback{PacketID: m.PacketID, Properties: &packets.Properties{}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.send(&packets.Disconnect{Properties: &packets.Properties{}}); err != nil {
		t.Fatal(err)
	}
	for i := range sessionTopics {
		topic := sessionTopic(i)
		if topic == s.asked {
			s.in[topic] = got[topic]
		} else if got[topic] != s.in[topic] {
			s.faults.add("session: subscribed to %s: %t, acknowledged: %t", topic, got[topic], s.in[topic])
		}
	}
	s.asked = ""
}

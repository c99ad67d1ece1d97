package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable"
)

// host is a machine on which a node is started, ended and killed. Its disk outlives the
// process.
type host struct {
	*site              // the process that runs
	dead  *atomic.Bool // it was killed

	w      *world
	of     string // site
	node   string
	limits store.Limits

	memory *store.Memory // the disk, if it is one in memory
	dir    string        // else
	stop   func()        // ends the store of the process that runs
	lives  int
}

func newHost(w *world, siteName, node string, l store.Limits, dir string) *host {
	h := &host{w: w, of: siteName, node: node, limits: l, dir: dir, stop: func() {}}
	if dir == "" {
		h.memory = store.NewMemory(l)
	}
	h.start()
	return h
}

func (h *host) start() {
	h.lives++
	var s store.Store = h.memory
	if h.dir != "" {
		s = h.open()
	}
	h.dead = new(atomic.Bool)
	s.Update(func(tx store.Tx) { tx.PutSession(store.Session{Key: subscriber, Expiry: 1 << 31}) }, nil)
	h.site = h.w.addNode(h.of, h.node, Options{Store: s})
	synctest.Wait()
}

// open opens the store in the directory of this life.
func (h *host) open() store.Store {
	s, err := durable.Open(h.files(), durable.Options{Limits: h.limits})
	if err != nil {
		h.w.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			h.w.tb.Error(err)
		}
	})
	h.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := s.Close(); err != nil {
			h.w.tb.Error(err)
		}
	})
	return s
}

func (h *host) files() string { return filepath.Join(h.dir, strconv.Itoa(h.lives)) }

// end ends the process. A killed one loses the changes that it had not given to its
// store, and of its store only the bytes remain that lay on the disk at that moment.
func (h *host) end(killed bool) {
	old := h.site
	if killed {
		old.mu.Lock()
		old.held, old.hold = nil, true
		old.mu.Unlock()
		h.w.part(old)
		h.dead.Store(true)
		if h.dir != "" {
			if err := os.CopyFS(filepath.Join(h.dir, strconv.Itoa(h.lives+1)), os.DirFS(h.files())); err != nil {
				h.w.tb.Fatal(err)
			}
		}
	}
	h.w.part(old)
	old.cancel()
	<-old.gone
	h.stop()
	if !killed && h.dir != "" {
		if err := os.Rename(h.files(), filepath.Join(h.dir, strconv.Itoa(h.lives+1))); err != nil {
			h.w.tb.Fatal(err)
		}
	}
	synctest.Wait()
}

// restart ends the process and starts the next one.
func (h *host) restart(killed bool) {
	h.end(killed)
	h.start()
	h.w.rejoin(h.site)
	synctest.Wait()
}

// delivered returns the numbers that are in the queue of the node's subscriber.
func (h *host) delivered() map[string][]int {
	all := make(map[string][]int)
	dst := make([]store.Entry, 0, 100)
	for after := uint64(0); ; {
		got, err := h.store.Queue(subscriber, after, dst)
		if err != nil {
			h.w.tb.Fatal(err)
		}
		if len(got) == 0 {
			return all
		}
		for _, e := range got {
			after = e.Seq
			n, _ := strconv.Atoi(string(e.Message.Payload))
			all[e.Message.Topic] = append(all[e.Message.Topic], n)
		}
	}
}

// checker is a naive record of acknowledged messages.
type checker struct {
	t     *testing.T
	mu    sync.Mutex
	acked map[string][]int
	next  int
}

// publish publishes at a host the next number on a topic. It counts once the store has
// kept it.
func (c *checker) publish(h *host, topic string) {
	n := c.next
	c.next++
	m, dead := numbered(topic, n), h.dead
	h.store.Update(func(tx store.Tx) {
		if h.links.Wants(m.Topic) {
			h.links.Forward(tx, m)
		}
	}, func(err error) {
		if err == nil && !dead.Load() {
			c.mu.Lock()
			c.acked[topic] = append(c.acked[topic], n)
			c.mu.Unlock()
		}
	})
}

// compare wants each acknowledged message at one of the hosts, at each of them in
// order and once.
func (c *checker) compare(doubled bool, hosts ...*host) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	arrived := make(map[int]int)
	for _, h := range hosts {
		for topic, numbers := range h.delivered() {
			if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
				c.t.Errorf("%s received on %s %v", h.node, topic, numbers)
			}
			for _, n := range numbers {
				arrived[n]++
			}
		}
	}
	lost, doubles, total := 0, 0, 0
	for _, numbers := range c.acked {
		for _, n := range numbers {
			total++
			switch {
			case arrived[n] == 0:
				lost++
			case arrived[n] > 1:
				doubles++
			}
		}
	}
	c.t.Logf("%d acknowledged, %d lost, %d doubled", total, lost, doubles)
	if lost > 0 || doubles > 0 && !doubled || total == 0 {
		c.t.Errorf("%d acknowledged, %d lost, %d doubled", total, lost, doubles)
	}
}

// TestAcknowledgedArrives cuts, restarts and kills at random. Two nodes of a site
// publish to a site that has two nodes too; streams break after a random number of
// bytes, and stores are slow at times. Each message that was acknowledged to its
// publisher arrives, in the order of its publisher, and once. At a second node it
// arrives again only if the link moved while an acknowledgement was on its way.
func TestAcknowledgedArrives(t *testing.T) {
	for _, disk := range []string{"memory", "durable"} {
		for seed := range uint64(12) {
			if disk == "durable" && seed >= 3 {
				break
			}
			t.Run(fmt.Sprintf("%s/seed=%d", disk, seed), func(t *testing.T) {
				dirs := make([]string, 4)
				if disk == "durable" {
					for i := range dirs {
						dirs[i] = t.TempDir()
					}
				}
				bubble(t, func(t *testing.T) { acknowledgedArrives(t, seed, dirs) })
			})
		}
	}
}

func acknowledgedArrives(t *testing.T, seed uint64, dirs []string) {
	rnd := rand.New(rand.NewPCG(seed, 3))
	w := newWorld(t)
	cuts := rand.New(rand.NewPCG(seed, 4)) // under the world's lock
	w.budget = func() int { return 500 + cuts.IntN(1<<uint(10+cuts.IntN(10))) }
	c := &checker{t: t, acked: make(map[string][]int)}
	var hosts []*host
	for i, node := range []string{"lyon-a", "lyon-b", "paris-a", "paris-b"} {
		hosts = append(hosts, newHost(w, node[:len(node)-2], node, store.Limits{}, dirs[i]))
	}
	defer func() {
		for _, h := range hosts {
			h.cancel()
			<-h.gone
			h.stop()
		}
	}()
	to, from := hosts[:2], hosts[2:]
	for _, h := range to {
		h.subscribe("t/#")
	}
	pass(time.Second)
	for range 60 {
		for range rnd.IntN(40) {
			n := rnd.IntN(2)
			c.publish(from[n], fmt.Sprint("t/", n))
		}
		if rnd.IntN(2) == 0 {
			pass(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		}
		h := hosts[rnd.IntN(4)]
		switch rnd.IntN(9) {
		case 0:
			w.sever()
		case 1:
			w.heal()
		case 2:
			h.restart(false)
		case 3:
			h.restart(true)
		case 4: // both ends
			from[rnd.IntN(2)].restart(true)
			to[rnd.IntN(2)].restart(true)
		case 5:
			w.part(h.site)
		case 6:
			w.rejoin(h.site)
		case 7:
			h.mu.Lock()
			h.hold = true
			h.mu.Unlock()
		case 8:
			h.letGo()
		}
	}
	w.mu.Lock()
	w.budget = nil
	w.mu.Unlock()
	for _, h := range hosts {
		h.letGo()
		w.rejoin(h.site)
	}
	w.heal()
	for range 60 {
		pass(time.Second)
		if from[0].to("lyon").Queued+from[1].to("lyon").Queued == 0 {
			break
		}
	}
	for _, h := range from {
		if st := h.to("lyon"); st.Queued != 0 || st.Dropped != 0 {
			t.Errorf("%s: %+v", h.node, st)
		}
	}
	for _, h := range to {
		if st := h.to("paris"); st.Missing != 0 || st.Refused != 0 {
			t.Errorf("%s: %+v", h.node, st)
		}
	}
	c.compare(true, to...)
}

// bookkeeper is a naive model of the messages that a site has queued and dropped for
// another, and of the retained messages.
type bookkeeper struct {
	limit    int
	queue    []string
	dropped  int
	retained map[string]string
}

func (k *bookkeeper) log(m *store.Message) {
	if k.queue = append(k.queue, m.Topic+" "+string(m.Payload)); len(k.queue) > k.limit {
		k.queue = k.queue[1:]
		k.dropped++
	}
}

// TestQueuedAndDropped compares Stats, and the retained messages at the other end, with
// a naive model over cuts, moves of the link, restarts and kills.
func TestQueuedAndDropped(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { queuedAndDropped(t, seed) })
		})
	}
}

func queuedAndDropped(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 5))
	w := newWorld(t)
	model := &bookkeeper{limit: 8, retained: make(map[string]string)}
	paris := newHost(w, "paris", "paris", store.Limits{Outbound: store.QueueLimit{Messages: model.limit}}, "")
	lyon := []*host{newHost(w, "lyon", "lyon-a", store.Limits{}, ""), newHost(w, "lyon", "lyon-b", store.Limits{}, "")}
	for _, h := range lyon {
		h.subscribe("t/#")
	}
	pass(time.Second)
	model.queue = nil
	away := map[identity.ID]bool{}
	cut := false
	expected := 0 // deliveries
	reached := func() *host {
		for _, h := range lyon {
			if !cut && !away[h.id] {
				return h
			}
		}
		return nil
	}
	for step := range 150 {
		switch rnd.IntN(10) {
		case 0, 1, 2, 3:
			m := numbered(fmt.Sprint("t/", rnd.IntN(3)), step)
			if m.HLC = clock(step); rnd.IntN(3) == 0 {
				m.Retain = true
				if rnd.IntN(2) == 0 {
					m.Payload = nil
				}
			}
			paris.publish(m)
			if model.log(m); m.Retain {
				delete(model.retained, m.Topic)
				if len(m.Payload) > 0 {
					model.retained[m.Topic] = string(m.Payload)
				}
			}
		case 4:
			w.sever()
			cut = true
		case 5:
			cut = false
			w.heal()
		case 6:
			h := lyon[rnd.IntN(2)]
			away[h.id] = true
			w.part(h.site)
		case 7:
			h := lyon[rnd.IntN(2)]
			delete(away, h.id)
			w.rejoin(h.site)
		case 8:
			paris.restart(rnd.IntN(2) == 0)
		case 9:
			h := lyon[rnd.IntN(2)]
			h.restart(rnd.IntN(2) == 0)
			delete(away, h.id)
		}
		pass(time.Second)
		link := reached()
		if link != nil {
			expected += len(model.queue)
			model.queue = nil
		}
		st := paris.to("lyon")
		if st.Queued != len(model.queue) || st.Dropped != uint64(model.dropped) || st.Up != (link != nil) {
			t.Fatalf("step %d: %+v, want %d queued and %d dropped", step, st, len(model.queue), model.dropped)
		}
		if link == nil {
			continue
		}
		got := make(map[string]string)
		for _, m := range link.store.Retained("t/#") {
			got[m.Topic] = string(m.Payload)
		}
		if diff := cmp.Diff(model.retained, got); diff != "" {
			t.Fatalf("step %d: %s retains otherwise (-want +got):\n%s", step, link.node, diff)
		}
	}
	t.Logf("%d of %d dropped", model.dropped, expected+model.dropped)
}

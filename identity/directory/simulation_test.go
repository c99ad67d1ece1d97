package directory

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// arrivalBound is within which every record reaches every honest node once there
// is a path of honest nodes to it.
const arrivalBound = 10 * time.Second

// way is how a node treats the nodes that follow it. None but node 0 holds the
// signer key.
type way int

const (
	honest   way = iota
	lagging      // follows no node: its log stays as it is
	silent       // accepts streams and sends nothing
	boastful     // passes on true heads and answers no fetch
	forging      // changes the records that it sends
	dripping     // answers a fetch as late as it can
	refusing     // claims that the log of its follower contradicts its own
	wayCount
)

// simulation is five nodes and the wires between them. Node 0 is the writer.
type simulation struct {
	t    *testing.T
	rng  *rand.Rand
	dir  string
	work sync.WaitGroup // streams and nodes

	mu      sync.Mutex // guards all below
	nodes   []*simNode
	wires   map[[2]int]bool // connected pairs, lower first
	streams map[[2]int][]net.Conn
	changed chan struct{}
}

type simNode struct {
	sim  *simulation
	n    int
	id   identity.ID
	way  way
	d    *Directory
	stop func() // ends its run and waits; nil while it is off
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(),
		wires: map[[2]int]bool{}, streams: map[[2]int][]net.Conn{}, changed: make(chan struct{}),
	}
	for n := range 5 {
		s.nodes = append(s.nodes, &simNode{sim: s, n: n, id: node(fmt.Sprint("node-", n))})
	}
	for _, n := range s.rng.Perm(4)[:1+s.rng.IntN(2)] { // one or two others are no use
		s.nodes[n+1].way = 1 + way(s.rng.IntN(int(wayCount)-1))
	}
	return s
}

func pair(a, b int) [2]int { return [2]int{min(a, b), max(a, b)} }

// on starts a node, again with the log that it has.
func (n *simNode) on() {
	opts := Options{}
	if n.n == 0 {
		opts.Signer = rootKey
	}
	d, err := Open(filepath.Join(n.sim.dir, fmt.Sprint(n.n)), publicKey(rootKey), opts)
	if err != nil {
		n.sim.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.sim.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = d.Run(ctx) })
	if n.n > 0 && n.way != lagging {
		running.Go(func() { _ = d.Replicate(ctx, n) })
	}
	n.sim.mu.Lock()
	n.d = d
	n.stop = func() {
		cancel()
		n.sim.cutAll(n.n)
		running.Wait()
		n.sim.mu.Lock()
		n.d, n.stop = nil, nil
		n.sim.announce()
		n.sim.mu.Unlock()
		_ = d.Close()
	}
	n.sim.announce()
	n.sim.mu.Unlock()
}

// announce tells of a change of wires or nodes. The caller holds mu.
func (s *simulation) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Sources implements Mesh.
func (n *simNode) Sources() (nodes []identity.ID, changed <-chan struct{}) {
	s := n.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.nodes {
		if other != n && other.d != nil && s.wires[pair(n.n, other.n)] {
			nodes = append(nodes, other.id)
		}
	}
	return nodes, s.changed
}

// Open implements Mesh.
func (n *simNode) Open(_ context.Context, id identity.ID) (io.ReadWriteCloser, error) {
	s := n.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.nodes, func(other *simNode) bool { return other.id == id })
	to := s.nodes[i]
	if to.d == nil || n.d == nil || !s.wires[pair(n.n, i)] {
		return nil, errors.New("no connection")
	}
	a, b := net.Pipe()
	s.streams[pair(n.n, i)] = append(s.streams[pair(n.n, i)], a, b)
	d := to.d
	s.work.Go(func() { to.serve(d, n.id, a) })
	return b, nil
}

// serve is the other end of a stream: what a node of its way does with it.
func (n *simNode) serve(d *Directory, follower identity.ID, rw net.Conn) {
	defer rw.Close()
	if n.way == honest || n.way == lagging {
		_ = d.Serve(n.sim.t.Context(), follower, rw)
		return
	}
	own, server := net.Pipe()
	defer own.Close()
	var ends sync.WaitGroup
	defer ends.Wait()
	ends.Go(func() { _ = d.Serve(n.sim.t.Context(), follower, server) })
	ends.Go(func() {
		defer own.Close()
		_, _ = io.Copy(own, rw)
	})
	defer rw.Close()
	for {
		t, body, err := readMessage(own)
		if err != nil {
			return
		}
		if t, body = n.twist(t, body); t == 0 {
			continue
		}
		if writeMessage(rw, t, body) != nil {
			return
		}
	}
}

// twist is what a node that is no use makes of an honest message; 0 is nothing.
func (n *simNode) twist(t frameType, body []byte) (frameType, []byte) {
	switch {
	case n.way == silent, n.way == boastful && t != frameHead:
		return 0, nil
	case n.way == forging && t != frameHead && len(body) > 0:
		body[crc32.ChecksumIEEE(body)%uint32(len(body))] ^= 1
	case n.way == dripping && t == frameAnswer:
		<-time.After(fetchTurn - time.Millisecond)
		if e, _, err := decodeEntry(body); err == nil {
			return t, e.raw
		}
	case n.way == dripping && t == frameRecords:
		return 0, nil
	case n.way == refusing:
		b, _ := encoding.Marshal(Point{Count: 1})
		return frameRefused, b
	}
	return t, body
}

// setWire makes or cuts the connection of two nodes.
func (s *simulation) setWire(a, b int, up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wires[pair(a, b)] == up {
		return
	}
	s.wires[pair(a, b)] = up
	if !up {
		s.endStreams(pair(a, b))
	}
	s.announce()
}

// endStreams is what the end of a connection does, its certificate's for one.
// The caller holds mu.
func (s *simulation) endStreams(of [2]int) {
	for _, c := range s.streams[of] {
		c.Close()
	}
	delete(s.streams, of)
}

func (s *simulation) cutAll(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for of := range s.streams {
		if of[0] == n || of[1] == n {
			s.endStreams(of)
		}
	}
}

// disturb does one random thing.
func (s *simulation) disturb() {
	a := s.rng.IntN(5)
	b := (a + 1 + s.rng.IntN(4)) % 5
	switch s.rng.IntN(5) {
	case 0, 1:
		s.setWire(a, b, s.rng.IntN(3) > 0)
	case 2:
		if n := s.nodes[a]; n.stop != nil {
			n.stop()
		} else {
			n.on()
		}
	case 3:
		s.put(1 + s.rng.IntN(40))
	case 4:
		s.mu.Lock()
		s.endStreams(pair(a, b))
		s.mu.Unlock()
	}
}

// put has the writer record count identities, if it is on.
func (s *simulation) put(count int) {
	w := s.nodes[0].d
	for range count {
		if w != nil {
			mustPut(s.t, w, someIdentity(fmt.Sprint("pump-", w.Tip().Count), 1))
		}
	}
}

// reached returns the honest nodes that a path of honest nodes connects with the
// writer.
func (s *simulation) reached() []*simNode {
	found := []*simNode{s.nodes[0]}
	for i := 0; i < len(found); i++ {
		for _, n := range s.nodes {
			if n.d != nil && n.way == honest && s.wires[pair(found[i].n, n.n)] && !slices.Contains(found, n) {
				found = append(found, n)
			}
		}
	}
	return found[1:]
}

func (s *simulation) stopAll() {
	for _, n := range s.nodes {
		if n.stop != nil {
			n.stop()
		}
	}
	s.work.Wait()
}

// TestEveryRecordArrives lets five nodes restart, lose and regain their
// connections, and lie, and asks after each quiet time whether the records are
// where they belong.
func TestEveryRecordArrives(t *testing.T) {
	seeds := 24
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // the replicas wait for the disk
			synctest.Test(t, func(t *testing.T) { simulate(t, uint64(seed)) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	s := newSimulation(t, seed)
	defer s.stopAll()
	for _, n := range s.nodes {
		n.on()
	}
	checked := 0
	for range 12 {
		for range 1 + s.rng.IntN(12) {
			s.disturb()
			<-time.After(time.Duration(s.rng.IntN(2000)) * time.Millisecond)
		}
		if s.nodes[0].d == nil {
			s.nodes[0].on()
		}
		s.put(1)
		want := s.nodes[0].d.Tip()
		reached := s.reached()
		<-time.After(arrivalBound)
		for _, n := range reached {
			if got := n.d.Tip(); got != want {
				t.Fatalf("node %d has %v, the writer %v for %s; ways %v, wires %v", n.n, got, want, arrivalBound, s.waysOf(), s.wires)
			}
			if stale := n.d.Stale(); stale > arrivalBound+headPause {
				t.Errorf("node %d heard the writer %s ago", n.n, stale)
			}
			checked++
		}
		s.checkReports(reached, want)
		if s.nodes[0].d.Refused() != 0 {
			t.Errorf("the writer refused %d messages", s.nodes[0].d.Refused())
		}
	}
	if checked == 0 {
		t.Error("no node was ever reached: nothing is shown")
	}
}

func (s *simulation) waysOf() (all []way) {
	for _, n := range s.nodes {
		all = append(all, n.way)
	}
	return all
}

// checkReports: the writer knows of each directly connected node how far it is.
func (s *simulation) checkReports(reached []*simNode, want Point) {
	reports := s.nodes[0].d.Replicas()
	for _, n := range reached {
		if s.wires[pair(0, n.n)] && reports[n.id].Point != want {
			s.t.Errorf("the writer believes node %d at %v, it is at %v", n.n, reports[n.id].Point, want)
		}
	}
}

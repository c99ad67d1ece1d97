package mqtt

import (
	"sync"
	"sync/atomic"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// pipeline is the ordered queue of one sender's messages that wait for a function
// or the store. Answers may come in any order; the steps of the entries are
// taken in the order of the entries [MQTT-4.6.0-5] [MQTT-4.6.0-6]: each is routed,
// committed, and then delivered and acknowledged. The goroutine that brings an answer
// takes the steps that it made possible, one goroutine at a time.
type pipeline struct {
	b     *Broker
	owner *session // the sender; nil for the node and other sites

	waiting   atomic.Int32                  // entries; 0 also says that all before are delivered
	qos1      atomic.Int32                  // entries that end in a PUBACK
	parked    atomic.Int64                  // bytes of the entries
	reading   atomic.Bool                   // the owner's reader flushes at the end of its batch
	roomFreed atomic.Pointer[chan struct{}] // capacity 1: holds a token after an entry left; nil until a reader waited

	mu        sync.Mutex // guards all below, and the stages of the entries
	entries   []*entry   // oldest first
	routed    int        // entries[:routed] were routed
	committed int        // entries[:committed] went to the store
	running   bool       // one goroutine is in run
	sinceLook int        // bytes committed since the last look at the store's memory

	batch *batch // of the goroutine in run, as is the cache; nil while there is nothing to flush
	cache routeCache
}

// The most that one client may have parked before its socket is not read.
const (
	maxParked      = 64
	maxParkedBytes = 1 << 20
)

// stage tells the event that an entry waits for.
type stage byte

const (
	filtering  stage = iota // for the upstream chain
	filtered                // for the entries before it to be routed
	receiving               // for downstream chains
	ready                   // for the entries before it to be committed
	committing              // for the store
	through                 // for the entries before it to be delivered
)

// entry is one message on its way. A field that is not guarded belongs to the pusher
// before push and to the goroutine in run after it.
type entry struct {
	conn  *conn          // that the acknowledgement is for; guarded by pipeline.mu
	stage stage          // guarded by pipeline.mu
	acked bool           // the acknowledgement was given; guarded by pipeline.mu
	qos   byte           // of the acknowledgement; 0 has none
	id    uint16         // packet identifier to acknowledge
	m     *store.Message // as it came; nil if there is only something to acknowledge

	forward        bool              // to other sites, if they want it
	replayed       bool              // m is a retained message of another site
	replay         []store.Delivery  // retained messages for the owner, in place of m
	tx             func(store.Tx)    // of [Broker.Inject]
	done           func(error)       // of [Broker.Inject] and [Broker.Publish]
	result         FilterResult      // of the upstream chain
	outs           []output          //
	routeEpoch     uint64            // of the broker, when receivers were found; of a replay, before it was asked for
	pendingAnswers int               // downstream answers missing; guarded by pipeline.mu
	matched        bool              // some receiver or site gets it
	code           packet.ReasonCode // of the acknowledgement
	reason         string            //
	err            error             // of the chain or the store
}

// size is the entry's part of maxParkedBytes.
func (e *entry) size() int64 {
	if e.m == nil {
		return 0
	}
	return int64(e.m.Size())
}

// stale reports whether rights may be newer than e's receivers.
func (e *entry) stale(b *Broker) bool { return e.routeEpoch != b.routeEpoch.Load() }

// received reports whether e is a QoS 2 message that will not be refused: its
// identifier is the client's to use again otherwise.
func (e *entry) received() bool { return e.qos == 2 && e.err == nil && !e.code.Failed() }

func (p *pipeline) init(b *Broker, owner *session) {
	p.b, p.owner = b, owner
}

// full reports whether the owner has to wait before it sends more.
func (p *pipeline) full() bool {
	return p.waiting.Load() >= maxParked || p.parked.Load() >= maxParkedBytes
}

// awaitRoom returns the channel that tells of room. Only the owner's reader waits.
func (p *pipeline) awaitRoom() <-chan struct{} {
	if p.roomFreed.Load() == nil {
		room := make(chan struct{}, 1)
		p.roomFreed.Store(&room)
	}
	return *p.roomFreed.Load()
}

// push appends an entry and takes the steps that are possible at once.
func (p *pipeline) push(e *entry) {
	upstream := e.stage == filtering
	p.addEntry(e)
	if !upstream {
		p.run()
		return
	}
	p.b.opts.Filter.Submit(Upstream, p.owner.principal, e.m, func(r FilterResult) {
		p.mu.Lock()
		e.result, e.stage = r, filtered
		p.mu.Unlock()
		p.run()
	})
}

func (p *pipeline) addEntry(e *entry) {
	p.waiting.Add(1)
	p.parked.Add(e.size())
	p.b.memory.charge(int(e.size()))
	if e.qos == 1 {
		p.qos1.Add(1)
	}
	p.mu.Lock()
	p.entries = append(p.entries, e)
	p.mu.Unlock()
}

// run takes all steps that are possible now and flushes the packets that they caused.
// The routes of an owner that has no connection go: it may be away for long.
func (p *pipeline) run() {
	p.mu.Lock()
	if p.running {
		p.mu.Unlock()
		return // the goroutine in run looks again before it leaves
	}
	p.running = true
	for {
		for e, step := p.nextStep(); step != nil; e, step = p.nextStep() {
			if p.batch == nil {
				p.batch = getBatch(p.b)
			}
			p.mu.Unlock()
			step(p, e)
			p.batch.relieve()
			p.mu.Lock()
		}
		if p.batch == nil || len(p.batch.dirty) == 0 || p.reading.Load() {
			break
		}
		p.mu.Unlock()
		p.batch.flush()
		p.mu.Lock()
	}
	if p.batch != nil && len(p.batch.dirty) == 0 {
		p.batch.done()
		p.batch = nil
	}
	if p.owner != nil && !p.owner.connected() {
		p.cache.drop(p.b)
	}
	p.running = false
	p.mu.Unlock()
}

// nextStep returns an entry and the step that it can take. The last steps come
// first: they make room. The caller holds mu.
func (p *pipeline) nextStep() (*entry, func(*pipeline, *entry)) {
	if p.committed > 0 && p.entries[0].stage == through {
		return p.entries[0], (*pipeline).finishEntry
	}
	if p.committed < p.routed && p.entries[p.committed].stage == ready {
		return p.entries[p.committed], (*pipeline).commitEntry
	}
	if p.routed < len(p.entries) && p.entries[p.routed].stage == filtered {
		return p.entries[p.routed], (*pipeline).routeEntry
	}
	return nil, nil
}

// callAfter calls f once all that is in p now is through.
func (p *pipeline) callAfter(f func()) {
	p.push(&entry{stage: filtered, done: func(error) { f() }})
}

// followPipeline makes all that is pushed from now on wait for all that is in before now.
// Until then the sessions of both stay in memory, over or not, and are counted: a
// client that comes again and again behind a disk that hangs makes a chain of them.
func (p *pipeline) followPipeline(before *pipeline) {
	e := &entry{stage: filtering}
	p.addEntry(e)
	p.b.memory.charge(sessionCost)
	before.callAfter(func() {
		p.b.memory.charge(-sessionCost)
		p.mu.Lock()
		e.stage = filtered
		p.mu.Unlock()
		p.run()
	})
}

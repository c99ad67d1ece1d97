package store

import (
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// QueueLimit bounds one queue.
type QueueLimit struct {
	Messages int
	Bytes    int
}

// Limits bound a store. Zero fields get the defaults named beside them.
type Limits struct {
	Queue    QueueLimit // of each session: 10,000 messages, 16 MiB
	Outbound QueueLimit // of each peer site: 100,000 messages, 64 MiB
	Retained QueueLimit // of all retained messages: 1,000,000, 256 MiB

	Tombstones QueueLimit // of all tombstones: 100,000, 64 MiB

	Values QueueLimit // of all functions' values, see [Limited]: 1,000,000, 64 MiB
}

// MaxSpan is how far apart the sequence numbers of a queue's oldest and newest entries
// may be. Otherwise a client that confirms all messages but one would make the holes
// between them grow forever. The span allows all packet identifiers to be in flight
// behind the oldest entry, and no more.
func (l QueueLimit) MaxSpan() uint64 { return uint64(l.Messages) + 1<<16 }

// Fits reports whether a queue of so many messages and bytes may grow by more. Growth
// by nothing always fits.
func (l QueueLimit) Fits(messages, bytes, moreMessages, moreBytes int) bool {
	return (moreMessages <= 0 || messages+moreMessages <= l.Messages) && (moreBytes <= 0 || bytes+moreBytes <= l.Bytes)
}

// WithDefaults returns l with the defaults in its zero fields.
func (l Limits) WithDefaults() Limits {
	l.Queue = l.Queue.or(10_000, 16<<20)
	l.Outbound = l.Outbound.or(100_000, 64<<20)
	l.Retained = l.Retained.or(1_000_000, 256<<20)
	l.Tombstones = l.Tombstones.or(100_000, 64<<20)
	l.Values = l.Values.or(1_000_000, 64<<20)
	return l
}

func (l QueueLimit) or(messages, bytes int) QueueLimit {
	if l.Messages == 0 {
		l.Messages = messages
	}
	if l.Bytes == 0 {
		l.Bytes = bytes
	}
	return l
}

// Memory is the form of [Store] that forgets everything when the process ends. A caller
// of Update commits if no other caller does so already, for itself and for the callers
// that come meanwhile. So Memory needs no goroutine, and a lone publisher's callback
// has run when Update returns.
type Memory struct {
	limits Limits

	jobsMu     sync.Mutex
	jobs       []job // waiting for the committer
	committing bool  // a caller is in [Memory.commit]

	mu       sync.Mutex // guards all below; held for one transaction or one read
	sessions map[SessionKey]*memSession
	retained topic.Names[Message]
	tombs    Tombstones
	peers    map[string]*memPeer
	floors   map[laneKey]Origin
	values   Values
	stats    Stats
	held     int // bytes of the sessions, without their queues
}

type job struct {
	add  func(Tx)
	done func(error)
}

type memSession struct {
	Session
	queue *queue
}

type memPeer struct {
	log  *queue
	grew chan struct{} // capacity 1; see [Store.Committed]
}

type laneKey struct {
	site string
	lane uint16
}

// NewMemory returns an empty store.
func NewMemory(l Limits) *Memory {
	return &Memory{
		limits:   l.WithDefaults(),
		sessions: make(map[SessionKey]*memSession),
		peers:    make(map[string]*memPeer),
		floors:   make(map[laneKey]Origin),
	}
}

// Update implements [Store].
func (m *Memory) Update(add func(Tx), done func(error)) {
	m.jobsMu.Lock()
	m.jobs = append(m.jobs, job{add, done})
	if m.committing {
		m.jobsMu.Unlock()
		return
	}
	m.committing = true
	var spare []job
	tx := txPool.Get().(*memTx)
	for len(m.jobs) > 0 {
		jobs := m.jobs
		m.jobs = spare
		m.jobsMu.Unlock()
		for _, j := range jobs {
			j.add(tx)
			err := m.commit(tx)
			tx.reset()
			if j.done != nil {
				j.done(err)
			}
		}
		clear(jobs)
		spare = jobs[:0]
		m.jobsMu.Lock()
	}
	m.jobs = spare
	m.committing = false
	m.jobsMu.Unlock()
	txPool.Put(tx)
}

// commit applies a transaction, or refuses it as a whole.
func (m *Memory) commit(tx *memTx) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(tx); err != nil {
		return err
	}
	m.stats.Commits++
	for i := range tx.ops {
		m.apply(&tx.ops[i])
	}
	return nil
}

// Sessions implements [Store].
func (m *Memory) Sessions() []Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Session, 0, len(m.sessions))
	for _, s := range m.sessions {
		c := s.Session
		c.Subscriptions = slices.Clone(s.Subscriptions)
		c.Received = slices.Clone(s.Received)
		all = append(all, c)
	}
	return all
}

// Queue implements [Store].
func (m *Memory) Queue(k SessionKey, after uint64, dst []Entry) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[k]
	if s == nil {
		return dst, nil
	}
	return s.queue.read(after, dst), nil
}

// QueueStats implements [Store].
func (m *Memory) QueueStats(k SessionKey) QueueStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[k]; s != nil {
		return s.queue.stats
	}
	return QueueStats{}
}

// Retained implements [Store].
func (m *Memory) Retained(filter string) []*Message {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	found := m.retained.Match(filter, nil)
	return slices.DeleteFunc(found, func(r *Message) bool { return r.Expired(now) })
}

// Tombstones implements [Store].
func (m *Memory) Tombstones() []*Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tombs.All()
}

// Tombstone implements [Store].
func (m *Memory) Tombstone(name string) *Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tombs.Get(name)
}

// Outbound implements [Store].
func (m *Memory) Outbound(peer string, after uint64, dst []Outbound) []Outbound {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[peer]
	if p == nil {
		return dst
	}
	entries := p.log.read(after, make([]Entry, 0, cap(dst)-len(dst)))
	for _, e := range entries {
		dst = append(dst, Outbound{Message: e.Message, Seq: e.Seq})
	}
	return dst
}

// Committed implements [Store].
func (m *Memory) Committed(peer string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peer(peer).grew
}

// OutboundStats implements [Store].
func (m *Memory) OutboundStats(peer string) QueueStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[peer]; p != nil {
		return p.log.stats
	}
	return QueueStats{}
}

// Floor implements [Store].
func (m *Memory) Floor(site string, lane uint16) (epoch, seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.floors[laneKey{site, lane}]
	return o.Epoch, o.Seq
}

// Value implements [Store].
func (m *Memory) Value(scope, key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values.Get(scope, key)
}

// Values implements [Store].
func (m *Memory) Values(scope string) map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values.Of(scope)
}

// Stats implements [Store].
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Sessions, s.Tombstones = len(m.sessions), m.tombs.Len()
	s.Values, s.ValueBytes = m.values.Len(), m.values.Bytes()
	for _, p := range m.peers {
		s.Outbound += p.log.stats.Messages
		s.OutboundBytes += p.log.stats.Bytes
		s.OutboundDrops += p.log.stats.Dropped
	}
	s.Memory = m.held + s.QueuedBytes + s.RetainedBytes + s.OutboundBytes + s.ValueBytes + m.values.HistoryBytes() + m.tombs.Bytes()
	return s
}

// Sweep implements [Store].
func (m *Memory) Sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.retained.All(nil) {
		if r.Expired(now) { // [MQTT-3.3.2-5]
			m.dropRetained(r.Topic)
		}
	}
	for _, t := range m.tombs.All() {
		if t.Expired(now) {
			m.tombs.Remove(t.Topic)
		}
	}
	for _, s := range m.sessions {
		m.sweepQueue(s.queue, now)
	}
}

// sweepQueue drops entries that expired before they were sent: once a message went out
// its exchange is finished [MQTT-4.3.3-7].
func (m *Memory) sweepQueue(q *queue, now time.Time) {
	for _, e := range q.entries[q.head:] {
		if e.Message != nil && e.PacketID == 0 && e.Message.Expired(now) { // [MQTT-3.3.2-5]
			m.dequeue(q, e.Seq)
		}
	}
}

// peer returns the log of a peer, made at its first use.
func (m *Memory) peer(name string) *memPeer {
	p := m.peers[name]
	if p == nil {
		p = &memPeer{log: newQueue(), grew: make(chan struct{}, 1)}
		m.peers[name] = p
	}
	return p
}

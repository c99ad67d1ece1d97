package store

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"
)

// memTx is the open transaction of a [Memory]: a list of changes, so that one
// that would pass a limit is refused before anything was touched.
type memTx struct {
	ops []op
}

var txPool = sync.Pool{New: func() any { return new(memTx) }}

// The kinds of change.
const (
	opPutSession byte = iota
	opDeleteSession
	opSubscribe
	opUnsubscribe
	opReceive
	opRelease
	opEnqueue
	opInflight
	opDequeue
	opRetain
	opOutbound
	opAcknowledge
	opFloor
	opPutValue
)

// op is one change. Which fields count depends on kind.
type op struct {
	kind     byte
	id       uint16
	sent     Sent
	given    int // of the messages that are acknowledged
	seq      uint64
	key      SessionKey
	name     string // filter, peer or key of a value
	scope    string
	message  *Message
	delivery Delivery
	sub      Subscription
	session  *Session
	origin   Origin
	value    []byte
}

func (t *memTx) add(o op) { t.ops = append(t.ops, o) }

func (t *memTx) reset() {
	clear(t.ops)
	t.ops = t.ops[:0]
}

func (t *memTx) PutSession(s Session)            { t.add(op{kind: opPutSession, key: s.Key, session: &s}) }
func (t *memTx) DeleteSession(k SessionKey)      { t.add(op{kind: opDeleteSession, key: k}) }
func (t *memTx) Receive(k SessionKey, id uint16) { t.add(op{kind: opReceive, key: k, id: id}) }
func (t *memTx) Release(k SessionKey, id uint16) { t.add(op{kind: opRelease, key: k, id: id}) }
func (t *memTx) Floor(o Origin)                  { t.add(op{kind: opFloor, origin: o}) }

func (t *memTx) Retain(m *Message) {
	if len(m.Payload) == 0 {
		m = NewTombstone(m, time.Now())
	}
	t.add(op{kind: opRetain, message: m})
}

func (t *memTx) Subscribe(k SessionKey, s Subscription) {
	t.add(op{kind: opSubscribe, key: k, sub: s})
}

func (t *memTx) Unsubscribe(k SessionKey, filter string) {
	t.add(op{kind: opUnsubscribe, key: k, name: filter})
}

func (t *memTx) Enqueue(k SessionKey, d Delivery) {
	t.add(op{kind: opEnqueue, key: k, delivery: d})
}

func (t *memTx) Inflight(k SessionKey, seq uint64, e Sent) {
	t.add(op{kind: opInflight, key: k, seq: seq, sent: e})
}

func (t *memTx) Dequeue(k SessionKey, seq uint64) {
	t.add(op{kind: opDequeue, key: k, seq: seq})
}

func (t *memTx) Outbound(peer string, m *Message) {
	t.add(op{kind: opOutbound, name: peer, message: m})
}

func (t *memTx) Acknowledge(peer string, seq uint64, sent int) {
	t.add(op{kind: opAcknowledge, name: peer, seq: seq, given: sent})
}

func (t *memTx) PutValue(scope, key string, value []byte) {
	t.add(op{kind: opPutValue, scope: scope, name: key, value: bytes.Clone(value)})
}

// check returns an error if a change would pass a limit that refuses instead of
// dropping. A removal, or a replacement by something no larger, always fits; but within
// a transaction it makes no room.
func (m *Memory) check(tx *memTx) error {
	retained := QueueStats{Messages: m.stats.Retained, Bytes: m.stats.RetainedBytes}
	values := QueueStats{Messages: m.values.Len(), Bytes: m.values.Bytes()}
	for i := range tx.ops {
		switch o := &tx.ops[i]; o.kind {
		case opRetain:
			old := m.retained.Get(o.message.Topic)
			if len(o.message.Payload) == 0 || o.message.Outdated(old, m.tombs.Get(o.message.Topic)) {
				continue
			}
			more, size := 1, o.message.Size()
			if old != nil {
				more, size = 0, size-old.Size()
			}
			if !m.limits.Retained.Fits(retained.Messages, retained.Bytes, more, size) {
				return fmt.Errorf("retain %q: %w", o.message.Topic, ErrFull)
			}
			retained.Messages += more
			retained.Bytes += max(size, 0)
		case opPutValue:
			if o.value == nil || !Limited(o.scope) {
				continue
			}
			more, size := 1, len(o.value)
			if old, ok := m.values.Get(o.scope, o.name); ok {
				more, size = 0, size-len(old)
			}
			if !m.limits.Values.Fits(values.Messages, values.Bytes, more, size) {
				return fmt.Errorf("keep a value of %s: %w", o.scope, ErrFull)
			}
			values.Messages += more
			values.Bytes += max(size, 0)
		}
	}
	return nil
}

// apply makes one change. A change to a session that is gone does nothing: its
// end overtook the change.
func (m *Memory) apply(o *op) {
	switch o.kind {
	case opPutSession:
		m.putSession(o.session)
	case opDeleteSession:
		m.deleteSession(o.key)
	case opRetain:
		m.retain(o.message)
	case opOutbound:
		m.outbound(o.name, o.message)
	case opAcknowledge:
		m.acknowledge(m.peer(o.name).log, o.seq, o.given)
	case opFloor:
		m.floors[laneKey{o.origin.Site, o.origin.Lane}] = o.origin
	case opPutValue:
		m.values.Put(o.scope, o.name, o.value)
	default:
		if s := m.sessions[o.key]; s != nil {
			m.applySession(s, o)
		}
	}
}

func (m *Memory) applySession(s *memSession, o *op) {
	switch o.kind {
	case opSubscribe:
		if i := s.subscription(o.sub.Filter); i >= 0 {
			s.Subscriptions[i] = o.sub
		} else {
			s.Subscriptions = append(s.Subscriptions, o.sub)
			m.held += o.sub.Size()
		}
	case opUnsubscribe:
		if i := s.subscription(o.name); i >= 0 {
			m.held -= s.Subscriptions[i].Size()
			s.Subscriptions = slices.Delete(s.Subscriptions, i, i+1)
		}
	case opReceive:
		if !slices.Contains(s.Received, o.id) {
			s.Received = append(s.Received, o.id)
			m.held += ReceivedSize
		}
	case opRelease:
		before := len(s.Received)
		s.Received = slices.DeleteFunc(s.Received, func(id uint16) bool { return id == o.id })
		m.held -= ReceivedSize * (before - len(s.Received))
	case opEnqueue:
		m.enqueue(s.queue, o.delivery)
	case opInflight:
		if e := s.queue.at(o.seq); e != nil {
			e.PacketID, e.Released = o.sent.PacketID, o.sent.Released
		}
	case opDequeue:
		m.dequeue(s.queue, o.seq)
	}
}

func (s *memSession) subscription(filter string) int {
	return slices.IndexFunc(s.Subscriptions, func(x Subscription) bool { return x.Filter == filter })
}

func (m *Memory) putSession(s *Session) {
	old := m.sessions[s.Key]
	if old == nil {
		old = &memSession{queue: newQueue()}
		m.sessions[s.Key] = old
	} else {
		m.held -= old.RecordSize()
	}
	m.held += s.RecordSize()
	s.Subscriptions, s.Received = old.Subscriptions, old.Received
	old.Session = *s
}

func (m *Memory) deleteSession(k SessionKey) {
	s := m.sessions[k]
	if s == nil {
		return
	}
	m.stats.Queued -= s.queue.stats.Messages
	m.stats.QueuedBytes -= s.queue.stats.Bytes
	m.held -= s.Size()
	delete(m.sessions, k)
}

func (m *Memory) enqueue(q *queue, d Delivery) {
	if !q.fits(d, m.limits.Queue) {
		q.stats.Dropped++
		m.stats.QueueDropped++
		return
	}
	q.push(d)
	m.stats.Queued++
	m.stats.QueuedBytes += d.Message.Size()
}

func (m *Memory) dequeue(q *queue, seq uint64) {
	e := q.at(seq)
	if e == nil {
		return
	}
	m.stats.Queued--
	m.stats.QueuedBytes -= e.Message.Size()
	q.remove(seq)
}

// retain keeps r unless a newer message, or a newer tombstone, is kept.
func (m *Memory) retain(r *Message) {
	if r.Outdated(m.retained.Get(r.Topic), m.tombs.Get(r.Topic)) {
		return
	}
	m.dropRetained(r.Topic)  // [MQTT-3.3.1-5] [MQTT-3.3.1-6]
	if len(r.Payload) == 0 { // [MQTT-3.3.1-7]
		m.tombs.Put(r)
		for m.tombs.Evict(m.limits.Tombstones) != nil {
			m.stats.Forgotten++
		}
		return
	}
	m.tombs.Remove(r.Topic)
	m.retained.Put(r.Topic, r)
	m.stats.Retained++
	m.stats.RetainedBytes += r.Size()
}

func (m *Memory) dropRetained(topic string) {
	if old := m.retained.Remove(topic); old != nil {
		m.stats.Retained--
		m.stats.RetainedBytes -= old.Size()
	}
}

// acknowledge ends the part of a log up to seq, of which the peer has given
// messages.
func (m *Memory) acknowledge(log *queue, seq uint64, given int) {
	for log.stats.Messages > 0 && log.first() <= seq {
		log.remove(log.first())
		given--
	}
	log.stats.Acknowledged = max(log.stats.Acknowledged, min(seq, log.next-1))
	log.stats.Dropped -= min(log.stats.Dropped, uint64(max(given, 0)))
}

func (m *Memory) outbound(peer string, msg *Message) {
	p := m.peer(peer)
	d := Delivery{Message: msg}
	for p.log.stats.Messages > 0 && !p.log.fits(d, m.limits.Outbound) {
		p.log.remove(p.log.first())
		p.log.stats.Dropped++
	}
	p.log.push(d)
	select {
	case p.grew <- struct{}{}:
	default: // the token of an earlier message is still there
	}
}

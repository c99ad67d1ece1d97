package durable

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/hpmq/hpmq/mqtt/store"
)

// staging is the batch that the committer gathers: the changes for the disk, and the
// changes that become visible once the disk has them. The maps hold only differences
// from the visible state. Only the committer uses staging; where it touches queues it
// holds the store's mu.
type staging struct {
	batch    *pebble.Batch
	changes  []change
	sessions map[store.SessionKey]*session // nil: deleted
	retained map[string]*store.Message     // nil: removed
	values   map[valueKey][]byte           // nil: removed
	acked    map[*queue]uint64             // the log's highest acknowledged number of this batch
	tombs    store.Tombstones              // all of them, as the committer sees them
	count    totals                        // compared with limits by check
	scratch  []byte

	forgotten uint64 // tombstones that were evicted
}

// totals are compared with the limits that refuse a transaction.
type totals struct {
	retained, retainedBytes int
	values, valueBytes      int
}

// change is one change that was staged, ready to be made visible.
type change struct {
	kind    changeKind
	seq     uint64
	queue   *queue
	session *session
	peer    *peer
	op      *op
}

type changeKind byte

const (
	changeOp           changeKind = iota // as op says
	changePush                           // the entry seq of queue is there
	changeRemove                         // the entry seq of queue is gone
	changeOverflow                       // as changeRemove, because the log was full
	changeDrop                           // queue was full
	changeAcknowledged                   // queue is a log: op
	changeTombstone                      // there is one on the topic of op
	changeNoTombstone                    // there is none
	changeRetained                       // an expired retained message is gone: op
)

// begin empties the staging area.
func (g *staging) begin(batch *pebble.Batch, count totals) {
	clear(g.changes)
	clear(g.sessions)
	clear(g.retained)
	clear(g.values)
	clear(g.acked)
	g.batch, g.changes, g.count, g.forgotten = batch, g.changes[:0], count, 0
}

func (g *staging) change(c change) { g.changes = append(g.changes, c) }

// set adds a key with the value that t encoded for o.
func (g *staging) set(key []byte, t *tx, o *op) {
	head, body := t.buf[o.head.from:o.head.to], t.buf[o.body.from:o.body.to]
	d := g.batch.SetDeferred(len(key), len(head)+len(body))
	copy(d.Key, key)
	copy(d.Value[copy(d.Value, head):], body)
	must(d.Finish())
}

func (g *staging) delete(key []byte) { must(g.batch.Delete(key, nil)) }

// must panics on an error of a batch's method: such a method fails only after the batch
// was committed.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// stage adds a transaction to the batch, or refuses it as a whole.
func (s *Store) stage(t *tx) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(t); err != nil {
		return err
	}
	s.commits++
	for i := range t.ops {
		s.stageOp(t, &t.ops[i])
	}
	return nil
}

// check returns an error if a change would pass a limit that refuses instead of
// dropping. A removal, or a replacement by something no larger, always fits; but within
// a transaction it makes no room.
func (s *Store) check(t *tx) error {
	n := s.staging.count
	for i := range t.ops {
		switch o := &t.ops[i]; o.kind {
		case opRetain:
			m := o.delivery.Message
			old := s.stagedRetained(m.Topic)
			if len(m.Payload) == 0 || m.Outdated(old, s.staging.tombs.Get(m.Topic)) {
				continue
			}
			more, size := 1, m.Size()
			if old != nil {
				more, size = 0, size-old.Size()
			}
			if !s.limits.Retained.Fits(n.retained, n.retainedBytes, more, size) {
				return fmt.Errorf("retain %q: %w", m.Topic, store.ErrFull)
			}
			n.retained += more
			n.retainedBytes += max(size, 0)
		case opPutValue:
			if o.value == nil || !store.Limited(o.scope) {
				continue
			}
			more, size := 1, len(o.value)
			if old := s.stagedValue(valueKey{o.scope, o.name}); old != nil {
				more, size = 0, size-len(old)
			}
			if !s.limits.Values.Fits(n.values, n.valueBytes, more, size) {
				return fmt.Errorf("keep a value of %s: %w", o.scope, store.ErrFull)
			}
			n.values += more
			n.valueBytes += max(size, 0)
		}
	}
	return nil
}

func (s *Store) stagedRetained(topic string) *store.Message {
	if m, ok := s.staging.retained[topic]; ok {
		return m
	}
	return s.retained.Get(topic)
}

func (s *Store) stagedValue(k valueKey) []byte {
	if v, ok := s.staging.values[k]; ok {
		return v
	}
	v, _ := s.values.Get(k.scope, k.key)
	return v
}

func (s *Store) stagedSession(k store.SessionKey) *session {
	if x, ok := s.staging.sessions[k]; ok {
		return x
	}
	return s.sessions[k]
}

// stageOp adds one change. A change to a session that is gone does nothing: its
// end overtook the change.
func (s *Store) stageOp(t *tx, o *op) {
	g := &s.staging
	switch o.kind {
	case opPutSession:
		s.stagePutSession(t, o)
	case opRetain:
		s.stageRetain(t, o)
	case opOutbound:
		s.stageOutbound(t, o)
	case opAcknowledge:
		s.stageAcknowledge(o)
	case opFloor:
		g.scratch = appendFloorKey(g.scratch[:0], laneOf(o.origin))
		g.set(g.scratch, t, o)
		g.change(change{op: o})
	case opPutValue:
		s.stageValue(t, o)
	case opSweep:
		s.stageSweep(o.now)
	default:
		if x := s.stagedSession(o.key); x != nil {
			s.stageSession(x, t, o)
		}
	}
}

// stageSession adds a change to a session that there is.
func (s *Store) stageSession(x *session, t *tx, o *op) {
	g := &s.staging
	switch o.kind {
	case opDeleteSession:
		s.stageDeleteSession(x, o)
		return
	case opSubscribe:
		g.scratch = append(x.key(g.scratch[:0], sessionSubscription), o.sub.Filter...)
		g.set(g.scratch, t, o)
	case opUnsubscribe:
		g.scratch = append(x.key(g.scratch[:0], sessionSubscription), o.name...)
		g.delete(g.scratch)
	case opReceive:
		g.scratch = binary.BigEndian.AppendUint16(x.key(g.scratch[:0], sessionReceived), o.id)
		g.set(g.scratch, t, o)
	case opRelease:
		g.scratch = binary.BigEndian.AppendUint16(x.key(g.scratch[:0], sessionReceived), o.id)
		g.delete(g.scratch)
	case opEnqueue:
		size := o.delivery.Message.Size()
		if !x.queue.fits(size, s.limits.Queue) {
			g.change(change{kind: changeDrop, queue: x.queue})
			return
		}
		s.stagePush(x.queue, nil, t, o, size)
		return
	case opInflight:
		e := x.queue.at(o.seq)
		if e == nil || e.leaving {
			return
		}
		e.numbered = true
		g.scratch = binary.BigEndian.AppendUint64(x.key(g.scratch[:0], sessionSent), o.seq)
		g.set(g.scratch, t, o)
	case opDequeue:
		if e := x.queue.at(o.seq); e != nil && !e.leaving {
			s.stageRemove(x.queue, o.seq, e, changeRemove)
		}
		return
	}
	x.touched = true
	g.change(change{op: o, session: x})
}

func (s *Store) stagePush(q *queue, p *peer, t *tx, o *op, size int) {
	g := &s.staging
	seq := q.push(size, o.delivery.Message.Expires)
	g.scratch = q.key(g.scratch[:0], seq)
	g.set(g.scratch, t, o)
	g.change(change{kind: changePush, queue: q, seq: seq, peer: p, op: o})
}

func (s *Store) stageRemove(q *queue, seq uint64, e *entry, kind changeKind) {
	g := &s.staging
	q.mark(e)
	g.scratch = q.key(g.scratch[:0], seq)
	g.delete(g.scratch)
	if e.numbered {
		g.scratch[9] = sessionSent // the same key but for its kind
		g.delete(g.scratch)
	}
	g.change(change{kind: kind, queue: q, seq: seq})
}

func (s *Store) stagePutSession(t *tx, o *op) {
	g := &s.staging
	x := s.stagedSession(o.key)
	if x == nil {
		s.sessionID++
		x = newSession(s.sessionID)
		g.sessions[o.key] = x
	}
	g.scratch = x.key(g.scratch[:0], sessionRecord)
	g.set(g.scratch, t, o)
	x.touched = true
	g.change(change{op: o, session: x})
}

// fewKeys is up to how many keys are deleted one by one. Many small range
// deletions would slow every read down.
const fewKeys = 256

// stageDeleteSession deletes all keys of a session.
func (s *Store) stageDeleteSession(x *session, o *op) {
	g := &s.staging
	q := x.queue
	if x.touched || len(q.entries)-q.head+len(x.Subscriptions)+len(x.Received) > fewKeys {
		from := binary.BigEndian.AppendUint64([]byte{columnSession}, x.id)
		to := binary.BigEndian.AppendUint64([]byte{columnSession}, x.id+1)
		must(g.batch.DeleteRange(from, to, nil))
	} else {
		g.delete(x.key(nil, sessionRecord))
		for i := range x.Subscriptions {
			g.delete(append(x.key(nil, sessionSubscription), x.Subscriptions[i].Filter...))
		}
		for _, id := range x.Received {
			g.delete(binary.BigEndian.AppendUint16(x.key(nil, sessionReceived), id))
		}
		for seq := q.oldest(); seq < q.next; seq++ {
			if e := q.at(seq); e != nil && !e.leaving {
				s.stageRemove(q, seq, e, changeRemove)
			}
		}
	}
	g.sessions[o.key] = nil
	g.change(change{op: o, session: x})
}

// stageRetain keeps a message unless a newer one is kept. [MQTT-3.3.1-5] [MQTT-3.3.1-6]
// [MQTT-3.3.1-7]
func (s *Store) stageRetain(t *tx, o *op) {
	g := &s.staging
	m := o.delivery.Message
	old := s.stagedRetained(m.Topic)
	if m.Outdated(old, g.tombs.Get(m.Topic)) {
		return
	}
	if old != nil {
		g.count.retained--
		g.count.retainedBytes -= old.Size()
	}
	if len(m.Payload) == 0 {
		s.stageTombstone(t, o)
		if old == nil {
			return
		}
		g.delete(appendRetainedKey(g.scratch[:0], m.Topic))
		g.retained[m.Topic] = nil
	} else {
		s.stageNoTombstone(g.tombs.Get(m.Topic))
		g.scratch = appendRetainedKey(g.scratch[:0], m.Topic)
		g.set(g.scratch, t, o)
		g.retained[m.Topic] = m
		g.count.retained++
		g.count.retainedBytes += m.Size()
	}
	g.change(change{op: o})
}

// stageTombstone keeps the message of o, which clears a topic, and evicts older
// tombstones.
func (s *Store) stageTombstone(t *tx, o *op) {
	g := &s.staging
	m := o.delivery.Message
	g.scratch = appendTombstoneKey(g.scratch[:0], m.Topic)
	g.set(g.scratch, t, o)
	g.tombs.Put(m)
	g.change(change{kind: changeTombstone, op: o})
	for {
		old := g.tombs.Evict(s.limits.Tombstones)
		if old == nil {
			return
		}
		g.forgotten++
		g.delete(appendTombstoneKey(g.scratch[:0], old.Topic))
		g.change(change{kind: changeNoTombstone, op: &op{delivery: store.Delivery{Message: old}}})
	}
}

// stageNoTombstone removes a tombstone, if there is one.
func (s *Store) stageNoTombstone(old *store.Message) {
	if old == nil {
		return
	}
	g := &s.staging
	g.delete(appendTombstoneKey(g.scratch[:0], old.Topic))
	g.tombs.Remove(old.Topic)
	g.change(change{kind: changeNoTombstone, op: &op{delivery: store.Delivery{Message: old}}})
}

func (s *Store) stageOutbound(t *tx, o *op) {
	p := s.peer(o.name)
	q := p.log
	size := o.delivery.Message.Size()
	for q.staged.Messages > 0 && !q.fits(size, s.limits.Outbound) {
		seq, e := q.staying()
		s.stageRemove(q, seq, e, changeOverflow)
	}
	s.stagePush(q, p, t, o, size)
}

func (s *Store) stageAcknowledge(o *op) {
	g := &s.staging
	p := s.peer(o.name)
	q := p.log
	for {
		seq, e := q.staying()
		if e == nil || seq > o.seq {
			break
		}
		s.stageRemove(q, seq, e, changeRemove)
		o.given--
	}
	if o.seq = min(o.seq, q.next-1); o.seq > max(q.stats.Acknowledged, g.acked[q]) { // the numbers go on where they were, also once the log is empty
		g.acked[q] = o.seq
		key := appendOutboundKey(g.scratch[:0], o.name, outboundAcknowledged)
		must(g.batch.Set(key, binary.BigEndian.AppendUint64([]byte{version}, o.seq), nil))
	}
	g.change(change{kind: changeAcknowledged, queue: q, op: o})
}

func (s *Store) stageValue(t *tx, o *op) {
	g := &s.staging
	k := valueKey{o.scope, o.name}
	old := s.stagedValue(k)
	if old == nil && o.value == nil {
		return
	}
	g.scratch = appendValueKey(g.scratch[:0], k)
	limited := store.Limited(o.scope)
	if old != nil && limited {
		g.count.values--
		g.count.valueBytes -= len(old)
	}
	if o.value == nil {
		g.delete(g.scratch)
	} else {
		g.set(g.scratch, t, o)
		if limited {
			g.count.values++
			g.count.valueBytes += len(o.value)
		}
	}
	g.values[k] = o.value
	g.change(change{op: o})
}

// stageSweep removes messages that expired by now from the retained messages and the
// sessions' queues.
func (s *Store) stageSweep(now time.Time) {
	g := &s.staging
	if s.retainedExpires > 0 {
		for _, m := range s.retained.All(nil) {
			if staged, ok := g.retained[m.Topic]; !m.Expired(now) || ok && staged != m {
				continue
			}
			g.delete(appendRetainedKey(g.scratch[:0], m.Topic))
			g.retained[m.Topic] = nil
			g.count.retained--
			g.count.retainedBytes -= m.Size()
			g.change(change{kind: changeRetained, op: &op{delivery: store.Delivery{Message: m}}})
		}
	}
	for _, m := range g.tombs.All() {
		if m.Expired(now) {
			s.stageNoTombstone(m)
		}
	}
	for k, x := range s.sessions {
		if s.stagedSession(k) != x {
			continue
		}
		x.queue.expired(now, func(seq uint64, e *entry) {
			s.stageRemove(x.queue, seq, e, changeRemove)
		})
	}
}

package durable

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/store"
)

// apply makes the batch visible.
func (s *Store) apply() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.staging.changes {
		s.applyChange(&s.staging.changes[i])
	}
	s.totals = s.staging.count
	s.stats.Commits += s.commits
	s.stats.Forgotten += s.staging.forgotten
	s.commits = 0
	s.cache.trim()
}

// rollback forgets the batch.
func (s *Store) rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Backward(s.staging.changes) {
		switch c.kind {
		case changePush:
			c.queue.unpush()
		case changeRemove, changeOverflow:
			c.queue.unmark(c.queue.at(c.seq))
		case changeOp, changeDrop, changeAcknowledged, changeRetained, changeTombstone, changeNoTombstone:
			if c.session == nil {
				continue
			}
			c.session.touched = false
			if c.op.kind == opInflight {
				c.session.queue.unsend(c.op.seq)
			}
		}
	}
	s.commits = 0
	s.beginTombstones()
}

// beginTombstones gives the committer the tombstones that are visible.
func (s *Store) beginTombstones() {
	s.staging.tombs = store.Tombstones{}
	for _, m := range s.tombs {
		s.staging.tombs.Put(m)
	}
}

func (s *Store) applyChange(c *change) {
	switch c.kind {
	case changePush:
		s.applyPush(c)
	case changeRemove, changeOverflow:
		s.applyRemove(c)
	case changeDrop:
		c.queue.stats.Dropped++
		s.stats.QueueDropped++
	case changeAcknowledged:
		st := &c.queue.stats
		st.Acknowledged = max(st.Acknowledged, c.op.seq)
		st.Dropped -= min(st.Dropped, uint64(max(c.op.given, 0)))
	case changeTombstone:
		s.tombs[c.op.delivery.Message.Topic] = c.op.delivery.Message
	case changeNoTombstone:
		delete(s.tombs, c.op.delivery.Message.Topic)
	case changeRetained:
		s.putRetained(c.op.delivery.Message.Topic, nil)
	case changeOp:
		s.applyOp(c)
	}
}

func (s *Store) applyPush(c *change) {
	q := c.queue
	e := q.at(c.seq)
	q.show(c.seq, e)
	d := &c.op.delivery
	e.message, e.qos, e.retain = d.Message, d.QoS, d.Retain
	if len(d.IDs) > 0 {
		ids := d.IDs
		e.ids = &ids
	}
	s.cache.add(q, c.seq, e)
	if c.peer != nil {
		c.peer.wake()
		return
	}
	s.stats.Queued++
	s.stats.QueuedBytes += int(e.size)
}

func (s *Store) applyRemove(c *change) {
	q := c.queue
	e := q.at(c.seq)
	if q.session {
		s.stats.Queued--
		s.stats.QueuedBytes -= int(e.size)
	}
	if c.kind == changeOverflow {
		q.stats.Dropped++
	}
	s.cache.forget(e)
	q.remove(c.seq, e)
}

func (s *Store) applyOp(c *change) {
	o := c.op
	switch o.kind {
	case opRetain:
		if m := o.delivery.Message; len(m.Payload) > 0 {
			s.putRetained(m.Topic, m)
		} else {
			s.putRetained(m.Topic, nil)
		}
	case opFloor:
		s.floors[laneOf(o.origin)] = o.origin
	case opPutValue:
		s.values.Put(o.scope, o.name, o.value)
	case opDeleteSession:
		s.dropSession(o.key, c.session)
	default:
		c.session.touched = false
		s.held += c.session.apply(o)
		if o.kind == opPutSession {
			s.sessions[o.key] = c.session
		}
	}
}

// putRetained keeps m at topic, or nothing.
func (s *Store) putRetained(topic string, m *store.Message) {
	var old *store.Message
	if m == nil {
		old = s.retained.Remove(topic)
	} else {
		old = s.retained.Put(topic, m)
	}
	if m != nil && m.Expires != 0 {
		s.retainedExpires++
	}
	if old != nil && old.Expires != 0 {
		s.retainedExpires--
	}
}

func (s *Store) dropSession(k store.SessionKey, x *session) {
	q := x.queue
	s.held -= x.Size()
	s.stats.Queued -= q.stats.Messages
	s.stats.QueuedBytes -= q.stats.Bytes
	for i := range q.entries[q.head:] {
		s.cache.forget(&q.entries[q.head+i])
	}
	q.closed = true
	if s.sessions[k] == x {
		delete(s.sessions, k)
	}
}

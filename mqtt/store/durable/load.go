package durable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable/disk"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// loader reads a database into a store's memory.
type loader struct {
	s       *Store
	session *session    // the session of the keys that are being read; nil if it has no record
	orphans []uint64    // sessions without a record, or that ended before another of their name
	revived [][2][]byte // keys of entries, from and to, that were done
	strange int         // keys and values of an unknown kind
}

// load fills the memory of s from the database.
func (s *Store) load(db *disk.Database) error {
	if err := checkFormat(db); err != nil {
		return err
	}
	s.forget()
	l := loader{s: s}
	if err := db.View(nil, l.keys); err != nil {
		return err
	}
	if l.strange > 0 {
		s.log.WithField("keys", l.strange).Error("the store holds keys that cannot be understood; they are left as they are")
	}
	s.beginTombstones()
	for _, x := range s.sessions {
		s.held += x.Size()
		s.stats.Queued += x.queue.stats.Messages
		s.stats.QueuedBytes += x.queue.stats.Bytes
	}
	return l.removeRests(db)
}

// keys takes all keys.
func (l *loader) keys(it *pebble.Iterator) error {
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := l.key(it.Key(), slices.Clone(value)); err != nil {
			l.strange++
		}
	}
	return nil
}

// forget empties the memory of s.
func (s *Store) forget() {
	s.sessions = make(map[store.SessionKey]*session)
	s.peers = make(map[string]*peer)
	s.floors = make(map[laneKey]store.Origin)
	s.values = store.Values{}
	s.staging.sessions = make(map[store.SessionKey]*session)
	s.staging.retained = make(map[string]*store.Message)
	s.staging.values = make(map[valueKey][]byte)
	s.staging.acked = make(map[*queue]uint64)
	s.tombs = make(map[string]*store.Message)
	s.retained, s.retainedExpires = topic.Names[store.Message]{}, 0
	s.totals, s.stats, s.held, s.sessionID = totals{}, store.Stats{}, 0, 0
	s.cache = cache{limit: s.options.Cache}
}

// checkFormat refuses files of another version, and names the format of a new database.
func checkFormat(db *disk.Database) error {
	value, err := db.Get(metaFormat)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		b := db.NewBatch()
		must(b.Set(metaFormat, []byte{version}, nil))
		return db.Commit(b, pebble.Sync)
	case err != nil:
		return err
	}
	if len(value) != 1 || value[0] != version {
		return fmt.Errorf("its format is %x, not %x: another version of this program wrote it", value, version)
	}
	return nil
}

// key takes one key and its value, which it may keep.
func (l *loader) key(key, value []byte) error {
	switch key[0] {
	case columnMeta:
		return nil
	case columnSession:
		return l.sessionKey(key, value)
	case columnOutbound:
		return l.outboundKey(key, value)
	case columnRetained:
		m, err := decodeMessage(value)
		if err != nil {
			return err
		}
		l.s.putRetained(m.Topic, m)
		l.s.totals.retained++
		l.s.totals.retainedBytes += m.Size()
	case columnTombstone:
		m, err := decodeMessage(value)
		if err != nil {
			return err
		}
		l.s.tombs[m.Topic] = m
	case columnFloor:
		k, err := cutFloorKey(key)
		if err != nil {
			return err
		}
		l.s.floors[k], err = decodeFloor(k, value)
		return err
	case columnValue:
		k, err := cutValueKey(key)
		if err != nil || len(value) == 0 || value[0] != version {
			return errKey
		}
		l.s.values.Put(k.scope, k.key, value[1:])
		if store.Limited(k.scope) {
			l.s.totals.values++
			l.s.totals.valueBytes += len(value) - 1
		}
	default:
		return errKey
	}
	return nil
}

func (l *loader) sessionKey(key, value []byte) error {
	id, kind, rest, err := cutSessionKey(key)
	if err != nil {
		return err
	}
	if l.s.sessionID = max(l.s.sessionID, id); kind == sessionRecord {
		return l.sessionRecord(id, value)
	}
	if l.session == nil || l.session.id != id {
		if len(l.orphans) == 0 || l.orphans[len(l.orphans)-1] != id {
			l.orphans = append(l.orphans, id)
		}
		return nil
	}
	switch kind {
	case sessionSubscription:
		sub, err := decodeSubscription(string(rest), value)
		if err == nil {
			l.session.Subscriptions = append(l.session.Subscriptions, sub)
		}
		return err
	case sessionReceived:
		if len(rest) != 2 {
			return errKey
		}
		l.session.Received = append(l.session.Received, binary.BigEndian.Uint16(rest))
		return nil
	}
	seq, err := cutSeq(rest)
	if err != nil {
		return err
	}
	switch kind {
	case sessionSent:
		return l.sent(seq, value)
	case sessionEntry:
		return l.entry(seq, value)
	}
	return errKey
}

func (l *loader) sessionRecord(id uint64, value []byte) error {
	r, err := decodeSession(value)
	if err != nil {
		return err
	}
	if old := l.s.sessions[r.Key]; old != nil { // the end of the old session was lost
		l.orphans = append(l.orphans, old.id)
	}
	l.session = newSession(id)
	l.session.put(*r)
	l.s.sessions[r.Key] = l.session
	return nil
}

// sent comes before the entry that it belongs to.
func (l *loader) sent(seq uint64, value []byte) error {
	sent, err := decodeSent(value)
	if err != nil {
		return err
	}
	q := l.session.queue
	if q.sent == nil {
		q.sent = make(map[uint64]store.Sent)
	}
	q.sent[seq] = sent
	return nil
}

func (l *loader) entry(seq uint64, value []byte) error {
	d, err := decodeEntry(value)
	if err != nil {
		return err
	}
	q := l.session.queue
	l.restore(q, seq, d.Message, l.s.limits.Queue)
	if e := q.at(seq); e != nil {
		_, e.numbered = q.sent[seq]
	}
	return nil
}

func (l *loader) restore(q *queue, seq uint64, m *store.Message, limit store.QueueLimit) {
	from, to := q.restore(seq, m.Size(), m.Expires, limit)
	if from == to {
		return
	}
	gone := [2][]byte{q.key(nil, from), q.key(nil, to)}
	if n := len(l.revived); n == 0 || !bytes.Equal(l.revived[n-1][0], gone[0]) { // else the range is in the list already
		l.revived = append(l.revived, gone)
	}
}

func (l *loader) outboundKey(key, value []byte) error {
	name, kind, rest, err := cutOutboundKey(key)
	if err != nil {
		return err
	}
	q := l.s.peer(name).log
	if kind == outboundAcknowledged {
		if len(value) != 9 || value[0] != version {
			return errVersion
		}
		q.next = binary.BigEndian.Uint64(value[1:]) + 1
		q.visible, q.first = q.next, q.next
		q.stats.Acknowledged = q.next - 1
		return nil
	}
	seq, err := cutSeq(rest)
	if err != nil || kind != outboundEntry {
		return errKey
	}
	m, err := decodeMessage(value)
	if err != nil {
		return err
	}
	l.restore(q, seq, m, l.s.limits.Outbound)
	return nil
}

// removeRests deletes the rests that a repair left: sessions without their record, or
// that had ended but lost the mark of it, and packet identifiers of lost entries, since
// the next entry with such a number was not sent. It also deletes entries that the
// repair brought back.
func (l *loader) removeRests(db *disk.Database) error {
	b := db.NewBatch()
	for _, id := range l.orphans {
		from := binary.BigEndian.AppendUint64([]byte{columnSession}, id)
		must(b.DeleteRange(from, binary.BigEndian.AppendUint64([]byte{columnSession}, id+1), nil))
	}
	for _, r := range l.revived {
		must(b.DeleteRange(r[0], r[1], nil))
	}
	for _, x := range l.s.sessions {
		for seq := range x.queue.sent {
			if x.queue.at(seq) == nil {
				delete(x.queue.sent, seq)
				must(b.Delete(binary.BigEndian.AppendUint64(x.key(nil, sessionSent), seq), nil))
			}
		}
	}
	if len(l.orphans) > 0 {
		l.s.log.WithField("sessions", len(l.orphans)).Error("queues are removed whose sessions were lost, or had ended")
	}
	if len(l.revived) > 0 {
		l.s.log.Error("entries of queues are removed that damage brought back: they were done long before those that wait")
	}
	if b.Empty() {
		return b.Close()
	}
	return db.Commit(b, pebble.Sync)
}

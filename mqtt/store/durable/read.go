package durable

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable/disk"
)

// Sessions implements [store.Store].
func (s *Store) Sessions() []store.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]store.Session, 0, len(s.sessions))
	for _, x := range s.sessions {
		c := x.Session
		c.Subscriptions = slices.Clone(x.Subscriptions)
		c.Received = slices.Clone(x.Received)
		all = append(all, c)
	}
	return all
}

// Queue implements [store.Store]. Entries that cannot be read are left out, and
// taken out of the queue if they are damaged.
func (s *Store) Queue(k store.SessionKey, after uint64, dst []store.Entry) ([]store.Entry, error) {
	for {
		s.mu.Lock()
		x := s.sessions[k]
		if x == nil {
			s.mu.Unlock()
			return dst, nil
		}
		got := x.queue.read(after, dst)[len(dst):]
		s.mu.Unlock()
		if len(got) == 0 {
			return dst, nil
		}
		after = got[len(got)-1].Seq
		read, err := s.fill(got, x.queue.prefix, decodeEntry, func(damaged []uint64) {
			s.Update(func(t store.Tx) {
				for _, seq := range damaged {
					t.Dequeue(k, seq)
				}
			}, nil)
		})
		if len(read) > 0 {
			return append(dst, read...), nil
		}
		if err != nil { // else all of them went meanwhile
			return dst, err
		}
	}
}

// QueueStats implements [store.Store].
func (s *Store) QueueStats(k store.SessionKey) store.QueueStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.sessions[k]; x != nil {
		return x.queue.stats
	}
	return store.QueueStats{}
}

// Retained implements [store.Store].
func (s *Store) Retained(filter string) []*store.Message {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.retained.Match(filter, nil)
	return slices.DeleteFunc(found, func(m *store.Message) bool { return m.Expired(now) })
}

// Outbound implements [store.Store]. A message that cannot be read is as if it had been
// dropped.
func (s *Store) Outbound(name string, after uint64, dst []store.Outbound) []store.Outbound {
	scratch := make([]store.Entry, 0, cap(dst)-len(dst))
	for {
		s.mu.Lock()
		p := s.peers[name]
		if p == nil {
			s.mu.Unlock()
			return dst
		}
		got := p.log.read(after, scratch)
		s.mu.Unlock()
		if len(got) == 0 {
			return dst
		}
		after = got[len(got)-1].Seq
		read, err := s.fill(got, p.log.prefix, decodeOutbound, nil)
		for _, e := range read {
			dst = append(dst, store.Outbound{Message: e.Message, Seq: e.Seq})
		}
		if len(read) > 0 || err != nil {
			return dst
		}
	}
}

func decodeOutbound(value []byte) (store.Delivery, error) {
	m, err := decodeMessage(value)
	return store.Delivery{Message: m}, err
}

// Committed implements [store.Store].
func (s *Store) Committed(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer(name).grew
}

// OutboundStats implements [store.Store].
func (s *Store) OutboundStats(name string) store.QueueStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[name]; p != nil {
		return p.log.stats
	}
	return store.QueueStats{}
}

// Floor implements [store.Store].
func (s *Store) Floor(site string, lane uint16) (epoch, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.floors[laneKey{site, lane}]
	return o.Epoch, o.Seq
}

// Value implements [store.Store].
func (s *Store) Value(scope, key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values.Get(scope, key)
}

// Values implements [store.Store].
func (s *Store) Values(scope string) map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values.Of(scope)
}

// Tombstones implements [store.Store].
func (s *Store) Tombstones() []*store.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.tombs))
}

// Tombstone implements [store.Store].
func (s *Store) Tombstone(topic string) *store.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tombs[topic]
}

// Stats implements [store.Store].
func (s *Store) Stats() store.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.stats
	n.Sessions, n.Tombstones = len(s.sessions), len(s.tombs)
	n.Retained, n.RetainedBytes = s.totals.retained, s.totals.retainedBytes
	n.Values, n.ValueBytes = s.totals.values, s.totals.valueBytes
	for _, p := range s.peers {
		n.Outbound += p.log.stats.Messages
		n.OutboundBytes += p.log.stats.Bytes
		n.OutboundDrops += p.log.stats.Dropped
	}
	n.Memory = s.held + s.cache.bytes + s.staging.tombs.Bytes() + s.values.HistoryBytes() + n.RetainedBytes + n.ValueBytes + (n.Queued+n.Outbound)*int(unsafe.Sizeof(entry{}))
	return n
}

// fill reads the messages that are only on disk and returns the entries that have
// theirs. A missing one was done meanwhile. An entry that cannot be read is left out,
// and the entries after it are still read. But if the disk has failed, or the store is
// closed, the entries end there, and the error says why. fill never waits for a failed
// disk: its callers are event loops, and callbacks, for which the committer would wait
// although it has to end the outage.
func (s *Store) fill(
	entries []store.Entry, prefix []byte, decode func([]byte) (store.Delivery, error), lost func([]uint64),
) (read []store.Entry, outage error) {
	missing := func(e store.Entry) bool { return e.Message == nil }
	var damaged []uint64
	var unread error
	for from := 0; ; {
		next := slices.IndexFunc(entries[from:], missing)
		if next < 0 {
			break
		}
		from += next
		db := s.db.Load()
		err := fillFrom(db, entries[from:], prefix, decode, &damaged)
		if err == nil {
			break
		}
		if db != s.db.Load() {
			continue // the files went on without this database
		}
		next = slices.IndexFunc(entries[from:], missing)
		if next < 0 {
			break
		}
		from += next
		if db.Err() != nil || errors.Is(err, ErrClosed) {
			entries, outage = entries[:from], err
			break
		}
		unread = err
		if disk.IsDamage(err) {
			damaged = append(damaged, entries[from].Seq)
		}
		from++
	}
	if unread == nil && len(damaged) > 0 {
		unread = errValue
	}
	if unread != nil {
		s.reportUnread(unread)
	}
	if len(damaged) > 0 && lost != nil {
		lost(damaged)
	}
	return slices.DeleteFunc(entries, missing), outage
}

func (s *Store) reportUnread(err error) {
	s.log.WithField(logfield.Reason, err.Error()).Error("queued messages cannot be read from the store")
}

// fillFrom reads the messages of entries that have none from one database.
func fillFrom(
	db *disk.Database, entries []store.Entry, prefix []byte, decode func([]byte) (store.Delivery, error), damaged *[]uint64,
) error {
	key := func(seq uint64) []byte { return binary.BigEndian.AppendUint64(slices.Clone(prefix), seq) }
	last := entries[len(entries)-1].Seq
	bounds := &pebble.IterOptions{LowerBound: key(entries[0].Seq), UpperBound: key(last + 1)}
	return db.View(bounds, func(it *pebble.Iterator) error {
		i := 0
		for ok := it.First(); ok; ok = it.Next() {
			seq := binary.BigEndian.Uint64(it.Key()[len(prefix):])
			for i < len(entries) && entries[i].Seq < seq {
				i++
			}
			if i == len(entries) {
				break
			}
			if entries[i].Seq != seq || entries[i].Message != nil {
				continue
			}
			value, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			d, err := decode(slices.Clone(value))
			if err != nil {
				*damaged = append(*damaged, seq)
				continue
			}
			entries[i].Delivery = d
		}
		return nil
	})
}

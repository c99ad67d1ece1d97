package durable

import (
	"encoding/binary"
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// queue is the part of a session's queue or a peer's log that is in memory. Entries
// have consecutive sequence numbers, so one is found by subtraction; one that is done
// out of order leaves a hole until it reaches the front.
//
// The committer adds entries and marks leaving ones while it gathers a batch. After the
// commit it makes that visible, or takes it back. staged and next are the committer's
// view, stats and visible the view of all readers. The store's mu guards all of it.
type queue struct {
	prefix  []byte  // of its entries' keys
	entries []entry // from head; of size 0 in a hole
	head    int     // index of the oldest entry
	next    uint64  // sequence number of the next entry
	visible uint64  // entries before it are committed
	first   uint64  // no entry before it stays, as the committer sees it
	staged  store.QueueStats
	stats   store.QueueStats
	sent    map[uint64]store.Sent
	expires int  // how many entries ever expire
	session bool // it is a session's, not a peer's
	closed  bool // the session is gone
}

// entry is one message in a queue.
type entry struct {
	message  *store.Message // nil if the entry is only on disk
	ids      *[]uint32      // subscription identifiers, with message; nil is none
	expires  int64
	size     uint32 // 0 in a hole
	qos      byte   // with message
	retain   bool   // with message
	leaving  bool   // it goes with this commit
	numbered bool   // it perhaps has a record of its packet identifier
}

func newQueue(prefix []byte) *queue { return &queue{prefix: prefix, next: 1, visible: 1, first: 1} }

// oldest is the sequence number of the oldest entry.
func (q *queue) oldest() uint64 { return q.next - uint64(len(q.entries)-q.head) }

// key returns the key of the entry seq.
func (q *queue) key(dst []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, q.prefix...), seq)
}

// at returns the entry seq, or nil if there is none. It is valid until the next
// push or remove.
func (q *queue) at(seq uint64) *entry {
	oldest := q.oldest()
	if seq < oldest || seq >= q.next {
		return nil
	}
	if e := &q.entries[q.head+int(seq-oldest)]; e.size > 0 {
		return e
	}
	return nil
}

// fits reports whether a message of this size may be pushed.
func (q *queue) fits(size int, l store.QueueLimit) bool {
	return q.staged.Messages < l.Messages && q.staged.Bytes+size <= l.Bytes && q.next-q.oldest() < l.MaxSpan()
}

// push stages an entry and returns its sequence number.
func (q *queue) push(size int, expires int64) uint64 {
	if q.head > 64 && q.head*2 > len(q.entries) {
		n := copy(q.entries, q.entries[q.head:])
		clear(q.entries[n:])
		q.entries, q.head = q.entries[:n], 0
	}
	q.entries = append(q.entries, entry{expires: expires, size: uint32(size)})
	if expires != 0 {
		q.expires++
	}
	q.staged.Messages++
	q.staged.Bytes += size
	q.next++
	return q.next - 1
}

// unpush takes the last push back.
func (q *queue) unpush() {
	last := &q.entries[len(q.entries)-1]
	q.staged.Messages--
	q.staged.Bytes -= int(last.size)
	if last.expires != 0 {
		q.expires--
	}
	q.entries = q.entries[:len(q.entries)-1]
	q.next--
}

// mark stages the end of an entry.
func (q *queue) mark(e *entry) {
	e.leaving = true
	q.staged.Messages--
	q.staged.Bytes -= int(e.size)
}

// unmark takes mark back.
func (q *queue) unmark(e *entry) {
	e.leaving = false
	q.staged.Messages++
	q.staged.Bytes += int(e.size)
	q.first = q.oldest()
}

// show makes the entry seq visible.
func (q *queue) show(seq uint64, e *entry) {
	q.visible = seq + 1
	q.stats.Messages++
	q.stats.Bytes += int(e.size)
}

// send makes visible how far the entry seq went.
func (q *queue) send(seq uint64, sent store.Sent) {
	if q.at(seq) == nil {
		return
	}
	if q.sent == nil {
		q.sent = make(map[uint64]store.Sent)
	}
	q.sent[seq] = sent
}

// unsend takes the staging of send back.
func (q *queue) unsend(seq uint64) {
	if e := q.at(seq); e != nil {
		_, e.numbered = q.sent[seq]
	}
}

// remove makes the end of an entry visible.
func (q *queue) remove(seq uint64, e *entry) {
	q.stats.Messages--
	q.stats.Bytes -= int(e.size)
	if e.expires != 0 {
		q.expires--
	}
	delete(q.sent, seq)
	*e = entry{}
	for q.head < len(q.entries) && q.entries[q.head].size == 0 {
		q.head++
	}
	if q.head < len(q.entries) {
		return
	}
	if q.head = 0; cap(q.entries) > 1024 {
		q.entries = nil
	} else {
		q.entries = q.entries[:0]
	}
}

// staying returns the oldest entry that no change of this batch removes, or 0.
func (q *queue) staying() (uint64, *entry) {
	for q.first = max(q.first, q.oldest()); q.first < q.next; q.first++ {
		if e := q.at(q.first); e != nil && !e.leaving {
			return q.first, e
		}
	}
	return 0, nil
}

// read appends to dst the entries after seq until dst is at its capacity. Entries that
// are only on disk come without their message.
func (q *queue) read(after uint64, dst []store.Entry) []store.Entry {
	for seq := max(after+1, q.oldest()); seq < q.visible && len(dst) < cap(dst); seq++ {
		e := q.at(seq)
		if e == nil {
			continue
		}
		sent := q.sent[seq]
		got := store.Entry{Seq: seq, PacketID: sent.PacketID, Released: sent.Released}
		if e.message != nil {
			got.Delivery = store.Delivery{Message: e.message, QoS: e.qos, Retain: e.retain}
			if e.ids != nil {
				got.IDs = *e.ids
			}
		}
		dst = append(dst, got)
	}
	return dst
}

// expired calls yield with each entry that has expired by now and was not yet sent:
// once a message went out its exchange is finished [MQTT-4.3.3-7].
func (q *queue) expired(now time.Time, yield func(seq uint64, e *entry)) {
	if q.expires == 0 {
		return
	}
	for seq := q.oldest(); seq < q.next; seq++ {
		e := q.at(seq)
		if e != nil && !e.leaving && !e.numbered && e.expires != 0 && now.UnixNano() >= e.expires {
			yield(seq, e)
		}
	}
}

// restore puts an entry that was on disk behind the earlier ones. A gap becomes holes.
// A gap larger than any limit allows means that the earlier entries were done long ago
// and that damage brought them back: they are forgotten. restore returns the numbers of
// the entries that have to go: these, or all acknowledged ones if seq is one of them.
func (q *queue) restore(seq uint64, size int, expires int64, l store.QueueLimit) (from, to uint64) {
	switch {
	case seq < q.next:
		return 0, q.next
	case len(q.entries) == 0:
		q.next = seq
	case seq-q.next > 16*l.MaxSpan():
		from, to = q.oldest(), q.next
		q.entries, q.expires, q.next = nil, 0, seq
		q.staged, q.stats = store.QueueStats{}, store.QueueStats{}
	}
	for ; q.next < seq; q.next++ {
		q.entries = append(q.entries, entry{})
	}
	e := entry{expires: expires, size: uint32(size)}
	q.entries = append(q.entries, e)
	if expires != 0 {
		q.expires++
	}
	q.next = seq + 1
	q.staged.Messages++
	q.staged.Bytes += size
	q.show(seq, &e)
	return from, to
}

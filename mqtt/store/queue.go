package store

// queue is a session's or a peer's bounded queue. Entries have consecutive
// sequence numbers, so one is found by subtraction; an entry that is done out of
// order leaves a hole until it reaches the front.
type queue struct {
	entries []Entry // from head; Message is nil in a hole
	head    int     // index of the oldest entry
	next    uint64  // sequence number of the next entry
	stats   QueueStats
}

func newQueue() *queue { return &queue{next: 1} }

// first is the sequence number of the oldest entry.
func (q *queue) first() uint64 { return q.next - uint64(len(q.entries)-q.head) }

// push appends d under the next sequence number.
func (q *queue) push(d Delivery) {
	if q.head > 64 && q.head*2 > len(q.entries) {
		n := copy(q.entries, q.entries[q.head:])
		clear(q.entries[n:])
		q.entries, q.head = q.entries[:n], 0
	}
	q.entries = append(q.entries, Entry{Delivery: d, Seq: q.next})
	q.next++
	q.stats.Messages++
	q.stats.Bytes += d.Message.Size()
}

// fits reports whether d may be pushed without passing the limits.
func (q *queue) fits(d Delivery, l QueueLimit) bool {
	return q.stats.Messages < l.Messages && q.stats.Bytes+d.Message.Size() <= l.Bytes &&
		q.next-q.first() < l.MaxSpan()
}

// at returns the entry with seq, or nil if there is none.
func (q *queue) at(seq uint64) *Entry {
	if seq < q.first() || seq >= q.next {
		return nil
	}
	e := &q.entries[q.head+int(seq-q.first())]
	if e.Message == nil {
		return nil
	}
	return e
}

// remove takes the entry with seq out, and with it the holes at the front.
func (q *queue) remove(seq uint64) {
	e := q.at(seq)
	if e == nil {
		return
	}
	q.stats.Messages--
	q.stats.Bytes -= e.Message.Size()
	*e = Entry{Seq: seq}
	for q.head < len(q.entries) && q.entries[q.head].Message == nil {
		q.head++
	}
	if q.head == len(q.entries) {
		q.entries, q.head = q.entries[:0], 0
	}
}

// read appends to dst the entries after seq until dst is at its capacity.
func (q *queue) read(after uint64, dst []Entry) []Entry {
	from := max(after+1, q.first())
	for seq := from; seq < q.next && len(dst) < cap(dst); seq++ {
		if e := &q.entries[q.head+int(seq-q.first())]; e.Message != nil {
			dst = append(dst, *e)
		}
	}
	return dst
}

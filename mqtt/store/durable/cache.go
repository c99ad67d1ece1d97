package durable

// cache bounds the messages of queues and logs that are held in memory. The
// newest stay: a subscriber that keeps up never waits for the disk, and one that
// does not, or is away, costs no memory. It is guarded by the store's mu.
type cache struct {
	limit int
	bytes int
	count int
	ring  []cached // from head, oldest first; some are gone already
	head  int
}

type cached struct {
	queue *queue
	seq   uint64
}

// add notes an entry that has just got its message.
func (c *cache) add(q *queue, seq uint64, e *entry) {
	c.bytes += int(e.size)
	c.count++
	if c.head > 1024 && c.head*2 > len(c.ring) || len(c.ring) > 4*c.count+1024 {
		c.compact()
	}
	c.ring = append(c.ring, cached{q, seq})
}

// forget lets an entry's message go.
func (c *cache) forget(e *entry) {
	if e.message == nil {
		return
	}
	c.bytes -= int(e.size)
	c.count--
	e.message, e.ids = nil, nil
}

// trim forgets the oldest messages until the rest is within the limit.
func (c *cache) trim() {
	for c.bytes > c.limit && c.head < len(c.ring) {
		x := c.ring[c.head]
		c.ring[c.head] = cached{}
		c.head++
		if e := x.entry(); e != nil {
			c.forget(e)
		}
	}
}

// compact removes the elements of entries that are gone.
func (c *cache) compact() {
	kept := c.ring[:0]
	for _, x := range c.ring[c.head:] {
		if e := x.entry(); e != nil && e.message != nil {
			kept = append(kept, x)
		}
	}
	clear(c.ring[len(kept):])
	c.ring, c.head = kept, 0
}

func (x cached) entry() *entry {
	if x.queue == nil || x.queue.closed {
		return nil
	}
	return x.queue.at(x.seq)
}

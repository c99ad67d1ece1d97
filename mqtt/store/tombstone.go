package store

import (
	"cmp"
	"container/heap"
	"time"
)

// tombstoneLife is how long a store knows that a retained message was cleared:
// longer than a site is away, as a rule.
const tombstoneLife = 30 * 24 * time.Hour

// NewTombstone returns the tombstone of m, which cleared a retained message.
func NewTombstone(m *Message, now time.Time) *Message {
	return &Message{
		Topic: m.Topic, QoS: m.QoS, Retain: true, Publisher: m.Publisher, ClientID: m.ClientID,
		Origin: m.Origin, HLC: m.HLC, Expires: now.Add(tombstoneLife).UnixNano(),
	}
}

// Outdated reports whether the message that is retained on m's topic, or the tombstone
// there, is newer than m. Either may be nil.
func (m *Message) Outdated(retained, tombstone *Message) bool {
	return retained != nil && retained.HLC > m.HLC || tombstone != nil && tombstone.HLC > m.HLC
}

// Tombstones are the messages that cleared retained ones, by topic. Beyond a limit
// the one with the lowest clock is evicted. The zero value is empty. It is not
// safe for concurrent use.
type Tombstones struct {
	byTopic map[string]*Message
	order   tombstoneHeap // and some that were replaced
	bytes   int
}

// Get returns the tombstone of a topic, or nil.
func (t *Tombstones) Get(topic string) *Message { return t.byTopic[topic] }

// Len returns how many there are.
func (t *Tombstones) Len() int { return len(t.byTopic) }

// Bytes returns the memory that all tombstones take.
func (t *Tombstones) Bytes() int { return t.bytes }

// All returns the tombstones in no order.
func (t *Tombstones) All() []*Message {
	all := make([]*Message, 0, len(t.byTopic))
	for _, m := range t.byTopic {
		all = append(all, m)
	}
	return all
}

// Put keeps m, which NewTombstone made.
func (t *Tombstones) Put(m *Message) {
	if t.byTopic == nil {
		t.byTopic = make(map[string]*Message)
	}
	t.Remove(m.Topic)
	t.byTopic[m.Topic] = m
	t.bytes += m.Size()
	heap.Push(&t.order, m)
	if len(t.order) > 2*len(t.byTopic)+64 {
		t.order = t.All()
		heap.Init(&t.order)
	}
}

// Remove forgets the tombstone of a topic.
func (t *Tombstones) Remove(topic string) {
	if old := t.byTopic[topic]; old != nil {
		t.bytes -= old.Size()
		delete(t.byTopic, topic)
	}
}

// Evict removes the tombstone with the lowest clock if there are more than l allows,
// and returns it, else nil.
func (t *Tombstones) Evict(l QueueLimit) *Message {
	if len(t.byTopic) <= l.Messages && t.bytes <= l.Bytes {
		return nil
	}
	for len(t.order) > 0 {
		m := heap.Pop(&t.order).(*Message)
		if t.byTopic[m.Topic] == m {
			t.Remove(m.Topic)
			return m
		}
	}
	return nil
}

// tombstoneHeap has the lowest clock first.
type tombstoneHeap []*Message

func (h tombstoneHeap) Len() int { return len(h) }
func (h tombstoneHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].HLC, h[j].HLC), cmp.Compare(h[i].Topic, h[j].Topic)) < 0
}
func (h tombstoneHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *tombstoneHeap) Push(m any)   { *h = append(*h, m.(*Message)) }
func (h *tombstoneHeap) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}

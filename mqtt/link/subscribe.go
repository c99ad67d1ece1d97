package link

import (
	"errors"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// interest returns the filters of the first picture. Changes from now on make them
// dirty.
func (r *receiver) interest() []string {
	filters := r.l.filters(r)
	if len(filters) <= maxInterest {
		return filters
	}
	r.l.forget(r) // everything stays everything until the next stream
	return []string{everything}
}

// changed notes that filter was subscribed or unsubscribed. Which of the two is
// looked up when the writer has time, so a filter waits once however often it
// changes.
func (r *receiver) changed(filter string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dirty == nil {
		r.dirty = make(map[string]struct{})
	}
	r.dirty[filter] = struct{}{}
	if len(r.dirty) > maxInterest {
		r.end(errors.New("peer does not read our interest"))
	}
	r.wake.Wake()
}

// fillFilters returns how many of filters go into one packet, at least one.
func fillFilters(filters []string) int {
	size := 0
	for i, f := range filters {
		if size += len(f) + 3; size > pieceSize && i > 0 {
			return i
		}
	}
	return len(filters)
}

// appendSubscribe appends a SUBSCRIBE. No Local: messages published at the peer are not
// sent back to it. RETAIN is kept as published.
func (r *receiver) appendSubscribe(buf []byte, filters []string) []byte {
	p := packet.Subscribe{PacketID: r.nextID(), Subscriptions: make([]packet.Subscription, len(filters))}
	for i, f := range filters {
		p.Subscriptions[i] = packet.Subscription{TopicFilter: f, QoS: 1, NoLocal: true, RetainAsPublished: true}
	}
	return p.Append(buf, packet.V5)
}

func (r *receiver) nextID() uint16 {
	r.lastID++
	if r.lastID == 0 {
		r.lastID = 1
	}
	return r.lastID
}

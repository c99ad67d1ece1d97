package link

// window holds the messages in flight on one stream, oldest first. A slot's
// place in the ring is its packet identifier, so an acknowledgement finds it
// without a search; slots leave in their order.
type window struct {
	slots []slot
	head  int // the oldest
	used  int
}

type slot struct {
	seq  uint64 // in the outbound log; 0 is a retained copy
	done bool
}

func newWindow(receiveMaximum uint16) window {
	return window{slots: make([]slot, receiveMaximum)}
}

func (w *window) room() int { return len(w.slots) - w.used }

// push takes the next slot and returns its packet identifier. There is room.
func (w *window) push(s slot) uint16 {
	i := (w.head + w.used) % len(w.slots)
	w.slots[i] = s
	w.used++
	return uint16(i + 1)
}

// ack marks the slot of a packet identifier done, or reports that no such
// message is in flight.
func (w *window) ack(id uint16) bool {
	i := int(id) - 1
	if i < 0 || i >= len(w.slots) || (i-w.head+len(w.slots))%len(w.slots) >= w.used || w.slots[i].done {
		return false
	}
	w.slots[i].done = true
	return true
}

// pop takes the oldest slot if it is done.
func (w *window) pop() (s slot, ok bool) {
	if w.used == 0 || !w.slots[w.head].done {
		return slot{}, false
	}
	s = w.slots[w.head]
	w.head = (w.head + 1) % len(w.slots)
	w.used--
	return s, true
}

package mqtt

import (
	"cmp"
	"math"
	"slices"
	"unsafe"
)

// slotState tells how far an outgoing QoS 1 or 2 message is.
type slotState byte

const (
	reserved slotState = iota // has its identifier, which is not kept yet
	unsent                    // it is, but PUBLISH did not go out
	sent                      // PUBLISH went out
	released                  // PUBREC arrived, PUBREL went out
)

// slot is one outgoing message that the client has not finished with, by PUBACK
// [MQTT-4.3.2-3], PUBREC [MQTT-4.3.3-3] and PUBCOMP [MQTT-4.3.3-5]. The
// message itself is in the store's queue (seq) or, for a session that keeps
// nothing, forgotten: it cannot be sent again.
type slot struct {
	seq   uint64
	id    uint16 // 0 is a free slot
	state slotState
	qos   byte
	live  bool  // counts against this connection's quota
	loan  *loan // a shared message lent for this connection only, in place of seq
}

// window holds the messages in flight to a client. A packet identifier modulo
// the length is its slot's index, so finding one costs nothing and the memory
// follows what is in flight. Guarded by session.mu.
type window struct {
	slots []slot
	used  int
	live  int    // slots that count against quota
	quota int    // the client's Receive Maximum or ours, anew per connection [MQTT-4.9.0-1]
	next  uint16 // where the search for a free identifier begins
}

const maxSlots = 1 << 16

// quotaLeft is how many more PUBLISH packets may go out [MQTT-4.9.0-2].
func (w *window) quotaLeft() int { return w.quota - w.live }

// exhausted reports whether no packet identifier is free. It may be while there is
// room, as long as not all of an earlier connection was resent.
func (w *window) exhausted() bool { return w.used >= math.MaxUint16 }

// assign returns a free packet identifier, never 0 [MQTT-2.2.1-4] [MQTT-4.3.2-1]
// [MQTT-4.3.3-1]. The caller checked room and, if not all was resent, exhausted.
func (w *window) assign(seq uint64, qos byte, state slotState) uint16 {
	if w.used*2 >= len(w.slots) && len(w.slots) < maxSlots {
		w.grow()
	}
	for {
		w.next++
		if w.next == 0 { // [MQTT-2.2.1-4]
			w.next = 1
		}
		s := &w.slots[int(w.next)&(len(w.slots)-1)]
		if s.id == 0 {
			*s = slot{seq: seq, id: w.next, state: state, qos: qos, live: true}
			w.used++
			w.live++
			return s.id
		}
	}
}

// grow doubles the slots. Identifiers that differed modulo the old length differ
// modulo the new one.
func (w *window) grow() {
	old := w.slots
	w.slots = make([]slot, max(16, 2*len(old)))
	for _, s := range old {
		if s.id != 0 {
			w.slots[int(s.id)&(len(w.slots)-1)] = s
		}
	}
}

// restore takes up a message that was in flight before a restart.
func (w *window) restore(s slot) {
	for len(w.slots) < maxSlots && (w.used*2 >= len(w.slots) || w.slots[int(s.id)&(len(w.slots)-1)].id != 0) {
		w.grow()
	}
	w.slots[int(s.id)&(len(w.slots)-1)] = s
	w.used++
	w.next = max(w.next, s.id)
}

// slotOf returns the slot of id, or nil.
func (w *window) slotOf(id uint16) *slot {
	if len(w.slots) == 0 || id == 0 {
		return nil
	}
	if s := &w.slots[int(id)&(len(w.slots)-1)]; s.id == id {
		return s
	}
	return nil
}

// freeSlot ends an exchange and returns the quota that it held.
func (w *window) freeSlot(s *slot) {
	if s.live {
		w.live--
	}
	w.used--
	*s = slot{}
}

// suspend marks all messages as sent on an earlier connection, and lets go of the
// memory that a session without messages in flight does not need. It returns by how
// much the memory grew.
func (w *window) suspend() (bytes int) {
	if w.used == 0 {
		bytes = -w.bytes()
		w.slots = nil
	}
	for i := range w.slots {
		w.slots[i].live = false
	}
	w.live = 0
	return bytes
}

func (w *window) bytes() int { return len(w.slots) * int(unsafe.Sizeof(slot{})) }

// unfinished returns the messages of QoS 1 whose identifiers the store does not
// have: it is not told while the connection lasts.
func (w *window) unfinished() (slots []slot) {
	for _, s := range w.slots {
		if s.id != 0 && s.qos == 1 && s.seq != 0 {
			slots = append(slots, s)
		}
	}
	return slots
}

// awaitingResend appends the slots that await their resend, in the order of the original
// [MQTT-4.6.0-1].
func (w *window) awaitingResend(dst []slot) []slot {
	for _, s := range w.slots {
		if s.id != 0 && !s.live {
			dst = append(dst, s)
		}
	}
	slices.SortFunc(dst, func(a, b slot) int { return cmp.Compare(a.seq, b.seq) }) // [MQTT-4.6.0-1]
	return dst
}

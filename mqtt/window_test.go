package mqtt

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/hpmq/hpmq/mqtt/store"
)

// TestWindowModel compares the window with a map: identifiers in use are unique,
// never 0, and found again in the order of their messages. [MQTT-2.2.1-4]
func TestWindowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := window{quota: rapid.IntRange(1, 3000).Draw(t, "quota"), next: uint16(rapid.IntRange(0, 65535).Draw(t, "next"))}
		model := map[uint16]uint64{}
		seq := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				for range rapid.IntRange(1, 200).Draw(t, "n") {
					if w.quotaLeft() <= 0 {
						break
					}
					seq++
					id := w.assign(seq, 1, sent)
					if _, used := model[id]; used || id == 0 {
						t.Fatalf("identifier %d given twice or 0", id)
					}
					model[id] = seq
				}
			},
			"free": func(t *rapid.T) {
				keep := rapid.IntRange(1, 5).Draw(t, "keep")
				for id := range model {
					if int(id)%keep != 0 || keep == 1 {
						w.freeSlot(w.slotOf(id))
						delete(model, id)
					}
				}
			},
			"reconnect": func(*rapid.T) {
				w.suspend()
				for _, s := range w.awaitingResend(nil) {
					slot := w.slotOf(s.id)
					slot.live = true
					w.live++
				}
			},
			"": func(t *rapid.T) {
				if w.used != len(model) || w.live != len(model) {
					t.Fatalf("used %d, live %d, want %d", w.used, w.live, len(model))
				}
				for id, seq := range model {
					if s := w.slotOf(id); s == nil || s.seq != seq {
						t.Fatalf("identifier %d is lost", id)
					}
				}
			},
		})
	})
}

// TestIdentifiersRunOut has all identifiers in use by what an earlier connection
// left: a group may not lend the member one more message, though its client takes
// as many again.
func TestIdentifiersRunOut(t *testing.T) {
	b := New(Options{Store: store.NewMemory(store.Limits{}), Authorizer: &denyList{}})
	s := newSession(b, Principal{ID: testID("x")}, store.SessionKey{ClientID: "c"})
	c := &conn{}
	c.ready.Store(true)
	s.conn.Store(c)
	s.window.quota = math.MaxUint16
	for id := 1; id <= math.MaxUint16; id++ {
		if !s.hasRoom(c) {
			t.Fatalf("no room before identifier %d", id)
		}
		s.window.restore(slot{seq: uint64(id), id: uint16(id), state: sent, qos: 1})
	}
	if s.hasRoom(c) {
		t.Error("there is room, and no identifier")
	}
}

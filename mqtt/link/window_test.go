package link

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/hpmq/hpmq/mqtt/store"
)

// The window against a list of the messages in flight.
func TestWindowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint16Range(1, 9).Draw(t, "size")
		w := newWindow(size)
		type flight struct {
			id   uint16
			seq  uint64
			done bool
		}
		var model []flight
		seq := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				if w.room() == 0 {
					t.Skip("the window is full: rapid takes another action")
				}
				seq++
				done := rapid.Bool().Draw(t, "done")
				id := w.push(slot{seq: seq, done: done})
				if id == 0 || id > size || slices.ContainsFunc(model, func(f flight) bool { return f.id == id }) {
					t.Fatalf("identifier %d with %v in flight", id, model)
				}
				model = append(model, flight{id, seq, done})
			},
			"ack": func(t *rapid.T) {
				id := rapid.Uint16Range(0, size+2).Draw(t, "id")
				i := slices.IndexFunc(model, func(f flight) bool { return f.id == id && !f.done })
				if got := w.ack(id); got != (i >= 0) {
					t.Fatalf("ack %d is %v with %v in flight", id, got, model)
				}
				if i >= 0 {
					model[i].done = true
				}
			},
			"pop": func(t *rapid.T) {
				s, ok := w.pop()
				if ok != (len(model) > 0 && model[0].done) || ok && s.seq != model[0].seq {
					t.Fatalf("popped %v, %v of %v", s, ok, model)
				}
				if ok {
					model = model[1:]
				}
			},
			"": func(t *rapid.T) {
				if w.room() != int(size)-len(model) {
					t.Fatalf("room for %d with %v in flight", w.room(), model)
				}
			},
		})
	})
}

func TestLane(t *testing.T) {
	st := store.NewMemory(store.Limits{})
	st.Update(func(tx store.Tx) { tx.Floor(store.Origin{Site: "rome", Epoch: 7, Seq: 10}) }, nil)
	var n lane
	node := nodeOf("rome")
	n.begin(st, node, hello{site: "rome", epoch: 7})
	steps := []struct {
		seq     uint64
		want    verdict
		missing uint64
	}{{10, duplicate, 0}, {11, next, 0}, {14, next, 2}, {12, duplicate, 0}, {15, next, 0}, {15, duplicate, 0}}
	for _, s := range steps {
		if v, missing := n.take(s.seq, 0); v != s.want || missing != s.missing {
			t.Errorf("%d: %v with %d missing, want %v with %d", s.seq, v, missing, s.want, s.missing)
		}
	}
	n.fail(14)
	n.begin(st, node, hello{site: "rome", epoch: 7})
	if v, _ := n.take(14, 0); v != again {
		t.Error("what the store failed to keep is not taken again")
	}
	if v, _ := n.take(14, 0); v != duplicate {
		t.Error("it is taken twice")
	}
	n.begin(st, node, hello{site: "rome", epoch: 8})
	if v, missing := n.take(5, 0); v != next || missing != 0 {
		t.Error("a new epoch does not begin with an unknown number")
	}
	n.begin(st, node, hello{site: "rome", epoch: 8, acked: 20, told: true})
	if v, missing := n.take(22, 0); v != next || missing != 1 {
		t.Errorf("after what another node took: %v with %d missing", v, missing)
	}
	st.Update(func(tx store.Tx) { tx.Floor(store.Origin{Site: floorName(node), Epoch: 9, Seq: 4}) }, nil)
	n.begin(st, node, hello{site: "rome", epoch: 9})
	if v, _ := n.take(4, 0); v != duplicate {
		t.Error("the floor of the node is not known")
	}
}

package mqtt

import (
	"slices"
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// functionState is the state that a function leaves with a message. It remembers
// whether the broker discarded it.
type functionState struct {
	value     string
	discarded bool
}

func (m *functionState) Keep(tx store.Tx) { tx.PutValue("fn", "prev", []byte(m.value)) }

func (m *functionState) Discard() { m.discarded = true }

// TestFilterState publishes through functions that remember: what they remember
// is kept with the message, or discarded with it.
func TestFilterState(t *testing.T) {
	limits := store.Limits{Values: store.QueueLimit{Messages: 1, Bytes: 5}, Queue: store.QueueLimit{Messages: 100, Bytes: 1 << 20}}
	for _, tt := range []struct {
		name      string
		topic     string
		qos       byte
		remember  string
		discarded bool // as it is longer than 5 bytes
	}{
		{"upstream QoS 1", "up", 1, "new", false},
		{"upstream QoS 2", "up", 2, "new", false},
		{"upstream QoS 0", "up", 0, "new", false},
		{"upstream, refused", "up", 1, "longer", true},
		{"upstream QoS 2, refused", "up", 2, "longer", true},
		{"downstream", "down", 1, "new", false},
		{"downstream QoS 0", "down", 0, "new", false},
		{"downstream, refused", "down", 1, "longer", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept := store.NewMemory(limits)
			f := newFakeFilter("upstream up", "downstream down")
			runWithServer(t, func(o *Options) { o.Store, o.Filter = kept, f }, func(t *testing.T, srv *testServer) {
				sub := srv.connect(packet.V5, "away", sessionExpiry(100))
				sub.subscribe(subscribeTo("#", 2))
				pub := srv.connect(packet.V5, "pub", sessionExpiry(100))
				pub.publish(tt.topic, "x", tt.qos, 1)
				pub.wantNothing()
				m := &functionState{value: tt.remember}
				for _, q := range f.takeQuestions() {
					q.answer(FilterResult{State: m})
				}
				value, _ := kept.Value("fn", "prev")
				queued := kept.Stats().Queued
				if m.discarded != tt.discarded || (string(value) == tt.remember) == tt.discarded {
					t.Errorf("discarded %t, the store has %q", m.discarded, value)
				}
				if want := tt.qos > 0 && !tt.discarded; (queued == 1) != want {
					t.Errorf("%d messages queued", queued)
				}
				code := packet.Success
				if tt.discarded {
					code = packet.QuotaExceeded
				}
				switch tt.qos {
				case 1:
					if got := wantPacket[*packet.Puback](pub); got.ReasonCode != code {
						t.Errorf("PUBACK %v, want %v", got.ReasonCode, code)
					}
				case 2:
					if got := wantPacket[*packet.Pubrec](pub); got.ReasonCode != code {
						t.Errorf("PUBREC %v, want %v", got.ReasonCode, code)
					}
				}
			})
		})
	}
}

// TestFilterStateAlone has a function drop a message and remember it: that is
// kept before the publisher is told, unless the publisher is never told.
func TestFilterStateAlone(t *testing.T) {
	held := &holdingStore{Memory: store.NewMemory(store.Limits{})}
	f := newFakeFilter("upstream up")
	runWithServer(t, func(o *Options) { o.Store, o.Filter = held, f }, func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		pub.publish("up", "0", 0, 0)
		pub.publish("up", "1", 1, 1)
		pub.wantNothing()
		held.hold = true
		for i, q := range f.takeQuestions() {
			q.answer(FilterResult{Outcome: Drop, State: &functionState{value: []string{"zero", "one"}[i]}})
		}
		pub.wantNothing()
		if len(held.done) != 1 {
			t.Fatalf("%d callbacks wait, want that of QoS 1", len(held.done))
		}
		held.done[0](nil)
		if got := wantPacket[*packet.Puback](pub); got.PacketID != 1 || got.ReasonCode != packet.Success {
			t.Errorf("got %v", got)
		}
		if want := []string{"zero", "one"}; !slices.Equal(held.values, want) {
			t.Errorf("kept %q, want %q", held.values, want)
		}
	})
}

// holdingStore keeps callbacks for the test to call, and notes values.
type holdingStore struct {
	*store.Memory
	hold   bool
	done   []func(error)
	values []string
}

func (h *holdingStore) Update(add func(store.Tx), done func(error)) {
	if !h.hold {
		h.Memory.Update(add, done)
		return
	}
	h.Memory.Update(func(tx store.Tx) { add(notingTx{tx, h}) }, nil)
	if done != nil {
		h.done = append(h.done, done)
	}
}

type notingTx struct {
	store.Tx
	h *holdingStore
}

func (n notingTx) PutValue(scope, key string, value []byte) {
	n.h.values = append(n.h.values, string(value))
	n.Tx.PutValue(scope, key, value)
}

package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// TestGrowth fills and empties queue, log, retained messages, values and floors many
// times over: removed entries take no room for long.
func TestGrowth(t *testing.T) {
	const rounds, pieces, size = 12, 64, 1 << 18 // 16 MiB in each round, three times: queue, log, retained
	dir := filepath.Join(t.TempDir(), "s")
	s := start(t, dir, Options{Limits: store.Limits{Queue: store.QueueLimit{Messages: 1000, Bytes: 1 << 30}, Outbound: store.QueueLimit{Bytes: 1 << 30}}})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	most := int64(0)
	for round := range uint64(rounds) {
		for piece := range uint64(pieces) {
			n := round*pieces + piece
			m := &store.Message{Topic: "t", Payload: randomBytes(n, size), HLC: n}
			if err := storetest.Do(s, func(tx store.Tx) {
				tx.Enqueue(alice, store.Delivery{Message: m, QoS: 1})
				tx.Outbound("rome", m)
				tx.Retain(m)
				tx.PutValue("f", "k", m.Payload[:1000])
				tx.Floor(store.Origin{Site: "rome", Epoch: 1, Seq: n})
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := storetest.Do(s, func(tx store.Tx) {
			for seq := range uint64(pieces) {
				tx.Dequeue(alice, round*pieces+seq+1)
			}
			tx.Acknowledge("rome", (round+1)*pieces, 0)
			tx.Retain(&store.Message{Topic: "t", HLC: 1 << 32})
			tx.PutValue("f", "k", nil)
		}); err != nil {
			t.Fatal(err)
		}
		most = max(most, sizeOf(t, dir))
	}
	if st := s.Stats(); st.Queued+st.Outbound+st.Retained+st.Values != 0 {
		t.Errorf("something is left: %+v", st)
	}
	t.Logf("%d MiB were written, the directory had at most %d MiB", 3*rounds*pieces*size>>20, most>>20)
	if most > 256<<20 {
		t.Errorf("the directory grew to %d MiB", most>>20)
	}
}

func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if info, err := n.Info(); err == nil { // else it was removed meanwhile
			size += info.Size()
		}
	}
	return size
}

// randomBytes returns bytes that do not shrink when they are compressed.
func randomBytes(seed uint64, size int) []byte {
	b := make([]byte, size)
	for i, x := 0, seed*0x9e3779b97f4a7c15+1; i < size; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

package durable

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// TestDamage flips a bit in a table of a closed store.
func TestDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	o := Options{Limits: manyMessages}
	writeTables(t, dir, o)
	flipTable(t, dir)
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	aside, _ := filepath.Glob(dir + ".damaged-*")
	if len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	if _, ok := s.Value(store.OfHistory+"x", "k"); ok {
		t.Error("the repaired store goes on in the history of the damaged one")
	}
	left := 0
	for p := range 50 {
		for _, e := range storetest.Entries(s, benchKey(p)) {
			if !bytes.HasPrefix(e.Message.Payload, fmt.Appendf(nil, "%08d", p)) {
				t.Fatalf("entry of another queue: %q", e.Message.Payload[:8])
			}
			left++
		}
	}
	if lost := 50*400 - left; lost == 0 || lost > 100 {
		t.Errorf("one block took %d entries", lost)
	}
}

// writeTables writes a store with entries in several tables.
func writeTables(t *testing.T, dir string, o Options) {
	t.Helper()
	s := start(t, dir, o)
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue(store.OfHistory+"x", "k", []byte{1}) }); err != nil {
		t.Fatal(err)
	}
	for p := range 50 {
		if err := storetest.Do(s, func(tx store.Tx) {
			tx.PutSession(store.Session{Key: benchKey(p)})
			for range 400 {
				tx.Enqueue(benchKey(p), store.Delivery{Message: numbered(p, 2000)})
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.stop()
	s2, err := Open(dir, o) // the log becomes tables
	if err != nil {
		t.Fatal(err)
	}
	if err := s2.Close(); err != nil {
		t.Fatal(err)
	}
}

// flipTable changes a bit in the middle of the largest table.
func flipTable(t *testing.T, dir string) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	size := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	largest := slices.MaxFunc(tables, func(a, b string) int { return cmp.Compare(size(a), size(b)) })
	flipByte(t, largest, size(largest)/2)
}

// TestDamagedWhileRunning reads a queue after its table was damaged: readable entries
// are delivered, and unreadable ones leave the queue.
func TestDamagedWhileRunning(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	o := Options{Limits: manyMessages}
	writeTables(t, dir, o)
	s := start(t, dir, o)
	flipTable(t, dir) // the tables' blocks are read again: the cache is smaller than they are
	left := 0
	for p := range 50 {
		left += len(storetest.Entries(s, benchKey(p)))
	}
	if err := storetest.Do(s, func(store.Tx) {}); err != nil {
		t.Fatal(err)
	}
	queued := s.Stats().Queued
	if left == 0 || left == 50*400 || queued != left { // a damaged block takes its own entries, not the later ones
		t.Errorf("%d entries are left, %d are queued", left, queued)
	}
	if err := storetest.Do(s, func(tx store.Tx) { tx.Enqueue(benchKey(0), store.Delivery{Message: numbered(0, 1)}) }); err != nil {
		t.Error(err)
	}
}

// TestLostEntry loses an entry that was sent, but not the record of that: the next
// message with its number was not.
func TestLostEntry(t *testing.T) {
	disk := vfs.NewMem()
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) {
		tx.PutSession(store.Session{Key: alice})
		tx.Enqueue(alice, store.Delivery{Message: numbered(0, 0), QoS: 2})
	}); err != nil {
		t.Fatal(err)
	}
	if err := storetest.Do(s, func(tx store.Tx) { tx.Inflight(alice, 1, store.Sent{PacketID: 7, Released: true}) }); err != nil {
		t.Fatal(err)
	}
	entry := s.sessions[alice].queue.key(nil, 1)
	s.stop()
	alterKeys(t, disk, func(b *pebble.Batch) { must(b.Delete(entry, nil)) })
	s = start(t, "data", Options{fs: disk})
	publish(t, s.Store, 1)
	for range 2 {
		got := storetest.Entries(s, alice)
		if len(got) != 1 || got[0].PacketID != 0 || got[0].Released {
			t.Errorf("got %+v", got)
		}
		s.stop()
		s = start(t, "data", Options{fs: disk})
	}
}

// TestSessionTwice brings back a session that was deleted before another one of
// its name began.
func TestSessionTwice(t *testing.T) {
	disk := vfs.NewMem()
	s := start(t, "data", Options{fs: disk})
	session := func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }
	remove := func(tx store.Tx) { tx.DeleteSession(alice) }
	if err := errors.Join(storetest.Do(s, session), storetest.Do(s, remove), storetest.Do(s, session)); err != nil {
		t.Fatal(err)
	}
	publish(t, s.Store, 1)
	s.stop()
	alterKeys(t, disk, func(b *pebble.Batch) {
		old := newSession(1)
		must(b.Set(old.key(nil, sessionRecord), appendSession(nil, &store.Session{Key: alice}), nil))
		body := appendMessage(appendDelivery(nil, store.Delivery{}), numbered(0, 0))
		must(b.Set(old.queue.key(nil, 1), body, nil))
	})
	s = start(t, "data", Options{fs: disk})
	if got := storetest.Entries(s, alice); len(got) != 1 || !bytes.HasPrefix(got[0].Message.Payload, []byte("00000001")) {
		t.Errorf("got %+v", got)
	}
	if err := s.inOrder(); err != nil {
		t.Error(err)
	}
	if err := storetest.Do(s, remove); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s = start(t, "data", Options{fs: disk})
	if got := s.Sessions(); len(got) > 0 {
		t.Errorf("got %+v", got)
	}
}

// TestRevivedEntry brings back an entry that was done long before the waiting ones: it
// goes, for good, and they stay.
func TestRevivedEntry(t *testing.T) {
	disk := vfs.NewMem()
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	far := 17 * store.Limits{}.WithDefaults().Outbound.MaxSpan()
	queue, log := s.sessions[alice].queue, newPeer("rome").log
	s.stop()
	logged := appendMessage([]byte{version}, numbered(1, 0))
	queued := appendMessage(appendDelivery(nil, store.Delivery{QoS: 1}), numbered(1, 0))
	alterKeys(t, disk, func(b *pebble.Batch) {
		for _, seq := range []uint64{far, far + 1} {
			must(b.Set(queue.key(nil, seq), queued, nil))
			must(b.Set(log.key(nil, seq), logged, nil))
		}
	})
	for _, want := range [][]uint64{{far, far + 1}, {far + 1}} {
		alterKeys(t, disk, func(b *pebble.Batch) {
			must(b.Set(queue.key(nil, 2), queued, nil))
			must(b.Set(log.key(nil, 2), logged, nil))
		})
		start(t, "data", Options{fs: disk}).stop()
		s = start(t, "data", Options{fs: disk})
		var inQueue, inLog []uint64
		for _, e := range storetest.Entries(s, alice) {
			inQueue = append(inQueue, e.Seq)
		}
		for _, e := range s.Outbound("rome", 0, make([]store.Outbound, 0, 9)) {
			inLog = append(inLog, e.Seq)
		}
		if !slices.Equal(inQueue, want) || !slices.Equal(inLog, want) || s.Stats().Queued != len(want) {
			t.Errorf("queue %v, log %v, want %v: %+v", inQueue, inLog, want, s.Stats())
		}
		if err := s.inOrder(); err != nil {
			t.Error(err)
		}
		if err := storetest.Do(s, func(tx store.Tx) {
			tx.Dequeue(alice, far)
			tx.Acknowledge("rome", far, 0)
		}); err != nil {
			t.Fatal(err)
		}
		s.stop()
	}
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		content[at] ^= 1 << (at % 8)
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

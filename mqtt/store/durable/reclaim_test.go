package durable

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// TestMaxDisk fills a store up to its limit on the disk, empties a part, and goes on as
// soon as the removed entries are gone from the disk.
func TestMaxDisk(t *testing.T) {
	const limit = 120 << 20
	dir := filepath.Join(t.TempDir(), "s")
	s := start(t, dir, Options{MaxDisk: limit, Limits: manyMessages})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for round := range 3 {
		var err error
		for ; err == nil; n++ {
			m := &store.Message{Topic: "t", Payload: randomBytes(n, 1<<18)}
			err = storetest.Do(s, func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: m}) })
		}
		if got := sizeOf(t, dir); !errors.Is(err, store.ErrNoSpace) || got < limit*9/10 || got > 2*limit {
			t.Errorf("round %d: %d MiB: %v", round, got>>20, err)
		}
		all := storetest.Entries(s, alice)
		if err := storetest.Do(s, func(tx store.Tx) {
			for _, e := range all[:len(all)*(round+1)/3] {
				tx.Dequeue(alice, e.Seq)
			}
		}); err != nil {
			t.Fatal(err)
		}
		for storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }) != nil {
		}
	}
}

// TestReclaimFails has the disk refuse the tables that would make room.
func TestReclaimFails(t *testing.T) {
	fault := &faulty{on: true, match: func(path string) bool { return strings.HasSuffix(path, ".sst") }}
	recovered, log := newRecovery()
	s := start(t, "data", Options{MaxDisk: 1, fs: errorfs.Wrap(vfs.NewMem(), fault), Log: log, retry: time.Millisecond})
	put := func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) } // which a full store takes too
	for !s.lost() {
		_ = storetest.Do(s, put)
	}
	fault.set(false)
	<-recovered
	if err := storetest.Do(s, put); err != nil {
		t.Error(err)
	}
}

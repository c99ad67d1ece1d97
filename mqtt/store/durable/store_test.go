package durable

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable/disk"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// running is a store that runs until it is stopped.
type running struct {
	*Store
	stop func()
}

// start opens a store and runs it. It is stopped when the test ends, if it was
// not before.
func start(tb testing.TB, dir string, o Options) *running {
	tb.Helper()
	s, err := Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	r := run(s, func(err error) { tb.Error(err) })
	tb.Cleanup(r.stop)
	return r
}

func run(s *Store, failed func(error)) *running {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			failed(err)
		}
	})
	r := &running{Store: s}
	r.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := s.Close(); err != nil && s.outage == nil {
			failed(err)
		}
	})
	return r
}

func publish(t *testing.T, s *Store, n int) {
	t.Helper()
	if err := storetest.Do(s, func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: numbered(n, 0)}) }); err != nil {
		t.Fatal(err)
	}
}

// alterKeys changes the database of a closed store, as damage and its repair may.
func alterKeys(t *testing.T, fs vfs.FS, alter func(b *pebble.Batch)) {
	t.Helper()
	files, err := disk.Lock("data", disk.Options{FS: fs, Log: logfield.OrSilent(nil), NoSpace: store.ErrNoSpace, Copied: beginHistory})
	if err != nil {
		t.Fatal(err)
	}
	db, err := files.Open(func(*disk.Database) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	alter(b)
	if err := errors.Join(db.Commit(b, pebble.Sync), db.Release(), files.Unlock()); err != nil {
		t.Fatal(err)
	}
}

func TestDurable(t *testing.T) {
	for name, cache := range map[string]int{"cached": 0, "from disk": 1} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, l store.Limits) store.Store {
				return start(t, "data", Options{Limits: l, Cache: cache, fs: vfs.NewMem()})
			})
		})
	}
}

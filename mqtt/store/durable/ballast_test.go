package durable

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// laden refuses writes until the ballast was given up.
type laden struct {
	disk vfs.FS
	gone atomic.Bool
}

func (l *laden) MaybeError(op errorfs.Op) error {
	if _, err := l.disk.Stat("data" + ballastSuffix); err != nil {
		l.gone.Store(true)
	}
	if op.Kind != errorfs.OpFileWrite || l.gone.Load() {
		return nil
	}
	return syscall.ENOSPC
}

func (l *laden) String() string { return "(Laden)" }

// TestBallast opens a store on a disk that was filled after it was killed.
func TestBallast(t *testing.T) {
	disk := vfs.NewCrashableMem()
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 1 << 30})
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Stat("data" + ballastSuffix); err != nil {
		t.Fatal("there is no ballast")
	}
	left := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	left.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 50 << 20, TotalBytes: 1 << 30})
	again := start(t, "data", Options{fs: errorfs.Wrap(left, &laden{disk: left})})
	if v, ok := again.Value("f", "k"); !ok || string(v) != "v" {
		t.Errorf("value %q", v)
	}
	if err := storetest.Do(again, func(tx store.Tx) { tx.PutValue("f", "k", []byte("w")) }); !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if _, err := left.Stat("data" + ballastSuffix); err == nil {
		t.Error("a ballast is there, on a disk that is nearly full")
	}
	left.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 1 << 30})
	again.room.used = batchSize // the committer is idle: it looks at once
	if err := storetest.Do(again, func(tx store.Tx) { tx.PutValue("f", "k", []byte("w")) }); err != nil {
		t.Error(err)
	}
}

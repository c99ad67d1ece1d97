package disk

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestBallast opens a database on a disk that was filled after it was killed.
func TestBallast(t *testing.T) {
	disk := vfs.NewCrashableMem()
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 1 << 30})
	o := mustOpen(t, disk)
	defer o.close(t)
	o.mustPut(t, 0)
	if err := o.dir.Room(); err != nil {
		t.Error(err)
	}
	if _, err := disk.Stat("data" + ballastSuffix); err != nil {
		t.Fatal("there is no ballast")
	}
	left := clone(disk)
	left.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 50 << 20, TotalBytes: 1 << 30})
	full := &faulty{refuses: func(op errorfs.Op) bool { // until the ballast is given up
		_, err := left.Stat("data" + ballastSuffix)
		return err == nil && op.Kind == errorfs.OpFileWrite
	}}
	full.on.Store(true)
	again := mustOpen(t, errorfs.Wrap(left, full))
	defer again.close(t)
	if n, _ := again.first(); n != 1 {
		t.Errorf("%d keys, want 1", n)
	}
	if err := again.dir.Room(); !errors.Is(err, errNoSpace) {
		t.Errorf("got %v, want errNoSpace", err)
	}
	if _, err := left.Stat("data" + ballastSuffix); err == nil {
		t.Error("a ballast is there, on a disk that is nearly full")
	}
	left.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 1 << 30})
	if err := again.dir.Room(); err != nil {
		t.Error(err)
	}
	if _, err := left.Stat("data" + ballastSuffix); err != nil {
		t.Error("the ballast is not made again")
	}
}

package disk

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRepair flips a bit in the largest table: what lies in other blocks is kept,
// in a database that was told that it is a copy, and the damaged files are set aside.
func TestRepair(t *testing.T) {
	const keys = 20_000
	disk := vfs.NewMem()
	o := mustOpen(t, disk)
	b := o.NewBatch()
	for n := range keys {
		if err := b.Set(numberedKey(n), numberedValue(n), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Commit(b, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	o.close(t)
	names, err := disk.List("data")
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, ".sst") })
	size := func(name string) int { return len(read(t, disk, disk.PathJoin("data", name))) }
	largest := slices.MaxFunc(names, func(a, b string) int { return cmp.Compare(size(a), size(b)) })
	alter(t, disk, disk.PathJoin("data", largest), flipAt(size(largest)/2))
	for range 2 { // the second time nothing is damaged
		o = mustOpen(t, disk)
		if lost := keys + 1 - len(o.keys); lost <= 0 || lost > 2000 || o.keys[copiedKey] == "" {
			t.Errorf("one block took %d keys, copied %q", lost, o.keys[copiedKey])
		}
		o.close(t)
		if got := aside(t, disk); !slices.Contains(got, largest) {
			t.Errorf("set aside: %v", got)
		}
	}
}

// TestRepairCutShort ends a repair between its two renames.
func TestRepairCutShort(t *testing.T) {
	disk := flushed(t, 1)
	if err := disk.Rename("data", "data"+repaired); err != nil {
		t.Fatal(err)
	}
	if err := served(disk, 1); err != nil {
		t.Error(err)
	}
}

// TestRepairOfAnother opens a database that another process is repairing, between
// its two renames: they are left to that one.
func TestRepairOfAnother(t *testing.T) {
	disk := vfs.NewMem()
	o := mustOpen(t, disk)
	if err := disk.Rename("data", "data"+repaired); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(disk); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	if err := disk.Rename("data"+repaired, "data"); err != nil {
		t.Error(err)
	}
	o.close(t)
}

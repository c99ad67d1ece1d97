package disk

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestReopen refuses a batch that reached the log, and opens the files anew: both
// databases have what was committed before, and the second also a batch that was
// not synced, and nothing that was refused. After that it is as after a restart.
func TestReopen(t *testing.T) {
	mem := vfs.NewMem()
	disk := &faulty{refuses: func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
	}}
	o := mustOpen(t, errorfs.Wrap(mem, disk))
	o.mustPut(t, 0)
	synced := o.Position()
	unsynced := o.NewBatch()
	if err := unsynced.Set(numberedKey(1), numberedValue(1), nil); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(unsynced, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	disk.on.Store(true)
	if err := o.put(7); !errors.Is(err, syscall.ENOSPC) || !errors.Is(o.Err(), syscall.ENOSPC) {
		t.Errorf("refused with %v, the database has %v", err, o.Err())
	}
	<-o.Lost()
	if _, err := o.Get(numberedKey(7)); !errors.Is(err, pebble.ErrNotFound) {
		t.Errorf("what was refused can be read: %v", err)
	}
	if _, err := o.dir.Reopen(synced, nil); !errors.Is(err, errNoSpace) || !strings.Contains(err.Error(), "data") {
		t.Errorf("reopened on a disk that refuses: %v", err)
	}
	disk.on.Store(false)
	again, err := o.dir.Reopen(synced, [][]byte{unsynced.Repr()})
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range []*Database{o.Database, again} {
		if err := o.load(db); err != nil {
			t.Error(err)
		}
		if n, only := o.first(); n != 2 || !only {
			t.Errorf("%d keys, none behind: %t", n, only)
		}
	}
	_ = o.Release() // it has failed
	if err := o.View(nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if err := o.dir.Backup(o.Database, "backup"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	o.Database = again
	o.mustPut(t, 2)
	o.close(t)
	if err := served(mem, 3); err != nil {
		t.Error(err)
	}
}

func TestGet(t *testing.T) {
	o := mustOpen(t, vfs.NewMem())
	defer o.close(t)
	b := o.NewBatch()
	if err := errors.Join(b.Set([]byte("k"), nil, nil), b.Set([]byte("k2"), []byte("v"), nil)); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(b, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"k": "", "k2": "v"} {
		if got, err := o.Get([]byte(key)); err != nil || string(got) != want {
			t.Errorf("%s: %q: %v", key, got, err)
		}
	}
	if _, err := o.Get([]byte("k1")); !errors.Is(err, pebble.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

package disk

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestReclaim removes most of what is in tables: it goes from the disk as soon as
// that is asked for, though nothing more is written.
func TestReclaim(t *testing.T) {
	o := mustOpen(t, vfs.NewMem())
	defer o.close(t)
	for n := range 64 {
		b := o.NewBatch()
		value := make([]byte, 1<<18)
		for i, x := 0, uint64(n+1); i < len(value); i++ { // does not shrink
			x = x*6364136223846793005 + 1442695040888963407
			value[i] = byte(x >> 56)
		}
		if err := b.Set(numberedKey(n), value, nil); err != nil {
			t.Fatal(err)
		}
		if err := o.Commit(b, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	b := o.NewBatch()
	for n := range 60 {
		if err := b.Delete(numberedKey(n), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Commit(b, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	_, before := o.Size()
	for used := before; used > before/4; _, used = o.Size() { // Pebble counts what is removed in its own time
		r := NewReclaimer()
		r.Ask(o.Database)
		r.End()
		r.Run(t.Context())
	}
}

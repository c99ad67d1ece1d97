package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/hpmq/hpmq/internal/logfield"
)

var errNoSpace = errors.New("no room")

// copiedKey is what the databases of these tests have if they are copies.
const copiedKey = "copied"

func newOptions(fs vfs.FS) Options {
	return Options{FS: fs, Log: logfield.OrSilent(nil), Reserve: 128 << 20, NoSpace: errNoSpace, Copied: func(_ *Database, b *pebble.Batch) error {
		return b.Set([]byte(copiedKey), []byte("yes"), nil)
	}}
}

// opened is a database in "data" with numbered keys.
type opened struct {
	*Database
	dir  *Dir
	keys map[string]string // what was there when it was opened
}

// tryOpen opens "data" on a disk and reads all of it, as a user of the package does.
func tryOpen(fs vfs.FS) (*opened, error) {
	o := &opened{}
	var err error
	if o.dir, err = Lock("data", newOptions(fs)); err != nil {
		return nil, err
	}
	if o.Database, err = o.dir.Open(o.load); err != nil {
		return nil, errors.Join(err, o.dir.Unlock())
	}
	return o, nil
}

func (o *opened) load(db *Database) error {
	o.keys = make(map[string]string)
	return db.View(nil, func(it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			value, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			o.keys[string(it.Key())] = string(value)
		}
		return nil
	})
}

func mustOpen(t *testing.T, fs vfs.FS) *opened {
	t.Helper()
	o, err := tryOpen(fs)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *opened) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(o.Release(), o.dir.Unlock()); err != nil {
		t.Error(err)
	}
}

func numberedKey(n int) []byte { return binary.BigEndian.AppendUint64([]byte("k"), uint64(n)) }

func numberedValue(n int) []byte { return append(fmt.Appendf(nil, "%08d", n), make([]byte, 50)...) }

// put commits a numbered key.
func (o *opened) put(n int) error {
	b := o.NewBatch()
	if err := b.Set(numberedKey(n), numberedValue(n), nil); err != nil {
		return err
	}
	return o.Commit(b, pebble.Sync)
}

func (o *opened) mustPut(t *testing.T, n int) {
	t.Helper()
	if err := o.put(n); err != nil {
		t.Fatal(err)
	}
}

// first returns how many of the numbered keys were there without a gap, and whether
// there was no other behind them.
func (o *opened) first() (n int, only bool) {
	for o.keys[string(numberedKey(n))] == string(numberedValue(n)) {
		n++
	}
	others := len(o.keys) - n
	if _, is := o.keys[copiedKey]; is {
		others--
	}
	return n, others == 0
}

// served opens what is on a disk and looks for the first numbered keys.
func served(disk vfs.FS, want int) error {
	o, err := tryOpen(disk)
	if err != nil {
		return err
	}
	if n, _ := o.first(); n < want {
		err = fmt.Errorf("%d keys, want %d", n, want)
	}
	return errors.Join(err, o.Release(), o.dir.Unlock())
}

// flushed returns the disk of a process that was killed after it wrote so many
// tables, with a key in each.
func flushed(t *testing.T, tables int) *vfs.MemFS {
	t.Helper()
	disk := vfs.NewCrashableMem()
	o := mustOpen(t, disk)
	defer o.close(t)
	for n := range tables {
		o.mustPut(t, n)
		if err := o.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return clone(disk)
}

// faulty is a disk that can refuse operations.
type faulty struct {
	on      atomic.Bool
	refuses func(errorfs.Op) bool
}

// MaybeError implements [errorfs.Injector].
func (f *faulty) MaybeError(op errorfs.Op) error {
	if f.on.Load() && f.refuses(op) {
		return syscall.ENOSPC
	}
	return nil
}

func (f *faulty) String() string { return "(Faulty)" }

// clone returns a copy of a simulated disk as a process that is killed leaves it.
func clone(disk *vfs.MemFS) *vfs.MemFS {
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

// manifestOf returns the path of the manifest that counts.
func manifestOf(t *testing.T, disk vfs.FS) string {
	t.Helper()
	name, err := atomicfs.ReadMarker(disk, "data", "manifest")
	if err != nil || name == "" {
		t.Fatalf("manifest %q: %v", name, err)
	}
	return disk.PathJoin("data", name)
}

func read(t *testing.T, disk vfs.FS, path string) []byte {
	t.Helper()
	content, err := readAll(disk, path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// alter puts what with returns in the place of a file.
func alter(t *testing.T, disk vfs.FS, path string, with func([]byte) []byte) {
	t.Helper()
	if err := replaceFile(disk, path, with(read(t, disk, path))); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, disk vfs.FS, path string) {
	t.Helper()
	if err := disk.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func flipAt(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 1 << (at % 8)
		return b
	}
}

func cutAt(at int) func([]byte) []byte { return func(b []byte) []byte { return b[:at] } }

// aside returns the damaged files that were set aside.
func aside(t *testing.T, disk vfs.FS) (files []string) {
	t.Helper()
	all, err := disk.List("")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		if strings.HasPrefix(dir, "data.damaged-") {
			names, err := disk.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, names...)
		}
	}
	return files
}

package disk

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFormat holds the format of the files at the one whose chunks and fields
// integrity.go was compared with. It fails for any other: read at format why.
func TestFormat(t *testing.T) {
	const known, knownTables = 21, sstable.TableFormatPebblev6
	o := mustOpen(t, vfs.NewMem())
	defer o.close(t)
	if got := o.pebble.FormatMajorVersion(); got != known {
		t.Errorf("Pebble writes format %d, integrity.go knows %d", uint64(got), known)
	}
	if got := o.pebble.FormatMajorVersion().MaxTableFormat(); got != knownTables {
		t.Errorf("Pebble writes tables of format %v, known are %v", got, knownTables)
	}
}

// TestPebblesRecords reads manifests and logs that Pebble wrote, with records that
// are short, that fill a block and that span several: all of them is understood.
func TestPebblesRecords(t *testing.T) {
	disk := vfs.NewCrashableMem()
	o := mustOpen(t, disk)
	defer o.close(t)
	for n, size := range []int{0, 10, recordBlock - 100, recordBlock, 5 * recordBlock, 1} {
		b := o.NewBatch()
		if err := b.Set(numberedKey(n), make([]byte, size), nil); err != nil {
			t.Fatal(err)
		}
		if err := o.Commit(b, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		left := clone(disk)
		manifest := records{content: read(t, left, manifestOf(t, left))}
		if end := manifest.end(); end != len(manifest.content) {
			t.Errorf("the manifest is understood up to byte %d of %d", end, len(manifest.content))
		}
		at := o.Position()
		log := records{read(t, left, at.path), uint32(logNumber(left.PathBase(at.path)))}
		if end := log.end(); int64(end) != at.size {
			t.Errorf("the log is understood up to byte %d, it was written up to %d", end, at.size)
		}
		if first := manifest.firstLog(); n > 1 && first != uint64(log.number) { // before that there is an older, empty one
			t.Errorf("%d: the first log is %d, the manifest is understood as %d", n, log.number, first)
		}
		if n%2 == 1 {
			if err := o.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDamagedLog flips a bit of each of some bytes of a short log, where Pebble
// would take it for the end: what comes before is there, the rest is set aside.
func TestDamagedLog(t *testing.T) {
	const keys = 50
	disk := vfs.NewCrashableMem()
	o := mustOpen(t, disk)
	defer o.close(t)
	for n := range keys {
		o.mustPut(t, n)
	}
	log := o.Position()
	for at := int64(200); at < log.size-400; at += 61 {
		left := clone(disk)
		alter(t, left, log.path, flipAt(int(at)))
		again, err := tryOpen(left)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		got, only := again.first()
		if before := int64(got) * log.size / keys; !only || got == keys || before < at-1000 {
			t.Errorf("byte %d of %d: %d keys, none behind: %t", at, log.size, got, only)
		}
		if files := aside(t, left); len(files) != 1 || !isLog(files[0]) {
			t.Errorf("byte %d of %d: set aside %v", at, log.size, files)
		}
		again.close(t)
	}
}

// TestDamagedOldLog damages logs that are in tables and wait to be written over,
// as they lie there after a kill: it takes nothing from the others.
func TestDamagedOldLog(t *testing.T) {
	const keys = 12
	disk := vfs.NewCrashableMem()
	o := mustOpen(t, disk)
	defer o.close(t)
	for n := range keys {
		if o.mustPut(t, n); n == 4 {
			if err := o.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	logs, err := listLogs(disk, "data")
	if err != nil || len(logs) != 2 {
		t.Fatal(logs, err)
	}
	for name, damage := range map[string]func([]byte) []byte{"flipped": flipAt(50), "cut short": cutAt(50)} {
		left := clone(disk)
		alter(t, left, left.PathJoin("data", logs[0]), damage)
		if err := served(left, keys); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := aside(t, left); len(got) > 0 {
			t.Errorf("%s: set aside %v", name, got)
		}
	}
}

// TestTornLog ends the log in the middle of a record: the record is not there.
func TestTornLog(t *testing.T) {
	disk := vfs.NewCrashableMem()
	o := mustOpen(t, disk)
	defer o.close(t)
	for n := range 100 {
		o.mustPut(t, n)
	}
	left := clone(disk)
	alter(t, left, o.Position().path, cutAt(int(o.Position().size)-20))
	again := mustOpen(t, left)
	defer again.close(t)
	if got, only := again.first(); got != 99 || !only {
		t.Errorf("%d keys are left of 100, of which the last is torn", got)
	}
}

// snapshots is a disk that keeps what a process leaves behind which is killed at
// one of its writes.
type snapshots struct {
	disk *vfs.MemFS

	mu   sync.Mutex
	left []*vfs.MemFS
}

// MaybeError implements [errorfs.Injector].
func (s *snapshots) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.left = append(s.left, clone(s.disk))
	}
	return nil
}

func (s *snapshots) String() string { return "(Snapshots)" }

// TestKilledAtStart kills a process whose log is torn, in its first record or a
// later one, and then the next process at each write of its start and of a key:
// nothing more is lost, or said to be.
func TestKilledAtStart(t *testing.T) {
	for whole := range 2 {
		disk := vfs.NewCrashableMem()
		mustOpen(t, disk).close(t)
		o := mustOpen(t, disk)
		for n := range whole + 1 {
			o.mustPut(t, n)
		}
		end := o.Position()
		left := clone(disk)
		o.close(t)
		alter(t, left, end.path, cutAt(int(end.size)-5))
		kills := &snapshots{disk: left}
		o = mustOpen(t, errorfs.Wrap(left, kills))
		o.mustPut(t, whole)
		kills.mu.Lock()
		all := append(slices.Clone(kills.left), clone(left)) // Pebble still removes old files
		kills.mu.Unlock()
		for i, left := range all {
			if err := served(left, whole); err != nil {
				t.Errorf("%d whole, killed at write %d: %v", whole, i, err)
			}
			names, err := left.List("")
			if err != nil || slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "damaged") }) {
				t.Errorf("%d whole, killed at write %d: there are %v: %v", whole, i, names, err)
			}
		}
		if err := served(all[len(all)-1], whole+1); err != nil {
			t.Error(err)
		}
		o.close(t)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 0, 0, 1}, uint32(0), 0)
	f.Add(make([]byte, 40<<10), uint32(7), 100)
	f.Fuzz(func(t *testing.T, content []byte, number uint32, place int) {
		r := records{content, number}
		end := r.end()
		if end < 0 || end > len(content) {
			t.Fatalf("end %d of %d", end, len(content))
		}
		if place >= 0 && place < len(content) {
			_ = r.goesOnAfter(place)
		}
		_ = r.cutShort(end) && r.whole(end)
		_ = r.firstLog()
	})
}

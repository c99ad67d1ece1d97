package durable

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// clone returns a copy of a simulated disk as a process that is killed leaves it.
func clone(disk *vfs.MemFS) *vfs.MemFS {
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

// flushed returns the disk of a store that was killed after it wrote so many
// tables, with a message in each.
func flushed(t *testing.T, tables int) *vfs.MemFS {
	t.Helper()
	disk := vfs.NewCrashableMem()
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	for n := range tables {
		publish(t, s.Store, n)
		if err := s.db.Load().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return clone(disk)
}

func publish(t *testing.T, s *Store, n int) {
	t.Helper()
	if err := storetest.Do(s, func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: numbered(n, 0)}) }); err != nil {
		t.Fatal(err)
	}
}

// served opens what is on a disk and looks for the first messages.
func served(disk vfs.FS, want int) error {
	s, err := Open("data", Options{fs: disk})
	if err != nil {
		return err
	}
	got := storetest.Entries(s, alice)
	for n := range want {
		if n >= len(got) || !bytes.Equal(got[n].Message.Payload, numbered(n, 0).Payload) {
			return errors.Join(fmt.Errorf("%d messages, want %d", len(got), want), s.Close())
		}
	}
	return s.Close()
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

// places returns where to damage a manifest: where its records begin, in them, and
// at its last byte.
func places(manifest []byte) (all []int) {
	r := records{content: manifest}
	for at, border := 0, 0; at < len(manifest); at++ {
		if at%7 == 0 || at == border || at == len(manifest)-1 {
			all = append(all, at)
		}
		if at == border {
			border, _, _ = r.chunk(at)
		}
	}
	return all
}

// TestDamagedManifest damages the manifest and its copy in every place: without a
// record of it a table would count as never written.
func TestDamagedManifest(t *testing.T) {
	const tables = 6
	disk := flushed(t, tables)
	content := read(t, disk, manifestOf(t, disk))
	size := len(content)
	for _, at := range places(content) {
		for _, tt := range []struct {
			name           string
			manifest, copy func([]byte) []byte
			aside          bool
		}{
			{"flipped", flipAt(at), nil, true},
			{"cut short", cutAt(at), nil, false},
			{"zero from here", func(b []byte) []byte { clear(b[at:]); return b }, nil, true},
			{"copy flipped", nil, flipAt(at), false},
			{"copy cut short", nil, cutAt(at), false},
		} {
			left := clone(disk)
			manifest := manifestOf(t, left)
			if tt.manifest != nil {
				alter(t, left, manifest, tt.manifest)
			}
			if tt.copy != nil {
				alter(t, left, manifest+copied, tt.copy)
			}
			if err := served(left, tables); err != nil {
				t.Errorf("%s at %d of %d: %v", tt.name, at, size, err)
			}
			if got := aside(t, left); tt.aside != (len(got) == 1 && got[0] == left.PathBase(manifest)) || !tt.aside && len(got) > 0 {
				t.Errorf("%s at %d of %d: set aside %v", tt.name, at, size, got)
			}
			if now := manifestOf(t, left); !bytes.Equal(read(t, left, now), read(t, left, now+copied)) {
				t.Errorf("%s at %d of %d: the copy is not renewed", tt.name, at, size)
			}
		}
	}
}

// TestDamagedTwice damages the manifest and its copy: the store does not open, or
// keeps all files as they were.
func TestDamagedTwice(t *testing.T) {
	const tables = 6
	disk := flushed(t, tables)
	content := read(t, disk, manifestOf(t, disk))
	size := len(content)
	for _, at := range places(content) {
		for name, damage := range map[string]func(t *testing.T, disk vfs.FS, copy string){
			"no copy":   func(t *testing.T, disk vfs.FS, copy string) { must(disk.Remove(copy)) },
			"the same":  func(t *testing.T, disk vfs.FS, copy string) { alter(t, disk, copy, flipAt(at)) },
			"elsewhere": func(t *testing.T, disk vfs.FS, copy string) { alter(t, disk, copy, flipAt((at+size/3)%size)) },
		} {
			left := clone(disk)
			manifest := manifestOf(t, left)
			alter(t, left, manifest, flipAt(at))
			damage(t, left, manifest+copied)
			err := served(left, tables)
			if errors.Is(err, ErrDamaged) || err == nil {
				continue
			}
			if kept := aside(t, left); len(kept) < tables {
				t.Errorf("%s, byte %d of %d: %v; set aside: %v", name, at, size, err, kept)
			}
		}
	}
}

// TestFlippedOptions flips a bit of what Pebble notes of its options.
func TestFlippedOptions(t *testing.T) {
	disk := flushed(t, 1)
	names, err := disk.List("data")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "OPTIONS-") {
			alter(t, disk, disk.PathJoin("data", name), func(b []byte) []byte {
				for i := range b {
					b[i] ^= 4
				}
				return b
			})
		}
	}
	if err := served(disk, 1); err != nil {
		t.Error(err)
	}
}

// TestLostMarker loses the file whose name says which manifest counts: a new
// database in its place would remove the tables.
func TestLostMarker(t *testing.T) {
	disk := flushed(t, 1)
	names, err := disk.List("data")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "marker.manifest.") {
			must(disk.Remove(disk.PathJoin("data", name)))
		}
	}
	if err := served(disk, 1); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// killer copies its disk before each write to a manifest, a copy or a marker.
type killer struct {
	disk  *vfs.MemFS
	acked atomic.Int64

	mu   sync.Mutex
	left []remains
}

// remains are a disk, and how many messages were acknowledged before.
type remains struct {
	disk  *vfs.MemFS
	acked int
	op    string
}

// MaybeError implements errorfs.Injector.
func (k *killer) MaybeError(op errorfs.Op) error {
	base := filepath.Base(op.Path)
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite ||
		!strings.Contains(base, "MANIFEST") && !strings.HasPrefix(base, "marker") && base != freshManifest && base != "data" {
		return nil
	}
	acked := int(k.acked.Load())
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, unsynced := range []int{0, 50, 100} {
		left := k.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(uint64(len(k.left)), 1))})
		k.left = append(k.left, remains{left, acked, fmt.Sprintf("%v %s, %d %% of what was not synced", op.Kind, op.Path, unsynced)})
	}
	return nil
}

func (k *killer) String() string { return "(Killer)" }

// TestKilledInManifest kills the process, or cuts the power, before each write to
// a manifest or its copy, also in a backup.
func TestKilledInManifest(t *testing.T) {
	k := &killer{disk: vfs.NewCrashableMem()}
	s := start(t, "data", Options{fs: errorfs.Wrap(k.disk, k)})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	for n := range 8 {
		publish(t, s.Store, n)
		k.acked.Add(1)
		if err := s.db.Load().Flush(); err != nil {
			t.Fatal(err)
		}
		if n%4 == 3 {
			s.stop()
			s = start(t, "data", Options{fs: errorfs.Wrap(k.disk, k)})
		}
	}
	s.stop()
	if len(k.left) < 100 {
		t.Errorf("only %d kills", len(k.left))
	}
	for _, r := range k.left {
		damaged := clone(r.disk)
		if err := served(r.disk, r.acked); err != nil && r.acked > 0 {
			t.Errorf("before %s: %v", r.op, err)
		}
		if r.acked == 0 || strings.Contains(r.op, " 50 ") { // in that order of writes a copy may have less
			continue
		}
		manifest := manifestOf(t, damaged)
		if size := len(read(t, damaged, manifest)); size > 0 {
			alter(t, damaged, manifest, flipAt(size/2))
		}
		if err := served(damaged, r.acked); err != nil {
			t.Errorf("before %s, and then a bit flipped: %v", r.op, err)
		}
	}
}

// TestCopyRefused is a disk that takes everything but the copies of manifests.
func TestCopyRefused(t *testing.T) {
	isCopy := func(path string) bool { return strings.HasSuffix(path, copied) }
	for _, tt := range []struct {
		name  string
		kinds map[errorfs.OpKind]bool
		left  bool // a copy that is behind
	}{
		{"all", nil, true},
		{"writes", map[errorfs.OpKind]bool{errorfs.OpFileWrite: true}, false},
		{"syncs", map[errorfs.OpKind]bool{errorfs.OpFileSync: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const tables = 6
			disk := vfs.NewCrashableMem()
			fault := &faulty{match: isCopy, kinds: tt.kinds}
			s := start(t, "data", Options{fs: errorfs.Wrap(disk, fault)})
			if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
				t.Fatal(err)
			}
			for n := range tables {
				fault.set(n >= 3)
				publish(t, s.Store, n)
				if err := s.db.Load().Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if s.lost() {
				t.Error("the copy cost the database")
			}
			left := clone(disk)
			if _, err := left.Stat(manifestOf(t, left) + copied); (err == nil) != tt.left {
				t.Errorf("the copy: %v", err)
			}
			alter(t, left, manifestOf(t, left), flipAt(40))
			if err := served(left, tables); !errors.Is(err, ErrDamaged) {
				t.Errorf("with a bit flipped: %v, want ErrDamaged", err)
			}
			if err := served(clone(disk), tables); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestManifestDamagedWhileRunning opens the files anew after an outage in which a
// bit of the manifest flipped.
func TestManifestDamagedWhileRunning(t *testing.T) {
	for _, both := range []bool{false, true} {
		t.Run(fmt.Sprintf("both=%t", both), func(t *testing.T) {
			disk := vfs.NewMem()
			fault := &mending{}
			heard, log := newRecovery()
			s := start(t, "data", Options{fs: errorfs.Wrap(disk, fault), Log: log, retry: time.Millisecond})
			if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
				t.Fatal(err)
			}
			for n := range 3 {
				publish(t, s.Store, n)
				if err := s.db.Load().Flush(); err != nil {
					t.Fatal(err)
				}
			}
			manifest := manifestOf(t, disk)
			fault.refuse(manifest, func() {
				flipInPlace(t, disk, manifest)
				if both {
					flipInPlace(t, disk, manifest+copied)
				}
			})
			for storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("u")) }) == nil {
			}
			if said := <-heard; strings.Contains(said, "damaged while it ran") != both {
				t.Errorf("said %q", said)
			}
			err := storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) })
			if errors.Is(err, ErrDamaged) != both || (err != nil) != both {
				t.Errorf("got %v", err)
			}
			if got := len(storetest.Entries(s, alice)); got != 3 {
				t.Errorf("%d messages", got)
			}
		})
	}
}

// mending is a disk that refuses writes until a file is opened: not earlier, as
// what was read of the file before would do for the writes that are taken then.
type mending struct {
	faulty
	path string
	done func() // before the file is opened
}

func (m *mending) refuse(path string, done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.path, m.done, m.on = path, done, true
}

// MaybeError implements errorfs.Injector.
func (m *mending) MaybeError(op errorfs.Op) error {
	m.mu.Lock()
	if m.on && op.Kind == errorfs.OpOpen && op.Path == m.path {
		m.done()
		m.on = false
	}
	m.mu.Unlock()
	return m.faulty.MaybeError(op)
}

func flipInPlace(t *testing.T, disk vfs.FS, path string) {
	t.Helper()
	content := flipAt(40)(read(t, disk, path))
	f, err := disk.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.WriteAt(content, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestBackupHasCopy flips a bit in the manifest of a backup.
func TestBackupHasCopy(t *testing.T) {
	disk := flushed(t, 3)
	s, err := Open("data", Options{fs: disk})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Backup("backup"), s.Close(), disk.RemoveAll("data"), disk.Rename("backup", "data")); err != nil {
		t.Fatal(err)
	}
	alter(t, disk, manifestOf(t, disk), flipAt(20))
	if err := served(disk, 3); err != nil {
		t.Error(err)
	}
}

package disk

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

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

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
			"no copy":   remove,
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
			remove(t, disk, disk.PathJoin("data", name))
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
	o := mustOpen(t, errorfs.Wrap(k.disk, k))
	for n := range 8 {
		o.mustPut(t, n)
		k.acked.Add(1)
		if err := o.Flush(); err != nil {
			t.Fatal(err)
		}
		if n%4 == 3 {
			o.close(t)
			o = mustOpen(t, errorfs.Wrap(k.disk, k))
		}
	}
	o.close(t)
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
	isCopy := func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, copied) }
	for _, tt := range []struct {
		name    string
		refuses func(errorfs.Op) bool
		left    bool // a copy that is behind
	}{
		{"all", isCopy, true},
		{"writes", func(op errorfs.Op) bool { return isCopy(op) && op.Kind == errorfs.OpFileWrite }, false},
		{"syncs", func(op errorfs.Op) bool { return isCopy(op) && op.Kind == errorfs.OpFileSync }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const tables = 6
			disk := vfs.NewCrashableMem()
			fault := &faulty{refuses: tt.refuses}
			o := mustOpen(t, errorfs.Wrap(disk, fault))
			defer o.close(t)
			for n := range tables {
				fault.on.Store(n >= 3)
				o.mustPut(t, n)
				if err := o.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if err := o.Err(); err != nil {
				t.Errorf("the copy cost the database: %v", err)
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

// TestBackupHasCopy flips a bit in the manifest of a backup.
func TestBackupHasCopy(t *testing.T) {
	disk := flushed(t, 3)
	o := mustOpen(t, disk)
	if err := o.dir.Backup(o.Database, "backup"); err != nil {
		t.Fatal(err)
	}
	o.close(t)
	if err := errors.Join(disk.RemoveAll("data"), disk.Rename("backup", "data")); err != nil {
		t.Fatal(err)
	}
	alter(t, disk, manifestOf(t, disk), flipAt(20))
	if err := served(disk, 3); err != nil {
		t.Error(err)
	}
}

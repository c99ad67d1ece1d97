package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// killed returns a copy of a store's directory as it is while the store runs.
func killed(t *testing.T, dir string) string {
	t.Helper()
	left := filepath.Join(t.TempDir(), "left")
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return left
}

// TestDamagedLog flips a bit of each of some bytes of a short log, where Pebble
// would take it for the end: what comes before is there, the rest is set aside.
func TestDamagedLog(t *testing.T) {
	const messages = 50
	dir := filepath.Join(t.TempDir(), "s")
	s := start(t, dir, Options{})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	for n := range messages {
		if err := storetest.Do(s, func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: numbered(n, 50)}) }); err != nil {
			t.Fatal(err)
		}
	}
	size := s.db.Load().disk.position().size
	for at := int64(200); at < size-400; at += 331 {
		left := killed(t, dir)
		logs, err := filepath.Glob(filepath.Join(left, "*.log"))
		if err != nil || len(logs) != 1 {
			t.Fatal(logs, err)
		}
		flipByte(t, logs[0], at)
		again, err := Open(left, Options{})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		got := storetest.Entries(again, alice)
		for n, e := range got {
			if string(e.Message.Payload) != string(numbered(n, 50).Payload) {
				t.Errorf("byte %d: entry %d is %.8s", at, n, e.Message.Payload)
			}
		}
		aside, _ := filepath.Glob(left + ".damaged-*/*.log")
		if before := int64(len(got)) * size / messages; len(got) == messages || len(aside) != 1 || before < at-1000 {
			t.Errorf("byte %d of %d: %d entries, set aside: %v", at, size, len(got), aside)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDamagedOldLog damages logs that are in tables and wait to be written over,
// as they lie there after a kill: it takes nothing from the others.
func TestDamagedOldLog(t *testing.T) {
	const messages = 12
	disk := vfs.NewCrashableMem()
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	for n := range messages {
		if publish(t, s.Store, n); n == 4 {
			if err := s.db.Load().Flush(); err != nil {
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
		if err := served(left, messages); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := aside(t, left); len(got) > 0 {
			t.Errorf("%s: set aside %v", name, got)
		}
	}
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		content[at] ^= 1 << (at % 8)
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
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

package durable

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

var alice = store.SessionKey{Identity: "spiffe://lab.test/device/alice", ClientID: "a"}

var manyMessages = store.Limits{Queue: store.QueueLimit{Messages: 1 << 20, Bytes: 1 << 30}}

// numbered returns a message that tells its number.
func numbered(n, size int) *store.Message {
	return &store.Message{Topic: "t", Payload: append([]byte(fmt.Sprintf("%08d", n)), make([]byte, size)...)}
}

// TestDiskFull publishes from many goroutines while the disk refuses one kind of write
// after the other. All acknowledged messages are there, in order, and nothing else.
func TestDiskFull(t *testing.T) {
	suffix := func(s string) func(string) bool { return func(path string) bool { return strings.HasSuffix(path, s) } }
	for _, tt := range []struct {
		name  string
		fault *faulty
	}{
		{"everything", &faulty{}},
		{"tables", &faulty{match: suffix(".sst")}},
		{"new tables", &faulty{match: suffix(".sst"), kinds: map[errorfs.OpKind]bool{errorfs.OpCreate: true}}},
		{"log", &faulty{match: suffix(".log")}},
		{"new logs", &faulty{match: suffix(".log"), kinds: map[errorfs.OpKind]bool{errorfs.OpCreate: true, errorfs.OpReuseForWrite: true}}},
		{"manifest", &faulty{match: func(path string) bool { return strings.Contains(path, "MANIFEST") }}},
		{"manifest sync", &faulty{
			match: func(path string) bool { return strings.Contains(path, "MANIFEST") },
			kinds: map[errorfs.OpKind]bool{errorfs.OpFileSync: true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := vfs.NewCrashableMem()
			recovered, log := newRecovery()
			o := Options{Cache: 1, Limits: manyMessages, Log: log, retry: time.Millisecond, fs: errorfs.Wrap(disk, tt.fault)}
			s := start(t, "data", o)
			const publishers = 8
			for i := range publishers {
				if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: benchKey(i)}) }); err != nil {
					t.Fatal(err)
				}
			}
			want := make([][]string, publishers)
			var refused atomic.Int64
			flood := func(from int) {
				var all sync.WaitGroup
				for p := range publishers {
					all.Go(func() {
						for n := range 60 { // 11 MiB together: tables are written
							m := numbered(from+n, 24<<10)
							err := storetest.Do(s, func(tx store.Tx) { tx.Enqueue(benchKey(p), store.Delivery{Message: m}) })
							if err == nil {
								want[p] = append(want[p], string(m.Payload[:8]))
								continue
							}
							refused.Add(1)
							if !errors.Is(err, store.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
								t.Errorf("refused with %v", err)
							}
						}
					})
				}
				all.Wait()
			}
			flood(0)
			tt.fault.set(true)
			flood(1000)
			check(t, "while refused", s, want)
			failed := refused.Load() > 0 || s.lost()
			if tt.fault.set(false); failed {
				<-recovered
			}
			check(t, "recovered", s, want)
			before := refused.Load()
			flood(2000)
			if got := refused.Load() - before; got > 0 {
				t.Errorf("%d were refused by a disk with room", got)
			}
			t.Logf("%d refused, failed %t", before, failed)
			if !failed {
				t.Error("nothing was refused")
			}
			s.stop()
			again := start(t, "data", Options{Cache: 1, Limits: manyMessages, fs: disk.CrashClone(vfs.CrashCloneCfg{})})
			check(t, "after a cut", again, want)
		})
	}
}

// check compares the queues with the numbers that they should hold.
func check(t *testing.T, when string, s store.Store, want [][]string) {
	t.Helper()
	for p := range want {
		var got []string
		for _, e := range storetest.Entries(s, benchKey(p)) {
			got = append(got, string(e.Message.Payload[:8]))
		}
		if diff := cmp.Diff(want[p], got); diff != "" {
			t.Fatalf("%s, queue %d: %s", when, p, diff)
		}
	}
}

// TestReserve refuses additions while the disk is nearly full, and nothing else.
func TestReserve(t *testing.T) {
	disk := vfs.NewMem()
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30})
	s := start(t, "data", Options{fs: disk})
	add := func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: numbered(1, 0)}) }
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}); add(tx) }); err != nil {
		t.Fatal(err)
	}
	look := func(free uint64) { // at once, as after a second
		disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free})
		if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "large", make([]byte, 2*batchSize)) }); err != nil && free > 1<<27 {
			t.Error(err)
		}
	}
	look(1 << 20)
	if err := storetest.Do(s, add); !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if err := storetest.Do(s, func(tx store.Tx) { tx.Dequeue(alice, 1) }); err != nil {
		t.Error(err)
	}
	if got := s.QueueStats(alice).Messages; got != 0 {
		t.Errorf("%d messages", got)
	}
	s.room.used = batchSize // the committer is idle
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30})
	if err := storetest.Do(s, add); err != nil {
		t.Error(err)
	}
}

// TestFloorWaitsForRoom hands the store two messages of a link, before it has
// answered for the first. The floor must not rise with the second above the first,
// which has no room: when that comes again it would pass for a duplicate.
func TestFloorWaitsForRoom(t *testing.T) {
	disk := vfs.NewMem()
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30})
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) }); err != nil {
		t.Fatal(err)
	}
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 20})
	s.room.used = batchSize // the committer is idle
	origin := func(seq uint64) store.Origin { return store.Origin{Site: "rome", Epoch: 1, Seq: seq} }
	results := make(chan error, 2)
	s.Update(func(tx store.Tx) {
		tx.Floor(origin(1))
		tx.Enqueue(alice, store.Delivery{Message: numbered(1, 0)})
	}, func(err error) { results <- err })
	s.Update(func(tx store.Tx) { tx.Floor(origin(2)) }, func(err error) { results <- err }) // this floor is not kept
	for n := range 2 {
		if err := <-results; !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("message %d: got %v, want ErrNoSpace", n+1, err)
		}
	}
	if _, seq := s.Floor("rome", 0); seq != 0 {
		t.Errorf("the floor is at %d, above a message that was refused", seq)
	}
}

func TestNoRoomAtStart(t *testing.T) {
	fault := &faulty{on: true}
	_, err := Open("data", Options{fs: errorfs.Wrap(vfs.NewMem(), fault)})
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "data") {
		t.Errorf("got %v", err)
	}
}

func TestUsedByAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	start(t, dir, Options{})
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

// TestRecoversUnderLoad ends an outage while transactions come without a pause.
func TestRecoversUnderLoad(t *testing.T) {
	fault := &faulty{}
	recovered, log := newRecovery()
	s := start(t, "data", Options{Log: log, retry: time.Millisecond, fs: errorfs.Wrap(vfs.NewMem(), fault)})
	ended := make(chan struct{})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					_ = storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) })
				}
			}
		})
	}
	fault.set(true)
	for storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }) == nil {
	}
	fault.set(false)
	<-recovered
	close(ended)
	all.Wait()
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }); err != nil {
		t.Error(err)
	}
}

// linking is a disk that fails while a backup links a table.
type linking struct {
	*faulty
	lost func() <-chan struct{}
}

// MaybeError implements errorfs.Injector.
func (l linking) MaybeError(op errorfs.Op) error {
	if op.Kind != errorfs.OpLink {
		return l.faulty.MaybeError(op)
	}
	l.set(true)
	<-l.lost()
	return syscall.ENOSPC
}

// TestDiskFullInBackup ends an outage that began during a backup.
func TestDiskFullInBackup(t *testing.T) {
	var s *running
	fault := linking{&faulty{}, func() <-chan struct{} { return s.db.Load().Lost() }}
	recovered, log := newRecovery()
	s = start(t, "data", Options{Log: log, retry: time.Millisecond, fs: errorfs.Wrap(vfs.NewMem(), fault)})
	put := func() error { return storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }) }
	if err := errors.Join(put(), s.db.Load().Flush()); err != nil {
		t.Fatal(err)
	}
	backup := make(chan error, 1)
	go func() { backup <- s.Backup("backup") }()
	for put() == nil {
	}
	fault.set(false)
	<-recovered
	if err := <-backup; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if err := put(); err != nil {
		t.Error(err)
	}
}

// TestBackupRefused has the disk refuse the writes of a backup: the store is not
// concerned.
func TestBackupRefused(t *testing.T) {
	fault := &faulty{on: true, match: func(path string) bool { return strings.HasPrefix(path, "backup") }}
	s := start(t, "data", Options{fs: errorfs.Wrap(vfs.NewMem(), fault)})
	if err := s.Backup("backup"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if s.lost() {
		t.Error("the backup cost the database")
	}
}

// TestRefusedAfterBackup refuses a transaction that reached the log, after a
// backup copied it.
func TestRefusedAfterBackup(t *testing.T) {
	disk := vfs.NewMem()
	fault := &faulty{kinds: map[errorfs.OpKind]bool{errorfs.OpFileSync: true, errorfs.OpFileSyncData: true}}
	recovered, log := newRecovery()
	s := start(t, "data", Options{Log: log, retry: time.Millisecond, fs: errorfs.Wrap(disk, fault)})
	put := func(key string) error {
		return storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", key, []byte("v")) })
	}
	if err := errors.Join(put("before"), s.Backup("backup"), put("kept")); err != nil {
		t.Fatal(err)
	}
	fault.set(true)
	if err := put("refused"); !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v", err)
	}
	fault.set(false)
	<-recovered
	s.stop()
	got := start(t, "data", Options{fs: disk}).Values("f")
	if _, ok := got["kept"]; !ok || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

// dead is a disk that, while it refuses writes, cannot read tables either.
type dead struct{ *faulty }

// MaybeError implements errorfs.Injector.
func (d dead) MaybeError(op errorfs.Op) error {
	d.mu.Lock()
	on := d.on
	d.mu.Unlock()
	if on && op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") {
		return syscall.EIO
	}
	return d.faulty.MaybeError(op)
}

// TestDeadDisk reads in callbacks while nothing can be read or written. No read waits,
// or the outage would never end, and afterwards all is there.
func TestDeadDisk(t *testing.T) {
	fault := dead{&faulty{}}
	recovered, log := newRecovery()
	s := start(t, "data", Options{Cache: 1, Log: log, retry: time.Millisecond, fs: errorfs.Wrap(vfs.NewMem(), fault)})
	if err := storetest.Do(s, func(tx store.Tx) {
		tx.PutSession(store.Session{Key: alice})
		tx.Outbound("rome", numbered(1, 0))
	}); err != nil {
		t.Fatal(err)
	}
	publish(t, s.Store, 1)
	if err := s.db.Load().Flush(); err != nil {
		t.Fatal(err)
	}
	fault.set(true)
	for storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }) == nil {
	}
	grew := s.Committed("rome")
	<-grew
	for range 5 { // more than wait between the committer and the callbacks
		s.Update(func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }, func(error) {
			if got, err := s.Queue(alice, 0, make([]store.Entry, 0, 9)); len(got) > 0 || err == nil {
				t.Errorf("read %v: %v", got, err)
			}
			if got := s.Outbound("rome", 0, make([]store.Outbound, 0, 9)); len(got) > 0 {
				t.Errorf("read %v", got)
			}
		})
	}
	_ = storetest.Do(s, func(store.Tx) {})
	fault.set(false)
	<-recovered
	<-grew
	if got := s.Outbound("rome", 0, make([]store.Outbound, 0, 9)); len(got) != 1 {
		t.Errorf("the log has %v", got)
	}
	if got, err := s.Queue(alice, 0, make([]store.Entry, 0, 9)); len(got) != 1 || err != nil {
		t.Errorf("the queue has %v: %v", got, err)
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
					flipInPlace(t, disk, manifest+".copy")
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

// mending is a disk that refuses writes until a file is opened, and not earlier: else
// the bytes of the file that were read before would serve for the writes that are taken
// then.
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

// manifestOf returns the path of the manifest that counts.
func manifestOf(t *testing.T, disk vfs.FS) string {
	t.Helper()
	name, err := atomicfs.ReadMarker(disk, "data", "manifest")
	if err != nil || name == "" {
		t.Fatalf("manifest %q: %v", name, err)
	}
	return disk.PathJoin("data", name)
}

// flipInPlace flips a bit of a file that a process may have open.
func flipInPlace(t *testing.T, disk vfs.FS, path string) {
	t.Helper()
	f, err := disk.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		b := make([]byte, 1)
		_, err = f.ReadAt(b, 40)
		b[0] ^= 1
		_, err2 := f.WriteAt(b, 40)
		err = errors.Join(err, err2, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

package directory

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus/hooks/test"
)

func TestTornTailIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	mustPut(t, d, someIdentity("pump-7", 1))
	before := contentOf(d)
	whole := d.file.size
	mustPut(t, d, someIdentity("pump-8", 1), somePolicy(1)) // one frame of two records
	d.Close()
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tails := map[string][]byte{"zeroes": make([]byte, 300), "damaged": bytes.Clone(full[whole:])}
	tails["damaged"][40] ^= 1
	for n := whole + 1; n < int64(len(full)); n++ {
		tails[fmt.Sprint("cut at ", n)] = full[whole:n]
	}
	for name, tail := range tails {
		if err := os.WriteFile(path, slices.Concat(full[:whole], tail), 0o600); err != nil {
			t.Fatal(err)
		}
		log, hook := test.NewNullLogger()
		d, err := Open(path, publicKey(rootKey), Options{Signer: rootKey, Log: log})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(contentOf(d), before); diff != "" {
			t.Fatalf("%s: %s", name, diff)
		}
		if e := hook.LastEntry(); e == nil || e.Level.String() != "warning" || e.Data["bytes"] != int64(len(tail)) {
			t.Fatalf("%s: not reported: %v", name, e)
		}
		mustPut(t, d, someIdentity("pump-9", 1)) // and it goes on
		d.Close()
	}
}

func TestCorruptMiddleIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	mustPut(t, d, someIdentity("pump-7", 1))
	end := d.file.size
	mustPut(t, d, someIdentity("pump-8", 1))
	d.Close()
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range end {
		damaged := bytes.Clone(full)
		damaged[i] ^= 0x10
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, publicKey(rootKey), Options{})
		if err == nil {
			t.Fatalf("byte %d flipped: opened", i)
		}
		if i >= int64(len(logMagic)) && !strings.Contains(err.Error(), "on a replica remove the file") {
			t.Fatalf("byte %d flipped: %v does not say what to do", i, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, damaged) {
			t.Fatalf("byte %d flipped: the file was changed", i)
		}
	}
}

func TestOpenRefusesAnotherDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	mustPut(t, d, somePolicy(1))
	if _, err := Open(path, publicKey(testKey(2)), Options{}); err == nil {
		t.Error("opened under another root key")
	}
	if _, err := Open(path, publicKey(rootKey), Options{Signer: testKey(2)}); err == nil || !strings.Contains(err.Error(), "chain of signers") {
		t.Errorf("opened for a strange signer: %v", err)
	}
	if _, err := Open(path, nil, Options{}); err == nil {
		t.Error("opened without a root key")
	}
}

// TestOpenChecksSignature rewrites the last record, checksums and all, as
// somebody without the signer's key could.
func TestOpenChecksSignature(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	r := mustPut(t, d, somePolicy(1))[0]
	d.Close()
	p := somePolicy(2)
	r.Payload, _ = encoding.Marshal(p)
	raw, _ := encoding.Marshal(&r)
	if err := os.Truncate(path, int64(len(logMagic))); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &logFile{file: f, size: int64(len(logMagic))}
	if _, err := l.append(raw); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Open(path, publicKey(rootKey), Options{}); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("forged record: %v", err)
	}
}

// faultyFile fails on demand, as a full or dying disk does.
type faultyFile struct {
	storage

	room     int // bytes that still fit; negative: no limit
	syncErr  error
	truncErr error
	syncs    atomic.Int64
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if f.room >= 0 && len(b) > f.room {
		n, _ := f.storage.WriteAt(b[:f.room], off)
		return n, syscall.ENOSPC
	}
	return f.storage.WriteAt(b, off)
}

func (f *faultyFile) Sync() error {
	f.syncs.Add(1)
	if f.syncErr != nil {
		return f.syncErr
	}
	return f.storage.Sync()
}

func (f *faultyFile) Truncate(size int64) error {
	if f.truncErr != nil {
		return f.truncErr
	}
	return f.storage.Truncate(size)
}

func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	mustPut(t, d, someIdentity("pump-7", 1))
	before := contentOf(d)
	disk := &faultyFile{storage: d.file.file, room: 100}
	d.file.file = disk
	if _, err := d.Put(someIdentity("pump-8", 1)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("put on a full disk: %v", err)
	}
	if diff := cmp.Diff(contentOf(d), before); diff != "" {
		t.Errorf("a failed put changed memory: %s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != d.file.size {
		t.Errorf("a failed put left %d bytes, want %d", info.Size(), d.file.size)
	}
	disk.room = -1 // space was made
	mustPut(t, d, someIdentity("pump-8", 1))
	again := openDir(t, path, Options{Signer: rootKey})
	if diff := diffContent(again, d); diff != "" {
		t.Error(diff)
	}
}

// TestReplicaOnFullDisk takes nothing by half, counts it, and goes on once there is
// room.
func TestReplicaOnFullDisk(t *testing.T) {
	w, r := newWriter(t), newReplica(t)
	mustPut(t, w, everyKind()...)
	mustSignHead(t, w)
	disk := &faultyFile{storage: r.file.file, room: 100}
	r.file.file = disk
	_, follow := runToEnd(t, w, r)
	if !errors.Is(follow, syscall.ENOSPC) || r.Tip().Count != 0 || r.Refused() != 1 {
		t.Errorf("on a full disk: %v, %d records, %d refused", follow, r.Tip().Count, r.Refused())
	}
	disk.room = -1
	replicate(t, w, r)
	if diff := diffContent(r, w); diff != "" {
		t.Error(diff)
	}
}

func TestFailedSyncEndsWriting(t *testing.T) {
	for _, disk := range []*faultyFile{
		{room: -1, syncErr: syscall.EIO},
		{room: 10, truncErr: syscall.EIO},
	} {
		d := newWriter(t)
		mustPut(t, d, someIdentity("pump-7", 1))
		before := contentOf(d)
		disk.storage, d.file.file = d.file.file, disk
		if _, err := d.Put(someIdentity("pump-8", 1)); err == nil {
			t.Fatal("put on a dying disk succeeded")
		}
		disk.room, disk.syncErr = -1, nil
		if _, err := d.Put(someIdentity("pump-8", 1)); err == nil || !strings.Contains(err.Error(), "until restart") {
			t.Errorf("put after a failed sync: %v", err)
		}
		if diff := cmp.Diff(contentOf(d), before); diff != "" {
			t.Error(diff)
		}
	}
}

func TestConcurrentPutsShareSyncs(t *testing.T) {
	d := newWriter(t)
	disk := &faultyFile{storage: d.file.file, room: -1}
	d.file.file = disk
	const puts = 200
	d.writing.Lock() // let them all queue
	var all sync.WaitGroup
	for i := range puts {
		all.Go(func() {
			r, err := d.Put(someIdentity(fmt.Sprint("pump-", i), 1))
			if err != nil || len(r) != 1 {
				t.Error(err)
			}
		})
	}
	for queued := 0; queued < puts; {
		d.queueMu.Lock()
		queued = len(d.queue)
		d.queueMu.Unlock()
	}
	d.writing.Unlock()
	all.Wait()
	if got := disk.syncs.Load(); got != 1 {
		t.Errorf("%d syncs for %d puts that waited together", got, puts)
	}
	if got := d.Tip().Count; got != puts {
		t.Errorf("%d records, want %d", got, puts)
	}
}

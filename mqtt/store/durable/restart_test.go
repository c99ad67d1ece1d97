package durable

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

// TestNumbersGoOn restarts with an empty outbound log: a number is never given
// twice, or the peer would take a new message for an old one.
func TestNumbersGoOn(t *testing.T) {
	disk := vfs.NewMem()
	s := start(t, "data", Options{fs: disk})
	add := func(tx store.Tx) { tx.Outbound("rome", numbered(1, 0)) }
	for range 3 {
		if err := storetest.Do(s, add); err != nil {
			t.Fatal(err)
		}
	}
	s.Update(func(tx store.Tx) { tx.Acknowledge("rome", 3, 0) }, nil)
	s.stop()
	s = start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, add); err != nil {
		t.Fatal(err)
	}
	if got := s.Outbound("rome", 0, make([]store.Outbound, 0, 2)); len(got) != 1 || got[0].Seq != 4 {
		t.Errorf("got %v", got)
	}
}

// TestAcknowledgedGoesOn acknowledges backwards within one batch: a restart knows
// the highest number.
func TestAcknowledgedGoesOn(t *testing.T) {
	disk := vfs.NewMem()
	s := start(t, "data", Options{fs: disk})
	if err := storetest.Do(s, func(tx store.Tx) {
		tx.Outbound("rome", numbered(1, 0))
		tx.Outbound("rome", numbered(1, 1))
		tx.Acknowledge("rome", 2, 0)
		tx.Acknowledge("rome", 1, 0)
	}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s = start(t, "data", Options{fs: disk})
	if got := s.OutboundStats("rome").Acknowledged; got != 2 {
		t.Errorf("acknowledged up to %d after a restart, want 2", got)
	}
}

// TestUnawaited makes a change without a callback and cuts the power after the delay
// within which it is synced.
func TestUnawaited(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s := start(t, "data", Options{fs: disk})
	s.Update(func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }, nil)
	for {
		left := disk.CrashClone(vfs.CrashCloneCfg{})
		again, err := Open("data", Options{fs: left})
		if err != nil {
			t.Fatal(err)
		}
		_, ok := again.Value("f", "k")
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if ok { // else the delay is not over
			return
		}
	}
}

// TestUnawaitedBeforeNothing makes a change without a callback, and then one with a
// callback that comes to nothing, which syncs nothing.
func TestUnawaitedBeforeNothing(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := Open("data", Options{fs: disk, Limits: store.Limits{Queue: store.QueueLimit{Messages: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	commit := func(add func(store.Tx), done func(error)) {
		t.Helper()
		x := &tx{done: done}
		add(x)
		if s.commit([]*tx{x}); x.err != nil {
			t.Fatal(x.err)
		}
	}
	waits := func(error) {}
	enqueue := func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: numbered(1, 0)}) }
	commit(func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}); enqueue(tx) }, waits)
	commit(func(tx store.Tx) { tx.PutValue("f", "k", []byte("v")) }, nil)
	commit(enqueue, waits)
	if got := s.QueueStats(alice); got.Dropped != 1 {
		t.Errorf("got %+v", got)
	}
	s.sync()
	again := start(t, "data", Options{fs: disk.CrashClone(vfs.CrashCloneCfg{})})
	if _, ok := again.Value("f", "k"); !ok {
		t.Error("the change is lost")
	}
}

func TestAfterTheEnd(t *testing.T) {
	s := start(t, "data", Options{fs: vfs.NewMem(), Cache: 1})
	if err := storetest.Do(s, func(tx store.Tx) {
		tx.PutSession(store.Session{Key: alice})
		tx.Enqueue(alice, store.Delivery{Message: numbered(1, 0)})
	}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", "k", nil) }); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if got := storetest.Entries(s, alice); len(got) != 0 {
		t.Errorf("read %v from closed files", got)
	}
}

// TestRefusedInOrder ends a store while it calls back: later transactions are refused
// after the earlier ones, one at a time.
func TestRefusedInOrder(t *testing.T) {
	s, err := Open("data", Options{fs: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var ran sync.WaitGroup
	ran.Go(func() { _ = s.Run(ctx) })
	put := func(tx store.Tx) { tx.PutValue("f", "k", nil) }
	called, release := make(chan struct{}), make(chan struct{})
	var told []error
	s.Update(put, func(err error) {
		close(called)
		<-release
		told = append(told, err)
	})
	<-called
	cancel()
	for ended := false; !ended; {
		s.jobsMu.Lock()
		ended = s.ended
		s.jobsMu.Unlock()
	}
	refused := make(chan struct{})
	s.Update(put, func(err error) {
		told = append(told, err)
		s.Update(put, func(err error) { // as a callback may
			told = append(told, err)
			close(refused)
		})
		if len(told) != 2 {
			t.Error("called back in a callback")
		}
	})
	close(release)
	<-refused
	ran.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if len(told) != 3 || told[0] != nil || !errors.Is(told[1], ErrClosed) || !errors.Is(told[2], ErrClosed) {
		t.Errorf("told %v", told)
	}
}

// TestAnotherFormat opens the files of a later version.
func TestAnotherFormat(t *testing.T) {
	disk := vfs.NewMem()
	start(t, "data", Options{fs: disk}).stop()
	alterKeys(t, disk, func(b *pebble.Batch) { must(b.Set(metaFormat, []byte{version + 1}, nil)) })
	if _, err := Open("data", Options{fs: disk}); err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("got %v", err)
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := start(t, filepath.Join(dir, "s"), Options{})
	put := func(n int) {
		t.Helper()
		if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue("f", strconv.Itoa(n), []byte{1}) }); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutValue(store.OfHistory+"link", "epoch", []byte{1}) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	put(2)
	if err := s.Backup(filepath.Join(dir, "b")); err == nil {
		t.Error("wrote over a backup")
	}
	b := start(t, filepath.Join(dir, "b"), Options{})
	if _, ok := b.Value("f", "1"); !ok || b.Stats().Values != 1 {
		t.Errorf("got %+v", b.Stats())
	}
	if _, ok := s.Value(store.OfHistory+"link", "epoch"); !ok {
		t.Error("the backup took something away from the store")
	}
}

// killedDir is the environment variable that makes this program publish into a store,
// and name the acknowledged messages on standard output, until it is killed.
const killedDir = "HPMQ_TEST_KILLED_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedDir); dir != "" {
		publishUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

func publishUntilKilled(dir string) {
	s, err := Open(dir, Options{Limits: manyMessages})
	if err != nil {
		panic(err)
	}
	go func() { _ = s.Run(context.Background()) }()
	var out sync.Mutex
	var all sync.WaitGroup
	for p := range 64 {
		all.Go(func() {
			k := benchKey(p)
			_ = storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: k}) })
			first := 0
			if kept := storetest.Entries(s, k); len(kept) > 0 {
				first, _ = strconv.Atoi(string(kept[len(kept)-1].Message.Payload[:8]))
			}
			for n := first + 1; ; n++ {
				if err := storetest.Do(s, func(tx store.Tx) { tx.Enqueue(k, store.Delivery{Message: numbered(n, 20)}) }); err != nil {
					panic(err)
				}
				out.Lock()
				fmt.Println(p, n)
				out.Unlock()
			}
		})
	}
	all.Wait()
}

// TestKilled kills a process that publishes, several times, and looks for the messages
// that it named as acknowledged.
func TestKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "s")
	acked := make([]int, 64)
	for round := range 5 {
		c := exec.CommandContext(t.Context(), self)
		c.Env = append(os.Environ(), killedDir+"="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var p, number int
			if _, err := fmt.Sscan(lines.Text(), &p, &number); err == nil && number > acked[p] {
				acked[p] = number
			}
			if n == 2000+round*777 {
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = c.Wait() // it was killed
	}
	s := start(t, dir, Options{Limits: manyMessages})
	for p, last := range acked {
		next := 1
		for _, e := range storetest.Entries(s, benchKey(p)) {
			if got := string(e.Message.Payload[:8]); got != fmt.Sprintf("%08d", next) {
				t.Fatalf("queue %d has %s where %d should be", p, got, next)
			}
			next++
		}
		if last == 0 || next <= last {
			t.Errorf("queue %d ends before %d, %d was acknowledged", p, next, last)
		}
	}
}

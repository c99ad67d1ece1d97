package password

import (
	"context"
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
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var cheap = cost{memory: 64, passes: 1, lanes: 1}

func open(t testing.TB, path string) (*Book, *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	b, err := Open(path, log)
	if err != nil {
		t.Fatal(err)
	}
	b.cost, b.nobody.cost = cheap, cheap
	return b, hook
}

func set(t testing.TB, b *Book, name, password string) {
	t.Helper()
	if err := b.Set(t.Context(), Entry{Name: name, Generation: 3}, []byte(password)); err != nil {
		t.Fatal(err)
	}
}

var clients atomic.Int64 // each check comes from another one: the limits have tests of their own

func check(t testing.TB, b *Book, name, password string, want error) {
	t.Helper()
	got, err := b.Check(t.Context(), name, []byte(password), fmt.Sprint(clients.Add(1)))
	if !errors.Is(err, want) {
		t.Errorf("%s with %q: %v, want %v", name, password, err, want)
	}
	if err == nil && (got.Name != name || got.Generation != 3) {
		t.Errorf("%s: got %+v", name, got)
	}
}

func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwords")
	b, _ := open(t, path)
	check(t, b, "device:pump-7", "correct horse", ErrUnknown)
	set(t, b, "device:pump-7", "correct horse")
	set(t, b, "device:valve", "battery staple")
	for range 2 { // computed, then remembered
		check(t, b, "device:pump-7", "correct horse", nil)
		check(t, b, "device:pump-7", "battery staple", ErrWrong)
	}
	check(t, b, "device:pump-7", "", ErrWrong)
	check(t, b, "device:valve", "correct horse", ErrWrong)
	check(t, b, strings.Repeat("x", 1<<16), "correct horse", ErrUnknown)

	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want mode 0600", info.Mode(), err)
	}
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "horse") {
		t.Errorf("%s, %v", text, err)
	}
	again, _ := open(t, path)
	check(t, again, "device:pump-7", "correct horse", nil)
	if diff := cmp.Diff(b.List(), again.List()); diff != "" || len(again.List()) != 2 || again.List()[0].Set.IsZero() {
		t.Error(diff, again.List())
	}

	set(t, b, "device:pump-7", "another one")
	for _, b := range []*Book{b, again} { // again reads what b wrote
		check(t, b, "device:pump-7", "correct horse", ErrWrong)
		check(t, b, "device:pump-7", "another one", nil)
	}
	if had, err := b.Delete("device:pump-7"); !had || err != nil {
		t.Error(had, err)
	}
	if had, err := b.Delete("device:pump-7"); had || err != nil {
		t.Error(had, err)
	}
	for _, b := range []*Book{b, again} {
		check(t, b, "device:pump-7", "another one", ErrUnknown)
		if _, ok := b.Lookup("device:pump-7"); ok {
			t.Error("still there")
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v: want the file alone", left, err)
	}
}

func TestSetRefuses(t *testing.T) {
	b, _ := open(t, filepath.Join(t.TempDir(), "passwords"))
	for name, e := range map[string]struct{ name, password string }{
		"no name":  {"", "correct horse"},
		"spaces":   {"a b", "correct horse"},
		"comment":  {"#a", "correct horse"},
		"NBSP":     {"a\u00a0b", "correct horse"}, // white space to whoever reads the file
		"long":     {strings.Repeat("a", 129), "correct horse"},
		"short":    {"a", "horse"},
		"too long": {"a", strings.Repeat("a", 65_536)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := b.Set(t.Context(), Entry{Name: e.name}, []byte(e.password)); err == nil {
				t.Error("taken")
			}
		})
	}
}

// A file that somebody breaks changes nothing, is complained of once, and is not
// overwritten.
func TestBrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwords")
	b, hook := open(t, path)
	set(t, b, "device:pump-7", "correct horse")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(good, "device:valve secret in the clear\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, b, "device:pump-7", "correct horse", nil)
	check(t, b, "device:pump-7", "wrong", ErrWrong)
	if n := len(hook.AllEntries()); n != 1 || hook.LastEntry().Level != logrus.ErrorLevel {
		t.Errorf("%d complaints, want 1", n)
	}
	err = b.Set(t.Context(), Entry{Name: "x"}, []byte("correct horse"))
	if err == nil || !strings.Contains(err.Error(), "line 3") || strings.Contains(err.Error(), "secret") {
		t.Errorf("set beside a broken line: %v", err)
	}
	if _, err := Open(path, b.log); err == nil {
		t.Error("opened")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, b, "device:valve", "correct horse")
}

// Failures are bounded per pair of name and address, per address and per name,
// and whoever was right before is not locked out by others.
func TestFailuresAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := open(t, filepath.Join(t.TempDir(), "passwords"))
		set(t, b, "device:pump-7", "correct horse")
		try := func(name, from, password string) error {
			_, err := b.Check(t.Context(), name, []byte(password), from)
			return err
		}
		fail := func(name, from string, want error, times int) {
			t.Helper()
			for range times {
				if err := try(name, from, "wrong"); !errors.Is(err, want) {
					t.Fatalf("%s from %s: %v, want %v", name, from, err, want)
				}
			}
		}
		if err := try("device:pump-7", "home", "correct horse"); err != nil {
			t.Fatal(err)
		}
		fail("device:old", "home", ErrUnknown, 5)
		fail("device:old", "home", ErrOften, 1000) // without using up what home has
		fail("device:pump-7", "home", ErrWrong, 4)
		if err := try("device:pump-7", "home", "correct horse"); err != nil {
			t.Error("one failure fewer than the limit:", err)
		}
		fail("device:pump-7", "home", ErrWrong, 1)
		if err := try("device:pump-7", "home", "correct horse"); !errors.Is(err, ErrOften) {
			t.Error("past the limit the right password is not looked at:", err)
		}
		<-time.After(10 * time.Second)
		if err := try("device:pump-7", "home", "correct horse"); err != nil {
			t.Error("after a while:", err)
		}

		for n := range 3 {
			fail("device:pump-7", fmt.Sprint("stranger-", n), ErrWrong, 5)
		}
		fail("device:pump-7", "stranger-3", ErrWrong, 5)
		if err := try("device:pump-7", "stranger-9", "correct horse"); !errors.Is(err, ErrOften) {
			t.Error("a guess from many addresses:", err)
		}
		if err := try("device:pump-7", "home", "correct horse"); err != nil {
			t.Error("others locked out a client that was right before:", err)
		}

		for n := range 100 {
			fail(fmt.Sprint("device:", n), "scanner", ErrUnknown, 1)
		}
		fail("device:100", "scanner", ErrOften, 1)
		fail("device:100", "elsewhere", ErrUnknown, 1)
	})
}

// Who is out of guesses makes nobody forget it by trying ever new names.
func TestScannerIsNotForgotten(t *testing.T) {
	a, now := newAttempts(), time.Now()
	for range int(perName.burst) {
		a.charge("device:pump-7", fmt.Sprint(clients.Add(1)), now)
	}
	guesses := 0
	for n := range 4 * maxBuckets {
		if _, ok := a.charge(fmt.Sprint("device:", n), "scanner", now); ok {
			guesses++
		}
	}
	if guesses != int(perAddress.burst) {
		t.Errorf("%d guesses from one address, want %.0f", guesses, perAddress.burst)
	}
	if _, ok := a.charge("device:pump-7", "elsewhere", now); ok {
		t.Error("the name's failures were forgotten")
	}
}

func TestLimitsForget(t *testing.T) {
	a := newAttempts()
	for n := range 2 * maxBuckets {
		a.charge(fmt.Sprint(n), fmt.Sprint(n), time.Now())
		a.succeeded(fmt.Sprint(n), "x")
	}
	if len(a.buckets) > maxBuckets || len(a.known) > maxBuckets {
		t.Errorf("%d buckets and %d pairs, at most %d", len(a.buckets), len(a.known), maxBuckets)
	}
	m := newMemories()
	for n := range 2 * maxMemories {
		m.remember(entry{Entry: Entry{Name: fmt.Sprint(n)}}, nil)
	}
	if len(m.digests) > maxMemories {
		t.Errorf("%d memories, at most %d", len(m.digests), maxMemories)
	}
}

// More logins than there are turns wait, and give up in time.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := open(t, filepath.Join(t.TempDir(), "passwords"))
		for range cap(b.slots) {
			b.slots <- struct{}{}
		}
		start := time.Now()
		if _, err := b.Check(t.Context(), "x", nil, "y"); !errors.Is(err, ErrBusy) || time.Since(start) != patience {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := b.Check(ctx, "x", nil, "y"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		waiting.Wait()
	})
}

// An unknown name costs a hash of the default cost, like a known one: in CPU time,
// which a busy machine does not change, and at the median of rounds.
func TestUnknownNamesCostTheSame(t *testing.T) {
	b, err := Open(filepath.Join(t.TempDir(), "passwords"), logrus.New())
	if err != nil {
		t.Fatal(err)
	}
	set(t, b, "device:pump-7", "correct horse")
	cost := func(name string) time.Duration {
		before := cpuTime(t)
		if _, err := b.Check(t.Context(), name, []byte("wrong"), name); err == nil {
			t.Fatal("taken")
		}
		return cpuTime(t) - before
	}
	var ratios []float64
	for range 3 {
		known := cost("device:pump-7")
		ratios = append(ratios, cost("device:pump-8").Seconds()/max(known, time.Microsecond).Seconds())
	}
	slices.Sort(ratios)
	if median := ratios[len(ratios)/2]; median < 0.5 || median > 2 {
		t.Errorf("an unknown name costs %.2f of a known one, in rounds %.2f", median, ratios)
	}
}

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func FuzzParse(f *testing.F) {
	f.Add(header + "device:pump-7 3 2026-01-02T03:04:05Z " + newHash([]byte("x"), cheap).String() + "\n")
	f.Add("x 0 2026-01-02T03:04:05Z $argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parse(text)
		if err != nil {
			return
		}
		again, err := parse(format(all))
		if err != nil || len(again) != len(all) {
			t.Fatalf("%q: %v", format(all), err)
		}
		for _, e := range all {
			if e.hash.memory > maxMemory || e.hash.passes > maxPasses || e.hash.lanes > maxLanes {
				t.Fatalf("a hash of %+v", e.hash.cost)
			}
		}
	})
}

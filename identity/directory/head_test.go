package directory

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStaleCountsAcrossRestart(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	w := openDir(t, filepath.Join(t.TempDir(), "log"), Options{Signer: rootKey, Now: clock})
	path := filepath.Join(t.TempDir(), "log")
	r := openDir(t, path, Options{Now: clock})
	if got := r.Stale(); got != math.MaxInt64 {
		t.Errorf("stale %v without any head", got)
	}
	mustPut(t, w, somePolicy(1))
	if err := w.signHead(); err != nil {
		t.Fatal(err)
	}
	replicate(t, w, r)
	now = now.Add(time.Hour)
	if got := r.Stale(); got != time.Hour {
		t.Errorf("stale %v, want 1h", got)
	}
	if got := w.Stale(); got != 0 {
		t.Errorf("writer stale %v", got)
	}
	again := openDir(t, path, Options{Now: clock})
	if got := again.Stale(); got != time.Hour {
		t.Errorf("stale %v after a restart, want 1h", got)
	}
}

// TestWriterClockRunsAhead has a writer whose clock was a year ahead once. That
// must neither hide later silence nor make replicas deaf to later heads.
func TestWriterClockRunsAhead(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ahead := 365 * 24 * time.Hour
	w := openDir(t, filepath.Join(t.TempDir(), "log"), Options{Signer: rootKey, Now: func() time.Time { return now.Add(ahead) }})
	path := filepath.Join(t.TempDir(), "log")
	r := openDir(t, path, Options{Now: func() time.Time { return now }})
	for range 2 {
		if err := w.signHead(); err != nil {
			t.Fatal(err)
		}
		replicate(t, w, r)
		if got := r.Stale(); got != 0 {
			t.Errorf("stale %v just after a head", got)
		}
		now = now.Add(time.Hour)
		if got := r.Stale(); got != time.Hour {
			t.Errorf("stale %v, want 1h", got)
		}
		again := openDir(t, path, Options{Now: func() time.Time { return now }})
		if got := again.Stale(); got != time.Hour {
			t.Errorf("stale %v after a restart, want 1h", got)
		}
		ahead = 0 // set right, before the second round
	}
}

func TestWriterRefusesLogOlderThanItsHead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := openDir(t, path, Options{Signer: rootKey})
	mustPut(t, d, somePolicy(1))
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, d, somePolicy(2))
	if err := d.signHead(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := os.WriteFile(path, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, publicKey(rootKey), Options{Signer: rootKey}); err == nil || !strings.Contains(err.Error(), "signed a head at 2 records") {
		t.Errorf("writer with an old log: %v", err)
	}
	r := openDir(t, path, Options{}) // a replica fetches what is missing
	if got := r.Stale(); got != math.MaxInt64 {
		t.Errorf("a replica that lost records is only %v stale", got)
	}
}

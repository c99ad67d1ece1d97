package directory

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTamperedRecordIsRefused flips a bit of every byte of a batch. A record that
// passes for a later one is left out like any that does not follow the log.
func TestTamperedRecordIsRefused(t *testing.T) {
	w, r := newWriter(t), newReplica(t)
	mustPut(t, w, someIdentity("pump-7", 1), somePolicy(1))
	body, _, err := w.batch(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for i := range body {
		bad := bytes.Clone(body)
		bad[i] ^= 1
		r := newReplica(t)
		err := r.handleFrame(new(source), frameRecords, bad)
		if got := r.Tip().Count; err != nil && got != 0 || got == 2 {
			t.Fatalf("byte %d changed: %d records stored, %v", i, got, err)
		}
		if e, _, derr := decodeEntry(bad); err == nil && derr == nil && e.Seq == 1 && r.Tip().Count == 0 {
			t.Fatalf("byte %d changed: no error", i)
		}
	}
	if err := r.handleFrame(new(source), frameRecords, body); err != nil {
		t.Fatal(err)
	}
	if err := r.handleFrame(new(source), frameRecords, body); err != nil {
		t.Errorf("the same records again, from another peer: %v", err)
	}
	if diff := diffContent(r, w); diff != "" {
		t.Error(diff)
	}
}

// forge signs r with key and returns its encoding.
func forge(t *testing.T, r Record, key []byte) []byte {
	t.Helper()
	raw, err := r.sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWrongRecordIsRefused(t *testing.T) {
	w := newWriter(t)
	good := mustPut(t, w, somePolicy(1))[0]
	tests := map[string]struct {
		key    []byte
		change func(*Record)
	}{
		"strange signer":  {testKey(2), func(*Record) {}},
		"other prefix":    {rootKey, func(r *Record) { r.Prev[0] = 1 }},
		"version":         {rootKey, func(r *Record) { r.Version = 2 }},
		"clock":           {rootKey, func(r *Record) { r.HLC = 0 }},
		"key and payload": {rootKey, func(r *Record) { r.Key = "other" }},
		"kind":            {rootKey, func(r *Record) { r.Kind = KindIdentity }},
		"payload":         {rootKey, func(r *Record) { r.Payload = []byte{0xff} }},
		"too large":       {rootKey, func(r *Record) { r.Kind, r.Payload = KindFunction, make([]byte, maxPayload+1) }},
		"long key":        {rootKey, func(r *Record) { r.Kind, r.Key = "new", strings.Repeat("k", maxKey+1) }},
	}
	for name, tt := range tests {
		r, bad := newReplica(t), good
		tt.change(&bad)
		if err := r.handleFrame(new(source), frameRecords, forge(t, bad, tt.key)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if r.Tip().Count != 0 {
			t.Errorf("%s: stored", name)
		}
	}
}

// TestDiverged has writers that were restored from an old backup or went
// another way since.
func TestDiverged(t *testing.T) {
	w, r := newWriter(t), newReplica(t)
	mustPut(t, w, somePolicy(1))
	backup, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, w, somePolicy(2))
	replicate(t, w, r)
	before := contentOf(r)

	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	restored := openDir(t, path, Options{Signer: rootKey})
	for _, name := range []string{"behind", "forked", "forked and ahead"} {
		serve, follow := runToEnd(t, restored, r)
		for who, err := range map[string]error{"serve": serve, "follow": follow} {
			if _, ok := errors.AsType[*DivergedError](err); !ok {
				t.Errorf("%s: %s returned %v", name, who, err)
				continue
			}
			for _, at := range []Point{restored.Tip(), r.Tip()} {
				if !strings.Contains(err.Error(), at.String()) {
					t.Errorf("%s: %s: %v does not name %v", name, who, err, at)
				}
			}
		}
		mustPut(t, restored, somePolicy(restored.index.policyVersion()+5))
	}
	if diff := cmp.Diff(contentOf(r), before); diff != "" {
		t.Errorf("the replica changed: %s", diff)
	}
}

// runToEnd connects two directories that will not get along.
func runToEnd(t *testing.T, w, r *Directory) (serve, follow error) {
	t.Helper()
	a, b := net.Pipe()
	var server sync.WaitGroup
	server.Go(func() { serve = w.Serve(t.Context(), node("r"), a) })
	follow = r.Follow(t.Context(), node("w"), b)
	server.Wait()
	return serve, follow
}

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestResetKey has the same key in every run, also after one that was cut short.
func TestResetKey(t *testing.T) {
	dir := t.TempDir()
	load := func() [32]byte {
		t.Helper()
		key, err := loadResetKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		return *key
	}
	first := load()
	if first == [32]byte{} || load() != first {
		t.Error("the key is not kept")
	}
	if err := os.WriteFile(filepath.Join(dir, resetKeyName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := load()
	if second == first || load() != second {
		t.Error("an empty file is not replaced by a new key")
	}
}

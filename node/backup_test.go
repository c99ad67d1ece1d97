package node

import (
	"os"
	"path/filepath"
	"testing"
)

// What changes while it is linked is linked again.
func TestLinkFiles(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(from, name+".new"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(from, name+".new"), filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	write("b")
	asked := 0
	err := linkFiles(from, to, func(name string) bool {
		if asked++; name == "b" && asked < 5 {
			write("a") // after it was linked
		}
		return false
	})
	if err != nil || asked < 5 {
		t.Fatalf("%v after %d", err, asked)
	}
	now, err1 := os.Stat(filepath.Join(from, "a"))
	then, err2 := os.Stat(filepath.Join(to, "a"))
	if err1 != nil || err2 != nil || !os.SameFile(now, then) {
		t.Error("an old file is linked beside a newer one")
	}
}

//go:build unix

package atomicfile

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// fullDir names the directory in which a child process finds no room.
const fullDir = "HPMQ_TEST_FULL_DIR"

// TestFull has room for half of a file: the old one stays, and nothing else does. A
// child process writes it, since its limit is for every file that it writes.
func TestFull(t *testing.T) {
	if dir := os.Getenv(fullDir); dir != "" {
		writeHalf(t, filepath.Join(dir, "key.pem"))
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFull$")
	child.Env = append(os.Environ(), fullDir+"="+dir)
	if text, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("content %q, %v", got, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files, want one", len(files))
	}
}

func writeHalf(t *testing.T, path string) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 100
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, bytes.Repeat([]byte("n"), 200), 0o600); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("got %v", err)
	}
}

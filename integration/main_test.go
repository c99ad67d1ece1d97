package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// insideEnv marks the run that already lives in namespaces of its own.
const insideEnv = "HPMQ_TEST_INSIDE"

// bin is the directory with the programs under test.
var bin string

// skipped says why the tests that need namespaces cannot run here, or "".
var skipped string

// TestMain runs the tests in a fresh network and mount namespace with a private
// /run/netns, so that nothing they make is left behind, whatever happens.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(insideEnv) == "" {
		return rerun(m)
	}
	if err := setUpInside(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "hpmq-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for tests that run as another user
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	if bin, err = build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	return m.Run()
}

// rerun starts this test binary again inside new namespaces.
func rerun(m *testing.M) int {
	if os.Geteuid() != 0 {
		return without(m, "root", "making network namespaces needs root")
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	}
	return without(m, "netns", "namespaces are not allowed here: "+err.Error())
}

// without runs the tests, each of which skips for the reason given, unless
// HPMQ_REQUIRE names what is missing.
func without(m *testing.M, missing, reason string) int {
	if required(missing) || required("netns") {
		fmt.Fprintf(os.Stderr, "integration: HPMQ_REQUIRE lists %s, but %s\n", missing, reason)
		return 1
	}
	skipped = reason
	return m.Run()
}

func required(thing string) bool {
	return slices.Contains(strings.Fields(os.Getenv("HPMQ_REQUIRE")), thing)
}

func setUpInside() error {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("netns", "/run/netns", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a private /run/netns: %w", err)
	}
	return nil
}

// build compiles the programs of this checkout into dir.
func build(dir string) (string, error) {
	cmd := exec.Command("go", "build", "-o", dir+"/", "../cmd/hpmq", "../cmd/hpmq-enroll", "../cmd/hpmq-lite")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
}

// buildGuest compiles the function in dir to WebAssembly.
func buildGuest(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(dir)+".wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build guest %s: %v\n%s", dir, err, text)
	}
	return out
}

// buildProgram compiles a program in dir (below examples).
func buildProgram(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(dir))
	if text, err := exec.Command("go", "build", "-o", out, "../examples/"+dir).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, text)
	}
	return out
}

// need skips t unless the programs are installed; in CI, where HPMQ_REQUIRE
// lists their group, it fails instead.
func need(t *testing.T, group string, programs ...string) {
	t.Helper()
	if skipped != "" {
		t.Skip(skipped)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if required(group) {
				t.Fatalf("HPMQ_REQUIRE lists %s, but %s is not installed", group, p)
			}
			t.Skipf("%s is not installed", p)
		}
	}
}

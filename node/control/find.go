package control

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// runtimeDir is the directory in which running nodes leave a link to their data
// directory, so that commands find them without being told.
func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "hpmq")
	}
	if os.Geteuid() == 0 {
		return "/run/hpmq"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("hpmq-%d", os.Getuid()))
}

// ownDirectory refuses a run-time directory that another user could have
// planted under a shared temporary directory.
func ownDirectory(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("run-time directory %s is not a directory of this user alone", dir)
	}
	return nil
}

// FindRunning returns the data directories of the nodes of this user that run on
// this machine, in the order of their names.
func FindRunning() []string {
	if ownDirectory(runtimeDir()) != nil {
		return nil
	}
	links, _ := filepath.Glob(filepath.Join(runtimeDir(), "*"))
	var running []string
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && Running(dir) {
			running = append(running, dir)
		}
	}
	slices.Sort(running)
	return running
}

// Announce lets [FindRunning] find the node of the data directory dir. The caller
// calls remove when the node stops.
func Announce(dir, node string) (remove func(), err error) {
	rt := runtimeDir()
	if err := os.MkdirAll(rt, 0o700); err != nil {
		return nil, err
	}
	if err := ownDirectory(rt); err != nil {
		return nil, err
	}
	link := filepath.Join(rt, node)
	_ = os.Remove(link) // left by a node that was killed
	if err := os.Symlink(dir, link); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(link) }, nil
}

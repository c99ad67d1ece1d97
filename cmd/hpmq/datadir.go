package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hpmq/hpmq/node/control"
	"github.com/spf13/cobra"
)

const (
	dataEnv    = "HPMQ_DATA_DIR"
	mqttSocket = "mqtt.sock"
)

// defaultDataDir is where "hpmq up" keeps its state when nobody says.
func defaultDataDir() string {
	if os.Geteuid() == 0 && os.Getenv("XDG_STATE_HOME") == "" {
		return "/var/lib/hpmq"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "hpmq")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "hpmq-data"
	}
	return filepath.Join(home, ".local", "state", "hpmq")
}

// givenDataDir returns --data or HPMQ_DATA_DIR, or "".
func givenDataDir(cmd *cobra.Command) string {
	if dir, _ := cmd.Flags().GetString("data"); dir != "" {
		return dir
	}
	return os.Getenv(dataEnv)
}

// runtimeDir is where running nodes leave a link to their data directory, so
// that commands find them without being told.
func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "hpmq")
	}
	if os.Geteuid() == 0 {
		return "/run/hpmq"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("hpmq-%d", os.Getuid()))
}

// findDataDir returns the data directory that a client command means: the one
// given, else that of the one node that runs here.
func findDataDir(cmd *cobra.Command) (string, error) {
	if dir := givenDataDir(cmd); dir != "" {
		return dir, nil
	}
	var links []string
	if ownDirectory(runtimeDir()) == nil {
		links, _ = filepath.Glob(filepath.Join(runtimeDir(), "*"))
	}
	var running []string
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err == nil && control.Running(dir) {
			running = append(running, dir)
		}
	}
	switch len(running) {
	case 1:
		return running[0], nil
	case 0:
		return "", &control.Error{
			Code: control.Unreachable, Err: errors.New("no node runs here"),
			Hint: "start one with: hpmq up   (or name one with --data DIR)",
		}
	}
	slices.Sort(running)
	return "", &control.Error{
		Code: control.Invalid,
		Err:  fmt.Errorf("%d nodes run here", len(running)),
		Hint: "say which: --data " + strings.Join(running, "  or  --data "),
	}
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

// announce links the node's data directory into the run-time directory and
// returns what takes the link away.
func announce(dir, node string) (remove func(), err error) {
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

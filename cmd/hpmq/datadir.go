package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

// dataEnv is the environment variable that stands for --data.
const dataEnv = "HPMQ_DATA_DIR"

// defaultDataDir is where "hpmq up" keeps its state without --data.
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

// findDataDir returns the data directory that a client command means: the one
// given, else that of the one node that runs here.
func findDataDir(cmd *cobra.Command) (string, error) {
	if dir := givenDataDir(cmd); dir != "" {
		return dir, nil
	}
	running := control.FindRunning()
	switch len(running) {
	case 1:
		return running[0], nil
	case 0:
		return "", &control.Error{
			Code: control.Unreachable, Err: errors.New("no node runs here"),
			Hint: "start one with: hpmq up   (or name one with --data DIR)",
		}
	}
	return "", &control.Error{
		Code: control.Invalid,
		Err:  fmt.Errorf("%d nodes run here", len(running)),
		Hint: "say which: --data " + strings.Join(running, "  or  --data "),
	}
}

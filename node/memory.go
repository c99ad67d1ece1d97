package node

import (
	"cmp"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
)

// How the memory that the node may use is divided. The broker holds a
// third of it for clients and sites at most: the garbage collector needs as much again
// before it runs, and the rest of the node has to fit too. The collector works harder
// before all memory is in use.
const (
	heldPart      = 3
	heldUnknown   = 1 << 30 // where the system does not tell
	collectorPart = 0.85
)

// memoryCeiling returns how many bytes the broker may hold for clients and sites:
// asked, or a default when asked is 0. It also sets the garbage collector's limit,
// unless GOMEMLIMIT sets it or the memory is unknown.
func memoryCeiling(asked int64, log logrus.FieldLogger) int64 {
	total := availableMemory("/")
	if total == 0 {
		return cmp.Or(asked, heldUnknown)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(float64(total) * collectorPart))
	}
	if asked > total {
		log.WithField("limit_bytes", asked).WithField("memory_bytes", total).
			Warn("the limit memory is more than this process may use")
	}
	return cmp.Or(asked, total/heldPart)
}

// availableMemory returns the memory of the machine, or of the control group that
// the process is in if that has less; 0 is unknown. root is / but for tests.
func availableMemory(root string) int64 {
	total := meminfo(filepath.Join(root, "proc/meminfo"))
	lines, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return total
	}
	for line := range strings.Lines(string(lines)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		base, file := "sys/fs/cgroup", "memory.max"
		if fields[1] != "" { // version 1
			if fields[1] != "memory" {
				continue
			}
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for dir := filepath.Clean("/" + fields[2]); ; dir = filepath.Dir(dir) { // any group above may be smaller
			if n := readBytes(filepath.Join(root, base, dir, file)); n > 0 && (total == 0 || n < total) {
				total = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return total
}

// meminfo returns MemTotal.
func meminfo(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil || kib > math.MaxInt64>>10 {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// readBytes returns the number in a file, or 0.
func readBytes(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0 // max: no limit
	}
	return n
}

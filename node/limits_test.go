package node

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want string // of the error, "" is none
	}{
		{"memory=2GiB", ""},
		{"packet-size=64KiB", ""},
		{"publish-messages=200", ""},
		{"queue-bytes=1000", ""},
		{"inflight=65535", ""},
		{"inflight=65536", "at most 65535"},
		{"packet-size=1GiB", "at most"},
		{"queue-messages=1KiB", "want a number"},
		{"memory=0", "want bytes"},
		{"memory=9223372036854775807GiB", "want bytes"},
		{"memory=-1", "want bytes"},
		{"memory", "want bytes"},
		{"store-bytes=20GiB", ""},
		{"store-bytes=1MiB", "at least"},
		{"memroy=1", "there are"},
	} {
		err := new(Limits).Set(tt.in)
		if got := errorText(err); (tt.want == "") != (err == nil) || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.in, got, tt.want)
		}
	}
	var l Limits
	for name, known := range limits {
		if err := l.Set(name + "=" + strconv.Itoa(max(7, known.least))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l.MaxDisk != 256<<20 {
		t.Errorf("store-bytes is %d", l.MaxDisk)
	}
	b, s := l.Broker, l.Store
	for i, n := range []int{
		int(b.Memory), b.PacketSize, b.Outbox, int(b.Inflight), int(b.ReceiveMaximum), b.Connections, b.ConnectionsPerIdentity,
		b.ConnectionsPerAddress, b.ConnectsPerAddress, b.SubscriptionsPerSession, b.Publish.Messages, b.Publish.Bytes, b.Queue.Messages, b.Queue.Bytes,
		s.Queue.Messages, s.Queue.Bytes, s.Retained.Messages, s.Retained.Bytes, s.Outbound.Messages, s.Outbound.Bytes,
	} {
		if n != 7 {
			t.Errorf("limit %d is %d", i, n)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestLimitsAreDocumented wants each limit in the list for operators.
func TestLimitsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/broker.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range limits {
		if !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("docs/broker.md does not list %s", name)
		}
	}
}

func TestAvailableMemory(t *testing.T) {
	const info = "MemFree: 1 kB\nMemTotal:  2048 kB\n"
	for _, tt := range []struct {
		name  string
		files []string // path, text, …
		want  int64
	}{
		{"nothing known", nil, 0},
		{"machine", []string{"proc/meminfo", info}, 2 << 20},
		{"broken", []string{"proc/meminfo", "MemTotal: much kB\n", "proc/self/cgroup", "x\n"}, 0},
		{"group", []string{"proc/meminfo", info, "proc/self/cgroup", "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max", "1000\n"}, 1000},
		{"group above", []string{"proc/meminfo", info, "proc/self/cgroup", "0::/a/b\n", "sys/fs/cgroup/a/memory.max", "900\n", "sys/fs/cgroup/a/b/memory.max", "max\n"}, 900},
		{"version 1", []string{"proc/meminfo", info, "proc/self/cgroup", "3:cpu:/\n2:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "800\n"}, 800},
		{"no limit", []string{"proc/meminfo", info, "proc/self/cgroup", "2:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}, 2 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for pair := range slices.Chunk(tt.files, 2) {
				path := filepath.Join(root, pair[0])
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(pair[1]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := availableMemory(root); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

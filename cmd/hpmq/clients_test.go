package main

import (
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/node/control"
)

// TestClientIDsArePlain: a client's name for itself neither steers the operator's
// terminal nor looks like another line.
func TestClientIDsArePlain(t *testing.T) {
	row := clientRow(control.Session{ID: "spiffe://lab.test/service/guest", ClientID: "a\x1b[2J\nspiffe://lab.test/user/admin\tb"}, time.Now())
	if out := strings.Join(row, "  "); strings.ContainsAny(out, "\x1b\n") || !strings.Contains(out, `"a\x1b[2J\nspiffe://lab.test/user/admin\tb"`) {
		t.Errorf("printed %q", out)
	}
}

// TestClientsAsleep: a subscription that sleeps is counted among the others.
func TestClientsAsleep(t *testing.T) {
	row := clientRow(control.Session{
		ID: "spiffe://lab.test/device/pump-7", Subscriptions: []string{"a", "b", "c"}, Asleep: 1, Dropped: 2, Drops: map[string]uint64{"denied": 2},
	}, time.Now())
	if out := strings.Join(row, "  "); !strings.Contains(out, "3 (asleep 1)") || !strings.Contains(out, "2 (denied 2)") {
		t.Errorf("printed %q", out)
	}
}

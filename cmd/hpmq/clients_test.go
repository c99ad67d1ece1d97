package main

import (
	"strings"
	"testing"
	"time"
)

// TestClientIDsArePlain: a client's name for itself neither steers the operator's
// terminal nor looks like another line.
func TestClientIDsArePlain(t *testing.T) {
	var b strings.Builder
	printClients(&b, []clientReply{{ID: "spiffe://lab.test/service/guest", ClientID: "a\x1b[2J\nspiffe://lab.test/user/admin\tb"}}, time.Now())
	if out := b.String(); strings.Contains(out, "\x1b") || strings.Count(out, "\n") != 2 || !strings.Contains(out, `"a\x1b[2J\nspiffe://lab.test/user/admin\tb"`) {
		t.Errorf("printed %q", out)
	}
}

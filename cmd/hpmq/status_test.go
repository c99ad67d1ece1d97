package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/node/control"
)

func TestStatusExpired(t *testing.T) {
	now := time.Now()
	for end, want := range map[time.Time]string{
		now.Add(24 * time.Hour):  "certificate expires in 24h",
		now.Add(-24 * time.Hour): "certificate expired 24h ago",
	} {
		var out bytes.Buffer
		printStatus(&out, &control.Status{Certificate: end}, now)
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("%s", out.String())
		}
	}
}

package main

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/policy/slice"
)

// TestNextVisit: a second node is asked every ten minutes, and earlier when rules
// near their end.
func TestNextVisit(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	rulesOf := func(age, span time.Duration) *slice.Slice {
		return &slice.Slice{Issued: uint64(now.Add(-age).UnixMilli()) << 16, Until: now.Add(span - age)}
	}
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name  string
		rules *slice.Slice
		want  time.Duration // after a visit that ends now
	}{
		{"no rules", nil, visitInterval},
		{"fresh", rulesOf(0, 14*day), visitInterval},
		{"of half their time", rulesOf(7*day, 14*day), visitInterval},
		{"old", rulesOf(12*day, 14*day), visitInterval},
		{"fresh, for an hour", rulesOf(0, time.Hour), visitInterval},
		{"late in eight minutes", rulesOf(37*time.Minute, time.Hour), 8 * time.Minute},
		{"late in a minute", rulesOf(44*time.Minute, time.Hour), 7*time.Minute + 30*time.Second},
		{"late", rulesOf(50*time.Minute, time.Hour), 7*time.Minute + 30*time.Second},
		{"ended", rulesOf(2*time.Hour, time.Hour), 7*time.Minute + 30*time.Second},
		{"fresh, for a minute", rulesOf(0, time.Minute), 45 * time.Second},
		{"late, for a minute", rulesOf(50*time.Second, time.Minute), 7500 * time.Millisecond},
		{"of no time at all", rulesOf(time.Minute, 0), time.Second},
	} {
		l := &lite{rules: &rules{}, visitInterval: visitInterval}
		if tt.rules != nil {
			l.rules.cur.Store(tt.rules)
		}
		if got := l.nextVisit(now).Sub(now); got != tt.want {
			t.Errorf("%s: in %s, want %s", tt.name, got, tt.want)
		}
	}
}

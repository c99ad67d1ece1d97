package topic

import (
	"slices"
	"strings"
	"testing"
)

// The naive model: section 4.7 said level by level on slices.

func naiveMatch(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if strings.HasPrefix(name, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		if level == "#" {
			return len(n) >= i
		}
		if i >= len(n) || level != "+" && level != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

// words returns every sequence of one to n of the levels, joined.
func words(n int, levels ...string) []string {
	all, last := []string{}, []string{""}
	for i := range n {
		var next []string
		for _, w := range last {
			for _, l := range levels {
				if i > 0 {
					l = w + "/" + l
				}
				next = append(next, l)
			}
		}
		all, last = append(all, next...), next
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// universe returns all filters of up to three levels before # over a small
// alphabet, and all names that can tell them apart: one level longer, with a
// level that no filter has.
func universe() (filters, names []string) {
	filters = words(3, "", "a", "$s", "+")
	for _, f := range words(3, "", "a", "$s", "+") {
		filters = append(filters, f+"/#")
	}
	filters = append(filters, "#", "/#")
	return filters, words(4, "", "a", "$s", "z")
}

func TestMatchAgainstModel(t *testing.T) {
	filters, names := universe()
	for _, f := range filters {
		for _, n := range names {
			if got, want := Match(f, n), naiveMatch(f, n); got != want {
				t.Fatalf("Match(%q, %q) = %v, want %v", f, n, got, want)
			}
		}
	}
}

func TestCoversAndOverlapsAgainstModel(t *testing.T) {
	filters, names := universe()
	matched := make([][]bool, len(filters))
	for i, f := range filters {
		matched[i] = make([]bool, len(names))
		for j, n := range names {
			matched[i][j] = naiveMatch(f, n)
		}
	}
	for i, a := range filters {
		for j, b := range filters {
			covers, overlaps := true, false
			for k := range names {
				covers = covers && (matched[i][k] || !matched[j][k])
				overlaps = overlaps || matched[i][k] && matched[j][k]
			}
			if got := Covers(a, b); got != covers {
				t.Fatalf("Covers(%q, %q) = %v, want %v", a, b, got, covers)
			}
			if got := Overlaps(a, b); got != overlaps {
				t.Fatalf("Overlaps(%q, %q) = %v, want %v", a, b, got, overlaps)
			}
		}
	}
}

// The examples of sections 4.7.1 to 4.7.3.
func TestMatchSpecification(t *testing.T) {
	for _, tt := range []struct {
		filter, name string
		want         bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"sport/tennis/+", "sport/tennis/player2", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/monitor", false}, // [MQTT-4.7.2-1]
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/monitor", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"ACCOUNTS", "Accounts", false},
		{"caf\u00e9", "cafe\u0301", false}, // [MQTT-4.7.3-4]
	} {
		if got := Match(tt.filter, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.filter, tt.name, got, tt.want)
		}
	}
}

func TestCommon(t *testing.T) {
	for _, tt := range []struct {
		filter, object string
		want           int
	}{
		{"a/b/c", "a/b/d", 2},
		{"a/b", "a/b/c", 2},
		{"a/b/c", "a", 1},
		{"b", "a", 0},
		{"a/+/c", "a/b/c", 3},
		{"a/#", "a/b/c/d", 2},
		{"a/#", "a", 1},
		{"#", "a/b", 1},
		{"a//", "a//", 3},
		{"a/b", "a/+", 1},
		{"a/+", "a/#", 2},
		{"#", "$SYS/a", 0}, // [MQTT-4.7.2-1]
		{"+/a", "$SYS/a", 0},
	} {
		if got := Common(tt.filter, tt.object); got != tt.want {
			t.Errorf("Common(%q, %q) = %d, want %d", tt.filter, tt.object, got, tt.want)
		}
	}
}

func TestCompareDoesNotAllocate(t *testing.T) {
	a, b, name := "site/+/pump/#", "site/a/pump/+/temp", "site/a/pump/7/temp"
	if n := testing.AllocsPerRun(100, func() {
		if !Match(a, name) || !Covers(a, b) || !Overlaps(b, a) || Common(a, b) != 4 {
			t.Error("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("+/#", "#", "$SYS/a")
	f.Add("/#", "+", "/")
	f.Add("a//+", "a/#", "a//b")
	f.Fuzz(func(t *testing.T, a, b, name string) {
		covers, overlaps := Covers(a, b), Overlaps(a, b)
		if ValidFilter(a) != nil || ValidFilter(b) != nil || ValidName(name) != nil {
			return
		}
		inA, inB := Match(a, name), Match(b, name)
		if inA != naiveMatch(a, name) {
			t.Errorf("Match(%q, %q) = %v", a, name, inA)
		}
		if inB && !inA && covers {
			t.Errorf("Covers(%q, %q), but %q matches the second alone", a, b, name)
		}
		if inA && inB && !overlaps {
			t.Errorf("!Overlaps(%q, %q), but %q matches both", a, b, name)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Match("site/+/pump/#", "site/a/pump/7/temp")
	}
}

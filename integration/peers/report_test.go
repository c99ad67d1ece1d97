package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInsert(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n" + beginMark + "\nold\n" + endMark + "\nafter\n")
	for range 2 { // again, and nothing gathers
		if err := insert(path, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if want := "before\n" + beginMark + "\n\nnew\n\n" + endMark + "\nafter\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	write("no marks")
	if insert(path, "new") == nil {
		t.Error("written without a place")
	}
}

// The median run counts; faults of every run do.
func TestLine(t *testing.T) {
	runs := func(micros ...float64) *result {
		var all []*result
		for i, us := range micros {
			all = append(all, &result{PerSecond: 1234, BrokerMicros: us, Lost: uint64(i), Delivered: 10})
		}
		return median(all)
	}
	m := measured{row: row{title: "pairs"}}
	m.results[0], m.results[1] = runs(0.9, 0.5, 0.7), runs(7)
	m.results[2] = &result{Error: "no\n"}
	want := "| pairs | 1,234 | 1,234 | – | 0.70 µs | 7.00 µs | – | 0.10 | – | hpmq: 3 of 33 lost; mochi: no |\n"
	if got := m.line(); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestPolicy(t *testing.T) {
	if n := strings.Count(policy(), "\ngrant "); n != 1000 {
		t.Errorf("%d grants", n)
	}
}

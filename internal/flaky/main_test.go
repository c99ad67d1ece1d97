package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// events writes lines of "action test" as go test -json does; without a test
// they are the package's. "FAIL" is the line that testing writes at the end.
func events(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		action, name, _ := strings.Cut(l, " ")
		switch {
		case action == "FAIL":
			fmt.Fprintf(&b, `{"Action":"output","Package":"x","Output":"FAIL\n"}`+"\n")
		case name == "":
			fmt.Fprintf(&b, `{"Action":%q,"Package":"x"}`+"\n", action)
		default:
			fmt.Fprintf(&b, `{"Action":%q,"Package":"x","Test":%q,"Output":"FAIL\n"}`+"\n", action, name)
		}
	}
	return b.String()
}

func TestJudge(t *testing.T) {
	const outside = "x failed outside of its tests, or before they ended"
	for _, tt := range []struct {
		name          string
		lines         []string
		flaky, faults []string
	}{
		{"passes", []string{"start", "run A", "pass A", "pass"}, nil, nil},
		{"passes when run again", []string{"start", "fail A", "pass B", "FAIL", "fail", "start", "pass A", "pass"}, []string{"x A"}, nil},
		{"passes at the second rerun", []string{"start", "fail A", "FAIL", "fail", "start", "fail A", "FAIL", "fail", "start", "pass A", "pass"}, []string{"x A"}, nil},
		{"is skipped when run again", []string{"start", "fail A", "FAIL", "fail", "start", "skip A", "pass"}, []string{"x A"}, nil},
		{"a subtest", []string{"start", "fail A/b", "fail A", "FAIL", "fail", "start", "pass A/b", "pass A", "pass"}, []string{"x A/b"}, nil},
		{"a subtest that is not there again", []string{"start", "fail A/b", "fail A", "FAIL", "fail", "start", "pass A", "pass"}, nil, []string{"x A/b did not pass"}},
		{"fails always", []string{"start", "fail A", "FAIL", "fail", "start", "fail A", "FAIL", "fail"}, nil, []string{"x A did not pass"}},
		{"dies, passes when run again", []string{"start", "run A", "output A", "fail", "start", "pass A", "pass"}, nil, []string{outside}},
		{"dies after a failure", []string{"start", "fail A", "run B", "fail", "start", "pass A", "pass"}, []string{"x A"}, []string{outside}},
		{"dies when run again", []string{"start", "fail A", "FAIL", "fail", "start", "run A", "fail", "start", "pass A", "pass"}, []string{"x A"}, []string{outside}},
		{"leaks", []string{"start", "pass A", "fail", "start", "pass"}, nil, []string{outside}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j, err := judge(strings.NewReader(events(tt.lines...)))
			if err != nil {
				t.Fatal(err)
			}
			if got := j.flaky(); !slices.Equal(got, tt.flaky) {
				t.Errorf("flaky: %q, want %q", got, tt.flaky)
			}
			if got := j.allFaults(); !slices.Equal(got, tt.faults) {
				t.Errorf("faults: %q, want %q", got, tt.faults)
			}
		})
	}
	if _, err := judge(strings.NewReader("no events")); err == nil {
		t.Error("took what are no events")
	}
}

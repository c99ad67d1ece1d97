// Flaky judges a test run in which gotestsum ran failed tests again. It reads
// the run's events, as go test -json writes them, and prints
//
//	FLAKY package TestName    the test failed, and passed when it ran again
//	FAULT package reason      no rerun can excuse this
//
// A process that ended before its tests did is a fault, and so is a package
// that fails although all its tests pass: a leaked goroutine, for example.
// gotestsum alone runs one test of such a package again and is content.
//
//	go run ./internal/flaky <events
//
// It ends with 1 if there are faults.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	j, err := judge(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "flaky:", err)
		os.Exit(2)
	}
	for _, line := range j.flaky() {
		fmt.Println("FLAKY", line)
	}
	faults := j.allFaults()
	for _, line := range faults {
		fmt.Println("FAULT", line)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

// test names a test of a package.
type test struct{ pkg, name string }

// judgement is what the events of all runs say.
type judgement struct {
	failed   []test          // each once, in the order of their first failure
	passed   map[test]bool   // passed or skipped since their last failure
	finished map[string]bool // packages whose tests ended, with failures, in their last run
	faults   []string
}

// judge reads the events of the first run and of all reruns.
func judge(r io.Reader) (*judgement, error) {
	j := &judgement{passed: map[test]bool{}, finished: map[string]bool{}}
	for d := json.NewDecoder(bufio.NewReader(r)); ; {
		var e event
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return j, nil
		case err != nil:
			return nil, fmt.Errorf("read an event: %w", err)
		}
		if e.Test == "" {
			j.packageEvent(e)
		} else {
			j.testEvent(e)
		}
	}
}

func (j *judgement) testEvent(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "fail":
		if !slices.Contains(j.failed, t) {
			j.failed = append(j.failed, t)
		}
		j.passed[t] = false
	case "pass", "skip":
		j.passed[t] = true
	}
}

// packageEvent checks that a package which fails does so by its tests. The
// testing package then writes a line of its own, after the last test.
func (j *judgement) packageEvent(e event) {
	switch {
	case e.Action == "start":
		j.finished[e.Package] = false
	case e.Action == "output" && e.Output == "FAIL\n":
		j.finished[e.Package] = true
	case e.Action == "fail" && !j.finished[e.Package]:
		j.faults = append(j.faults, e.Package+" failed outside of its tests, or before they ended")
	}
}

// flaky returns package and name of each test that failed and passed later,
// without the tests that failed by their subtests.
func (j *judgement) flaky() []string {
	var lines []string
	for _, t := range j.failed {
		if j.passed[t] && !j.hasFailedSubtest(t) {
			lines = append(lines, t.pkg+" "+t.name)
		}
	}
	return lines
}

// allFaults returns the faults, and the tests that did not pass in the end.
func (j *judgement) allFaults() []string {
	lines := slices.Clone(j.faults)
	for _, t := range j.failed {
		if !j.passed[t] && !j.hasFailedSubtest(t) {
			lines = append(lines, t.pkg+" "+t.name+" did not pass")
		}
	}
	return lines
}

func (j *judgement) hasFailedSubtest(t test) bool {
	return slices.ContainsFunc(j.failed, func(o test) bool {
		return o.pkg == t.pkg && strings.HasPrefix(o.name, t.name+"/")
	})
}

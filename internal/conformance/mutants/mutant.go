package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/internal/conformance"
)

// mutant is what became of one disabled branch.
type mutant struct {
	branch   *conformance.Branch
	survived []string // statements whose tests passed
	err      error    // it could not be found out
}

// try disables b and runs the tests of its statements.
func try(ctx context.Context, b *conformance.Branch, proofs map[string][]conformance.Test) mutant {
	m := mutant{branch: b}
	m.survived, m.err = survivors(ctx, b, proofs)
	return m
}

func survivors(ctx context.Context, b *conformance.Branch, proofs map[string][]conformance.Test) ([]string, error) {
	dir, err := os.MkdirTemp("", "mutant-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	overlay, err := writeOverlay(dir, b)
	if err != nil {
		return nil, err
	}
	var tests []conformance.Test
	for _, id := range b.Statements {
		tests = append(tests, proofs[id]...)
	}
	r, err := runTests(ctx, overlay, tests)
	if err != nil {
		return nil, err
	}
	var survived []string
	for _, id := range b.Statements {
		one := r
		if !r.ran(proofs[id]) { // another statement's test took the process with it
			if one, err = runTests(ctx, overlay, proofs[id]); err != nil {
				return nil, err
			}
		}
		if !one.failed(proofs[id]) {
			survived = append(survived, id)
		}
	}
	return survived, nil
}

// writeOverlay writes the changed file into dir, and the overlay that puts it in
// the place of the original.
func writeOverlay(dir string, b *conformance.Branch) (string, error) {
	src, err := b.Mutant(".")
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(changed, src, 0o600); err != nil {
		return "", err
	}
	original, err := filepath.Abs(b.File)
	if err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o600)
}

// result is what go test says of tests.
type result struct {
	started, passed map[conformance.Test]bool
	output          string
}

// ran reports whether any of the tests was begun.
func (r *result) ran(tests []conformance.Test) bool {
	return slices.ContainsFunc(tests, func(t conformance.Test) bool { return r.started[t] })
}

// failed reports whether one of the tests was begun and did not pass.
func (r *result) failed(tests []conformance.Test) bool {
	return slices.ContainsFunc(tests, func(t conformance.Test) bool { return r.started[t] && !r.passed[t] })
}

// module is the path of this module.
const module = "github.com/hpmq/hpmq/"

// runTests runs the tests with the overlay, if there is one. What does not
// compile is an error.
func runTests(ctx context.Context, overlay string, tests []conformance.Test) (*result, error) {
	args := []string{"test", "-json", "-count=1", "-vet=off", "-timeout=60s", "-run=" + pattern(tests)}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	var packages []string
	for _, t := range tests {
		if p := "./" + t.Package; !slices.Contains(packages, p) {
			packages = append(packages, p)
		}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("go test: %w", err)
	}
	r := &result{started: map[conformance.Test]bool{}, passed: map[conformance.Test]bool{}}
	var text strings.Builder
	for line := range bytes.Lines(out) {
		var e struct{ Action, Package, Test, Output, FailedBuild string }
		if json.Unmarshal(line, &e) != nil {
			continue // go's own words, told by a failed build below
		}
		t := conformance.Test{Package: strings.TrimPrefix(e.Package, module), Name: e.Test}
		text.WriteString(e.Output)
		switch {
		case e.Action == "build-fail" || e.FailedBuild != "":
			return nil, fmt.Errorf("does not compile: %s", strings.TrimSpace(text.String()))
		case e.Action == "run":
			r.started[t] = true
		case e.Action == "pass" || e.Action == "skip":
			r.passed[t] = true
		}
	}
	if len(r.started) == 0 {
		return nil, fmt.Errorf("no test ran: %s", strings.TrimSpace(text.String()))
	}
	r.output = text.String()
	return r, nil
}

// pattern is the argument of -run for the tests: their functions and, if all of
// them are subtests, those.
func pattern(tests []conformance.Test) string {
	var functions, subs []string
	whole := false
	for _, t := range tests {
		function, sub := t.Split()
		functions = append(functions, regexp.QuoteMeta(function))
		subs = append(subs, regexp.QuoteMeta(sub))
		whole = whole || sub == ""
	}
	either := func(names []string) string {
		slices.Sort(names)
		return "^(" + strings.Join(slices.Compact(names), "|") + ")$"
	}
	if whole {
		return either(functions)
	}
	return either(functions) + "/" + either(subs)
}

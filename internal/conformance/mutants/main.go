// Mutants finds out whether the tests of docs/conformance.md can fail. It
// disables branches that obey statements of MQTT 5 one at a time, in an overlay
// of the source, runs the tests that the document names for the statements and
// expects each statement's to fail. Run it in the module's root:
//
//	go run ./internal/conformance/mutants [-n 60] [-all] [-only 3.1.2-24]
//
// It ends with 1 if a mutant survives and with 2 if it could not find out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hpmq/hpmq/internal/conformance"
)

var (
	sample  = flag.Int("n", 60, "how many branches to disable, spread evenly over the source")
	all     = flag.Bool("all", false, "disable every branch")
	only    = flag.String("only", "", "disable the branches of this `statement` alone")
	workers = flag.Int("workers", 2, "how many at a time")
)

// errSurvived tells that a test did not fail when it should.
var errSurvived = errors.New("mutants survived: these tests do not prove what they are named for")

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) //nolint:forbidigo // this is main
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, errSurvived):
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context) error {
	rows, err := conformance.Read("docs/conformance.md")
	if err != nil {
		return fmt.Errorf("read the document (run this in the module's root): %w", err)
	}
	proofs := map[string][]conformance.Test{}
	for _, row := range rows {
		if len(row.Tests) > 0 {
			proofs[row.ID] = row.Tests
		}
	}
	branches, err := conformance.Branches(".")
	if err != nil {
		return err
	}
	branches = choose(branches, proofs)
	if len(branches) == 0 {
		return errors.New("no such branch")
	}
	start := time.Now()
	if err := checkUnchanged(ctx, branches, proofs); err != nil {
		return err
	}
	work := make(chan *conformance.Branch, len(branches)) // closed here, after the last
	for i := range branches {
		work <- &branches[i]
	}
	close(work)
	done := make(chan mutant, len(branches))
	var group sync.WaitGroup
	for range max(1, *workers) {
		group.Go(func() {
			for b := range work {
				done <- try(ctx, b, proofs)
			}
		})
	}
	defer group.Wait()
	return report(done, len(branches), start)
}

// choose returns the branches to disable.
func choose(branches []conformance.Branch, proofs map[string][]conformance.Test) []conformance.Branch {
	for i := range branches {
		b := &branches[i]
		b.Statements = slices.DeleteFunc(b.Statements, func(id string) bool { return proofs[id] == nil })
	}
	branches = slices.DeleteFunc(branches, func(b conformance.Branch) bool {
		return len(b.Statements) == 0 || *only != "" && !slices.Contains(b.Statements, *only)
	})
	if *all || *only != "" || len(branches) <= *sample {
		return branches
	}
	chosen := make([]conformance.Branch, *sample)
	for i := range chosen {
		chosen[i] = branches[i*len(branches) / *sample]
	}
	return chosen
}

// checkUnchanged demands that all the tests pass while nothing is disabled.
func checkUnchanged(ctx context.Context, branches []conformance.Branch, proofs map[string][]conformance.Test) error {
	var tests []conformance.Test
	for _, b := range branches {
		for _, id := range b.Statements {
			tests = append(tests, proofs[id]...)
		}
	}
	r, err := runTests(ctx, "", tests)
	if err != nil {
		return err
	}
	for _, t := range tests {
		if !r.passed[t] {
			return fmt.Errorf("%s does not pass even before anything is disabled:\n%s", t, r.output)
		}
	}
	return nil
}

// report prints the table, a line as each mutant is done.
func report(done <-chan mutant, n int, start time.Time) error {
	var killed, survived, failed int
	for range n {
		m := <-done
		outcome := "killed"
		switch {
		case m.err != nil:
			failed++
			outcome = "ERROR " + m.err.Error()
		case len(m.survived) > 0:
			survived++
			outcome = "SURVIVED " + strings.Join(m.survived, " ")
		default:
			killed++
		}
		fmt.Printf("%-34s %-9s %s\n", fmt.Sprintf("%s:%d", m.branch.File, m.branch.Line), outcome, m.branch.Code)
	}
	fmt.Printf("%d branches disabled: %d killed, %d survived, %d errors, in %v\n",
		n, killed, survived, failed, time.Since(start).Round(time.Second))
	switch {
	case failed > 0:
		return errors.New("some branches could not be disabled")
	case survived > 0:
		return errSurvived
	}
	return nil
}

package policy

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// Severity says whether a [Diagnostic] stops the policy.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // the files give no Set
	SeverityWarning Severity = "warning" // legal, but hardly meant
)

// Diagnostic is one thing to change in a policy file.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file,omitempty"`
	Line     int      `json:"line,omitempty"`
	Column   int      `json:"column,omitempty"`
	Summary  string   `json:"summary"`
	Detail   string   `json:"detail,omitempty"`
	Snippet  string   `json:"snippet,omitempty"` // the source line and a marker under the place
}

// String returns file:line:column, the summary, and below it the snippet and
// the detail where there are any.
func (d Diagnostic) String() string {
	var b strings.Builder
	if d.File != "" {
		fmt.Fprintf(&b, "%s:", d.File)
		if d.Line > 0 {
			fmt.Fprintf(&b, "%d:%d:", d.Line, d.Column)
		}
		b.WriteByte(' ')
	}
	if d.Severity == SeverityWarning {
		b.WriteString("warning: ")
	}
	b.WriteString(d.Summary)
	for _, more := range []string{d.Snippet, d.Detail} {
		if more != "" {
			b.WriteString("\n" + more)
		}
	}
	return b.String()
}

// Diagnostics are the findings of reading policy files, in order of place.
type Diagnostics []Diagnostic

// HasErrors reports whether one of them is an error.
func (ds Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Severity == SeverityError })
}

// Error returns all of them, one after the other.
func (ds Diagnostics) Error() string {
	lines := make([]string, len(ds))
	for i, d := range ds {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns the errors among them as one error, or nil.
func (ds Diagnostics) Err() error {
	var found Diagnostics
	for _, d := range ds {
		if d.Severity == SeverityError {
			found = append(found, d)
		}
	}
	if found == nil {
		return nil
	}
	return found
}

// In returns them with dir put before each file name.
func (ds Diagnostics) In(dir string) Diagnostics {
	out := slices.Clone(ds)
	for i := range out {
		if out[i].File != "" {
			out[i].File = filepath.Join(dir, out[i].File)
		}
	}
	return out
}

// maxDiagnostics bounds the messages that a hostile or generated file can cause. Errors
// and warnings are bounded apart: no number of warnings may hide an error, which would
// put half a policy in force.
const maxDiagnostics = 100

// report collects diagnostics and knows the sources for their snippets.
type report struct {
	files map[string][]byte
	found Diagnostics

	errors int // how many of found
}

// full reports whether no more errors are told.
func (r *report) full() bool { return r.errors >= maxDiagnostics }

func (r *report) errorf(at hcl.Range, format string, args ...any) {
	r.add(SeverityError, at, fmt.Sprintf(format, args...), "")
}

func (r *report) warnf(at hcl.Range, format string, args ...any) {
	r.add(SeverityWarning, at, fmt.Sprintf(format, args...), "")
}

func (r *report) add(severity Severity, at hcl.Range, summary, detail string) {
	switch {
	case severity != SeverityError && len(r.found)-r.errors >= maxDiagnostics, severity == SeverityError && r.full():
		return
	case severity == SeverityError:
		r.errors++
	}
	r.found = append(r.found, Diagnostic{
		Severity: severity, File: at.Filename, Line: at.Start.Line, Column: at.Start.Column,
		Summary: printable(summary), Detail: printable(detail), Snippet: snippet(r.files[at.Filename], at),
	})
}

// addHCL adds the findings of the HCL parser or evaluator.
func (r *report) addHCL(ds hcl.Diagnostics) {
	for _, d := range ds {
		at := hcl.Range{}
		if d.Subject != nil {
			at = *d.Subject
		}
		severity := SeverityError
		if d.Severity == hcl.DiagWarning {
			severity = SeverityWarning
		}
		r.add(severity, at, d.Summary, d.Detail)
	}
}

// sorted returns the findings in order of place. Errors without a place come first.
func (r *report) sorted() Diagnostics {
	slices.SortStableFunc(r.found, func(a, b Diagnostic) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return r.found
}

// snippetWidth is how much of a line is shown, and snippetLead how much of it
// before the marked place when the line is longer.
const (
	snippetWidth = 120
	snippetLead  = 40
)

// snippet returns the line at which at begins and a row of ^ under it.
func snippet(src []byte, at hcl.Range) string {
	if at.Start.Line < 1 || at.Start.Byte < 0 || at.Start.Byte > len(src) {
		return ""
	}
	begin := bytes.LastIndexByte(src[:at.Start.Byte], '\n') + 1
	end := len(src)
	if n := bytes.IndexByte(src[at.Start.Byte:], '\n'); n >= 0 {
		end = at.Start.Byte + n
	}
	lead := ""
	if end-begin > snippetWidth && at.Start.Byte-begin > snippetLead {
		lead, begin = "…", at.Start.Byte-snippetLead
	}
	end = min(end, begin+snippetWidth)
	before := lead + shown(src[begin:at.Start.Byte])
	marked := shown(src[at.Start.Byte:min(max(at.End.Byte, at.Start.Byte), end)])
	indent := strings.Map(func(c rune) rune {
		if c == '\t' {
			return c // so that the marker stands under its text
		}
		return ' '
	}, before)
	return fmt.Sprintf("%5d | %s%s\n      | %s%s", at.Start.Line, before, shown(src[at.Start.Byte:end]),
		indent, strings.Repeat("^", max(utf8.RuneCountInString(marked), 1)))
}

// shown returns source text as a terminal may show it.
func shown(src []byte) string {
	text := strings.ToValidUTF8(strings.TrimRight(string(src), "\r"), "?")
	parts := strings.Split(text, "\t")
	for i := range parts {
		parts[i] = printable(parts[i])
	}
	return strings.Join(parts, "\t")
}

// printable replaces control characters, so that no input writes to a terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return '?'
		}
		return c
	}, s)
}

// closest returns the candidate that s is probably a misspelling of, or "".
func closest(s string, candidates []string) string {
	best, bestCost := "", max(len(s)/3, 1)+1
	for _, c := range candidates {
		if cost := distance(s, c); cost < bestCost {
			best, bestCost = c, cost
		}
	}
	return best
}

// distance is the number of insertions, deletions and substitutions from a to b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// suggest returns `; did you mean "x"?`, or the list of known words.
func suggest(s string, known []string) string {
	if c := closest(s, known); c != "" {
		return fmt.Sprintf("; did you mean %q?", c)
	}
	return "; known here: " + strings.Join(known, ", ")
}

// asDiagnostics turns an error from outside the files into diagnostics.
func asDiagnostics(err error) Diagnostics {
	if ds, ok := errors.AsType[Diagnostics](err); ok {
		return ds
	}
	return Diagnostics{{Severity: SeverityError, Summary: err.Error()}}
}

package conformance

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Statement is one row of the document.
type Statement struct {
	ID     string // as the specification has it, without "MQTT-": 3.1.2-24
	Who    string // has to obey: S the server, C the client, B both
	Asks   string // in our words
	Tests  []Test // that prove it
	Reason string // why no test can, if there is none
}

// Test names a test or subtest of this module.
type Test struct {
	Package string // below the module's root, such as mqtt/packet
	Name    string // as go test prints it: TestFormat/3.1.2-24
}

// String returns the test as the document writes it.
func (t Test) String() string { return "`" + t.Package + "` `" + t.Name + "`" }

// Split returns the function and the first subtest, which may be empty.
func (t Test) Split() (function, sub string) {
	function, sub, _ = strings.Cut(t.Name, "/")
	return function, sub
}

var (
	rowPattern  = regexp.MustCompile(`^\| (\d+(?:\.\d+)+-\d+) \| ([SCB]) \| (.*?) \| (.*) \|$`)
	testPattern = regexp.MustCompile("`([a-z/]+)` `(Test[^`]+)`")
)

// Read returns the rows of the document.
func Read(file string) ([]Statement, error) {
	doc, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []Statement
	for line := range strings.Lines(string(doc)) {
		m := rowPattern.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		s := Statement{ID: m[1], Who: m[2], Asks: m[3]}
		for _, t := range testPattern.FindAllStringSubmatch(m[4], -1) {
			s.Tests = append(s.Tests, Test{t[1], t[2]})
		}
		if len(s.Tests) == 0 {
			s.Reason = m[4]
		}
		all = append(all, s)
	}
	return all, nil
}

// sections has the last statement of each section of the specification that has
// any. They count from 1, but for skipped.
var sections = map[string]int{
	"1.5.4": 3, "1.5.5": 1, "1.5.7": 1, "2.1.3": 1, "2.2.1": 6, "2.2.2": 1,
	"3.1.0": 2, "3.1.2": 30, "3.1.3": 12, "3.1.4": 6, "3.2.0": 2, "3.2.2": 22,
	"3.3.1": 13, "3.3.2": 20, "3.3.4": 10, "3.4.2": 3, "3.5.2": 3, "3.6.1": 1, "3.6.2": 3, "3.7.2": 3,
	"3.8.1": 1, "3.8.3": 5, "3.8.4": 8, "3.9.2": 2, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2, "3.10.4": 6,
	"3.11.2": 2, "3.11.3": 2, "3.12.4": 1, "3.14.0": 1, "3.14.1": 1, "3.14.2": 4, "3.14.4": 3, "3.15.1": 1, "3.15.2": 3,
	"4.1.0": 2, "4.2": 1, "4.3.1": 1, "4.3.2": 5, "4.3.3": 13, "4.4.0": 2, "4.5.0": 2, "4.6.0": 6,
	"4.7.0": 1, "4.7.1": 2, "4.7.2": 1, "4.7.3": 4, "4.8.2": 6, "4.9.0": 3, "4.12.0": 7, "4.12.1": 2,
	"4.13.1": 1, "4.13.2": 1, "6.0.0": 4,
}

// skipped are numbers that the specification does not use.
var skipped = []string{"2.2.1-1"}

// IDs returns the numbers of all statements of MQTT 5, in their order.
func IDs() []string {
	var ids []string
	for section, last := range sections {
		for n := range last {
			if id := fmt.Sprintf("%s-%d", section, n+1); !slices.Contains(skipped, id) {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}

func compareIDs(a, b string) int {
	split := func(r rune) bool { return r == '.' || r == '-' }
	return slices.CompareFunc(strings.FieldsFunc(a, split), strings.FieldsFunc(b, split), func(x, y string) int {
		m, _ := strconv.Atoi(x) // they are digits
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	})
}

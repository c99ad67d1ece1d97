package hpmq

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promises are the documents whose lists name a test for each item. An empty
// heading means the whole document, and newest its first section.
var promises = []struct{ file, heading string }{
	{"README.md", "## What there is"},
	{"CHANGELOG.md", newest},
	{"docs/limits.md", ""},
	{"docs/security.md", ""},
}

const newest = "## "

var (
	itemStart   = regexp.MustCompile(`^(- |\| )`)
	itemComment = regexp.MustCompile(`<!-- ([^>]*) -->( \|)?$`)
	testName    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)\w*)\(`)
)

// TestPromises wants each promise to name its tests in a comment at its end:
// the name of a Go test, or the file name of a testscript. An item that is no
// promise says <!-- none: REASON -->.
func TestPromises(t *testing.T) {
	known := testNames(t)
	for _, p := range promises {
		items := listItems(section(readFile(t, p.file), p.heading))
		if len(items) == 0 {
			t.Errorf("%s: no items under %q", p.file, p.heading)
		}
		for _, item := range items {
			if fault := promiseFault(item, known); fault != "" {
				t.Errorf("%s: %s: %.80s", p.file, fault, item)
			}
		}
	}
}

func TestPromiseFaults(t *testing.T) {
	known := map[string]bool{"TestA": true, "up.txtar": true}
	for _, tt := range []struct{ text, want string }{
		{"- It works. <!-- TestA -->", ""},
		{"- It works,\n  over two lines.\n  <!-- TestA up.txtar -->", ""},
		{"- [ ] no promise <!-- none: not there yet -->", ""},
		{"| a | works <!-- TestA --> |", ""},
		{"- It works.", "names no test"},
		{"- It <!-- TestA --> works.", "names no test"},
		{"- It works. <!-- none: -->", "gives no reason"},
		{"- It works. <!-- TestA TestB -->", "names TestB, which does not exist"},
		{"- It works. <!-- Test -->", "names Test, which does not exist"},
	} {
		items := listItems(tt.text)
		if len(items) != 1 {
			t.Errorf("%q: %d items", tt.text, len(items))
			continue
		}
		if got := promiseFault(items[0], known); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
}

// TestChangelog wants the newest version to be the one that builds without a tag
// show, and each of its items to stand in a group.
func TestChangelog(t *testing.T) {
	text := readFile(t, "CHANGELOG.md")
	version := firstMatch(t, `(?m)^## (\d+\.\d+\.\d+)\b`, text)
	if got := firstMatch(t, `(?m)^NEXT := (.*)$`, readFile(t, "Makefile")); got != version {
		t.Errorf("Makefile builds %s, the newest version of CHANGELOG.md is %s", got, version)
	}
	for _, main := range []string{"cmd/hpmq/main.go", "cmd/hpmq-enroll/main.go", "cmd/hpmq-lite/main.go"} {
		if got := firstMatch(t, `(?m)^var version = "(.*)-dev"$`, readFile(t, main)); got != version {
			t.Errorf("%s says %s, the newest version of CHANGELOG.md is %s", main, got, version)
		}
	}
	inGroups := 0
	groups := strings.Split("\n"+section(text, newest), "\n### ")
	for _, g := range groups[1:] {
		name, rest, _ := strings.Cut(g, "\n")
		if !slices.Contains([]string{"What an operator must do", "Added", "Changed", "Fixed"}, name) {
			t.Errorf("CHANGELOG.md has a group %q", name)
		}
		inGroups += len(listItems(rest))
	}
	if all := len(listItems(section(text, newest))); inGroups != all || all == 0 {
		t.Errorf("CHANGELOG.md: %d of %d items are in groups", inGroups, all)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// firstMatch returns what the group of pattern matches first.
func firstMatch(t *testing.T, pattern, text string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing matches %s", pattern)
	}
	return m[1]
}

// promiseFault says what is wrong with the comment of an item.
func promiseFault(item string, known map[string]bool) string {
	m := itemComment.FindStringSubmatch(item)
	if m == nil {
		return "names no test"
	}
	if reason, ok := strings.CutPrefix(m[1], "none:"); ok {
		if strings.TrimSpace(reason) == "" {
			return "gives no reason"
		}
		return ""
	}
	for name := range strings.FieldsSeq(m[1]) {
		if !known[name] {
			return "names " + name + ", which does not exist"
		}
	}
	return ""
}

// section returns what stands under heading, up to the next one of its level.
func section(text, heading string) string {
	switch heading {
	case "":
		return text
	case newest:
		_, text, _ = strings.Cut("\n"+text, "\n"+newest)
		text, heading = newest+text, newest+strings.SplitN(text, "\n", 2)[0]
	}
	_, rest, _ := strings.Cut(text, heading+"\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// listItems returns the bullets and table rows of text, each as one line. The
// lines that continue a bullet are indented by two spaces.
func listItems(text string) []string {
	var items []string
	open := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n ")
		switch {
		case line == "| | |" || strings.HasPrefix(line, "|--"):
			open = false
		case itemStart.MatchString(line):
			items, open = append(items, line), true
		case open && strings.HasPrefix(line, "  "):
			items[len(items)-1] += " " + strings.TrimSpace(line)
		default:
			open = false
		}
	}
	return items
}

// testNames returns the names of the tree's tests, fuzz tests, benchmarks and
// testscripts.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	known := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".txtar"):
			known[d.Name()] = true
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range testName.FindAllSubmatch(text, -1) {
				known[string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return known
}

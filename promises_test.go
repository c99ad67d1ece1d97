package hpmq

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// promises are the documents whose lists name a test for each item. An empty
// heading means the whole document.
var promises = []struct{ file, heading string }{
	{"README.md", "## What there is"},
	{"CHANGELOG.md", "## Unreleased"},
	{"docs/security.md", ""},
}

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
		text, err := os.ReadFile(p.file)
		if err != nil {
			t.Fatal(err)
		}
		items := listItems(section(string(text), p.heading))
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
	if heading == "" {
		return text
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

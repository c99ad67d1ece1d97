package policy

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedPolicy puts the examples of docs/policy.md together: they are one
// sound policy without warnings, and its tests pass.
func TestDocumentedPolicy(t *testing.T) {
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	fence, line := "", 0
	var example strings.Builder
	block := regexp.MustCompile(`^\s*(group|grant|deny|binding|test|sites|topics|network|function|limits|certificate)\b.*\{`)
	for text := range strings.Lines(string(page)) {
		line++
		mark, fenced := strings.CutPrefix(text, "```")
		switch {
		case fenced && fence == "":
			fence = strings.TrimSpace(mark)
		case fenced:
			files[fmt.Sprintf("line-%d.hcl", line)] = []byte(example.String())
			fence = ""
			example.Reset()
		case fence == "hcl":
			example.WriteString(text)
		case block.MatchString(text):
			t.Errorf("line %d is policy outside of an example, which no test reads: %s", line, text)
		}
	}
	s, found := Check(files, "")
	if len(found) > 0 {
		t.Fatal(found)
	}
	for _, word := range append(append(append([]string{}, topBlocks...), topAttributes...), questionWords...) {
		if !strings.Contains(string(page), word) {
			t.Errorf("the page does not have %q", word)
		}
	}
	if n := len(s.RunTests()); n < 10 {
		t.Errorf("the examples have %d test lines", n)
	}
}

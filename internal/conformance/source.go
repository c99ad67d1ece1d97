package conformance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Check returns what is wrong with the rows: a statement that is missing, there
// twice, or has neither test nor reason, and a test that is not in the source
// below root or does not name its statement.
func Check(root string, rows []Statement) ([]string, error) {
	var wrong []string
	var ids []string
	sources := map[string]tests{}
	for _, row := range rows {
		ids = append(ids, row.ID)
		if len(row.Tests) == 0 && row.Reason == "" {
			wrong = append(wrong, row.ID+" has neither a test nor a reason")
		}
		for _, t := range row.Tests {
			source, known := sources[t.Package]
			if !known {
				var err error
				if source, err = readTests(filepath.Join(root, t.Package)); err != nil {
					return nil, err
				}
				sources[t.Package] = source
			}
			if w := source.check(t, row.ID); w != "" {
				wrong = append(wrong, fmt.Sprintf("%s: %s %s", row.ID, t, w))
			}
		}
	}
	all := IDs()
	for _, id := range all {
		if n := len(slices.DeleteFunc(slices.Clone(ids), func(x string) bool { return x != id })); n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s has %d rows, want 1", id, n))
		}
	}
	for _, id := range ids {
		if !slices.Contains(all, id) {
			wrong = append(wrong, "the specification has no statement "+id)
		}
	}
	return wrong, nil
}

// tests are the test functions of a package, by name.
type tests map[string]testFunc

type testFunc struct {
	text string   // its source with all comments
	subs []string // its strings, written as the names of subtests
}

func readTests(dir string) (tests, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	found := tests{}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, file, src, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				found[fn.Name.Name] = newTestFunc(fset, fn, src)
			}
		}
	}
	return found, nil
}

func newTestFunc(fset *token.FileSet, fn *ast.FuncDecl, src []byte) testFunc {
	from := fn.Pos()
	if fn.Doc != nil {
		from = fn.Doc.Pos()
	}
	t := testFunc{text: string(src[fset.Position(from).Offset:fset.Position(fn.End()).Offset])}
	ast.Inspect(fn, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				t.subs = append(t.subs, strings.ReplaceAll(s, " ", "_"))
			}
		}
		return true
	})
	return t
}

// check says what is wrong with t as the proof of a statement.
func (ts tests) check(t Test, id string) string {
	function, sub := t.Split()
	f, ok := ts[function]
	switch {
	case !ok:
		return "does not exist"
	case sub != "" && !slices.Contains(f.subs, sub):
		return "has no such subtest"
	case !names(f.text, id):
		return "does not name the statement"
	}
	return ""
}

// names reports whether text has id and not just a longer number.
func names(text, id string) bool {
	return regexp.MustCompile(`(^|[^\d.])` + regexp.QuoteMeta(id) + `($|\D)`).MatchString(text)
}

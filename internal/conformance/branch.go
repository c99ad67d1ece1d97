package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// packages are those whose branches name statements.
var packages = []string{"mqtt", "mqtt/packet", "mqtt/topic", "mqtt/store", "mqtt/websocket"}

// Branch is a statement of Go that obeys statements of the specification. The
// comment that says so begins with their numbers, as in // [MQTT-3.1.2-24], and
// stands on the line where the branch begins, or alone on the line above.
type Branch struct {
	Package    string
	File       string // below the module's root
	Line       int
	Statements []string
	Code       string // its first line

	edits []edit // that disable it
}

// edit puts text into the file.
type edit struct {
	offset int
	text   string
}

var (
	markPattern = regexp.MustCompile(`^// ((?:\[MQTT-[\d.]+-\d+\] ?)+)`)
	idPattern   = regexp.MustCompile(`\[MQTT-([\d.]+-\d+)\]`)
)

// Branches returns the marked branches of the packages below root, in the order
// of the files and lines.
func Branches(root string) ([]Branch, error) {
	var all []Branch
	for _, pkg := range packages {
		files, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			found, err := branchesOf(file)
			if err != nil {
				return nil, err
			}
			for i := range found {
				found[i].Package, found[i].File = pkg, filepath.Join(pkg, filepath.Base(file))
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

func branchesOf(file string) ([]Branch, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(src), "\n")
	marks := map[int][]string{} // by the line of the branch
	for _, group := range f.Comments {
		for _, c := range group.List {
			m := markPattern.FindStringSubmatch(c.Text)
			if m == nil {
				continue
			}
			line := fset.Position(c.Pos()).Line
			if strings.HasPrefix(strings.TrimSpace(lines[line-1]), "//") {
				line = fset.Position(group.End()).Line + 1
			}
			for _, id := range idPattern.FindAllStringSubmatch(m[1], -1) {
				marks[line] = append(marks[line], id[1])
			}
		}
	}
	var found []Branch
	ast.Inspect(f, func(n ast.Node) bool {
		if n == nil {
			return true
		}
		line := fset.Position(n.Pos()).Line
		ids := marks[line]
		if len(ids) == 0 {
			return true
		}
		edits := disable(n, func(p token.Pos) int { return fset.Position(p).Offset })
		if edits == nil {
			return true
		}
		delete(marks, line) // the outermost one
		found = append(found, Branch{Line: line, Statements: ids, Code: strings.TrimSpace(lines[line-1]), edits: edits})
		return true
	})
	slices.SortFunc(found, func(a, b Branch) int { return a.Line - b.Line })
	return found, nil
}

// disable returns the edits after which a branch is never taken, or nil for what
// is no branch. They keep every name in use, so that the rest still compiles.
func disable(n ast.Node, offset func(token.Pos) int) []edit {
	around := func(from, to token.Pos, before, after string) []edit {
		return []edit{{offset(from), before}, {offset(to), after}}
	}
	switch n := n.(type) {
	case *ast.IfStmt:
		return around(n.Cond.Pos(), n.Cond.End(), "false && (", ")")
	case *ast.CaseClause:
		if len(n.Body) == 0 {
			return nil
		}
		return around(n.Body[0].Pos(), n.Body[len(n.Body)-1].End(), "if false {", "}")
	case *ast.AssignStmt:
		if n.Tok == token.DEFINE {
			return nil
		}
		return around(n.Pos(), n.End(), "if false {", "}")
	case *ast.ExprStmt, *ast.IncDecStmt, *ast.ReturnStmt, *ast.BranchStmt, *ast.DeferStmt, *ast.SendStmt,
		*ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt, *ast.SelectStmt:
		return around(n.Pos(), n.End(), "if false {", "}")
	}
	return nil
}

// Mutant returns the branch's file, below root, with the branch disabled.
func (b *Branch) Mutant(root string) ([]byte, error) {
	src, err := os.ReadFile(filepath.Join(root, b.File))
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Backward(b.edits) {
		src = slices.Concat(src[:e.offset], []byte(e.text), src[e.offset:])
	}
	return src, nil
}

package hpmq

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// whereRow is a row of "Where things live": a question, a file, a function.
var whereRow = regexp.MustCompile("^\\| (.+) \\| `([^`]+\\.go)` \\| `([^`]+)` \\|$")

// TestWhereThingsLive: each row of the table in docs/architecture.md names a function
// that its file declares.
func TestWhereThingsLive(t *testing.T) {
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n## Where things live\n")
	if !found {
		t.Fatal("docs/architecture.md has no section Where things live")
	}
	rows := 0
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "## ") {
			break
		}
		row := whereRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			continue
		}
		rows++
		declared, err := functionsOf(row[2])
		if err != nil {
			t.Errorf("%s: %v", row[1], err)
			continue
		}
		if !declared[row[3]] {
			t.Errorf("%s: %s does not declare %s", row[1], row[2], row[3])
		}
	}
	if rows < 30 {
		t.Errorf("%d rows, want 30", rows)
	}
}

// functionsOf returns the functions that a file declares: Name, and Type.Name for
// methods.
func functionsOf(path string) (map[string]bool, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	declared := map[string]bool{}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			receiver := f.Recv.List[0].Type
			if star, ok := receiver.(*ast.StarExpr); ok {
				receiver = star.X
			}
			if generic, ok := receiver.(*ast.IndexListExpr); ok {
				receiver = generic.X
			}
			if of, ok := receiver.(*ast.Ident); ok {
				name = of.Name + "." + name
			}
		}
		declared[name] = true
	}
	return declared, nil
}

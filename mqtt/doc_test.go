package mqtt

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// steps are the functions that the package comment's list names, by their file.
var steps = regexp.MustCompile(`\((\w+)\.(\w+) in\s+([\w/]+\.go)\)`)

// TestPathOfAPublish checks that the steps of the package comment are where it says,
// and in that order in each file.
func TestPathOfAPublish(t *testing.T) {
	files := token.NewFileSet()
	parse := func(name string) *ast.File {
		f, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	_, list, _ := strings.Cut(parse("doc.go").Doc.Text(), "# The path of a publish")
	list, _, _ = strings.Cut(list, "The pipeline itself")
	items := regexp.MustCompile(`(?m)^ +\d+\. `).Split(list, -1)[1:]
	if len(items) != 10 {
		t.Fatalf("%d steps, want 10", len(items))
	}
	last := map[string]token.Pos{} // by file
	for i, item := range items {
		named := steps.FindAllStringSubmatch(item, -1)
		if len(named) == 0 {
			t.Errorf("step %d names no function", i+1)
		}
		for _, n := range named {
			receiver, name, file := n[1], n[2], n[3]
			if last[file] == 0 {
				last[file] = parse(file).Pos()
			}
			at := findMethod(parse(file), receiver, name)
			switch {
			case at == 0:
				t.Errorf("step %d: %s declares no %s.%s", i+1, file, receiver, name)
			case lineOf(files, at) <= lineOf(files, last[file]):
				t.Errorf("step %d: %s.%s stands before an earlier step", i+1, receiver, name)
			}
			last[file] = at
		}
	}
}

func lineOf(files *token.FileSet, p token.Pos) int { return files.Position(p).Line }

// findMethod returns where f declares a method, or 0.
func findMethod(f *ast.File, receiver, name string) token.Pos {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Name.Name == name && fn.Recv != nil && fmt.Sprint(receiverType(fn.Recv)) == receiver {
			return fn.Pos()
		}
	}
	return 0
}

func receiverType(receiver *ast.FieldList) ast.Expr {
	t := receiver.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		return p.X
	}
	return t
}

// TestEndsAreListed checks that the functions that the head of end.go lists are
// declared in this package.
func TestEndsAreListed(t *testing.T) {
	files := token.NewFileSet()
	end, err := parser.ParseFile(files, "end.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var list string
	for _, c := range end.Comments {
		if strings.HasPrefix(c.Text(), "How a connection ends") {
			list = c.Text()
		}
	}
	named := regexp.MustCompile(`\b[a-z]+[A-Z]\w+`).FindAllString(list, -1)
	if len(named) < 10 {
		t.Fatalf("%d functions are listed: %q", len(named), named)
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, name := range sources {
		f, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				declared[fn.Name.Name] = true
			}
		}
	}
	for _, name := range named {
		if !declared[name] {
			t.Errorf("end.go lists %s, which is not declared", name)
		}
	}
}

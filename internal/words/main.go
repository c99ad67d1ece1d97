// Words shows where comments could name a noun, and where a name could say more.
// For each package it prints how many of the words below stand in 1,000 words of
// its comments, and the methods that several of its types have, but for those
// that an interface asks for. Tests do not count. It is a compass, not a gate.
//
//	go run ./internal/words [DIR]
package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// vague are words that stand for a noun.
var vague = []string{
	"what", "who", "whom", "whose", "whoever", "whatever", "those",
	"nobody", "somebody", "everybody", "others",
}

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	packages, err := read(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "words:", err)
		os.Exit(1)
	}
	report(os.Stdout, packages)
}

// count is what the comments and declarations of a package hold.
type count struct {
	words, vague int
	methods      map[string][]string // receivers by the method's name
}

func (c *count) perThousand() float64 { return 1000 * float64(c.vague) / float64(max(c.words, 1)) }

// read counts the packages under root by their directory. Methods of the
// interfaces that are declared there, or that the standard library asks for, are
// left out.
func read(root string) (map[string]*count, error) {
	packages, asked := map[string]*count{}, map[string]bool{}
	for _, name := range []string{"Close", "Read", "Write", "String", "Error", "Unwrap", "Is", "Format", "ServeHTTP", "Len", "Less", "Swap", "Set", "Type"} {
		asked[name] = true
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parse: %w", err)
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if packages[dir] == nil {
			packages[dir] = &count{methods: map[string][]string{}}
		}
		packages[dir].add(file, asked)
		return nil
	})
	for _, c := range packages {
		maps.DeleteFunc(c.methods, func(name string, receivers []string) bool { return asked[name] || len(receivers) < 2 })
	}
	return packages, err
}

// add counts a file, and puts the methods of its interfaces into asked.
func (c *count) add(file *ast.File, asked map[string]bool) {
	for _, group := range file.Comments {
		for _, w := range strings.FieldsFunc(group.Text(), func(r rune) bool { return !unicode.IsLetter(r) && r != '\'' }) {
			c.words++
			if slices.Contains(vague, strings.ToLower(w)) {
				c.vague++
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.InterfaceType:
			for _, f := range n.Methods.List {
				for _, name := range f.Names {
					asked[name.Name] = true
				}
			}
		case *ast.FuncDecl:
			if n.Recv != nil {
				c.methods[n.Name.Name] = append(c.methods[n.Name.Name], receiver(n.Recv.List[0].Type))
			}
		}
		return true
	})
}

// receiver returns the name of the type that a method belongs to.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

// report prints the packages with the most vague words first, then the methods.
func report(out io.Writer, packages map[string]*count) {
	var all count
	for _, c := range packages {
		all.words += c.words
		all.vague += c.vague
	}
	fmt.Fprintf(out, "per 1,000   words  package\n%9.1f  %6d  all\n", all.perThousand(), all.words)
	for _, dir := range slices.SortedFunc(maps.Keys(packages), func(a, b string) int {
		return cmp.Or(cmp.Compare(packages[b].perThousand(), packages[a].perThousand()), cmp.Compare(a, b))
	}) {
		fmt.Fprintf(out, "%9.1f  %6d  %s\n", packages[dir].perThousand(), packages[dir].words, dir)
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		methods := packages[dir].methods
		for i, name := range slices.Sorted(maps.Keys(methods)) {
			if i == 0 {
				fmt.Fprintf(out, "\n%s\n", dir)
			}
			fmt.Fprintf(out, "  %-20s %s\n", name, strings.Join(methods[name], ", "))
		}
	}
}

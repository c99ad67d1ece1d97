package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"a/a.go":          "// Package a tells what others do.\npackage a\n\ntype asker interface{ Ask() }\n\nfunc (x *p) hold() {}\nfunc (x q[T]) hold() {} // Whose?\nfunc (p) Ask()  {}\nfunc (q[T]) Ask() {}\nfunc (p) once() {}\n",
		"a/a_test.go":     "package a // what who whom\n",
		"a/testdata/x.go": "no Go",
		"b/b.go":          "package b // a somewhat who's word\n\nfunc (p) hold() {}\n",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := read(root)
	if err != nil {
		t.Fatal(err)
	}
	a, b := got[filepath.ToSlash(filepath.Join(root, "a"))], got[filepath.ToSlash(filepath.Join(root, "b"))]
	if len(got) != 2 || a == nil || b == nil {
		t.Fatalf("packages: %q", slices.Collect(maps.Keys(got)))
	}
	if a.words != 7 || a.vague != 3 || b.words != 4 || b.vague != 0 {
		t.Errorf("a: %d of %d words, want 3 of 7; b: %d of %d, want 0 of 4", a.vague, a.words, b.vague, b.words)
	}
	if diff := cmp.Diff(map[string][]string{"hold": {"p", "q"}}, a.methods); diff != "" {
		t.Error(diff)
	}
	if len(b.methods) != 0 {
		t.Errorf("b: %q", b.methods)
	}
}

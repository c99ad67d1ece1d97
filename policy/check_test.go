package policy

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the expected answers in testdata")

// eachArchive runs f on every archive of testdata/dir and compares the result with the
// archive's file "want".
func eachArchive(t *testing.T, dir string, f func(t *testing.T, files map[string][]byte) string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives in %s: %v", dir, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{}
			want := -1
			for i, file := range a.Files {
				if file.Name == "want" {
					want = i
					continue
				}
				files[file.Name] = file.Data
			}
			got := f(t, files)
			if *update {
				a.Files[want].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(a.Files[want].Data), got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	eachArchive(t, "check", func(t *testing.T, files map[string][]byte) string {
		s, found := Check(files, "lab.test")
		if (s == nil) != found.HasErrors() {
			t.Errorf("set is nil: %v, has errors: %v", s == nil, found.HasErrors())
		}
		if len(found) == 0 {
			return ""
		}
		return found.Error() + "\n"
	})
}

func TestDefaultPolicyIsSound(t *testing.T) {
	s, found := Check(map[string][]byte{"main.hcl": Default()}, "lab.test")
	if len(found) > 0 {
		t.Fatal(found)
	}
	if n := len(s.RunTests()); n < 15 {
		t.Errorf("only %d test lines", n)
	}
}

// TestDefaultPolicyExamples takes the comment signs off the examples: an example that a
// beginner uncomments must work.
func TestDefaultPolicyExamples(t *testing.T) {
	var b strings.Builder
	for line := range strings.Lines(string(Default())) {
		code, commented := strings.CutPrefix(line, "# ")
		word, _, _ := strings.Cut(code, " ")
		if commented && (strings.HasPrefix(code, " ") || word == "grant" || word == "deny" || word == "binding" || code == "}\n") &&
			!strings.HasPrefix(code, "  hpmq ") {
			line = code
		}
		b.WriteString(line)
	}
	s, found := Check(map[string][]byte{"main.hcl": []byte(b.String())}, "lab.test")
	if len(found) > 0 {
		t.Fatal(found)
	}
	if got := len(s.AllBindings()); got != 1 {
		t.Errorf("%d bindings, want the example", got)
	}
	if d := s.Connect(subject(t, "user:tech@vendor.example"), subject(t, "device:pump-7"), "tcp", 8080); !d.Allowed {
		t.Error(d.Reason())
	}
}

func TestNestingIsBounded(t *testing.T) {
	for name, src := range map[string]string{
		"parentheses":    "version = " + strings.Repeat("(", 1e5),
		"brackets":       "version = " + strings.Repeat("[", 1e5),
		"blocks":         strings.Repeat("a {\n", 1e5),
		"not":            "version = " + strings.Repeat("!", 1e5),
		"minus":          "version = " + strings.Repeat("-", 1e5),
		"sum":            "version = 1" + strings.Repeat("+1", 1e5),
		"conditional":    "version = " + strings.Repeat("a?b:", 1e5),
		"interpolation":  "version = " + strings.Repeat(`"${`, 1e5),
		"splat":          "version = a" + strings.Repeat("[*]", 1e5),
		"attribute path": "version = a" + strings.Repeat(".a", 1e5),
	} {
		t.Run(name, func(t *testing.T) {
			if s, found := Load(map[string][]byte{"a.hcl": []byte(src)}, "lab.test"); s != nil || !found.HasErrors() {
				t.Error("accepted")
			}
		})
	}
}

func TestLintReserved(t *testing.T) {
	s, found := Check(map[string][]byte{"main.hcl": []byte(`version = 2
grant "mixed" {
  to = ["device:*", "site:*"]
  topics {
    publish   = ["$x/${id.name}", "a"]
    subscribe = ["$x/#", "b/#"]
    receive   = ["a"]
  }
}
deny "mixed" {
  to = ["device:*"]
  topics { publish = ["$x/y"] }
}
`)}, "lab.test")
	if s == nil {
		t.Fatal(found)
	}
	found = s.LintReserved(func(action, filter string) string {
		if strings.HasPrefix(filter, "$x/") {
			return "no " + action
		}
		return ""
	})
	want := []string{
		`grant "mixed" publishes "$x/${id.name}", which can never hold: no publish`,
		`grant "mixed" subscribes "$x/#", which can never hold: no subscribe`,
	}
	var got []string
	for _, d := range found {
		got = append(got, d.Summary)
	}
	if diff := cmp.Diff(want, got); diff != "" || found.HasErrors() {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

package policy

import (
	"fmt"
	"strings"
	"testing"
)

// TestErrorsBehindWarnings has more warnings than are told. An error after them still
// keeps the policy out of force, and the text after them is still read.
func TestErrorsBehindWarnings(t *testing.T) {
	var warnings strings.Builder
	for i := range maxDiagnostics + 10 {
		fmt.Fprintf(&warnings, "group \"g%d\" { members = [\"device:.%d\"] }\n", i, i) // no identity can have such a name
	}
	const grant = `
grant "all" {
  to = ["*"]
  topics { publish = ["#"] }
}
`
	for name, rest := range map[string]string{
		"a filter":       "deny \"valves\" {\n to = [\"*\"]\n topics { publish = [\"valve/#/set\"] }\n}",
		"a group":        "deny \"valves\" {\n to = [\"group:nobody\"]\n topics { publish = [\"valve/#\"] }\n}",
		"a condition":    "deny \"valves\" {\n to = [\"*\"]\n when = upper(\"x\") == \"X\"\n topics { publish = [\"valve/#\"] }\n}",
		"a failing test": "test \"valves\" {\n as = { id = \"device:a\" }\n deny = [\"publish valve/set\"]\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s, found := Check(map[string][]byte{"main.hcl": []byte(warnings.String() + grant + rest)}, "lab.test")
			if s != nil || !found.HasErrors() {
				t.Errorf("in force, with %d diagnostics", len(found))
			}
			if len(found) > 2*maxDiagnostics {
				t.Errorf("%d diagnostics", len(found))
			}
		})
	}
	const deny = `
group "valves" { members = ["device:valve-1"] }
deny "valves" {
  to = ["group:valves"]
  topics { publish = ["valve/#"] }
}
`
	s, found := Check(map[string][]byte{"main.hcl": []byte(warnings.String() + grant + deny)}, "lab.test")
	if s == nil {
		t.Fatal(found)
	}
	if s.Session(subject(t, "device:valve-1")).Publish("valve/set", 0, false, 0).Allowed {
		t.Error("a deny behind the warnings concerns nobody")
	}
}

package hpmq

import (
	"slices"
	"testing"

	"github.com/hpmq/hpmq/internal/conformance"
)

func TestConformanceDocument(t *testing.T) {
	rows, err := conformance.Read("docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	if got := len(conformance.IDs()); got != 251 {
		t.Errorf("%d statements, want 251", got)
	}
	wrong, err := conformance.Check(".", rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
	broken := slices.Clone(rows)
	broken[0].Tests = []conformance.Test{{Package: "mqtt", Name: "TestNothing"}}
	broken[1].Tests = []conformance.Test{{Package: "mqtt", Name: "TestBrokenPackets/nothing"}}
	broken[2].ID = broken[3].ID
	if got, err := conformance.Check(".", broken); err != nil || len(got) < len(wrong)+4 {
		t.Errorf("the check does not see what is wrong: %v, %v", got, err)
	}
}

func TestBranchesNameKnownStatements(t *testing.T) {
	branches, err := conformance.Branches(".")
	if err != nil {
		t.Fatal(err)
	}
	ids := conformance.IDs()
	for _, b := range branches {
		for _, id := range b.Statements {
			if !slices.Contains(ids, id) {
				t.Errorf("%s:%d names %s, which does not exist", b.File, b.Line, id)
			}
		}
	}
	if len(branches) < 100 {
		t.Errorf("only %d branches name their statements", len(branches))
	}
}

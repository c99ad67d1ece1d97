package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const marked = `package mqtt

// f is no branch [MQTT-1.5.4-3].
func f(a, b int) int {
	if a > b { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]: too large
		return 1
	}
	switch {
	// [MQTT-3.3.1-4]
	case a == 3:
		b++
		a--
	}
	x := a // [MQTT-3.3.1-5]
	x = b // [MQTT-3.3.1-6]
	return x // see [MQTT-3.3.1-7]
}
`

const disabled = `package mqtt

// f is no branch [MQTT-1.5.4-3].
func f(a, b int) int {
	if false && (a > b) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]: too large
		return 1
	}
	switch {
	// [MQTT-3.3.1-4]
	case a == 3:
		if false {b++
		a--}
	}
	x := a // [MQTT-3.3.1-5]
	if false {x = b} // [MQTT-3.3.1-6]
	return x // see [MQTT-3.3.1-7]
}
`

func TestBranches(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "mqtt"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "mqtt", "f.go")
	if err := os.WriteFile(file, []byte(marked), 0o600); err != nil {
		t.Fatal(err)
	}
	branches, err := Branches(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range branches {
		got = append(got, b.Statements...)
	}
	if want := []string{"3.1.2-24", "3.1.2-25", "3.3.1-4", "3.3.1-6"}; !slices.Equal(got, want) {
		t.Fatalf("branches of %v, want %v", got, want)
	}
	for i := range slices.Backward(branches) { // from the end, so that the others stay where they are
		mutant, err := branches[i].Mutant(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, mutant, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(disabled, string(src)); diff != "" {
		t.Errorf("all disabled (-want +got):\n%s", diff)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	for text, want := range map[string]bool{
		"3.1.2-2": true, "[MQTT-3.1.2-2]": true, "3.1.2-2 3.1.2-3": true,
		"3.1.2-24": false, "13.1.2-2": false, "3.3.1.2-2": false,
	} {
		if got := names(text, "3.1.2-2"); got != want {
			t.Errorf("%q names 3.1.2-2: %v", text, got)
		}
	}
	all := IDs()
	if len(all) != 251 || all[0] != "1.5.4-1" || all[250] != "6.0.0-4" || !slices.IsSortedFunc(all, compareIDs) {
		t.Errorf("%d statements from %s to %s", len(all), all[0], all[len(all)-1])
	}
}

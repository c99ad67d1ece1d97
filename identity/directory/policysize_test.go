package directory

import (
	"fmt"
	"strings"
	"testing"
)

// TestCheckPolicySize: files fit exactly when Put takes them.
func TestCheckPolicySize(t *testing.T) {
	many := map[string][]byte{}
	for i := range 5000 {
		many[fmt.Sprint(i, ".hcl")] = nil
	}
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"small", map[string][]byte{"main.hcl": []byte("version = 1")}, ""},
		{"none", nil, ""},
		{"nearly too large", map[string][]byte{"main.hcl": make([]byte, maxPolicyPayload-100)}, ""},
		{"too large", map[string][]byte{"main.hcl": make([]byte, maxPolicyPayload)}, "at most 1048576 fit"},
		{"too many", many, "max"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckPolicySize(tt.files)
			if got := fmt.Sprint(err); (err == nil) != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			_, err = newWriter(t).Put(Policy{Version: 1, Files: tt.files, Hash: HashFiles(tt.files)})
			if (err == nil) != (tt.want == "") {
				t.Errorf("put: %v", err)
			}
		})
	}
}

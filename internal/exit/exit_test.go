package exit

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/hpmq/hpmq/node/control"
)

func TestReport(t *testing.T) {
	denied := &control.Error{Code: control.Denied, Err: errors.New("no"), Hint: "ask"}
	for _, tt := range []struct {
		err        error
		code       int
		text, json string
	}{
		{nil, OK, "", ""},
		{Status(27), 27, "", ""},
		{fmt.Errorf("end: %w", Status(4)), 4, "", ""},
		{errors.New("a\nb"), Failure, "p: a\n  b\n", `{"error":"a\nb","code":"failed"}` + "\n"},
		{denied, Denied, "p: no\nhint: ask\n", `{"error":"no","hint":"ask","code":"denied"}` + "\n"},
		{fmt.Errorf("try: %w", denied), Denied, "p: try: no\nhint: ask\n", `{"error":"try: no","hint":"ask","code":"denied"}` + "\n"},
		{control.Invalidf("x"), Usage, "p: x\n", `{"error":"x","code":"invalid"}` + "\n"},
		{control.Fail(control.Unreachable, "", errors.New("x")), Unreachable, "p: x\n", `{"error":"x","code":"unreachable"}` + "\n"},
		{control.Fail(control.NotFound, "", errors.New("x")), NotFound, "p: x\n", `{"error":"x","code":"not_found"}` + "\n"},
		{control.Fail(control.Conflict, "", errors.New("x")), Conflict, "p: x\n", `{"error":"x","code":"conflict"}` + "\n"},
		{control.Fail("strange", "", errors.New("x")), Failure, "p: x\n", `{"error":"x","code":"strange"}` + "\n"},
	} {
		var text, asJSON strings.Builder
		if code := Report(&text, "p", tt.err, false); code != tt.code || text.String() != tt.text {
			t.Errorf("%v: exit code %d and %q, want %d and %q", tt.err, code, text.String(), tt.code, tt.text)
		}
		if code := Report(&asJSON, "p", tt.err, true); code != tt.code || asJSON.String() != tt.json {
			t.Errorf("%v: exit code %d and %q, want %d and %q", tt.err, code, asJSON.String(), tt.code, tt.json)
		}
	}
	var full strings.Builder
	Report(&full, "p", fmt.Errorf("write: %w", syscall.ENOSPC), false)
	if !strings.Contains(full.String(), "hint: the disk is full") {
		t.Errorf("a full disk is reported as %q", full.String())
	}
}

// Package exit ends the programs of HPMQ: it prints an error and chooses the exit
// code, by the error's code (package node/control). The codes are the same for
// every program and every command.
package exit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/hpmq/hpmq/node/control"
)

// The exit codes.
const (
	OK          = 0
	Failure     = 1
	Usage       = 2 // the command line, or a file or ticket on it, is wrong
	Unreachable = 3 // a node, a broker or an agent does not answer
	Denied      = 4 // a policy, a certificate or a ticket refuses it
	NotFound    = 5
	Conflict    = 6
)

var codes = map[control.Code]int{
	control.Failed:      Failure,
	control.Invalid:     Usage,
	control.Unreachable: Unreachable,
	control.Denied:      Denied,
	control.NotFound:    NotFound,
	control.Conflict:    Conflict,
}

// Status is an error that ends a program with an exit code of its own, and without a
// message.
type Status int

// Error implements [error].
func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Code is the exit code of err.
func Code(err error) int {
	if err == nil {
		return OK
	}
	if status, ok := errors.AsType[Status](err); ok {
		return int(status)
	}
	if e, ok := errors.AsType[*control.Error](err); ok && codes[e.Code] != 0 {
		return codes[e.Code]
	}
	return Failure
}

// Report prints err to w, for people or as JSON, and returns its exit code.
func Report(w io.Writer, program string, err error, asJSON bool) int {
	code := Code(err)
	if _, silent := errors.AsType[Status](err); silent || err == nil {
		return code
	}
	e := &control.Error{Code: control.Failed, Err: err}
	if inner, ok := errors.AsType[*control.Error](err); ok {
		e.Code, e.Hint = inner.Code, inner.Hint
	}
	if e.Hint == "" {
		e.Hint = remedy(err)
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(e) // there is nowhere else to say it
		return code
	}
	fmt.Fprintf(w, "%s: %s\n", program, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
	return code
}

// remedy is the hint for an error of the operating system.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk is full: make room there and run it again, what was begun is finished"
	case errors.Is(err, syscall.EROFS):
		return "the file system is mounted read-only: choose another directory, or mount it read-write"
	case errors.Is(err, fs.ErrPermission):
		return "this user may not do that: choose another directory, or run it as the directory's owner"
	}
	return ""
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/hpmq/hpmq/node/control"
)

// Exit codes, the same for every command.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2 // the command line or a file given on it is wrong
	exitReach    = 3 // the node or broker does not answer
	exitDenied   = 4 // policy, certificate or ticket says no
	exitNotFound = 5
	exitConflict = 6
	exitTimeout  = 27 // sub -W: mosquitto_sub says the same
)

// exitCodes are the exit codes of the kinds of errors.
var exitCodes = map[control.Code]int{
	control.Failed:      exitFailure,
	control.Invalid:     exitUsage,
	control.Unreachable: exitReach,
	control.Denied:      exitDenied,
	control.NotFound:    exitNotFound,
	control.Conflict:    exitConflict,
}

// exitStatus ends the program with an exit code and without a message.
type exitStatus int

// Error implements [error].
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report prints err, as JSON or for people, and returns the exit code.
func report(w io.Writer, err error, asJSON bool) int {
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	e := &control.Error{Code: control.Failed, Err: err}
	if inner, ok := errors.AsType[*control.Error](err); ok {
		e.Code, e.Hint = inner.Code, inner.Hint
	}
	if e.Hint == "" {
		e.Hint = remedy(err)
	}
	code, ok := exitCodes[e.Code]
	if !ok {
		code = exitFailure
	}
	if asJSON {
		_ = newEncoder(w).Encode(e) // there is nowhere else to say it
		return code
	}
	fmt.Fprintf(w, "hpmq: %v\n", err)
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
	return code
}

// remedy is the hint for what the system refuses, whoever asked it.
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

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
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

// failure is an error with an exit code and, where there is one, what to do.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// fail wraps err for the exit code; a failure inside err keeps its own.
func fail(code int, hint string, err error) error {
	if inner, ok := errors.AsType[*failure](err); ok {
		return &failure{code: inner.code, err: err, hint: inner.hint}
	}
	return &failure{code: code, err: err, hint: hint}
}

// usagef is a mistake on the command line.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
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

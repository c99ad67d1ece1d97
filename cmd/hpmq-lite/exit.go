package main

import "fmt"

// Exit codes, those of hpmq.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2 // the command line is wrong
	exitReach    = 3 // the agent does not run
	exitDenied   = 4 // this identity may not be an agent
	exitNotFound = 5 // no identity here
	exitConflict = 6 // another agent runs here
)

// failure is an error with an exit code and, where there is one, what to do.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usagef is a mistake on the command line.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...), hint: "see hpmq-lite --help"}
}

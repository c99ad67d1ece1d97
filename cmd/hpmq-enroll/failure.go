package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"github.com/hpmq/hpmq/identity"
)

// Exit codes, the same for every command of HPMQ.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2 // the command line or the ticket on it is wrong
	exitReach    = 3 // no node of the ticket answers
	exitDenied   = 4 // the authority says no, or the ticket is over
	exitNotFound = 5
	exitConflict = 6
)

// failure is an error with an exit code and what to do about it.
type failure struct {
	code int
	text string
	hint string
}

func (f *failure) Error() string { return f.text }

func usageError(text string) error {
	return &failure{exitUsage, text, "hpmq-enroll --help"}
}

// report prints err as people and scripts expect it and returns the exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	code, hint := judge(err)
	fmt.Fprintf(stderr, "hpmq-enroll: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return code
}

// judge chooses the exit code and the hint of an error.
func judge(err error) (code int, hint string) {
	if own, ok := errors.AsType[*failure](err); ok {
		return own.code, own.hint
	}
	if refusal, ok := errors.AsType[*identity.APIError](err); ok {
		return refusalCode(refusal.Status), refusal.Hint
	}
	switch {
	case errors.Is(err, identity.ErrNotTicket):
		return exitUsage, `a ticket is made with "hpmq enroll ticket --name NAME"; see hpmq-enroll --help`
	case errors.Is(err, identity.ErrTicketDamaged):
		return exitUsage, ""
	case errors.Is(err, identity.ErrTicketExpired):
		return exitDenied, ""
	case errors.Is(err, identity.ErrUnreachable):
		return exitReach, "is the node running, and is its TLS port open from here? A ticket names the node's --advertise address"
	case errors.Is(err, identity.ErrBusy):
		return exitConflict, "wait for it to end"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return exitFailure, "the disk is full: make room there and run it again, with the same ticket"
	case errors.Is(err, fs.ErrPermission):
		return exitFailure, "choose a directory of yours: --out DIR"
	}
	return exitFailure, ""
}

func refusalCode(status int) int {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusConflict:
		return exitConflict
	}
	return exitFailure
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node/control"
)

// usagef is a mistake on the command line.
func usagef(format string, args ...any) error {
	return &control.Error{Code: control.Invalid, Err: fmt.Errorf(format, args...), Hint: "hpmq-enroll --help"}
}

// judge gives an error of an enrolment or a renewal its code and a hint.
func judge(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, identity.ErrNotTicket):
		return control.Fail(control.Invalid, `a ticket is made with "hpmq enroll ticket --name NAME"; see hpmq-enroll --help`, err)
	case errors.Is(err, identity.ErrTicketDamaged):
		return control.Fail(control.Invalid, "", err)
	case errors.Is(err, identity.ErrTicketExpired):
		return control.Fail(control.Denied, "", err)
	case errors.Is(err, identity.ErrUnreachable):
		return control.Fail(control.Unreachable, "is the node running, and is its TLS port open from here? A ticket names the node's --advertise address", err)
	case errors.Is(err, identity.ErrBusy):
		return control.Fail(control.Conflict, "wait for it to end", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return control.Fail(control.Failed, "the disk is full: make room there and run it again, with the same ticket", err)
	case errors.Is(err, fs.ErrPermission):
		return control.Fail(control.Failed, "choose a directory of yours: --out DIR", err)
	}
	return control.Fail(control.Failed, "", err)
}

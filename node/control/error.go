package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/hpmq/hpmq/identity"
)

// Code is the kind of an error. It decides the HTTP status of a reply and the exit
// code of a command.
type Code string

// The codes of an [Error].
const (
	Failed      Code = "failed"      // anything else
	Invalid     Code = "invalid"     // the request, or a file or name in it, is wrong
	Unreachable Code = "unreachable" // the node, a broker or a device does not answer
	Denied      Code = "denied"      // a policy, a certificate or a ticket refuses it
	NotFound    Code = "not_found"
	Conflict    Code = "conflict" // the state of the node or of the fabric forbids it now
)

// Error is an error with its code and, where there is one, a hint how to mend it.
type Error struct {
	Code Code
	Err  error
	Hint string
}

// Error implements [error].
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error without its code.
func (e *Error) Unwrap() error { return e.Err }

// Fail gives err a code and a hint. An [Error] inside err keeps its own, and so
// does the refusal of an enrolment API.
func Fail(code Code, hint string, err error) error {
	if inner, ok := errors.AsType[*Error](err); ok {
		return &Error{Code: inner.Code, Err: err, Hint: inner.Hint}
	}
	if api, ok := errors.AsType[*identity.APIError](err); ok {
		return &Error{Code: codeOf(api.Status), Err: err, Hint: api.Hint}
	}
	return &Error{Code: code, Err: err, Hint: hint}
}

// FailEnrolment gives a failed enrolment its code and its hint.
func FailEnrolment(err error) error {
	switch {
	case errors.Is(err, identity.ErrTicketExpired):
		return Fail(Denied, "", err)
	case errors.Is(err, identity.ErrUnreachable):
		return Fail(Unreachable, "is the node that made the ticket running, and reachable from here?", err)
	}
	return Fail(Failed, "", err)
}

// codeOf is the code of a status of the enrolment API. For other statuses the hint
// says how a command can go on.
func codeOf(status int) Code {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return Denied
	case http.StatusNotFound:
		return NotFound
	case http.StatusConflict:
		return Conflict
	}
	return Failed
}

// Invalidf returns an error of code [Invalid].
func Invalidf(format string, args ...any) error {
	return &Error{Code: Invalid, Err: fmt.Errorf(format, args...)}
}

// errorReply is the body of a reply with a status other than 2xx, and the JSON form
// of an error.
type errorReply struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Code  Code   `json:"code"`
}

// MarshalJSON writes {"error": "…", "hint": "…", "code": "…"}.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(errorReply{Error: e.Error(), Hint: e.Hint, Code: e.Code})
}

// statuses are the HTTP statuses of the codes. Any other code is 500.
var statuses = map[Code]int{
	Invalid:     http.StatusBadRequest,
	Denied:      http.StatusForbidden,
	NotFound:    http.StatusNotFound,
	Conflict:    http.StatusConflict,
	Unreachable: http.StatusServiceUnavailable,
}

// Refuse writes err as the reply to a request. An error without a code is [Failed].
func Refuse(w http.ResponseWriter, err error) {
	e, _ := errors.AsType[*Error](Fail(Failed, "", err))
	status, ok := statuses[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the asker may have left
}

// maxErrorBody bounds the error that a client reads, in bytes.
const maxErrorBody = 64 << 10

// refusal reads the error that a node replied.
func refusal(resp *http.Response) error {
	var e errorReply
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&e); err != nil || e.Error == "" {
		return &Error{Code: Failed, Err: fmt.Errorf("the node answered %s", resp.Status)}
	}
	return &Error{Code: cmp.Or(e.Code, Failed), Err: errors.New(e.Error), Hint: e.Hint}
}

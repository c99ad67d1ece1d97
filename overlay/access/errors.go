package access

import (
	"errors"

	"github.com/hpmq/hpmq/identity"
)

// ErrRefused is in an error of [SendSlice] when the agent does not act by the slice.
var ErrRefused = errors.New("refused")

// Errors of [Relay.Carrier] and [Dial] that callers branch on.
var (
	ErrNotFound    = errors.New("no agent of this identity is connected")
	ErrUnreachable = errors.New("the agent does not answer")
	ErrBusy        = errors.New("too many connections")
	ErrNoService   = errors.New("nothing listens on that port")
)

// carrierError adds details to the general error that it wraps.
type carrierError struct {
	text string
	is   error
}

func (e *carrierError) Error() string { return e.text }
func (e *carrierError) Unwrap() error { return e.is }

// Denied is an agent's refusal of a connection.
type Denied struct {
	Target identity.ID
	Rule   string // the rule that denied, empty when no rule allows
	Reason string // for people; names the rule or what is missing, such as a grant
}

func (d *Denied) Error() string { return d.Reason }

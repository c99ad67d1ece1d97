package wasm

import "fmt"

// Fault says how a call failed; it is also the label of the error counter.
type Fault string

// The faults.
const (
	FaultGuest    Fault = "error"    // the function itself reported a failure
	FaultTrap     Fault = "trap"     // it trapped or left
	FaultTimeout  Fault = "timeout"  // it ran past its time limit
	FaultDepth    Fault = "depth"    // it called itself too deep
	FaultResponse Fault = "response" // its answer was not a valid response
	FaultRequest  Fault = "request"  // the message could not be handed to it
)

// CallError is every error of [Instance.Call].
type CallError struct {
	Fault Fault
	Err   error
}

// Error describes the failure for operators.
func (e *CallError) Error() string { return fmt.Sprintf("function %s: %v", e.Fault, e.Err) }

// Unwrap gives the cause.
func (e *CallError) Unwrap() error { return e.Err }

// Status is a negative result of a host call.
type Status int32

// The statuses.
const (
	StatusDenied   Status = -1 // the capability is not granted
	StatusNotFound Status = -2 // there is no such entry
	StatusLimit    Status = -3 // a quota or a length limit
	StatusShort    Status = -4 // the guest's buffer is too small
)

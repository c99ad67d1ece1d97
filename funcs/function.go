package funcs

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/hpmq/hpmq/funcs/wasm"
)

// Function is one function as its owner deploys it.
type Function struct {
	Name         string
	Code         []byte   // the module
	Capabilities []string // granted by policy, see [wasm.ParseCapabilities]
	Limits       wasm.Limits
	Init         []byte // its configuration, if its module takes one
}

// LoadError is the error of [Runtime.Swap] when one function cannot run.
type LoadError struct {
	Function string
	Err      error
}

// Error names the function and the change that it needs.
func (e *LoadError) Error() string { return fmt.Sprintf("function %s: %v", e.Function, e.Err) }

// Unwrap gives the cause.
func (e *LoadError) Unwrap() error { return e.Err }

// loaded is a Function that can run.
type loaded struct {
	Function
	module  *wasm.Module
	caps    wasm.Capabilities
	meter   *meter
	workers atomic.Int32 // workers that have not released it
}

// load checks and compiles f and starts it once, so that a function that cannot
// start is refused before it replaces one that can.
func (r *Runtime) load(ctx context.Context, f Function) (*loaded, error) {
	caps, err := wasm.ParseCapabilities(f.Capabilities)
	if err != nil {
		return nil, &LoadError{f.Name, err}
	}
	module, err := r.engine.Load(ctx, f.Code)
	if err != nil {
		return nil, &LoadError{f.Name, err}
	}
	l := &loaded{Function: f, module: module, caps: caps, meter: r.meters.of(f.Name, r.log)}
	l.workers.Store(int32(len(r.workers)))
	inst, err := l.instantiate(ctx)
	if err != nil {
		module.Close(ctx)
		return nil, &LoadError{f.Name, err}
	}
	inst.Close(ctx)
	return l, nil
}

func (l *loaded) instantiate(ctx context.Context) (*wasm.Instance, error) {
	return l.module.Instantiate(ctx, wasm.Config{
		Limits: l.Limits, Capabilities: l.caps, Init: l.Init, Log: l.meter.guestLog,
	})
}

// same reports whether f runs exactly as l does.
func (l *loaded) same(f Function) bool {
	return l.Name == f.Name && l.Limits == f.Limits && bytes.Equal(l.Code, f.Code) &&
		bytes.Equal(l.Init, f.Init) && slices.Equal(l.Capabilities, f.Capabilities)
}

// release is called by each worker once it has closed its instance of l; the last
// one frees the code.
func (l *loaded) release(ctx context.Context) {
	if l.workers.Add(-1) == 0 {
		l.module.Close(ctx)
	}
}

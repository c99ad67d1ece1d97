package wasm

import (
	"context"
	"sync/atomic"
	"time"
)

// deadline is the context that an instance's calls run under: it carries the
// instance to host calls and ends when a call has used its time. wazero looks
// at it at every loop header and closes the module once it has ended.
//
// One deadline serves all calls of an instance, because an instance whose time
// ran out is never called again; a fresh context and timer for each call would
// cost more than most functions do.
type deadline struct {
	inst  *Instance
	timer *time.Timer
	done  chan struct{} // closed by the timer, once
	ended atomic.Bool
}

func newDeadline(inst *Instance) *deadline {
	d := &deadline{inst: inst, done: make(chan struct{})}
	d.timer = time.AfterFunc(time.Hour, d.expire)
	d.timer.Stop()
	return d
}

func (d *deadline) expire() {
	if !d.ended.Swap(true) {
		close(d.done)
	}
}

// start gives the next call limit to finish.
func (d *deadline) start(limit time.Duration) { d.timer.Reset(limit) }

// stop ends the call's time and reports whether it was kept. When it was not,
// the timer's function has run or is about to; done is closed either way.
func (d *deadline) stop() bool {
	if d.timer.Stop() {
		return true
	}
	<-d.done
	return false
}

// Deadline implements [context.Context].
func (d *deadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements [context.Context].
func (d *deadline) Done() <-chan struct{} { return d.done }

// Err implements [context.Context].
func (d *deadline) Err() error {
	if d.ended.Load() {
		return context.DeadlineExceeded
	}
	return nil
}

type instanceKey struct{}

// Value implements [context.Context].
func (d *deadline) Value(key any) any {
	if _, ok := key.(instanceKey); ok {
		return d.inst
	}
	return nil
}

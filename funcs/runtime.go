package funcs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/funcs/wasm"
)

// Errors of [Result.Err].
var (
	ErrStopped = errors.New("functions are stopped")
	ErrBusy    = errors.New("too many messages wait for functions")
)

// KV is the store of the functions' state. Writes reach it through
// [Result.Writes], in the caller's transaction.
type KV interface {
	// Load gives every entry of a scope. It is called when a scope is first
	// touched, on a worker.
	Load(scope string) (map[string][]byte, error)
}

// Options configures a [Runtime]. Zero values are usable unless a comment says
// otherwise.
type Options struct {
	Engine *wasm.Engine // runs the functions; required
	KV     KV           // nil keeps the functions' state in memory only
	Log    logrus.FieldLogger

	// Workers run functions in parallel. Zero means one for each processor.
	Workers int

	// QueueLength bounds the messages that wait for one worker. Zero means
	// 16,384; past it a message ends with [ErrBusy].
	QueueLength int

	// StateBytes bounds the state in memory, for all functions and identities
	// together. Past it the least recently used state is dropped, and read from KV
	// when needed. Zero means 64 MiB.
	StateBytes int
}

// Runtime runs chains of functions.
type Runtime struct {
	engine  *wasm.Engine
	log     logrus.FieldLogger
	seed    maphash.Seed
	states  *states
	meters  meters
	workers []*worker

	swap      sync.Mutex // one Swap at a time; guards functions
	functions map[string]*loaded
}

// New makes a runtime without functions. It starts nothing: messages wait until
// [Runtime.Run].
func New(o Options) *Runtime {
	if o.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		o.Log = l
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.QueueLength == 0 {
		o.QueueLength = 16 << 10
	}
	if o.StateBytes == 0 {
		o.StateBytes = 64 << 20
	}
	r := &Runtime{
		engine: o.Engine, log: o.Log, seed: maphash.MakeSeed(),
		states: newStates(o.KV, o.StateBytes), functions: map[string]*loaded{},
	}
	for range o.Workers {
		r.workers = append(r.workers, newWorker(r, o.QueueLength))
	}
	return r
}

// Run runs the workers until ctx is done. Messages that wait then, and any that
// come later, end with [ErrStopped].
func (r *Runtime) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, w := range r.workers {
		group.Go(func() { w.run(ctx) })
	}
	group.Wait()
	return nil
}

// Submit puts a message through a chain. It never blocks. done is called exactly
// once, on a worker or, with [Result.Err] set, on the caller's goroutine; it
// must not block. For one client the calls of done that carry no error come in
// the order of submission.
func (r *Runtime) Submit(c *Chain, from *Origin, m Message, done func(Result)) {
	w := r.workerOf(from)
	if err := w.queue.push(task{chain: c, from: from, message: m, done: done}); err != nil {
		done(Result{Verdict: Drop, Err: err})
	}
}

func (r *Runtime) workerOf(from *Origin) *worker {
	return r.workers[maphash.String(r.seed, from.Client)%uint64(len(r.workers))]
}

// Swap makes functions the whole set of functions. Modules that changed are
// compiled and started first; if one of them cannot run, nothing changes and the
// error is a [*LoadError] that names it, so that the caller may go on without it.
// Swap returns once every later message uses the new set.
func (r *Runtime) Swap(ctx context.Context, functions []Function) error {
	r.swap.Lock()
	defer r.swap.Unlock()
	next := make(map[string]*loaded, len(functions))
	var fresh []*loaded
	fail := func(err error) error {
		for _, l := range fresh {
			l.module.Close(ctx)
		}
		return err
	}
	for _, f := range functions {
		if f.Name == "" || next[f.Name] != nil {
			return fail(fmt.Errorf("function %q: the name is empty or used twice", f.Name))
		}
		if old := r.functions[f.Name]; old != nil && old.same(f) {
			next[f.Name] = old
			continue
		}
		l, err := r.load(ctx, f)
		if err != nil {
			return fail(err)
		}
		next[f.Name] = l
		fresh = append(fresh, l)
	}
	r.functions = next
	for _, w := range r.workers {
		w.queue.pushSwap(next)
	}
	return nil
}

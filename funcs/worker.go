package funcs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hpmq/hpmq/funcs/wasm"
)

// A client with messages that break a function time and again is not worth an
// instance each. After patience failures in a row its messages fail at once, for
// firstPause and then twice as long each time. Other clients are not affected,
// and one success forgives all.
const (
	patience   = 3
	firstPause = 100 * time.Millisecond
	maxPause   = 30 * time.Second

	maxOffenders = 1024 // clients remembered for each function and worker
)

// worker runs the messages of its clients. All but the queue belongs to its
// goroutine.
type worker struct {
	runtime *Runtime
	queue   *queue

	functions map[string]*loaded
	slots     map[*loaded]*slot
	request   wasm.Request
	context   [6]wasm.Pair
	view      view
	now, next []Output // the messages between two functions of a chain
}

// slot is a worker's copy of a function.
type slot struct {
	instance  *wasm.Instance // nil until needed, and after a trap
	memory    uint64         // as counted in the meter
	offenders map[string]*offender
}

// offender is a client whose last messages broke the function.
type offender struct {
	failures int
	until    time.Time
}

func newWorker(r *Runtime, queueLength int) *worker {
	return &worker{runtime: r, queue: newQueue(queueLength), functions: map[string]*loaded{}, slots: map[*loaded]*slot{}}
}

// run handles messages until ctx is done; one that has begun is finished.
func (w *worker) run(ctx context.Context) {
	calls := context.WithoutCancel(ctx)
	var tasks []task
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-w.queue.ready:
		}
		tasks = w.queue.takeAll(tasks[:0])
		for i := range tasks {
			if ctx.Err() != nil {
				refuse(tasks[i:])
				break
			}
			w.handle(calls, &tasks[i])
		}
		clear(tasks)
	}
	refuse(w.queue.stop())
	w.setFunctions(calls, nil)
}

// refuse ends messages that will not be handled.
func refuse(tasks []task) {
	for _, t := range tasks {
		if t.done != nil {
			t.done(Result{Verdict: Drop, Err: ErrStopped})
		}
	}
}

func (w *worker) handle(ctx context.Context, t *task) {
	if t.done == nil {
		w.setFunctions(ctx, t.functions)
		return
	}
	t.done(w.runChain(ctx, t))
	clear(w.now[:cap(w.now)]) // payloads must not outlive their message
	clear(w.next[:cap(w.next)])
}

// setFunctions makes functions the worker's set and releases the functions that are
// not in it.
func (w *worker) setFunctions(ctx context.Context, functions map[string]*loaded) {
	for name, l := range w.functions {
		if functions[name] != l {
			if s := w.slots[l]; s != nil {
				w.retire(ctx, l, s)
				delete(w.slots, l)
			}
			l.release(ctx)
		}
	}
	w.functions = functions
}

// call runs one message through one function. The error says which counter it
// belongs to. The function's writes are in res only if there is no error.
func (w *worker) call(ctx context.Context, l *loaded, d Direction, from *Origin, m *Message, res *Result) (wasm.Response, error) {
	s := w.slots[l]
	if s == nil {
		s = &slot{}
		w.slots[l] = s
	}
	if err := s.admits(from.Client); err != nil {
		return wasm.Response{}, err
	}
	if err := w.prepare(d, l, from, m); err != nil {
		return wasm.Response{}, &wasm.CallError{Fault: faultState, Err: err}
	}
	if s.instance == nil {
		if err := w.launch(ctx, l, s); err != nil {
			s.blame(from.Client)
			return wasm.Response{}, &wasm.CallError{Fault: faultStart, Err: err}
		}
	}
	start := time.Now()
	answer, err := s.instance.Call(ctx, d, &w.request, &w.view)
	took := time.Since(start)
	if s.instance.Spent() {
		w.retire(ctx, l, s)
		s.blame(from.Client)
	} else if len(s.offenders) > 0 && err == nil {
		delete(s.offenders, from.Client)
	}
	if err != nil {
		l.meter.countTime(took)
		return wasm.Response{}, err
	}
	if s.instance != nil {
		l.measureMemory(s)
	}
	l.meter.countCall(answer.Verdict, took)
	w.commit(l, d, m, res)
	return answer, nil
}

// prepare fills the request and opens the function's state.
func (w *worker) prepare(d Direction, l *loaded, from *Origin, m *Message) error {
	w.view.reset(nil, d, "")
	var prev []byte
	if l.hasState() {
		identity := from.Identity
		if identity == "" {
			identity = from.Client
		}
		s, err := w.runtime.states.of(l.Name, identity)
		if err != nil {
			return err
		}
		w.view.reset(s, d, from.ClientID)
		if l.caps.Has(wasm.CapPrev) {
			prev, _ = w.view.Prev(m.Topic)
		}
	}
	w.context = [...]wasm.Pair{
		{Key: "identity", Value: from.Identity},
		{Key: "client_id", Value: from.ClientID},
		{Key: "site", Value: from.Site},
		{Key: "direction", Value: d.String()},
		{Key: "qos", Value: "012"[m.QoS&3 : m.QoS&3+1]},
		{Key: "retain", Value: "false"},
	}
	if m.Retain {
		w.context[5].Value = "true"
	}
	w.request = wasm.Request{
		Topic: m.Topic, Payload: m.Payload, Prev: prev, QoS: m.QoS, Retain: m.Retain, Dup: m.Dup, Context: w.context[:],
	}
	return nil
}

// hasState reports whether the function may keep state.
func (l *loaded) hasState() bool {
	return l.caps&(wasm.CapPrev|wasm.CapKVRead|wasm.CapKVWrite) != 0
}

// commit makes a successful call's writes visible and hands them to the caller.
func (w *worker) commit(l *loaded, d Direction, m *Message, res *Result) {
	s := w.view.scope
	if s == nil {
		return
	}
	prev := ""
	if l.caps.Has(wasm.CapPrev) {
		prev = prevKey(d, w.view.clientID, m.Topic)
	}
	before := len(res.Writes)
	res.Writes = s.apply(res.Writes, w.view.staged, prev, m.Payload)
	if len(res.Writes) > before {
		res.touched = append(res.touched, s)
	}
}

func (w *worker) launch(ctx context.Context, l *loaded, s *slot) error {
	inst, err := l.instantiate(ctx)
	if err != nil {
		return err
	}
	s.instance = inst
	l.meter.instances.Add(1)
	l.measureMemory(s)
	return nil
}

// retire closes the slot's instance, if it has one.
func (w *worker) retire(ctx context.Context, l *loaded, s *slot) {
	if s.instance == nil {
		return
	}
	s.instance.Close(ctx)
	s.instance = nil
	l.meter.instances.Add(-1)
	l.meter.memory.Add(-int64(s.memory))
	s.memory = 0
}

// measureMemory brings the function's memory gauge up to date.
func (l *loaded) measureMemory(s *slot) {
	if now := s.instance.Memory(); now != s.memory {
		l.meter.memory.Add(int64(now) - int64(s.memory))
		s.memory = now
	}
}

// admits refuses a client that is paused.
func (s *slot) admits(client string) error {
	if len(s.offenders) == 0 {
		return nil
	}
	o := s.offenders[client]
	if o == nil || o.failures < patience || !time.Now().Before(o.until) {
		return nil
	}
	return &wasm.CallError{Fault: faultBackoff, Err: fmt.Errorf("not run: the last %d messages of this client broke it", o.failures)}
}

// blame notes that a client's message cost an instance.
func (s *slot) blame(client string) {
	if s.offenders == nil || len(s.offenders) >= maxOffenders {
		s.offenders = map[string]*offender{}
	}
	o := s.offenders[client]
	if o == nil {
		o = &offender{}
		s.offenders[client] = o
	}
	o.failures++
	if o.failures >= patience {
		o.until = time.Now().Add(min(firstPause<<min(o.failures-patience, 16), maxPause))
	}
}

// faultOf names the counter of an error.
func faultOf(err error) wasm.Fault {
	if c, ok := errors.AsType[*wasm.CallError](err); ok {
		return c.Fault
	}
	return wasm.FaultTrap
}

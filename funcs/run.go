package funcs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hpmq/hpmq/funcs/wasm"
)

// Bounds on the output of a chain for one message: each function may emit 16
// messages for every one that it gets.
const (
	maxChainOutputs = 64
	maxChainBytes   = 4 << 20
)

// reasonFailed is the reason code of [OnErrorReject]: implementation specific
// error (MQTT 5.0 §2.4).
const reasonFailed = 0x83

// runChain puts one message through its chain: the output of each function is
// the input of the next.
func (w *worker) runChain(ctx context.Context, t *task) Result {
	var res Result
	w.now = append(w.now[:0], Output{Message: t.message})
	for i := range t.chain.bindings {
		b := &t.chain.bindings[i]
		w.next = w.next[:0]
		for j := range w.now {
			if !w.step(ctx, t, b, &w.now[j], &res) {
				return res
			}
		}
		w.now, w.next = w.next, w.now
	}
	w.conclude(&res)
	return res
}

// conclude makes the verdict from the messages that the chain has put out.
func (w *worker) conclude(res *Result) {
	switch {
	case len(w.now) == 0:
		res.Verdict = Drop // by res.Function
	case len(w.now) == 1 && w.now[0].Function == "":
		res.Verdict, res.Function, res.Reason = Pass, "", ""
	default:
		res.Verdict, res.Messages, res.Reason = Publish, slices.Clone(w.now), ""
		res.Function = w.now[len(w.now)-1].Function
	}
}

// step puts one message through one binding and appends the output to w.next. It
// returns false if the message as a whole was rejected.
func (w *worker) step(ctx context.Context, t *task, b *Binding, m *Output, res *Result) bool {
	if !b.sees(m.Topic) {
		w.next = append(w.next, *m)
		return true
	}
	l := w.functions[b.Function]
	if l == nil {
		err := &wasm.CallError{Fault: faultMissing, Err: errors.New("there is no such function on this node")}
		return w.fail(t, b, nil, m, res, err)
	}
	answer, err := w.call(ctx, l, t.chain.direction, t.from, &m.Message, res)
	if err == nil && answer.Verdict == Publish && !w.fits(answer.Messages) {
		err = &wasm.CallError{Fault: faultLimit, Err: fmt.Errorf("the chain's output is more than %d messages or %d bytes", maxChainOutputs, maxChainBytes)}
	}
	if err != nil {
		return w.fail(t, b, l, m, res, err)
	}
	switch answer.Verdict {
	case Pass:
		w.next = append(w.next, *m)
	case Publish:
		for _, o := range answer.Messages {
			w.next = append(w.next, Output{Message{Topic: o.Topic, Payload: o.Payload, QoS: o.QoS, Retain: o.Retain}, b.Function})
		}
		res.Function, res.Reason = b.Function, ""
	case Reject:
		res.Verdict, res.Function = Reject, b.Function
		res.Code, res.Reason = answer.Code, answer.Reason
		return false
	case Drop:
		res.Function, res.Reason = b.Function, ""
	}
	return true
}

// fits reports whether more may join the messages of this stage.
func (w *worker) fits(more []wasm.Message) bool {
	size := 0
	for i := range w.next {
		size += len(w.next[i].Payload)
	}
	for i := range more {
		size += len(more[i].Payload)
	}
	return len(w.next)+len(more) <= maxChainOutputs && size <= maxChainBytes
}

// fail follows the binding's on_error for a message when its function failed; l is
// nil if there is no such function.
func (w *worker) fail(t *task, b *Binding, l *loaded, m *Output, res *Result, err error) bool {
	fault := faultOf(err)
	w.runtime.meters.of(b.Function, w.runtime.log).countFailure(fault)
	reason := strings.ToValidUTF8(err.Error(), "�")
	if b.OnError == OnErrorPass {
		w.next = append(w.next, *m)
		return true
	}
	res.Function, res.Reason = b.Function, reason
	if b.OnError == OnErrorReject {
		res.Verdict, res.Code = Reject, reasonFailed
		return false
	}
	if b.OnError == OnErrorDeadLetter {
		letter := DeadLetter{
			Function: b.Function, Binding: b.Name, Direction: t.chain.direction.String(),
			Topic: m.Topic, Identity: t.from.Identity, ClientID: t.from.ClientID,
			QoS: m.QoS, Retain: m.Retain, Payload: m.Payload, Error: reason, Time: time.Now().UTC(),
		}
		if l != nil {
			letter.Digest = l.module.Digest()
		}
		res.DeadLetters = append(res.DeadLetters, letter.output())
	}
	return true
}

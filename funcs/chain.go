package funcs

import (
	"fmt"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// OnError says what happens to a message when its function failed.
type OnError string

// The choices of [Binding.OnError].
const (
	OnErrorDeadLetter OnError = "dead-letter" // dropped, and kept on $hpmq/func/<name>/dlq; the default
	OnErrorDrop       OnError = "drop"        // dropped
	OnErrorReject     OnError = "reject"      // dropped, and the publisher is told
	OnErrorPass       OnError = "pass"        // goes on as it was; only in an optional binding
)

// Binding puts a function into the path of one client's messages.
type Binding struct {
	Name     string   // for diagnostics
	Function string   // the name of a [Function]
	Topics   []string // topic filters of the messages it sees; none means all
	OnError  OnError  // empty means dead-letter
	Optional bool     // the message may go on without this function
}

// check refuses a binding that would let a failing filter open by mistake.
func (b *Binding) check() error {
	switch b.OnError {
	case "", OnErrorDeadLetter, OnErrorDrop, OnErrorReject:
	case OnErrorPass:
		if !b.Optional {
			return fmt.Errorf("binding %q: on_error pass needs optional = true: the function would be skipped whenever it fails", b.Name)
		}
	default:
		return fmt.Errorf("binding %q: unknown on_error %q; there are dead-letter, drop, reject and pass", b.Name, b.OnError)
	}
	if b.Function == "" {
		return fmt.Errorf("binding %q names no function", b.Name)
	}
	for _, f := range b.Topics { // one that is not valid would match nothing
		if err := topic.ValidFilter(f); err != nil {
			return fmt.Errorf("binding %q: topic filter %q %w", b.Name, f, err)
		}
	}
	return nil
}

// sees reports whether the binding's function gets messages on name.
func (b *Binding) sees(name string) bool {
	if len(b.Topics) == 0 {
		return true
	}
	for _, f := range b.Topics {
		if topic.Match(f, name) {
			return true
		}
	}
	return false
}

// Chain is the bindings of one client in one direction, in order. It never
// changes and may be shared by the sessions it fits.
type Chain struct {
	direction Direction
	bindings  []Binding
}

// NewChain makes a chain. Each binding looks at the topic a message has when it
// gets there, which an earlier one may have changed.
func NewChain(d Direction, bindings []Binding) (*Chain, error) {
	c := &Chain{direction: d, bindings: append([]Binding(nil), bindings...)}
	for i := range c.bindings {
		if err := c.bindings[i].check(); err != nil {
			return nil, err
		}
		if c.bindings[i].OnError == "" {
			c.bindings[i].OnError = OnErrorDeadLetter
		}
	}
	return c, nil
}

// Bound reports whether a message on the topic name must be submitted. A nil
// chain binds nothing.
func (c *Chain) Bound(name string) bool {
	if c == nil {
		return false
	}
	for i := range c.bindings {
		if c.bindings[i].sees(name) {
			return true
		}
	}
	return false
}

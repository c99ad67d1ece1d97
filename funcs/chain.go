package funcs

import (
	"fmt"
	"strings"
)

// OnError says what becomes of a message whose function failed.
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

// check refuses what would let a failing filter open by mistake.
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
	return nil
}

// sees reports whether the binding's function gets messages on topic.
func (b *Binding) sees(topic string) bool {
	if len(b.Topics) == 0 {
		return true
	}
	for _, f := range b.Topics {
		if matches(f, topic) {
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

// Bound reports whether a message on topic must be submitted. A nil chain binds
// nothing.
func (c *Chain) Bound(topic string) bool {
	if c == nil {
		return false
	}
	for i := range c.bindings {
		if c.bindings[i].sees(topic) {
			return true
		}
	}
	return false
}

// matches reports whether a topic name matches a topic filter (MQTT 5.0 §4.7).
// Only a filter that begins with $ sees the topics that do.
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	for {
		f, fRest, fMore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, tRest, tMore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !fMore && !tMore:
			return true
		case !tMore:
			return fRest == "#" // "a/#" matches its parent "a"
		case !fMore:
			return false
		}
		filter, topic = fRest, tRest
	}
}

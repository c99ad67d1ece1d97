// Package wake has the two ways in which one goroutine of HPMQ wakes others: a
// [Token] for one goroutine, a [Broadcast] for all. Neither blocks the goroutine
// that wakes, and both are safe for concurrent use.
package wake

import "sync"

// Token wakes one goroutine, which receives from it. Several wakes before it looks
// are one. The zero value, nil, wakes nobody.
type Token chan struct{}

// NewToken returns a token that nobody has put down yet.
func NewToken() Token { return make(Token, 1) }

// Wake puts the token down, unless it lies there already.
func (t Token) Wake() {
	select {
	case t <- struct{}{}:
	default:
	}
}

// Broadcast wakes all goroutines that wait. The zero value is ready.
type Broadcast struct {
	mu   sync.Mutex
	next chan struct{} // closed by Fire; nil while nobody waits for it
}

// Wait returns a channel that the next Fire closes. A goroutine takes it before it
// looks at the state that it waits for, so that no change is missed.
func (b *Broadcast) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

// Fire wakes the goroutines that wait.
func (b *Broadcast) Fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

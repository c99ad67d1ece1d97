package slice

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Reason is why a slice is not taken, in one word for counters.
type Reason string

// The reasons. [Open] gives the first four; its callers find the rest.
const (
	Forged      Reason = "forged"       // the directory's writer did not sign it, or not this content
	Malformed   Reason = "malformed"    // torn, or signed and not in the form of a slice
	TooLarge    Reason = "too_large"    // above MaxBytes
	OtherTarget Reason = "other_target" // it is for another device
	Earlier     Reason = "earlier"      // issued before the one that is held
	Ended       Reason = "ended"        // its time is over
	Unpinned    Reason = "unpinned"     // no key is known that it could be judged by
)

// refusal is an error with its reason.
type refusal struct {
	error

	reason Reason
}

func (r *refusal) Unwrap() error { return r.error }

// Refuse gives err a reason.
func Refuse(reason Reason, err error) error { return &refusal{err, reason} }

// ReasonOf returns the reason of a refusal. An error without one is malformed.
func ReasonOf(err error) Reason {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason
	}
	return Malformed
}

// Refusals counts the slices that were not taken. The zero value is ready, and safe
// for concurrent use.
type Refusals struct {
	mu sync.Mutex // guards n
	n  map[Reason]uint64
}

// Count counts one.
func (r *Refusals) Count(reason Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[Reason]uint64{}
	}
	r.n[reason]++
}

// Counts returns the number of each reason that there was.
func (r *Refusals) Counts() RefusalCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.n)
}

// RefusalCounts are numbers of refused slices.
type RefusalCounts map[Reason]uint64

// String returns the reasons in alphabetic order, as "1 ended, 3 forged".
func (c RefusalCounts) String() string {
	var list []string
	for _, reason := range slices.Sorted(maps.Keys(c)) {
		list = append(list, fmt.Sprintf("%d %s", c[reason], strings.ReplaceAll(string(reason), "_", " ")))
	}
	return strings.Join(list, ", ")
}

package directory

import (
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/wake"
)

// fetchTurn is how long one source is asked for missing records before the turn goes
// to another source that has them. So a source that is silent, or slow on purpose,
// delays the history by this time at most.
const fetchTurn = 3 * time.Second

// source is a node that this replica follows.
type source struct {
	peer identity.ID

	// Guarded by sources.mu.
	head    Head      // newest that it told; its Point may be beyond this log
	proven  bool      // the signer of head is known here and its signature matches
	granted bool      // a fetch is to be sent
	waiting bool      // a fetch is out and not answered
	failed  bool      // its last turn brought nothing
	turned  time.Time // when its last turn began
}

// sources are the nodes that this replica follows. One of them at a time has the
// turn to be asked for missing records.
type sources struct {
	mu      sync.Mutex // guards all below
	all     map[*source]struct{}
	turn    *source        // the source that has the turn; nil for none
	changed wake.Broadcast // the turn may be free
}

func (t *sources) add(peer identity.ID) *source {
	s := &source{peer: peer}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[s] = struct{}{}
	return s
}

func (t *sources) remove(s *source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, s)
	if t.turn == s {
		t.turn = nil
	}
	t.changed.Fire()
}

func (t *sources) head(s *source) (h Head, proven bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.head, s.proven
}

func (t *sources) setHead(s *source, h Head, proven bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.head, s.proven = h, proven
	t.changed.Fire()
}

// newest returns the newest proven head of at most count records, and the source
// that told it.
func (t *sources) newest(count uint64) (by *source, h Head) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.all {
		if s.proven && s.head.UnixMilli > h.UnixMilli && s.head.Point.Count <= count {
			by, h = s, s.head
		}
	}
	return by, h
}

// ask reports whether s is to be asked now for the records behind tip. If not,
// the caller asks again when changed is closed, the log has grown, or wait is
// over. The first source to look gives the turn. A source with a goroutine that is
// stuck in a write holds up the other sources for its turn only.
func (t *sources) ask(s *source, tip uint64, now time.Time) (ask bool, changed <-chan struct{}, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.turn; old != nil && (old.head.Point.Count <= tip || !now.Before(old.turned.Add(fetchTurn))) {
		old.failed = old.head.Point.Count > tip && (old.waiting || old.granted)
		t.turn = nil
	}
	if t.turn == nil {
		if best := t.best(tip, now); best != nil {
			t.turn = best
			best.turned, best.granted = now, true
			t.changed.Fire()
		}
	}
	if t.turn == s && s.granted {
		s.granted, s.waiting = false, true
		return true, nil, 0
	}
	return false, t.changed.Wait(), t.pause(now)
}

// pause returns how long nothing changes by itself. The caller holds mu.
func (t *sources) pause(now time.Time) time.Duration {
	wait := fetchTurn
	for s := range t.all {
		if s == t.turn || s.failed {
			wait = min(wait, max(s.turned.Add(fetchTurn).Sub(now), time.Millisecond))
		}
	}
	return wait
}

// best returns the source to ask next. It has records that are missing here and did
// not fail just now. Among several, the newest proven head wins, then the source
// that was asked longest ago. The caller holds mu.
func (t *sources) best(tip uint64, now time.Time) (best *source) {
	for s := range t.all {
		if s.head.Point.Count <= tip || s.failed && now.Before(s.turned.Add(fetchTurn)) {
			continue
		}
		if best == nil || s.before(best) {
			best = s
		}
	}
	return best
}

func (s *source) before(other *source) bool {
	switch {
	case s.failed != other.failed:
		return other.failed
	case s.proven != other.proven:
		return s.proven
	case s.head.UnixMilli != other.head.UnixMilli:
		return s.head.UnixMilli > other.head.UnixMilli
	}
	return s.turned.Before(other.turned)
}

// answered notes the answer to a fetch. One that brought nothing ends the turn.
func (t *sources) answered(s *source, advanced bool, tip uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	more := s.head.Point.Count > tip
	s.waiting, s.failed = false, !advanced && more
	switch {
	case t.turn != s:
	case s.failed:
		t.turn = nil
	default:
		s.granted = more
	}
	t.changed.Fire()
}

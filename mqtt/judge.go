package mqtt

import (
	"sync"
	"sync/atomic"
)

// A message that waits for a session is judged again when it is sent, if rights are
// newer than the look at them that let it wait. A change of rights marks each session
// before its new rights count, and the session asks about each message that leaves a
// queue as long as it is marked. The mark goes once the session has nothing that waits
// and the change is settled: all messages that found their receivers before the change
// have been delivered. A message that is sent again, over another connection, is
// always asked about.

// settledChanges counts changes of rights and knows which of them are settled.
type settledChanges struct {
	begun  atomic.Uint64 // changes
	change atomic.Uint64 // the last one that is settled

	mu       sync.Mutex // guards the next two
	inForce  uint64     // the last change that all sessions and routes know
	awaiting bool       // until pipelines have let go of older entries
}

// settleChange notes that all sessions and routes know a change. The change is settled
// once the entries that the pipelines have now are through.
func (b *Broker) settleChange(change uint64) {
	t := &b.settled
	t.mu.Lock()
	t.inForce = max(t.inForce, change)
	if t.awaiting {
		t.mu.Unlock()
		return // that goes on with this one
	}
	t.awaiting = true
	change = t.inForce
	t.mu.Unlock()

	var left atomic.Int64
	through := func() {
		if left.Add(-1) > 0 {
			return
		}
		t.change.Store(change)
		t.mu.Lock()
		t.awaiting = false
		next := t.inForce
		t.mu.Unlock()
		if next > change {
			b.settleChange(next)
		}
	}
	busy := b.busyPipelines()
	left.Store(int64(len(busy)) + 1)
	for _, p := range busy {
		p.callAfter(through)
	}
	through()
}

// busyPipelines returns the pipelines that have entries.
func (b *Broker) busyPipelines() (busy []*pipeline) {
	add := func(p *pipeline) {
		if p.waiting.Load() > 0 {
			busy = append(busy, p)
		}
	}
	for i := range b.lanes {
		add(&b.lanes[i])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		add(&s.pipe)
	}
	for _, s := range b.draining {
		add(&s.pipe)
	}
	return busy
}

// markJudging marks the session. The caller holds mu.
func (s *session) markJudging() { s.judging = s.b.settled.begun.Load() + 1 }

// endJudging takes the mark away if nothing is left that it was for. The caller
// holds mu and is in pump.
func (s *session) endJudging() {
	if s.judging == 0 || s.judging > s.b.settled.change.Load()+1 {
		return
	}
	if s.idle() {
		s.judging = 0
	}
}

package mqtt

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// slowStore is a store that commits when it likes and tells still later, as one on
// a disk does. It remembers its transactions, so that a test can have the broker
// killed at any time.
type slowStore struct {
	*store.Memory

	refusing *atomic.Bool     // what somebody waits for
	refusals *atomic.Int64    // so far
	hurry    atomic.Bool      // no more delays: the broker was killed and has to end
	wake     chan struct{}    // capacity 1; closed by end
	told     chan []*storeJob // closed by commit
	done     sync.WaitGroup

	mu        sync.Mutex // guards all below
	rnd       *rand.Rand
	jobs      []*storeJob
	kept      []func(store.Tx) // in their order
	synced    int              // of kept; those behind are the last that nobody waited for
	unawaited int              // transactions that nobody waits for and that are not kept yet
	frozen    bool             // what comes now is lost
	ended     bool
}

// storeJob is one transaction.
type storeJob struct {
	add  func(store.Tx)
	done func(error)
	err  error
}

// newSlowStore returns a store that kept what others did, and runs until end.
func newSlowStore(seed uint64, kept []func(store.Tx), refusing *atomic.Bool, refusals *atomic.Int64) *slowStore {
	s := &slowStore{
		Memory: store.NewMemory(store.Limits{}), refusing: refusing, refusals: refusals,
		wake: make(chan struct{}, 1), told: make(chan []*storeJob, 1),
		rnd: rand.New(rand.NewPCG(seed, 2)), kept: kept, synced: len(kept),
	}
	for _, add := range kept {
		s.Memory.Update(add, nil)
	}
	s.done.Go(s.commit)
	s.done.Go(s.reportCommits)
	return s
}

func (s *slowStore) Update(add func(store.Tx), done func(error)) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		if done != nil {
			done(store.ErrNoSpace)
		}
		return
	}
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, &storeJob{add: add, done: done})
	if done == nil {
		s.unawaited++
	}
	select {
	case s.wake <- struct{}{}:
	default: // it has not taken an earlier one
	}
}

// stop commits what is there.
func (s *slowStore) stop() {
	s.mu.Lock()
	s.ended = true
	close(s.wake)
	s.mu.Unlock()
	s.done.Wait()
}

// contentAtKill returns what a broker that is killed now leaves, and whether that is all
// but what somebody waits for: the last transactions may be lost if nobody does.
func (s *slowStore) contentAtKill() (kept []func(store.Tx), whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
	s.hurry.Store(true)
	n := s.synced + s.rnd.IntN(len(s.kept)-s.synced+1)
	return s.kept[:n:n], n == len(s.kept) && s.unawaited == 0
}

func (s *slowStore) delay() {
	s.mu.Lock()
	d := []time.Duration{0, 0, time.Millisecond, 20 * time.Millisecond, time.Second}[s.rnd.IntN(5)]
	s.mu.Unlock()
	if d > 0 && !s.hurry.Load() {
		<-time.After(d)
	}
}

// commit writes batches.
func (s *slowStore) commit() {
	defer close(s.told)
	for range s.wake {
		for jobs := s.takeJobs(); len(jobs) > 0; jobs = s.takeJobs() {
			s.delay()
			for _, j := range jobs {
				s.apply(j)
			}
			s.told <- jobs
		}
	}
}

// takeJobs returns some of the transactions that wait.
func (s *slowStore) takeJobs() []*storeJob {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.jobs)
	if n > 0 {
		n = 1 + s.rnd.IntN(n)
	}
	jobs := s.jobs[:n:n]
	s.jobs = s.jobs[n:]
	return jobs
}

func (s *slowStore) apply(j *storeJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.done != nil && s.refusing.Load() {
		s.refusals.Add(1)
		j.err = store.ErrNoSpace
		return
	}
	s.Memory.Update(j.add, func(err error) { j.err = err })
	if s.frozen || j.err != nil {
		return
	}
	if s.kept = append(s.kept, j.add); j.done != nil {
		s.synced = len(s.kept)
	} else {
		s.unawaited--
	}
}

// reportCommits calls back, in order.
func (s *slowStore) reportCommits() {
	for jobs := range s.told {
		s.delay()
		for _, j := range jobs {
			if j.done != nil {
				j.done(j.err)
			}
		}
	}
}

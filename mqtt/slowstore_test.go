package mqtt

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// slowStore is a store that commits after random delays and calls back still
// later, as a store on a disk does. It remembers its transactions, so that a test
// can kill the broker at any time.
type slowStore struct {
	*store.Memory

	refusing *atomic.Bool     // transactions with a callback are refused
	refusals *atomic.Int64    // their number so far
	hurry    atomic.Bool      // no more delays: the broker was killed and has to end
	wake     chan struct{}    // capacity 1; closed by stop
	told     chan []*storeJob // closed by commit
	done     sync.WaitGroup

	mu        sync.Mutex // guards all below
	rnd       *rand.Rand
	jobs      []*storeJob
	kept      []func(store.Tx) // in their order
	synced    int              // the first of kept that a kill cannot lose: up to the last with a callback
	unawaited int              // transactions without a callback that are not kept yet
	frozen    bool             // later transactions are lost
	ended     bool
}

// storeJob is one transaction.
type storeJob struct {
	add  func(store.Tx)
	done func(error)
	err  error
}

// newSlowStore returns a store with the transactions of an earlier one. It runs
// until stop.
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

// stop commits the remaining transactions and ends the store's goroutines.
func (s *slowStore) stop() {
	s.mu.Lock()
	s.ended = true
	close(s.wake)
	s.mu.Unlock()
	s.done.Wait()
}

// contentAtKill returns the transactions that survive if the broker is killed
// now, and whether they include all transactions without a callback.
func (s *slowStore) contentAtKill() (kept []func(store.Tx), whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
	s.hurry.Store(true)
	n := s.synced + s.rnd.IntN(len(s.kept)-s.synced+1)
	return s.kept[:n:n], n == len(s.kept) && s.unawaited == 0
}

// delay waits for a random time, unless the broker was killed.
func (s *slowStore) delay() {
	s.mu.Lock()
	d := []time.Duration{0, 0, time.Millisecond, 20 * time.Millisecond, time.Second}[s.rnd.IntN(5)]
	s.mu.Unlock()
	if d > 0 && !s.hurry.Load() {
		<-time.After(d)
	}
}

// commit commits transactions in batches.
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

// takeJobs returns some of the waiting transactions.
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

// apply commits one transaction, or refuses it if the test has the store refuse.
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

// reportCommits calls the callbacks of the committed transactions in their order.
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

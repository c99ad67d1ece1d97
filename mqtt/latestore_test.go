package mqtt

import (
	"sync"

	"github.com/hpmq/hpmq/mqtt/store"
)

// lateStore is a store that commits in a goroutine of its own, as a store on a
// disk does.
type lateStore struct {
	*store.Memory

	mu   sync.Mutex
	jobs []func()
	wake chan struct{}
}

func newLateStore() *lateStore { return &lateStore{Memory: store.NewMemory(store.Limits{})} }

func (s *lateStore) Update(add func(store.Tx), done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, func() { s.Memory.Update(add, done) })
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// commitUntilStopped commits until the returned function is called, which closes
// the broker first.
func (s *lateStore) commitUntilStopped(srv *testServer) (stop func()) {
	s.mu.Lock()
	s.wake = make(chan struct{}, 1) // belongs to the bubble
	s.wake <- struct{}{}
	s.mu.Unlock()
	ended := make(chan struct{})
	var done sync.WaitGroup
	commit := func() {
		s.mu.Lock()
		jobs := s.jobs
		s.jobs = nil
		s.mu.Unlock()
		for _, job := range jobs {
			job()
		}
	}
	done.Go(func() {
		for {
			select {
			case <-ended:
				commit()
				return
			case <-s.wake:
				commit()
			}
		}
	})
	return func() {
		srv.close()
		close(ended)
		done.Wait()
	}
}

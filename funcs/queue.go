package funcs

import (
	"sync"

	"github.com/hpmq/hpmq/internal/wake"
)

// task is one message on its way, or, with functions set, the moment from which
// a worker uses another set.
type task struct {
	chain     *Chain
	from      *Origin
	message   Message
	done      func(Result)
	functions map[string]*loaded
}

// queue holds the tasks that wait for one worker. Its length is bounded and it has
// one reader.
type queue struct {
	limit int
	ready wake.Token // set while there may be tasks

	mu      sync.Mutex
	tasks   []task
	stopped bool
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: wake.NewToken()}
}

// push appends a message.
func (q *queue) push(t task) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.stopped:
		return ErrStopped
	case len(q.tasks) >= q.limit:
		return ErrBusy
	}
	q.append(t)
	return nil
}

// pushSwap appends a change of functions, also when the queue is full.
func (q *queue) pushSwap(functions map[string]*loaded) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopped {
		q.append(task{functions: functions})
	}
}

func (q *queue) append(t task) {
	q.tasks = append(q.tasks, t)
	q.ready.Wake()
}

// takeAll swaps the waiting tasks for an empty slice.
func (q *queue) takeAll(empty []task) []task {
	q.mu.Lock()
	defer q.mu.Unlock()
	tasks := q.tasks
	q.tasks = empty
	return tasks
}

// stop refuses further messages and returns the tasks that still wait.
func (q *queue) stop() []task {
	q.mu.Lock()
	q.stopped = true
	q.mu.Unlock()
	return q.takeAll(nil)
}

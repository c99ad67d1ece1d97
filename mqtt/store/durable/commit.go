package durable

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/durable/disk"
)

const (
	batchSize   = 1 << 20                // bytes after which a batch takes no more transactions
	lazyDelay   = 2 * time.Millisecond   // an unawaited transaction waits so long for other transactions
	syncDelay   = time.Second            // an unsynced batch is synced after this time
	retryDelay  = 200 * time.Millisecond // before the files of a failed disk are opened again
	retryLimit  = 5 * time.Second        // the longest such delay: it doubles with each failure
	unsyncedMax = 16 << 20               // bytes that unsynced may hold while the disk has failed
)

// committer is the state of the one goroutine that writes.
type committer struct {
	db       *disk.Database
	notices  chan []*tx    // to the goroutine that calls back; closed by Run
	outage   error         // why nothing can be committed
	pause    time.Duration // before the next try
	synced   disk.Mark     // where the log ended at the last sync
	unsynced [][]byte      // batches since the last sync
	waiting  int           // bytes of unsynced
	timers   timers
	room     room
	makeRoom *disk.Reclaimer
}

// timers of [Store.Run].
type timers struct{ lazy, sync, reopen *time.Timer }

func (c *committer) begin(db *disk.Database) {
	c.db, c.synced = db, db.Position()
	c.unsynced, c.waiting = nil, 0
}

func newTimers() timers { return timers{stopped(), stopped(), stopped()} }

// Run commits transactions and calls back until ctx is done. Transactions that were
// handed in by then are kept; later ones are refused. Callbacks run in a goroutine of
// their own, so that the disk does not wait for them.
//
// When the disk refuses a write, the batch and all later transactions are refused too,
// except transactions without a callback that add nothing: they are kept in memory, up
// to 16 MiB of them. Queues can be read all the while. From time to time the files are
// opened again, and once that succeeds all transactions are taken again.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	s.notices = make(chan []*tx, 1)
	s.tells(true)
	wg.Go(s.callBack)
	wg.Go(func() { s.makeRoom.Run(ctx) })
	for ctx.Err() == nil {
		s.step(ctx)
	}
	s.end()
	for s.next() {
	}
	s.sync()
	close(s.notices)
	s.makeRoom.End()
	wg.Wait()
	s.tells(false)
	s.refuseLate()
	return nil
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// step waits for something to do and does it.
func (s *Store) step(ctx context.Context) {
	lost := s.committer.db.Lost()
	if s.outage != nil {
		lost = nil
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
		s.jobsMu.Lock()
		lazy := !s.urgent && len(s.jobs) > 0
		s.jobsMu.Unlock()
		if lazy {
			s.timers.lazy.Reset(lazyDelay)
			return
		}
		s.next()
	case <-s.timers.lazy.C:
		s.next()
	case <-s.timers.sync.C:
		s.sync()
	case <-lost:
		s.fail(s.committer.db.Err())
	case <-s.timers.reopen.C:
		s.reopen()
	}
}

// next commits a batch and reports whether there was one. It is one only, so that
// a stream of transactions holds up nothing else in step.
func (s *Store) next() bool {
	jobs, more := s.take()
	if len(jobs) == 0 {
		return false
	}
	s.commit(jobs)
	s.notices <- jobs
	if more {
		s.poke()
	}
	return true
}

// take returns the transactions of the next batch, and whether more remain.
func (s *Store) take() (jobs []*tx, more bool) {
	s.jobsMu.Lock()
	defer s.jobsMu.Unlock()
	n, size := 0, 0
	for n < len(s.jobs) && size < batchSize {
		size += len(s.jobs[n].buf)
		n++
	}
	jobs = s.jobs[:n:n]
	if s.jobs = s.jobs[n:]; len(s.jobs) > 0 {
		return jobs, true
	}
	s.jobs, s.urgent = nil, false
	return jobs, false
}

// poke wakes the committer.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it has not taken an earlier one
	}
}

// callBack tells the callers, in order.
func (s *Store) callBack() {
	for jobs := range s.notices {
		tell(jobs)
	}
}

func tell(jobs []*tx) {
	for _, t := range jobs {
		if t.done != nil {
			t.done(t.err)
		}
		t.free()
	}
}

func (s *Store) tells(telling bool) {
	s.jobsMu.Lock()
	defer s.jobsMu.Unlock()
	s.telling = telling
}

// refuseLate calls back transactions that came after the end. If no goroutine calls
// back yet, the caller does it, for its own transaction and for transactions that come
// meanwhile.
func (s *Store) refuseLate() {
	s.jobsMu.Lock()
	defer s.jobsMu.Unlock()
	for !s.telling && len(s.late) > 0 {
		jobs := s.late
		s.late, s.telling = nil, true
		s.jobsMu.Unlock()
		for _, t := range jobs {
			t.err = ErrClosed
		}
		tell(jobs)
		s.jobsMu.Lock()
		s.telling = false
	}
}

// end makes Update refuse all later transactions.
func (s *Store) end() {
	s.jobsMu.Lock()
	defer s.jobsMu.Unlock()
	s.ended = true
}

// commit stages transactions and writes them as one batch. Each has its error
// afterwards.
func (s *Store) commit(jobs []*tx) {
	db := s.committer.db
	b := db.NewBatch()
	s.mu.Lock()
	s.staging.begin(b, s.totals)
	s.mu.Unlock()
	full := s.room.low(s, time.Now())
	wanted := false
	for _, t := range jobs {
		if t.err = s.refusal(t, full); t.err != nil {
			continue
		}
		if t.err = s.stage(t); t.err == nil && t.done != nil && len(t.ops) > 0 {
			wanted = true
		}
	}
	if len(s.staging.changes) == 0 && b.Empty() {
		_ = b.Close()
		return
	}
	err := s.write(b, wanted)
	if err == nil {
		s.apply()
		return
	}
	s.rollback()
	var again []*tx
	for _, t := range jobs {
		switch {
		case t.err != nil:
		case t.done == nil && !t.grows:
			again = append(again, t)
		default:
			t.err = err
		}
	}
	if len(again) > 0 {
		s.commit(again) // to memory: the outage has begun
	}
}

// refusal returns why a transaction cannot even be tried.
func (s *Store) refusal(t *tx, full error) error {
	if s.outage != nil && (t.done != nil || t.grows || s.waiting > unsyncedMax) {
		return s.outage
	}
	if t.grows {
		return full
	}
	return nil
}

// write commits the batch. If no caller waits for it, it is not synced, and during an
// outage it is kept for better times.
func (s *Store) write(b *pebble.Batch, wanted bool) error {
	if b.Empty() { // all of it was dropped: Pebble would not even sync
		return b.Close()
	}
	db := s.committer.db
	size := b.Len()
	s.room.used += size
	o := pebble.NoSync
	if wanted || s.waiting+size > batchSize {
		o = pebble.Sync
	}
	if o == pebble.NoSync || s.outage != nil {
		if s.waiting == 0 {
			s.timers.sync.Reset(syncDelay)
		}
		s.unsynced = append(s.unsynced, append([]byte(nil), b.Repr()...))
		s.waiting += size
	}
	if s.outage != nil {
		return b.Close()
	}
	if err := db.Commit(b, o); err != nil {
		if o == pebble.NoSync {
			s.forgetLast(size)
		}
		s.fail(err)
		return s.outage
	}
	if o == pebble.Sync {
		s.begin(db)
	}
	return b.Close()
}

// forgetLast removes the last batch from unsynced.
func (s *Store) forgetLast(size int) {
	s.unsynced = s.unsynced[:len(s.unsynced)-1]
	s.waiting -= size
}

// sync makes batches durable that no caller waits for.
func (s *Store) sync() {
	if s.waiting == 0 || s.outage != nil {
		return
	}
	b := s.committer.db.NewBatch()
	must(b.LogData(nil, nil))
	if err := s.committer.db.Commit(b, pebble.Sync); err != nil {
		s.fail(err)
		return
	}
	_ = b.Close()
	s.begin(s.committer.db)
}

// fail begins an outage.
func (s *Store) fail(err error) {
	s.outage = s.files.Failed(err)
	s.pause = s.options.retry
	s.timers.reopen.Reset(s.pause)
	s.log.WithField(logfield.Reason, err.Error()).Error("the disk refuses the store's writes: messages that must be kept are refused until it takes them again")
}

// reopen tries to end an outage: it opens a second database beside the lost one, and
// then puts it in place of the lost one. Reads go to the lost one meanwhile.
func (s *Store) reopen() {
	db, err := s.openAgain()
	if err != nil {
		if disk.IsDamage(err) && !disk.IsDamage(s.outage) {
			s.log.WithField(logfield.Reason, err.Error()).Error("the store's files were damaged while it ran: messages that must be kept are refused")
		}
		s.outage = err
		s.pause = min(2*s.pause, retryLimit)
		s.timers.reopen.Reset(s.pause)
		return
	}
	old := s.db.Swap(db)
	s.begin(db)
	s.outage = nil
	_ = old.Release() // it has failed
	s.wakePeers()
	s.log.Info("the disk takes the store's writes again")
}

// wakePeers tells the links that messages that could not be read can be read now.
func (s *Store) wakePeers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		p.wake()
	}
}

// openAgain opens the files as they were at the last sync, and repeats the unsynced
// batches since then.
func (s *Store) openAgain() (*disk.Database, error) {
	if errors.Is(s.outage, store.ErrFull) {
		if s.files.Room() != nil {
			return nil, s.outage
		}
		s.room.used = batchSize // the next commit looks anew
	}
	return s.files.Reopen(s.synced, s.unsynced)
}

// room watches how much of the disk is left.
type room struct {
	used int // bytes written since the last look
	last time.Time
	err  error
}

// low returns why nothing may be added, or nil. It looks at the disk now and then.
func (r *room) low(s *Store, now time.Time) error {
	if r.used < batchSize && now.Sub(r.last) < time.Second {
		return r.err
	}
	r.used, r.last = 0, now
	before := r.err
	r.err = s.roomLeft() // the answer depends on the last one
	if r.err != nil && s.outage == nil {
		s.makeRoom.Ask(s.committer.db)
	}
	switch {
	case before == nil && r.err != nil:
		s.log.WithField(logfield.Reason, r.err.Error()).Error("there is no room for the store to grow: messages that must be kept are refused")
	case before != nil && r.err == nil:
		s.log.Info("the store has room again")
	}
	return r.err
}

// roomLeft returns why nothing may be added, or nil.
func (s *Store) roomLeft() error {
	if err := s.files.Room(); err != nil {
		return err
	}
	return s.withinMax()
}

// withinMax is roomLeft for the limit of this store.
func (s *Store) withinMax() error {
	most := s.options.MaxDisk
	if most == 0 {
		return nil
	}
	if s.room.err != nil { // else each message that fits in again would be refused the next moment
		most -= most / 16
	}
	if _, n := s.committer.db.Size(); n > most {
		return fmt.Errorf("store in %s: %w: its files take %d of %d MiB", s.dir, store.ErrNoSpace, n>>20, s.options.MaxDisk>>20)
	}
	return nil
}

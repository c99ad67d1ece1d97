package disk

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A removed key takes room until the table that removes it is sorted into the tables
// below. Pebble does that when enough keys came in: never while all that adds is
// refused for want of room. So a Reclaimer asks it to.

// Reclaimer makes room on the disk when it is asked to.
type Reclaimer struct {
	low chan *Database // capacity 1: which has too little; closed by End
}

// NewReclaimer returns a Reclaimer that does nothing until Run is called.
func NewReclaimer() *Reclaimer { return &Reclaimer{low: make(chan *Database, 1)} }

// Ask has Run make room in the database, unless it is busy or rests. It must not
// be called after End.
func (r *Reclaimer) Ask(db *Database) {
	select {
	case r.low <- db:
	default:
	}
}

// End ends Run as soon as no request is left.
func (r *Reclaimer) End() { close(r.low) }

// Run makes room in the databases that it is asked for until End is called. It rests
// for twice as long as it worked, as it may have written much for little; ctx ends
// the work and the rest.
func (r *Reclaimer) Run(ctx context.Context) {
	for db := range r.low {
		began := time.Now()
		db.reclaim(ctx)
		rest := time.NewTimer(min(2*time.Since(began), 10*time.Second))
		select {
		case <-rest.C:
		case <-ctx.Done():
		}
		rest.Stop()
	}
}

// reclaim sorts tables that remove keys into the tables below, a piece after the
// other: each takes the room of a few tables until it is done. Errors are the
// disk's, which notes them.
func (db *Database) reclaim(ctx context.Context) {
	if !db.begin() {
		return
	}
	defer db.working.Done()
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel() // runs first
	watch.Go(func() {
		defer cancel()
		select {
		case <-db.guard.lost:
		case <-db.replaced:
		case <-ctx.Done():
		}
	})
	if !db.flush(ctx) {
		return
	}
	levels, err := db.pebble.SSTables()
	if err != nil {
		return
	}
	for _, piece := range piecesOf(levels) {
		if ctx.Err() != nil {
			return
		}
		_ = db.pebble.Compact(ctx, piece[0], piece[1], false)
	}
}

// flush writes the keys that are only in the log to tables, and reports whether that
// is done.
func (db *Database) flush(ctx context.Context) bool {
	if db.pebble.Metrics().WAL.Size == 0 {
		return true
	}
	flushed, err := db.pebble.AsyncFlush()
	if err != nil {
		return false
	}
	select {
	case <-flushed:
		return true
	case <-ctx.Done():
		return false
	}
}

// piecesOf returns the ranges in which something is removed, cut where tables of
// the lowest level begin.
func piecesOf(levels [][]pebble.SSTableInfo) (pieces [][2][]byte) {
	var cuts [][]byte
	for _, t := range levels[len(levels)-1] {
		cuts = append(cuts, t.Smallest.UserKey)
	}
	for _, level := range levels[:len(levels)-1] {
		for _, t := range level {
			if t.TableStats.NumDeletions == 0 {
				continue
			}
			from, to := t.Smallest.UserKey, append(slices.Clone(t.Largest.UserKey), 0)
			for _, cut := range cuts {
				if bytes.Compare(from, cut) < 0 && bytes.Compare(cut, to) < 0 {
					pieces = append(pieces, [2][]byte{from, cut})
					from = cut
				}
			}
			pieces = append(pieces, [2][]byte{from, to})
		}
	}
	slices.SortFunc(pieces, func(a, b [2][]byte) int { return bytes.Compare(a[0], b[0]) })
	return slices.CompactFunc(pieces, func(a, b [2][]byte) bool { return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) })
}

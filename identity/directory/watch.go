package directory

import (
	"context"
	"iter"
)

// Watch returns every record behind position from, in order: first the records in
// the log, then each new one as it is applied, until ctx is done. A watcher
// is a position in the log, not a queue: a slow one delays nothing and costs no
// memory. To see only new records, begin at [Directory.Tip]. An error ends it;
// the end of ctx is none.
func (d *Directory) Watch(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for at := from; ; {
			p := d.progress()
			for ; at < p.tip.Count; at++ {
				if ctx.Err() != nil {
					return
				}
				r, err := d.Record(at + 1)
				if !yield(r, err) || err != nil {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-p.changed:
			}
		}
	}
}

// progress is how far the directory is, and a channel that is closed when it
// moves on.
type progress struct {
	tip     Point
	head    Head
	changed <-chan struct{}
}

func (d *Directory) progress() progress {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return progress{d.tip, d.head.Head, d.changed.Wait()}
}

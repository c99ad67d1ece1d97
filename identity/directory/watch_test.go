package directory

import (
	"context"
	"sync"
	"testing"
)

func TestWatch(t *testing.T) {
	w := newWriter(t)
	mustPut(t, w, somePolicy(1), somePolicy(2))
	ctx, cancel := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	const last = 300
	for from := range uint64(5) {
		watchers.Go(func() {
			want := from + 1
			for r, err := range w.Watch(ctx, from) {
				if err != nil || r.Seq != want {
					t.Errorf("watcher from %d: record %d, %v, want %d", from, r.Seq, err, want)
					return
				}
				want++
				if r.Seq == last {
					return
				}
			}
			t.Errorf("watcher from %d ended", from)
		})
	}
	for v := uint64(3); v <= last; v++ { // no watcher holds this up
		mustPut(t, w, somePolicy(v))
	}
	watchers.Wait()

	watchers.Go(func() {
		for r, err := range w.Watch(ctx, w.Tip().Count) {
			t.Errorf("nothing new, got %v, %v", r, err)
		}
	})
	cancel()
	watchers.Wait()
}

package bench

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// lanes calls open once for each of l's connections, several at a time, and
// returns how long each call took.
func (l *Load) lanes(ctx context.Context, open func(ctx context.Context, i int) error) (*histogram, error) {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	var mu sync.Mutex // guards all
	all := new(histogram)
	for range l.Concurrency {
		g.Go(func() error {
			mine := new(histogram)
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= l.Connections {
					break
				}
				start := clock()
				if err := open(ctx, i); err != nil {
					return err
				}
				mine.add(time.Duration(clock() - start))
			}
			mu.Lock()
			all.merge(mine)
			mu.Unlock()
			return ctx.Err()
		})
	}
	return all, g.Wait()
}

// connects opens connections and closes each at once.
func (t *Target) connects(ctx context.Context, l *Load) (*Result, error) {
	before, own, start := t.usage(), ownCPU(), clock()
	delays, err := l.lanes(ctx, func(ctx context.Context, i int) error {
		c, err := t.connect(ctx, "-c"+strconv.Itoa(i), cleanSession)
		if err != nil {
			return err
		}
		return c.leave(t.Version)
	})
	if err != nil {
		return nil, err
	}
	took := time.Duration(clock() - start)
	// The broker still works on the last ones; that is theirs, the time is not.
	if err := pause(ctx, 100*time.Millisecond); err != nil {
		return nil, err
	}
	r := &Result{Connections: l.Connections, Delay: delays.summary()}
	r.count(uint64(l.Connections), took, before, t.usage(), ownCPU()-own)
	return r, nil
}

// idle opens connections with one subscription each, and holds them.
func (t *Target) idle(ctx context.Context, l *Load) (*Result, error) {
	held := make([]*link, l.Connections)
	defer func() {
		for _, c := range held {
			if c != nil {
				_ = c.leave(t.Version) // it may have been closed by the broker
			}
		}
	}()
	before, own, start := t.usage(), ownCPU(), clock()
	delays, err := l.lanes(ctx, func(ctx context.Context, i int) error {
		c, err := t.connect(ctx, "-i"+strconv.Itoa(i), cleanSession)
		if err != nil {
			return err
		}
		held[i] = c
		return c.subscribe(t, l.QoS, []string{t.Prefix + "/idle/" + strconv.Itoa(i)})
	})
	if err != nil {
		return nil, err
	}
	r := &Result{Connections: l.Connections, Delay: delays.summary()}
	r.count(uint64(l.Connections), time.Duration(clock()-start), before, t.usage(), ownCPU()-own)
	if err := pause(ctx, l.Duration); err != nil {
		return nil, err
	}
	after := t.usage()
	r.BrokerMemory = after.rss
	r.MemoryPerConnection = float64(after.rss-before.rss) / float64(l.Connections)
	return r, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

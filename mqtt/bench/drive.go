package bench

import (
	"context"
	"time"
)

// sample holds the counts at one instant.
type sample struct {
	at        int64
	broker    usage
	own       time.Duration
	delivered uint64
	sent      uint64
}

func (r *run) sample() sample {
	s := sample{broker: r.target.usage(), own: ownCPU(), delivered: r.delivered}
	for _, p := range r.publishers {
		s.sent += p.sent
	}
	s.at = clock()
	return s
}

// drive warms the broker up, measures, and waits for the last deliveries.
func (r *run) drive(ctx context.Context) error {
	start := clock()
	r.schedule(start)
	warm := start + int64(r.load.Warmup)
	if err := r.until(ctx, warm); err != nil {
		return err
	}
	r.delays = histogram{}
	from := r.sample()
	if err := r.until(ctx, from.at+int64(r.load.Duration)); err != nil {
		return err
	}
	to := r.sample()
	// A time without a delivery measures nothing: it goes on until there is one.
	for to.delivered == from.delivered && to.at-from.at < int64(r.load.Duration+r.load.Patience) {
		if err := r.until(ctx, to.at+int64(time.Millisecond)); err != nil {
			return err
		}
		to = r.sample()
	}
	if err := r.drain(ctx); err != nil {
		return err
	}
	r.report(from, to)
	return nil
}

// schedule spreads the publishers' first messages over one interval.
func (r *run) schedule(start int64) {
	if r.load.Rate == 0 {
		return
	}
	for i, p := range r.publishers {
		p.due = start + int64(float64(i)*1e9/r.load.Rate)
	}
}

const (
	longTurn  = 100 * time.Millisecond
	shortTurn = 20 * time.Microsecond // below it a wait costs more than it saves
)

// until publishes until the clock says end.
func (r *run) until(ctx context.Context, end int64) error {
	progress, changed := r.delivered, clock()
	for {
		now := clock()
		if now >= end {
			return nil
		}
		wait, err := r.publish(now, min(int64(longTurn), end-now))
		if err != nil {
			return err
		}
		if err := r.turn(ctx, time.Duration(wait)); err != nil {
			return err
		}
		switch {
		case r.delivered != progress:
			progress, changed = r.delivered, now
		case now-changed > int64(r.load.Patience):
			changed = now
			r.forgive()
		}
	}
}

// publish sends the messages that may go out now, and returns how long to wait at most.
func (r *run) publish(now, wait int64) (int64, error) {
	interval := int64(0)
	if r.load.Rate > 0 {
		interval = int64(float64(len(r.publishers)) * 1e9 / r.load.Rate)
	}
	for _, p := range r.publishers {
		if interval == 0 {
			if n := p.room(); n >= p.burst {
				if err := p.publish(n, now); err != nil {
					return 0, err
				}
			}
			continue
		}
		for p.due <= now && p.room() > 0 {
			if err := p.publish(1, p.due); err != nil {
				return 0, err
			}
			p.due += interval
		}
		wait = min(wait, max(p.due-now, int64(shortTurn)))
	}
	return wait, nil
}

func (r *run) turn(ctx context.Context, wait time.Duration) error {
	r.read = 0
	if err := r.loop.turn(wait); err != nil {
		return err
	}
	return ctx.Err()
}

// forgive gives up the missing messages, so that the load goes on.
func (r *run) forgive() {
	for _, p := range r.publishers {
		p.forgiven += p.outstanding()
	}
}

// drain waits for deliveries and acknowledgements until there are no more to
// come, or none came for a while; then a little longer, for repetitions.
func (r *run) drain(ctx context.Context) error {
	const linger = 50 * time.Millisecond
	progress, changed := uint64(0), clock()
	for r.unfinished() && clock()-changed < int64(r.load.Patience) {
		if err := r.turn(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if n := r.delivered + r.result.Acknowledged; n != progress {
			progress, changed = n, clock()
		}
	}
	for end := clock() + int64(linger); clock() < end; {
		if err := r.turn(ctx, time.Duration(end-clock())); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) unfinished() bool {
	for _, p := range r.publishers {
		if p.pending > 0 || p.outstanding() > 0 {
			return true
		}
	}
	return false
}

func (r *run) report(from, to sample) {
	out := &r.result
	for _, p := range r.publishers {
		out.Sent += p.sent
		out.Expected += p.expected
		out.Unacknowledged += uint64(p.pending)
	}
	out.Delivered = r.delivered
	out.Lost = out.Expected - min(out.Delivered, out.Expected)
	if out.Refused > 0 {
		out.Refusal = r.refusal.String()
	}
	n := to.delivered - from.delivered
	out.count(n, time.Duration(to.at-from.at), from.broker, to.broker, to.own-from.own)
	out.SentPerSecond = float64(to.sent-from.sent) / out.Seconds
	out.Delay = r.delays.summary()
}

package hlc

import (
	"sync/atomic"
	"time"
)

// MaxAhead bounds how far another clock may pull a [Clock] ahead of the wall clock, so
// that one wrong clock does not decide forever.
const MaxAhead = 24 * time.Hour

// counterBits is the width of the counter.
const counterBits = 16

// At returns the first reading of the millisecond of t.
func At(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) << counterBits }

// Next returns the reading after last for an event at wall time now.
func Next(last uint64, now time.Time) uint64 { return max(last+1, At(now)) }

// Time returns the wall time of a reading.
func Time(reading uint64) time.Time { return time.UnixMilli(int64(reading >> counterBits)) }

// Span returns by how much readings grow in d, which is not negative.
func Span(d time.Duration) uint64 { return uint64(d.Milliseconds()) << counterBits }

// Clock is the clock of one process. It never goes back and is ahead of every reading
// that it observed, so that an event which follows another has the higher reading even
// if the wall clocks differ. The zero Clock is ready; its methods may be called from
// any goroutine.
type Clock struct{ last atomic.Uint64 }

// Now returns a reading higher than all before it.
func (c *Clock) Now() uint64 {
	for {
		last := c.last.Load()
		next := Next(last, time.Now())
		if c.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// Observe takes the reading of another clock into account, as far as [MaxAhead].
func (c *Clock) Observe(other uint64) {
	other = min(other, At(time.Now())+Span(MaxAhead))
	for {
		last := c.last.Load()
		if other <= last || c.last.CompareAndSwap(last, other) {
			return
		}
	}
}

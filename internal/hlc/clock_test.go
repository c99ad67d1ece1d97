package hlc

import (
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestNext(t *testing.T) {
	ms := time.UnixMilli
	for _, tt := range []struct {
		name string
		last uint64
		now  time.Time
		want uint64
	}{
		{"the first", 0, ms(7), 7 << 16},
		{"time went on", 5<<16 | 3, ms(7), 7 << 16},
		{"the same millisecond", 7 << 16, ms(7), 7<<16 | 1},
		{"the wall clock ran back", 7<<16 | 4, ms(5), 7<<16 | 5},
		{"the wall clock reached the reading", 7<<16 | 4, ms(7), 7<<16 | 5},
		{"a full counter", 5<<16 | math.MaxUint16, ms(0), 6 << 16},
		{"a full counter in its own millisecond", 5<<16 | math.MaxUint16, ms(5), 6 << 16},
		{"before 1970", 0, ms(-9), 1},
	} {
		if got := Next(tt.last, tt.now); got != tt.want {
			t.Errorf("%s: Next(%#x, %v) = %#x, want %#x", tt.name, tt.last, tt.now, got, tt.want)
		}
	}
}

func TestTime(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC)
	if got := Time(At(at) | 9); !got.Equal(at) {
		t.Errorf("Time = %v, want %v", got, at)
	}
	if got, want := At(at.Add(time.Minute)), At(at)+Span(time.Minute); got != want {
		t.Errorf("a minute later: %#x, want %#x", got, want)
	}
	last := time.Date(10889, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := Time(At(last)); !got.Equal(last) {
		t.Errorf("the last year: %v, want %v", got, last)
	}
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		first := c.Now()
		if first != At(time.Now()) {
			t.Errorf("the first reading is %#x, want the wall clock's %#x", first, At(time.Now()))
		}
		c.Observe(first + Span(time.Minute))
		if got, want := c.Now(), first+Span(time.Minute)+1; got != want {
			t.Errorf("a clock that saw a later one: %#x, want %#x", got, want)
		}
		c.Observe(first) // an older one changes nothing
		if got, want := c.Now(), first+Span(time.Minute)+2; got != want {
			t.Errorf("a clock that saw an older one: %#x, want %#x", got, want)
		}
		<-time.After(2 * time.Minute)
		if got := c.Now(); got != At(time.Now()) {
			t.Errorf("the wall clock overtook: %#x, want %#x", got, At(time.Now()))
		}
		c.Observe(math.MaxUint64)
		if got, want := c.Now(), At(time.Now())+Span(MaxAhead)+1; got != want {
			t.Errorf("one wrong clock pulled ours to %#x, want %#x", got, want)
		}
	})
}

func TestClockConcurrently(t *testing.T) {
	var c Clock
	const workers, each = 4, 1000
	got := make([][]uint64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				r := c.Now()
				c.Observe(r - 1)
				got[w] = append(got[w], r)
			}
		})
	}
	wg.Wait()
	for w, readings := range got {
		if !slices.IsSorted(readings) {
			t.Errorf("worker %d saw the clock go back", w)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(got...)))
	if n := len(slices.Compact(all)); n != workers*each {
		t.Errorf("%d different readings, want %d", n, workers*each)
	}
}

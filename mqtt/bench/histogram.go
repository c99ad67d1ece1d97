package bench

import (
	"math/bits"
	"time"
)

// histogram counts durations in 32 steps per power of two nanoseconds, so that a
// percentile is off by 3 % at most.
type histogram struct {
	counts [64 * 32]uint64
	total  uint64
}

func (h *histogram) add(d time.Duration) {
	h.counts[step(max(d, 0))]++
	h.total++
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// at returns the duration that the given share (0 to 1) of all does not exceed.
func (h *histogram) at(share float64) time.Duration {
	rank, below := uint64(share*float64(h.total)), uint64(0)
	for i, n := range h.counts {
		if below += n; n > 0 && below > rank {
			return floor(i)
		}
	}
	return 0
}

func step(d time.Duration) int {
	if d < 32 {
		return int(d)
	}
	shift := bits.Len64(uint64(d)) - 6
	return shift*32 + int(d>>shift)
}

// floor is the least duration of step i.
func floor(i int) time.Duration {
	if i < 64 {
		return time.Duration(i)
	}
	shift := i/32 - 1
	return time.Duration(i-shift*32) << shift
}

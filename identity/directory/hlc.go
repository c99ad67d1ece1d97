package directory

import "time"

// hlc is a hybrid logical clock: 48 bits of Unix milliseconds, 16 of counter.
// It never goes back, whatever the wall clock does.
type hlc uint64

// next returns the stamp after h at wall time now. A full counter runs over
// into the milliseconds, which keeps the order.
func (h hlc) next(now time.Time) hlc {
	wall := hlc(max(now.UnixMilli(), 0)) << 16
	return max(h+1, wall)
}

// Time returns the wall time of the record's clock.
func (r *Record) Time() time.Time { return time.UnixMilli(int64(r.HLC >> 16)).UTC() }

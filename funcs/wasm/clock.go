package wasm

import "time"

// clock is the time of a guest that may not know the real one. It answers the
// same to the same messages, and yet moves as a run time expects: a little with
// each look, more with each message, and at once by as much as the guest wants
// to sleep.
//
// A clock that moved only when looked at would not do. Go's garbage collector
// looks while it works and a handler hardly ever does, so collecting would seem
// to take half of all time; then Go collects less and the heap grows without
// end.
type clock struct{ elapsed time.Duration }

const (
	tickLook = time.Microsecond
	tickCall = time.Millisecond

	clockStart = 1640995200 // 2022-01-01T00:00:00Z
)

// nanotime implements [sys.Nanotime].
func (c *clock) nanotime() int64 {
	c.elapsed += tickLook
	return int64(c.elapsed)
}

// walltime implements [sys.Walltime].
func (c *clock) walltime() (sec int64, nsec int32) {
	now := time.Unix(clockStart, c.nanotime())
	return now.Unix(), int32(now.Nanosecond())
}

// nanosleep implements [sys.Nanosleep] without waiting.
func (c *clock) nanosleep(ns int64) {
	if ns > 0 {
		c.elapsed += time.Duration(ns)
	}
}

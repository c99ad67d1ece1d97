package mqtt

import (
	"sync/atomic"
	"time"
)

// hlc is a hybrid logical clock: milliseconds since 1970 in the upper 48 bits
// and a counter below. It never goes back and is ahead of every clock that it
// saw, so that a retained message that follows another has the higher one even
// if the sites' clocks differ.
type hlc struct{ last atomic.Uint64 }

// maxAhead bounds how far another site's clock may pull ours ahead, so that one
// wrong clock does not decide forever.
const maxAhead = uint64(24*60*60*1000) << 16

func physical() uint64 { return uint64(time.Now().UnixMilli()) << 16 }

func (h *hlc) now() uint64 {
	for {
		last := h.last.Load()
		next := max(last+1, physical())
		if h.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// observe takes another site's reading into account.
func (h *hlc) observe(other uint64) {
	other = min(other, physical()+maxAhead)
	for {
		last := h.last.Load()
		if other <= last || h.last.CompareAndSwap(last, other) {
			return
		}
	}
}

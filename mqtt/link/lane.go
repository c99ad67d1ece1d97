package link

import (
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// lane tells the duplicates of a node's lane 0. The receiver that uses it holds the
// source's slot, and its store callbacks have all come. So the store's floor is the
// whole truth, except for messages that the store failed to keep. The floor never rises
// above such a message: after a crash the message would pass for a duplicate.
type lane struct {
	epoch uint64
	taken uint64 // the last number handed to the broker, or to another node of this site
	known bool   // taken is known, so a jump from it tells of missing messages

	failed map[uint64]struct{} // below taken, and to be taken again; bounded by the window
	rest   time.Time           // no message is taken until then; why is the reason
	why    *packet.Error
	doubt  time.Time // when a message was first refused for want of news
}

// begin prepares for a stream that begins with o. Messages that other nodes of this
// site acknowledged meanwhile are not missing here.
func (n *lane) begin(s store.Store, node identity.ID, o hello) {
	if n.epoch != o.epoch {
		*n = lane{epoch: o.epoch, rest: n.rest, why: n.why, doubt: n.doubt}
	}
	for _, name := range []string{floorName(node), o.site} { // floors were by site once
		if kept, seq := s.Floor(name, laneLog); kept == o.epoch {
			n.taken, n.known = max(n.taken, seq), true
		}
	}
	if o.told {
		n.taken, n.known = max(n.taken, o.acked), true
	}
}

// verdict is the decision about a number.
type verdict byte

const (
	duplicate verdict = iota
	next              // the floor rises to it
	again             // the store failed to keep it; the floor is beyond
)

// take decides about the next number. missing is how many numbers before it did not
// arrive, without the numbers that the sender left out.
func (n *lane) take(seq, skipped uint64) (v verdict, missing uint64) {
	if seq <= n.taken {
		if _, failed := n.failed[seq]; failed {
			delete(n.failed, seq)
			return again, 0
		}
		return duplicate, 0
	}
	if n.known {
		missing = seq - n.taken - 1
		missing -= min(missing, skipped)
	}
	n.taken, n.known = seq, true
	return next, missing
}

// fail notes that the store did not keep seq.
func (n *lane) fail(seq uint64) {
	if n.failed == nil {
		n.failed = make(map[uint64]struct{})
	}
	n.failed[seq] = struct{}{}
}

// pause refuses all messages for d.
func (n *lane) pause(d time.Duration, why *packet.Error) {
	n.rest, n.why = time.Now().Add(d), why
}

// doubtful reports whether a message that is refused for want of news shall come again,
// and whether the doubt begins with it. Messages that are refused meanwhile share the
// doubt, so a site with many refused messages is held up once.
func (n *lane) doubtful() (again, first bool) {
	passed := time.Since(n.doubt)
	if passed >= doubtTime+doubtPause {
		n.doubt = time.Now()
		return true, true
	}
	return passed < doubtTime, false
}

package link

import (
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/hlc"
	"github.com/hpmq/hpmq/mqtt/store"
)

// clearing tells how far the peer's store was told of the retained messages that this
// site cleared. The log brings it every message that clears; a new stream repeats the
// ones that the log may have lost.
type clearing struct {
	epoch uint64 // of the peer's store; a store that was set up again or restored has another
	clock uint64 // tombstones up to here
}

// lateClear is the longest time by which a message can be committed after a message
// with a higher clock, on the hybrid logical clock.
var lateClear = hlc.Span(time.Minute)

// readTombstones reads the tombstones of this site's publishers that the peer was not
// yet told. It includes tombstones that the log brought, since the log may have lost
// some.
func (s *sender) readTombstones() *copies {
	c := &copies{clearing: clearing{epoch: s.epoch}}
	from := uint64(0)
	if s.epoch != 0 && s.p.cleared.epoch == s.epoch {
		from = s.p.cleared.clock
		c.clearing.clock = from
	}
	for _, m := range s.p.l.opts.Store.Tombstones() {
		if m.HLC < from || !s.p.l.leaves(m) {
			continue
		}
		c.messages = append(c.messages, m)
		c.clearing.clock = max(c.clearing.clock, m.HLC-min(m.HLC, lateClear))
	}
	return c
}

// ordersClear reports whether m is a node's order to clear a retained message. It goes
// to every site. Where it is not accepted there is no copy of the node's site, and
// nothing to do.
func ordersClear(m *store.Message) bool {
	id, err := identity.ParseID(m.Publisher)
	return err == nil && id.Kind == identity.Node && clears(m)
}

// clearsNothing reports whether m clears a topic on which nothing is retained here.
func (r *receiver) clearsNothing(m *store.Message) bool {
	return clears(m) && len(r.l.opts.Store.Retained(m.Topic)) == 0
}

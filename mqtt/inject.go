package mqtt

import (
	"hash/maphash"

	"github.com/hpmq/hpmq/mqtt/store"
)

// Publish sends a message of the node itself, a dead letter for example: to
// local sessions and other sites, without policy and upstream functions. done,
// if not nil, is called once m is kept where it must be; it must not block.
func (b *Broker) Publish(m *store.Message, done func(error)) {
	n := *m
	if n.HLC == 0 {
		n.HLC = b.clock.Now()
	}
	if err := validTopic(n.Topic); err != nil {
		if done != nil {
			done(err)
		}
		return
	}
	b.lanes[0].push(&entry{stage: filtered, m: &n, forward: true, done: done})
}

// Inject delivers a message that came from another site. replayed says that m is a
// retained message that the site sent for a new subscription here, not one that was
// published just now: receivers get it with RETAIN set. A replayed message without a
// payload tells that there is no retained message any more, and receivers do not get
// it. tx, if not nil, adds the caller's own changes, such as the dedupe floor, to the
// transaction that keeps m; done, if not nil, is called once all of it is kept, in the
// order of the calls with the same m.Origin.Site and m.Origin.Lane, and must not
// block. An injected message enters no upstream function and is not forwarded. m is
// not changed.
func (b *Broker) Inject(m *store.Message, replayed bool, tx func(store.Tx), done func(error)) {
	if err := validTopic(m.Topic); err != nil {
		if done != nil {
			done(err)
		}
		return
	}
	b.count.injected.Add(1)
	b.clock.Observe(m.HLC)
	lane := maphash.Comparable(laneSeed, laneKey{m.Origin.Site, m.Origin.Lane})
	p := &b.lanes[1+lane%uint64(len(b.lanes)-1)]
	p.push(&entry{stage: filtered, m: m, replayed: replayed, tx: tx, done: done})
}

type laneKey struct {
	site string
	lane uint16
}

var laneSeed = maphash.MakeSeed()

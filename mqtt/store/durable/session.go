package durable

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/store"
)

// session is the part of a session that is in memory. On disk it goes by a number,
// which is shorter than its key.
type session struct {
	store.Session
	id      uint64
	queue   *queue
	known   bool // its record is visible
	touched bool // the batch that is gathered has keys of it that memory does not know
}

func newSession(id uint64) *session {
	x := &session{id: id}
	x.queue = newQueue(x.key(nil, sessionEntry))
	x.queue.session = true
	return x
}

// key appends the beginning of a key of x.
func (x *session) key(dst []byte, kind byte) []byte { return appendSessionKey(dst, x.id, kind) }

// apply makes a change to the session visible, and returns how many bytes more are
// held for it.
func (x *session) apply(o *op) (held int) {
	switch o.kind {
	case opPutSession:
		return x.put(*o.session)
	case opSubscribe:
		return x.subscribe(o.sub)
	case opUnsubscribe:
		if i := x.subscription(o.name); i >= 0 {
			held = -x.Subscriptions[i].Size()
			x.Subscriptions = slices.Delete(x.Subscriptions, i, i+1)
		}
	case opReceive:
		if !slices.Contains(x.Received, o.id) {
			x.Received = append(x.Received, o.id)
			return store.ReceivedSize
		}
	case opRelease:
		if i := slices.Index(x.Received, o.id); i >= 0 {
			x.Received = slices.Delete(x.Received, i, i+1)
			return -store.ReceivedSize
		}
	case opInflight:
		x.queue.send(o.seq, o.sent)
	}
	return held
}

// put replaces the record.
func (x *session) put(s store.Session) (held int) {
	if x.known {
		held = -x.RecordSize()
	}
	s.Subscriptions, s.Received = x.Subscriptions, x.Received
	x.Session, x.known = s, true
	return held + x.RecordSize()
}

func (x *session) subscribe(s store.Subscription) (held int) {
	if i := x.subscription(s.Filter); i >= 0 {
		x.Subscriptions[i] = s // of the same size
		return 0
	}
	x.Subscriptions = append(x.Subscriptions, s)
	return s.Size()
}

func (x *session) subscription(filter string) int {
	return slices.IndexFunc(x.Subscriptions, func(s store.Subscription) bool { return s.Filter == filter })
}

// peer is the part of the log to another site that is in memory.
type peer struct {
	log  *queue
	grew chan struct{} // capacity 1; see [store.Store.Committed]
}

func newPeer(name string) *peer {
	return &peer{log: newQueue(appendOutboundKey(nil, name, outboundEntry)), grew: make(chan struct{}, 1)}
}

func (p *peer) wake() {
	select {
	case p.grew <- struct{}{}:
	default: // the token of an earlier message is still there
	}
}

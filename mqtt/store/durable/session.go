package durable

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/store"
)

// session is what memory holds of a session. On disk it goes by a number, which
// is shorter than its key.
type session struct {
	store.Session
	id      uint64
	queue   *queue
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

// apply makes a change to the session visible.
func (x *session) apply(o *op) {
	switch o.kind {
	case opPutSession:
		s := *o.session
		s.Subscriptions, s.Received = x.Subscriptions, x.Received
		x.Session = s
	case opSubscribe:
		x.subscribe(o.sub)
	case opUnsubscribe:
		if i := x.subscription(o.name); i >= 0 {
			x.Subscriptions = slices.Delete(x.Subscriptions, i, i+1)
		}
	case opReceive:
		if !slices.Contains(x.Received, o.id) {
			x.Received = append(x.Received, o.id)
		}
	case opRelease:
		x.Received = slices.DeleteFunc(x.Received, func(id uint16) bool { return id == o.id })
	case opInflight:
		x.queue.send(o.seq, o.sent)
	}
}

func (x *session) subscribe(s store.Subscription) {
	if i := x.subscription(s.Filter); i >= 0 {
		x.Subscriptions[i] = s
	} else {
		x.Subscriptions = append(x.Subscriptions, s)
	}
}

func (x *session) subscription(filter string) int {
	return slices.IndexFunc(x.Subscriptions, func(s store.Subscription) bool { return s.Filter == filter })
}

// peer is what memory holds of the log to another site.
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

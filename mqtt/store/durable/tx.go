package durable

import (
	"sync"
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// tx is one transaction: a list of changes and their values as they will lie on
// disk. It is filled by the goroutine that calls Update, so that encoding is
// done in as many goroutines as publish.
type tx struct {
	ops   []op
	buf   []byte
	done  func(error)
	err   error
	grows bool // it must not be kept on a disk that is nearly full

	message *store.Message // the message that was encoded last
	encoded span           // its place in buf
}

// span is a part of a tx's buf.
type span struct{ from, to int }

// opKind is a plain byte because no switch over it is complete: each step of a
// transaction looks at its own kinds.
type opKind = byte

const (
	opPutSession opKind = iota
	opDeleteSession
	opSubscribe
	opUnsubscribe
	opReceive
	opRelease
	opEnqueue
	opInflight
	opDequeue
	opRetain
	opOutbound
	opAcknowledge
	opFloor
	opPutValue
	opSweep
)

// op is one change. Which fields count depends on kind.
type op struct {
	kind     opKind
	id       uint16
	sent     store.Sent
	given    int  // messages acknowledged; after staging: the ones that were no longer in the log
	head     span // the value up to the message
	body     span // the message; empty if it is in head
	seq      uint64
	key      store.SessionKey
	name     string // filter, peer or key of a value
	scope    string
	delivery store.Delivery
	sub      store.Subscription
	session  *store.Session
	origin   store.Origin
	value    []byte // nil removes
	now      time.Time
}

var txPool = sync.Pool{New: func() any { return new(tx) }}

// largeTx is up to which size a transaction's memory is used again.
const largeTx = 64 << 10

func (t *tx) free() {
	if cap(t.buf) > largeTx || cap(t.ops) > 256 {
		return
	}
	clear(t.ops)
	*t = tx{ops: t.ops[:0], buf: t.buf[:0]}
	txPool.Put(t)
}

// since returns the span of buf after from.
func (t *tx) since(from int) span { return span{from, len(t.buf)} }

// encode returns the encoding of m, which all queues of a publish share.
func (t *tx) encode(m *store.Message) span {
	if t.message != m {
		from := len(t.buf)
		t.buf = appendMessage(t.buf, m)
		t.message, t.encoded = m, t.since(from)
	}
	return t.encoded
}

// versionOnly returns the head of a value that has nothing before its message.
func (t *tx) versionOnly() span {
	from := len(t.buf)
	t.buf = append(t.buf, version)
	return t.since(from)
}

func (t *tx) PutSession(s store.Session) {
	from := len(t.buf)
	t.buf = appendSession(t.buf, &s)
	t.ops = append(t.ops, op{kind: opPutSession, key: s.Key, session: &s, head: t.since(from)})
}

func (t *tx) DeleteSession(k store.SessionKey) {
	t.ops = append(t.ops, op{kind: opDeleteSession, key: k})
}

func (t *tx) Subscribe(k store.SessionKey, s store.Subscription) {
	from := len(t.buf)
	t.buf = appendSubscription(t.buf, s)
	t.ops = append(t.ops, op{kind: opSubscribe, key: k, sub: s, head: t.since(from)})
	t.grows = true
}

func (t *tx) Unsubscribe(k store.SessionKey, filter string) {
	t.ops = append(t.ops, op{kind: opUnsubscribe, key: k, name: filter})
}

func (t *tx) Receive(k store.SessionKey, id uint16) {
	t.ops = append(t.ops, op{kind: opReceive, key: k, id: id, head: t.versionOnly()})
}

func (t *tx) Release(k store.SessionKey, id uint16) {
	t.ops = append(t.ops, op{kind: opRelease, key: k, id: id})
}

func (t *tx) Enqueue(k store.SessionKey, d store.Delivery) {
	body := t.encode(d.Message)
	from := len(t.buf)
	t.buf = appendDelivery(t.buf, d)
	t.ops = append(t.ops, op{kind: opEnqueue, key: k, delivery: d, head: t.since(from), body: body})
	t.grows = true
}

func (t *tx) Inflight(k store.SessionKey, seq uint64, e store.Sent) {
	from := len(t.buf)
	t.buf = appendSent(t.buf, e)
	t.ops = append(t.ops, op{kind: opInflight, key: k, seq: seq, sent: e, head: t.since(from)})
}

func (t *tx) Dequeue(k store.SessionKey, seq uint64) {
	t.ops = append(t.ops, op{kind: opDequeue, key: k, seq: seq})
}

func (t *tx) Retain(m *store.Message) {
	o := op{kind: opRetain, delivery: store.Delivery{Message: m}}
	if len(m.Payload) > 0 {
		t.grows = true
	} else {
		m = store.NewTombstone(m, time.Now())
		o.delivery.Message = m
	}
	o.body, o.head = t.encode(m), t.versionOnly()
	t.ops = append(t.ops, o)
}

func (t *tx) Outbound(peer string, m *store.Message) {
	body := t.encode(m)
	t.ops = append(t.ops, op{
		kind: opOutbound, name: peer, delivery: store.Delivery{Message: m}, head: t.versionOnly(), body: body,
	})
	t.grows = true
}

func (t *tx) Acknowledge(peer string, seq uint64, sent int) {
	t.ops = append(t.ops, op{kind: opAcknowledge, name: peer, seq: seq, given: sent})
}

func (t *tx) Floor(o store.Origin) {
	from := len(t.buf)
	t.buf = appendOrigin(append(t.buf, version), o)
	t.ops = append(t.ops, op{kind: opFloor, origin: o, head: t.since(from)})
	t.grows = true // not in size, but it may follow a message that is refused for want of room
}

func (t *tx) PutValue(scope, key string, value []byte) {
	o := op{kind: opPutValue, scope: scope, name: key}
	if value != nil {
		from := len(t.buf)
		t.buf = append(append(t.buf, version), value...)
		o.head = t.since(from)
		o.value = append(make([]byte, 0, len(value)), value...)
		t.grows = true
	}
	t.ops = append(t.ops, o)
}

package mqtt

import (
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// batch gathers the connections that one run of deliveries made dirty, so that
// each is flushed once at its end. It belongs to one goroutine at a time.
type batch struct {
	b     *Broker
	dirty []*conn
	sent  uint64 // PUBLISH packets appended
	bytes int    // of them
	out   outgoing
	queue []store.Entry // scratch of pumpStore
}

var batchPool = sync.Pool{New: func() any { return new(batch) }}

// getBatch returns a batch for a run of deliveries outside a client's reader. It
// ends with done.
func getBatch(b *Broker) *batch {
	bt := batchPool.Get().(*batch)
	bt.b = b
	return bt
}

func (bt *batch) done() {
	bt.clean()
	batchPool.Put(bt)
}

// clean flushes and lets go of all messages.
func (bt *batch) clean() {
	bt.flush()
	bt.out.clearMessage()
	clear(bt.queue[:cap(bt.queue)])
}

// touch puts c on the list.
func (bt *batch) touch(c *conn, fresh bool) {
	if fresh {
		bt.dirty = append(bt.dirty, c)
	}
}

// flush writes the packets that the batch delivered.
func (bt *batch) flush() {
	for i, c := range bt.dirty {
		c.flush()
		bt.dirty[i] = nil
	}
	bt.dirty, bt.bytes = bt.dirty[:0], 0
	if bt.sent > 0 {
		bt.b.count.sent.Add(bt.sent)
		bt.sent = 0
	}
}

// maxBatchBytes is how much a batch may deliver before its end: one read can be a
// thousand messages for a thousand receivers each.
const maxBatchBytes = 4 << 20

// relieve flushes a batch that has delivered much.
func (bt *batch) relieve() {
	if bt.bytes >= maxBatchBytes {
		bt.flush()
	}
}

// outgoing is one message on its way to its receivers. It is encoded once per
// kind of receiver: protocol version, QoS and RETAIN.
type outgoing struct {
	pub    packet.Publish // topic, payload and properties
	msg    *store.Message // the same as a message; nil until a queue needs it
	frames [12]frame
	have   uint16 // bit i: frames[i] is encoded
	buf    []byte // the array of frames
	topic  []byte // the array of pub.TopicName, for a message

	// What message needs beside pub, for a PUBLISH that was not made a message yet:
	name string
	from *session // nil if o carries a message
	qos  byte

	routeEpoch uint64 // of the route of a PUBLISH
}

// setMessage makes o carry m, unless it does already. One that came as a PUBLISH does not
// count: pub aliases the reader's buffer, which may be another packet's by now.
func (o *outgoing) setMessage(m *store.Message) {
	if o.msg == m && o.from == nil && m.Expires == 0 {
		return
	}
	o.topic = append(o.topic[:0], m.Topic...)
	o.pub = packet.Publish{TopicName: o.topic, Payload: m.Payload, Properties: m.Props}
	if m.Expires != 0 { // [MQTT-3.3.2-6]
		o.pub.Properties.SetMessageExpiryInterval(remaining(m.Expires))
	}
	o.msg, o.from = m, nil
	o.resetFrames()
}

// setPublish makes o the message of p, which waits for no function and no store.
func (o *outgoing) setPublish(p *packet.Publish, r *route, s *session) {
	o.pub.TopicName, o.pub.Payload, o.pub.Properties = p.TopicName, p.Payload, p.Properties
	o.msg, o.name, o.from, o.qos, o.routeEpoch = nil, r.topic, s, p.QoS, r.routeEpoch
	o.resetFrames()
}

// passThrough lets receivers of version v have the packet as it came, in chunk. It is of
// QoS 0, without RETAIN and without a topic alias.
func (o *outgoing) passThrough(v packet.Version, raw []byte, chunk *buffer) {
	i := kind(v, 0, false)
	o.frames[i] = frame{shared: raw, pooled: chunk}
	o.have |= 1 << i
}

// message returns o as a message that a queue may keep.
func (o *outgoing) message() *store.Message {
	if o.msg == nil {
		o.msg = o.from.message(&o.pub, o.name)
		o.msg.QoS, o.msg.Retain = o.qos, false
	}
	return o.msg
}

// remaining returns how many seconds are left until expires [MQTT-3.3.2-6], at
// least one: an expired message is not sent.
func remaining(expires int64) uint32 {
	left := time.Duration(expires - time.Now().UnixNano())
	return uint32(max(1, (left+time.Second-1)/time.Second))
}

// resetFrames forgets the encoded frames.
func (o *outgoing) resetFrames() {
	for i := range o.frames {
		if o.have&(1<<i) != 0 && o.frames[i].shared != nil {
			o.frames[i] = frame{}
		}
	}
	o.have = 0
	if cap(o.buf) > maxPooled {
		o.buf = nil
	}
	o.buf = o.buf[:0]
}

// clearMessage lets go of the message.
func (o *outgoing) clearMessage() {
	o.pub = packet.Publish{}
	o.msg, o.from, o.name = nil, nil, ""
	o.resetFrames()
}

// frame is a message encoded for one kind of receiver. A large one that is the
// same for all of them, byte for byte, is shared and not copied: at QoS 0 there
// is no packet identifier.
type frame struct {
	packet.Encoded         // unset if pooled is not nil
	shared         []byte  // the whole packet, or nil
	pooled         *buffer // has shared, and returns to its pool; nil if shared is of no pool
}

// Size returns the size of the packet.
func (f frame) Size() int {
	if f.shared != nil {
		return len(f.shared)
	}
	return f.Encoded.Size()
}

const (
	// shareFrom is the size from which sharing is cheaper than copying.
	shareFrom = 8 << 10

	// passFrom is the size from which a packet may be sent from the chunk that it
	// was read into. It is a good part of that: a slow receiver keeps the chunk.
	passFrom = loopBuffer / 4
)

// kind is the index of a kind of receivers in outgoing.frames.
func kind(v packet.Version, qos byte, retain bool) int {
	i := int(qos) * 2
	if retain {
		i++
	}
	if v == packet.V5 {
		i += 6
	}
	return i
}

// frame returns the message encoded for one kind of receiver. Subscription
// identifiers make a receiver its own kind: its frame is encoded each time.
func (o *outgoing) frame(v packet.Version, qos byte, retain bool, ids []uint32) frame {
	if v == packet.V5 && len(ids) > 0 {
		o.pub.Properties.SubscriptionIDs = ids
		f := o.encode(v, qos, retain)
		o.pub.Properties.SubscriptionIDs = nil
		return f
	}
	i := kind(v, qos, retain)
	if o.have&(1<<i) == 0 {
		o.frames[i] = o.encode(v, qos, retain)
		o.have |= 1 << i
	}
	return o.frames[i]
}

// encode appends to buf; frames made before keep the old array if it moves.
func (o *outgoing) encode(v packet.Version, qos byte, retain bool) frame {
	o.pub.QoS, o.pub.Retain = qos, retain
	size := o.pub.Size(v)
	if qos == 0 && size >= shareFrom {
		b := make([]byte, 0, size)
		return frame{Encoded: o.pub.Encode(b, v), shared: b[:size]}
	}
	o.buf = slices.Grow(o.buf, size)
	f := o.pub.Encode(o.buf, v)
	o.buf = o.buf[:len(o.buf)+size]
	return frame{Encoded: f}
}

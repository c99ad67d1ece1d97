package store

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// Message is one application message on its way through the fabric. It is
// immutable once handed over: queues, logs and functions share it.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // as published
	Retain  bool // as published

	// Props holds the properties that travel with the message: payload format,
	// content type, response topic, correlation data and user properties. Topic
	// alias, subscription identifiers and expiry never stand here.
	Props packet.Properties

	Expires   int64  // Unix nanoseconds after which the message is useless; 0 is never
	Publisher string // SPIFFE ID of the identity that published it
	ClientID  string // client identifier of that connection, if it was one

	// Origin tells where the message entered the fabric. The zero Origin is this
	// site.
	Origin Origin

	// HLC is the hybrid logical clock of the publish. The retained message with
	// the highest wins.
	HLC uint64
}

// Origin numbers a message at the site where it entered the fabric.
type Origin struct {
	Site  string
	Epoch uint64 // the site's incarnation: a new one after it lost its log
	Lane  uint16
	Seq   uint64
}

// Expired reports whether m's time is over at now.
func (m *Message) Expired(now time.Time) bool {
	return m.Expires != 0 && now.UnixNano() >= m.Expires
}

// overhead is the assumed cost of a queued message beside its topic, payload and
// properties, in bytes.
const overhead = 512

// Size is the size of m as byte limits count it. A message that several queues share
// counts in each: it stays alive as long as the slowest of them.
func (m *Message) Size() int {
	n := overhead + len(m.Topic) + len(m.Payload) +
		len(m.Props.ContentType) + len(m.Props.ResponseTopic) + len(m.Props.CorrelationData)
	for _, u := range m.Props.User {
		n += len(u.Key) + len(u.Value)
	}
	return n
}

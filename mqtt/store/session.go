package store

// SessionKey names a session. Identities cannot take over each other's sessions
// because the identity is part of the key.
type SessionKey struct {
	Identity string // SPIFFE ID
	ClientID string
}

// Session is the record of a session, without its queue.
type Session struct {
	Key    SessionKey
	Expiry uint32 // seconds after the connection ended; 0xFFFFFFFF is never

	// Disconnected is when the connection ended, in Unix nanoseconds; 0 while
	// there is one.
	Disconnected int64

	// Will is published at WillAt (Unix nanoseconds) unless the client returns
	// before; while it is connected WillAt is 0.
	Will      *Message
	WillDelay uint32 // seconds
	WillAt    int64

	Subscriptions []Subscription // filled by [Store.Sessions], ignored by [Tx.PutSession]
	Received      []uint16       // QoS 2 packet identifiers awaiting PUBREL; as Subscriptions
}

// The assumed memory of a session and of a subscription beside their texts, in bytes.
const (
	sessionOverhead      = 512
	subscriptionOverhead = 96
)

// ReceivedSize is the memory of an element of Received, in bytes.
const ReceivedSize = 2

// Size is the memory that s takes, with its lists, in bytes.
func (s *Session) Size() int {
	n := s.RecordSize() + ReceivedSize*len(s.Received)
	for i := range s.Subscriptions {
		n += s.Subscriptions[i].Size()
	}
	return n
}

// RecordSize is the memory that s takes without its lists, in bytes.
func (s *Session) RecordSize() int {
	n := sessionOverhead + len(s.Key.Identity) + len(s.Key.ClientID)
	if s.Will != nil {
		n += s.Will.Size()
	}
	return n
}

// Subscription is one topic filter of a session with its options.
type Subscription struct {
	Filter            string // as the client wrote it, with $share/<name>/ if shared
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	ID                uint32 // subscription identifier; 0 is none
}

// Size is the memory that s takes, in bytes.
func (s *Subscription) Size() int { return subscriptionOverhead + len(s.Filter) }

// Delivery is a message as one session will receive it.
type Delivery struct {
	Message *Message
	QoS     byte // the lower of published and granted
	Retain  bool
	IDs     []uint32 // subscription identifiers
}

// Entry is a delivery that waits in a session's queue.
type Entry struct {
	Delivery
	Seq      uint64 // grows by one with each entry of the queue; the first is 1
	PacketID uint16 // as told to [Tx.Inflight]; 0 is not yet sent
	Released bool   // PUBREC arrived: PUBREL is due, the message itself is done
}

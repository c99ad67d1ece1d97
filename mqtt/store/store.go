package store

import (
	"errors"
	"fmt"
	"time"
)

// ErrFull is wrapped by the error of a transaction that was refused as a whole
// because something would have grown over its limit.
var ErrFull = errors.New("store is full")

// ErrNoSpace is an [ErrFull] that has nothing to do with the transaction: the
// disk is full, and the same transaction may be kept once it no longer is.
var ErrNoSpace = fmt.Errorf("%w for want of disk space", ErrFull)

// Store is the broker's memory. All methods are safe for concurrent use; their results
// are shared and not to be changed.
type Store interface {
	// Update adds changes to the open transaction. The store calls add once,
	// with nothing of its own locked but the transaction, and done once the
	// changes are kept or refused. Callbacks run one at a time in the order of
	// their changes, perhaps before Update returns; they must not block. A nil
	// done asks for no notice.
	Update(add func(Tx), done func(error))

	// Sessions returns every session, for a broker that starts.
	Sessions() []Session

	// Queue appends to dst the entries of k's queue after seq, oldest first,
	// until dst is at its capacity. It does not wait for a disk that fails: the
	// error, which comes with no entry, tells that the next one cannot be read for
	// now.
	Queue(k SessionKey, after uint64, dst []Entry) ([]Entry, error)

	// QueueStats tells how full k's queue is.
	QueueStats(k SessionKey) QueueStats

	// Retained returns the retained messages with a topic that matches filter. The
	// filter is not a shared one.
	Retained(filter string) []*Message

	// Tombstones returns the messages that cleared retained ones and that nothing newer
	// replaced, without payload, and Tombstone the one of a topic or nil. They are
	// kept for 30 days as far as their limit allows: an older message is not retained
	// again.
	Tombstones() []*Message
	Tombstone(topic string) *Message

	// Outbound appends to dst the messages of peer's log after seq, oldest first, until
	// dst is at its capacity. If the first entry is not seq+1, the ones between were
	// dropped. A message that cannot be read for now, and the messages after it, are
	// left out; Committed tells when they can be read.
	Outbound(peer string, after uint64, dst []Outbound) []Outbound

	// Committed returns a channel that holds a token whenever peer's log grew, or
	// can be read again, since the last receive. It has one consumer: the link to peer.
	Committed(peer string) <-chan struct{}

	// OutboundStats tells how full peer's log is.
	OutboundStats(peer string) QueueStats

	// Floor returns the last sequence number kept of an origin's lane, and the
	// epoch that it belongs to.
	Floor(site string, lane uint16) (epoch, seq uint64)

	// Value returns a value that [Tx.PutValue] kept, and Values all of a scope by key.
	Value(scope, key string) ([]byte, bool)
	Values(scope string) map[string][]byte

	// Sweep drops messages that expired by now.
	Sweep(now time.Time)

	// Stats returns the totals.
	Stats() Stats
}

// Tx is the open transaction. Its methods only add to it and are called only
// inside the function given to [Store.Update].
type Tx interface {
	PutSession(s Session)                      // new or changed, without its lists
	DeleteSession(k SessionKey)                // with its queue and lists
	Subscribe(k SessionKey, s Subscription)    // replaces that of the same filter
	Unsubscribe(k SessionKey, filter string)   //
	Receive(k SessionKey, id uint16)           // a QoS 2 message is taken from the client
	Release(k SessionKey, id uint16)           // its PUBREL arrived
	Enqueue(k SessionKey, d Delivery)          // dropped and counted when the queue is full
	Inflight(k SessionKey, seq uint64, e Sent) // an entry goes to the client
	Dequeue(k SessionKey, seq uint64)          // an entry is done
	Retain(m *Message)                         // an empty payload removes and leaves a tombstone; a lower HLC changes nothing
	Outbound(peer string, m *Message)          // the oldest is dropped and counted when the log is full

	// Acknowledge ends the part of peer's log up to seq. Peer has sent of it: as many
	// as the log does not hold any more are not dropped after all.
	Acknowledge(peer string, seq uint64, sent int)

	Floor(o Origin)                           // o was taken; see [Store.Floor]
	PutValue(scope, key string, value []byte) // nil removes
}

// OfHistory begins the scopes of values that are about the numbers which the
// store gave, or may not be trusted when a part is missing. A backup and a store
// that was repaired are without them: either may give numbers again that were given
// before. They do not count against [Limits.Values].
const OfHistory = "$"

// Sent is how far an entry went: under which packet identifier, and whether the
// client confirmed the message itself (QoS 2).
type Sent struct {
	PacketID uint16
	Released bool
}

// Outbound is a message in the log of a peer site.
type Outbound struct {
	Message *Message
	Seq     uint64
}

// QueueStats tells how full one queue is and how many messages it lost.
type QueueStats struct {
	Messages int
	Bytes    int
	Dropped  uint64 // since the store was opened

	// Acknowledged is, of an outbound log, the last number up to which its peer
	// needs nothing more.
	Acknowledged uint64
}

// Stats are the totals of a store.
type Stats struct {
	Sessions      int
	Queued        int // messages in all session queues
	QueuedBytes   int
	QueueDropped  uint64
	Retained      int
	RetainedBytes int
	Tombstones    int
	Forgotten     uint64 // tombstones that were evicted since the store was opened
	Outbound      int    // messages in all outbound logs
	OutboundBytes int
	OutboundDrops uint64
	Values        int
	ValueBytes    int
	Memory        int // bytes held in memory, about: messages, values and sessions
	Commits       uint64
}

package mqtt

import (
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// Direction tells which way a message passes a [Filter], seen from the client.
type Direction byte

// The directions.
const (
	Upstream   Direction = iota // a client's PUBLISH or will on its way into the fabric
	Downstream                  // a message on its way to one receiving session
)

// String returns "upstream" or "downstream".
func (d Direction) String() string {
	if d == Downstream {
		return "downstream"
	}
	return "upstream"
}

// Filter is the chain of functions that messages pass.
type Filter interface {
	// Bound reports whether a chain is bound to messages that p sends or receives on
	// topic. The broker keeps the answer until [Broker.Reroute].
	Bound(d Direction, p Principal, topic string) bool
	// Submit runs the chain on m, which is p's. It never blocks: done is called
	// exactly once, from any goroutine, perhaps before Submit returns. m belongs
	// to the fabric and is not changed.
	Submit(d Direction, p Principal, m *store.Message, done func(FilterResult))
}

// Outcome is a chain's decision about a message.
type Outcome byte

// The outcomes.
const (
	Pass    Outcome = iota // goes on as it came
	Publish                // replaced by FilterResult.Messages
	Drop                   // taken, goes nowhere; the publisher is told of success
	Reject                 // refused with FilterResult.Code and Reason
)

// FilterResult is a chain's answer to one message.
type FilterResult struct {
	// Err means that the chain did not run. Upstream the message goes nowhere and
	// is not acknowledged, as when the store fails; downstream the receiver does
	// not get it.
	Err      error
	Outcome  Outcome
	Messages []Emitted         // Publish: each is authorized as the function and as the principal
	Code     packet.ReasonCode // Reject: told an MQTT 5 publisher; must be one of PUBACK's
	Reason   string            // Reject: why, for people
	State    State             // that the functions remember; nil is nothing new
}

// State is the part of a message that functions remember. It is kept in the
// message's transaction, so that after a restart they remember the acknowledged
// messages, and no more. A message of QoS 0, which has no acknowledgement, does
// not wait for that.
type State interface {
	// Keep adds it to the transaction.
	Keep(tx store.Tx)
	// Discard forgets it, because the transaction was refused.
	Discard()
}

// Emitted is a message that a function made. The broker fills in publisher,
// client identifier, clock and a missing expiry from the message that it came
// of.
type Emitted struct {
	Message  *store.Message
	Function identity.ID
}

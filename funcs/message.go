package funcs

import "github.com/hpmq/hpmq/funcs/wasm"

// Direction is the way a message travels, seen from the device.
type Direction = wasm.Direction

// The directions.
const (
	Upstream   = wasm.Upstream
	Downstream = wasm.Downstream
)

// Verdict is a chain's decision about a message.
type Verdict = wasm.Verdict

// The verdicts.
const (
	Publish = wasm.VerdictPublish // Result.Messages replace the message
	Pass    = wasm.VerdictPass    // the message goes on unchanged
	Drop    = wasm.VerdictDrop    // nothing goes on
	Reject  = wasm.VerdictReject  // nothing goes on, the publisher is told why
)

// Message is the part of a message that functions see. Topic and payload must
// not change once it is submitted.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Dup     bool
}

// Origin is the session that a message belongs to: upstream its publisher,
// downstream its receiver.
type Origin struct {
	// Client keys order and worker: messages of one Client never pass each
	// other. It is unique to a session.
	Client string

	Identity string // the scope of the functions' state
	ClientID string
	Site     string
}

// Output is one message that leaves a chain.
type Output struct {
	Message
	// Function emitted it, and must be allowed to publish it as well as the
	// origin. It is empty for the message that was submitted.
	Function string
}

// Result is the outcome of a chain for one message.
type Result struct {
	Verdict  Verdict
	Messages []Output // of verdict Publish, in order

	// Function gave the verdict, unless that is Pass.
	Function string
	Code     byte   // MQTT 5 reason code of Reject
	Reason   string // text of Reject, or why a failed message was dropped

	// DeadLetters are to be published here, on this site only. Neither the verdict
	// nor the rights of the origin matter.
	DeadLetters []Output

	// Writes belong in the transaction of the message.
	Writes []Write

	// Err means that no function looked at the message: it must not be
	// acknowledged, nor go on. It is [ErrStopped] or [ErrBusy].
	Err error

	touched []*scope
}

// Discard forgets the writes of the message's functions. Call it when Writes could
// not be stored: the next call then reads the state from the store.
func (r *Result) Discard() {
	for _, s := range r.touched {
		s.discard()
	}
}

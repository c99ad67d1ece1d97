package hpmq

// Message is one MQTT message: the input of a function, or one that it
// publishes.
type Message struct {
	Topic   string
	Payload []byte // of an input, valid until the function returns
	QoS     byte
	Retain  bool
	Dup     bool // of an input: a retransmission

	prev    []byte
	hasPrev bool
	context []entry
}

type entry struct{ key, value string }

// Prev is the payload of the message before this one on the same topic: upstream
// from the same identity, downstream to the same session, if the host has it. It
// needs the capability prev.
func (m *Message) Prev() (payload []byte, ok bool) { return m.prev, m.hasPrev }

// Context tells about the message and its session: identity, client_id, site,
// direction, qos, retain. A key that the host does not give is empty.
func (m *Message) Context(key string) string {
	for _, e := range m.context {
		if e.key == key {
			return e.value
		}
	}
	return ""
}

// Verdict is what a function decided.
type Verdict uint32

// The verdicts. Their numbers are those of ABI hpmq/1.
const (
	VerdictPublish Verdict = iota
	VerdictPass
	VerdictDrop
	VerdictReject
	verdictFail Verdict = 1<<32 - 1 // never sent: the call itself fails
)

// Result is what a function answers; [Pass], [Drop], [Publish], [Reject] and
// [Fail] make one.
type Result struct {
	Verdict  Verdict
	Messages []Message // of Publish
	Code     byte      // of Reject
	Reason   string    // of Reject
	Err      error     // of Fail
}

// Pass lets the message go on unchanged.
func Pass() Result { return Result{Verdict: VerdictPass} }

// Drop ends the message; its publisher is told that all is well.
func Drop() Result { return Result{Verdict: VerdictDrop} }

// Publish replaces the message by messages, at most 16. The fabric checks each
// as the function and as the identity that the message came from.
func Publish(messages ...Message) Result {
	if len(messages) == 0 {
		return Drop()
	}
	return Result{Verdict: VerdictPublish, Messages: messages}
}

// Reasons of [Reject] that fit most functions (MQTT 5.0 §2.4).
const (
	NotAuthorized        byte = 0x87
	TopicNameInvalid     byte = 0x90
	QuotaExceeded        byte = 0x97
	PayloadFormatInvalid byte = 0x99
)

// Reject ends the message and tells its publisher why. Code is a reason code of
// MQTT 5 from 0x80 on.
func Reject(code byte, reason string) Result {
	return Result{Verdict: VerdictReject, Code: code, Reason: reason}
}

// Fail says that the function could not handle the message. What becomes of it
// is up to the binding: by default it is kept on the function's dead-letter
// topic.
func Fail(err error) Result { return Result{Verdict: verdictFail, Err: err} }

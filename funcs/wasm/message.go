package wasm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Direction is the way a message travels, seen from the device.
type Direction byte

// The directions.
const (
	Upstream   Direction = iota // from a device to the fabric
	Downstream                  // from the fabric to a device
)

// String is the word that guests and operators see.
func (d Direction) String() string {
	if d == Downstream {
		return "downstream"
	}
	return "upstream"
}

// Verdict is a function's decision about a message.
type Verdict uint32

// The verdicts, numbered as in ABI hpmq/1.
const (
	VerdictPublish Verdict = iota // the response's messages replace the input
	VerdictPass                   // the input goes on unchanged
	VerdictDrop                   // nothing goes on
	VerdictReject                 // nothing goes on and the publisher is told why
)

// String names the verdict in metrics and logs.
func (v Verdict) String() string {
	switch v {
	case VerdictPublish:
		return "publish"
	case VerdictPass:
		return "pass"
	case VerdictDrop:
		return "drop"
	case VerdictReject:
		return "reject"
	default:
		return fmt.Sprintf("verdict(%d)", uint32(v))
	}
}

// Pair is one entry of a request's context.
type Pair struct{ Key, Value string }

// Request is one message as a function sees it.
type Request struct {
	Topic   string
	Payload []byte
	Prev    []byte // nil: there is none
	QoS     byte
	Retain  bool
	Dup     bool
	Context []Pair
}

// Message is one message that a function emits.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Response is a function's answer.
type Response struct {
	Verdict  Verdict
	Messages []Message // of VerdictPublish
	Code     byte      // reason code of VerdictReject
	Reason   string    // text of VerdictReject
}

// Bounds of a response; the guest's memory may claim more.
const (
	MaxOutputs       = 16      // messages in one response
	MaxResponseBytes = 1 << 20 // its whole length
	MaxReasonBytes   = 1024    // the text of a reject
)

const (
	requestHeader  = 16
	responseHeader = 8
	messageHeader  = 8
	noPrev         = math.MaxUint32

	flagRetain = 1
	flagDup    = 2
)

var errRequestSize = errors.New("message too large for a function")

// appendRequest encodes r. Lengths that the layout cannot hold are an error:
// they never come from a valid MQTT packet.
func appendRequest(b []byte, r *Request) ([]byte, error) {
	if len(r.Topic) > math.MaxUint16 || len(r.Context) > math.MaxUint16 ||
		len(r.Payload) >= math.MaxInt32 || len(r.Prev) >= math.MaxInt32 {
		return nil, errRequestSize
	}
	prevLen := uint32(noPrev)
	if r.Prev != nil {
		prevLen = uint32(len(r.Prev))
	}
	var flags byte
	if r.Retain {
		flags |= flagRetain
	}
	if r.Dup {
		flags |= flagDup
	}
	le := binary.LittleEndian
	b = le.AppendUint16(b, uint16(len(r.Topic)))
	b = le.AppendUint16(b, uint16(len(r.Context)))
	b = le.AppendUint32(b, uint32(len(r.Payload)))
	b = le.AppendUint32(b, prevLen)
	b = append(b, r.QoS, flags, 0, 0)
	for _, p := range r.Context {
		if len(p.Key) > math.MaxUint16 || len(p.Value) > math.MaxUint16 {
			return nil, errRequestSize
		}
		b = le.AppendUint16(b, uint16(len(p.Key)))
		b = le.AppendUint16(b, uint16(len(p.Value)))
	}
	b = append(b, r.Topic...)
	b = append(b, r.Payload...)
	b = append(b, r.Prev...)
	for _, p := range r.Context {
		b = append(b, p.Key...)
		b = append(b, p.Value...)
	}
	return b, nil
}

// DecodeResponse reads a guest's response. Payloads alias b, which the caller
// must have copied out of the guest's memory.
func DecodeResponse(b []byte) (Response, error) {
	if len(b) > MaxResponseBytes {
		return Response{}, fmt.Errorf("response of %d bytes, at most %d are allowed", len(b), MaxResponseBytes)
	}
	if len(b) < responseHeader {
		return Response{}, fmt.Errorf("response of %d bytes is shorter than its header", len(b))
	}
	le := binary.LittleEndian
	r := Response{Verdict: Verdict(le.Uint32(b))}
	arg, rest := le.Uint32(b[4:]), b[responseHeader:]
	switch r.Verdict {
	case VerdictPublish:
		if err := r.decodeMessages(arg, rest); err != nil {
			return Response{}, err
		}
	case VerdictPass, VerdictDrop:
		if arg != 0 || len(rest) != 0 {
			return Response{}, fmt.Errorf("verdict %v carries data", r.Verdict)
		}
	case VerdictReject:
		if arg < 0x80 || arg > 0xff {
			return Response{}, fmt.Errorf("reject with reason code %d, want 128 to 255", arg)
		}
		if len(rest) > MaxReasonBytes || !utf8.Valid(rest) {
			return Response{}, fmt.Errorf("reject with a reason that is not UTF-8 text of at most %d bytes", MaxReasonBytes)
		}
		r.Code, r.Reason = byte(arg), string(rest)
	default:
		return Response{}, fmt.Errorf("unknown verdict %d", uint32(r.Verdict))
	}
	return r, nil
}

// decodeMessages reads count headers and the bytes behind them.
func (r *Response) decodeMessages(count uint32, b []byte) error {
	if count > MaxOutputs {
		return fmt.Errorf("response with %d messages, at most %d are allowed", count, MaxOutputs)
	}
	if uint64(len(b)) < uint64(count)*messageHeader {
		return errors.New("response ends inside its message headers")
	}
	headers, data := b[:count*messageHeader], b[count*messageHeader:]
	r.Messages = make([]Message, count)
	le := binary.LittleEndian
	for i := range r.Messages {
		h := headers[i*messageHeader:]
		qos, flags := h[0], h[1]
		topicLen, payloadLen := uint64(le.Uint16(h[2:])), uint64(le.Uint32(h[4:]))
		if uint64(len(data)) < topicLen+payloadLen {
			return fmt.Errorf("message %d ends outside the response", i)
		}
		if qos > 2 || flags&^flagRetain != 0 {
			return fmt.Errorf("message %d has QoS %d and flags %#x", i, qos, flags)
		}
		end := topicLen + payloadLen
		m := Message{Topic: string(data[:topicLen]), Payload: data[topicLen:end:end], QoS: qos, Retain: flags&flagRetain != 0}
		if err := checkTopic(m.Topic); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		r.Messages[i], data = m, data[end:]
	}
	if len(data) != 0 {
		return fmt.Errorf("%d bytes after the last message", len(data))
	}
	return nil
}

// checkTopic holds a guest's topic to the rules of a topic name
// (MQTT 5.0 §4.7.3), before anything else looks at it.
func checkTopic(topic string) error {
	if topic == "" {
		return errors.New("empty topic")
	}
	if !utf8.ValidString(topic) {
		return errors.New("topic is not UTF-8")
	}
	for _, c := range []byte(topic) {
		if c == '+' || c == '#' || c == 0 {
			return fmt.Errorf("topic name %q holds %q", topic, c)
		}
	}
	return nil
}

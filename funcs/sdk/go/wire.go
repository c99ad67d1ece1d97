package hpmq

import (
	"encoding/binary"
	"errors"
	"math"
)

// The layouts of ABI hpmq/1, little endian.
const (
	requestHeader = 16
	messageHeader = 8
	noPrev        = math.MaxUint32

	flagRetain = 1
	flagDup    = 2
)

var errRequest = errors.New("hpmq: malformed request from the host")

// decodeRequest reads a request. Payload and prev alias b.
func decodeRequest(b []byte) (*Message, error) {
	if len(b) < requestHeader {
		return nil, errRequest
	}
	le := binary.LittleEndian
	topicLen, entries := int(le.Uint16(b)), int(le.Uint16(b[2:]))
	payloadLen, prevLen := uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:]))
	m := &Message{QoS: b[12], Retain: b[13]&flagRetain != 0, Dup: b[13]&flagDup != 0, hasPrev: prevLen != noPrev}
	if !m.hasPrev {
		prevLen = 0
	}
	rest := b[requestHeader:]
	if len(rest) < 4*entries {
		return nil, errRequest
	}
	lengths, rest := rest[:4*entries], rest[4*entries:]
	ok := true
	next := func(n uint64) []byte {
		if !ok || n > uint64(len(rest)) {
			ok = false
			return nil
		}
		part := rest[:n:n]
		rest = rest[n:]
		return part
	}
	m.Topic = string(next(uint64(topicLen)))
	m.Payload = next(payloadLen)
	m.prev = next(prevLen)
	m.context = make([]entry, entries)
	for i := range m.context {
		key := next(uint64(le.Uint16(lengths[4*i:])))
		value := next(uint64(le.Uint16(lengths[4*i+2:])))
		m.context[i] = entry{string(key), string(value)}
	}
	if !ok {
		return nil, errRequest
	}
	return m, nil
}

// appendResult encodes what the host reads. A result that the layout cannot hold
// is an error.
func appendResult(b []byte, r Result) ([]byte, error) {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(r.Verdict))
	switch r.Verdict {
	case VerdictPass, VerdictDrop:
		return le.AppendUint32(b, 0), nil
	case VerdictReject:
		b = le.AppendUint32(b, uint32(r.Code))
		return append(b, r.Reason[:min(len(r.Reason), 1024)]...), nil
	case VerdictPublish:
	case verdictFail:
		if r.Err == nil {
			return nil, errors.New("hpmq: Fail without an error")
		}
		return nil, r.Err
	default:
		return nil, errors.New("hpmq: unknown verdict")
	}
	b = le.AppendUint32(b, uint32(len(r.Messages)))
	for i := range r.Messages {
		m := &r.Messages[i]
		if len(m.Topic) > math.MaxUint16 || uint64(len(m.Payload)) > math.MaxUint32 {
			return nil, errors.New("hpmq: message too large")
		}
		var flags byte
		if m.Retain {
			flags = flagRetain
		}
		b = append(b, m.QoS, flags)
		b = le.AppendUint16(b, uint16(len(m.Topic)))
		b = le.AppendUint32(b, uint32(len(m.Payload)))
	}
	for i := range r.Messages {
		b = append(b, r.Messages[i].Topic...)
		b = append(b, r.Messages[i].Payload...)
	}
	return b, nil
}

package bench

import (
	"encoding/binary"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// mark is the beginning of each payload.
type mark struct {
	publisher uint32
	seq       uint64 // of that publisher, from 0
	at        int64  // when it was sent, or due; see clock
}

const (
	markMagic = 0x68706d71 // tells a foreign message on our topics
	markSize  = 24         // bytes: magic, publisher, seq, at
)

func (m mark) put(b []byte) {
	binary.BigEndian.PutUint32(b, markMagic)
	binary.BigEndian.PutUint32(b[4:], m.publisher)
	binary.BigEndian.PutUint64(b[8:], m.seq)
	binary.BigEndian.PutUint64(b[16:], uint64(m.at))
}

// readMark returns the mark of a payload of size bytes, or false if it is not
// ours.
func readMark(b []byte, size int) (mark, bool) {
	if len(b) != size || binary.BigEndian.Uint32(b) != markMagic {
		return mark{}, false
	}
	return mark{
		publisher: binary.BigEndian.Uint32(b[4:]),
		seq:       binary.BigEndian.Uint64(b[8:]),
		at:        int64(binary.BigEndian.Uint64(b[16:])),
	}, true
}

// route is a topic as its publisher sees it.
type route struct {
	form        packet.Encoded // its PUBLISH, but for the identifier and the mark
	size        int            // of the payload
	subscribers uint64         // deliveries that one message makes
}

func newRoute(topic string, l *Load, v packet.Version, subscribers uint64) route {
	payload := make([]byte, l.Size)
	for i := range payload {
		payload[i] = byte('a' + i%26)
	}
	p := packet.Publish{QoS: l.QoS, TopicName: []byte(topic), Payload: payload}
	return route{form: p.Encode(nil, v), size: l.Size, subscribers: subscribers}
}

// append appends a message with m as its mark.
func (r *route) append(dst []byte, id uint16, m mark) []byte {
	dst = r.form.Append(dst, id, false)
	m.put(dst[len(dst)-r.size:])
	return dst
}

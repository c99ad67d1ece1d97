package packet

import "encoding/binary"

// Encoded is a PUBLISH encoded once for all receivers of one kind: one version,
// QoS class, RETAIN and set of properties. Per receiver only the packet
// identifier and DUP differ, and those are patched while it is copied; Encoded
// itself never changes, so receivers may share it.
type Encoded struct {
	b  []byte
	id int // where the packet identifier is; where it would be at QoS 0
}

// Encode appends the packet to dst and returns it as an Encoded that aliases
// what was appended. PacketID and Dup need not be set.
func (p *Publish) Encode(dst []byte, v Version) Encoded {
	start := len(dst)
	dst = p.Append(dst, v)
	b := dst[start:len(dst):len(dst)]
	return Encoded{b: b, id: 1 + varintSize(p.length(v)) + 2 + p.topicLen()}
}

// Size returns the size of the packet.
func (e Encoded) Size() int { return len(e.b) }

// QoS returns the packet's QoS.
func (e Encoded) QoS() byte { return e.b[0] >> 1 & 3 }

// Append appends the packet with packetID, which QoS 0 ignores, and DUP. It is
// Head and Tail in one.
func (e Encoded) Append(dst []byte, packetID uint16, dup bool) []byte {
	start := len(dst)
	dst = append(dst, e.b...)
	e.patch(dst[start:], packetID, dup)
	return dst
}

// AppendHead appends the part of the packet that differs between receivers: all
// up to the packet identifier. With Tail it spares a large payload the copy.
func (e Encoded) AppendHead(dst []byte, packetID uint16, dup bool) []byte {
	start := len(dst)
	dst = append(dst, e.b[:e.headLen()]...)
	e.patch(dst[start:], packetID, dup)
	return dst
}

// Tail returns the part after AppendHead's. It is shared: nobody writes to it.
func (e Encoded) Tail() []byte { return e.b[e.headLen():] }

func (e Encoded) headLen() int {
	if e.QoS() == 0 {
		return e.id
	}
	return e.id + 2
}

// patch writes what differs into a copy of the packet. QoS 0 has neither
// [MQTT-2.2.1-2] [MQTT-3.3.1-2].
func (e Encoded) patch(b []byte, packetID uint16, dup bool) {
	if e.QoS() == 0 {
		return
	}
	b[0] &^= 8
	if dup {
		b[0] |= 8
	}
	binary.BigEndian.PutUint16(b[e.id:], packetID)
}

package packet

import "encoding/binary"

// Encoded is a PUBLISH encoded once for all receivers of one kind: one version, QoS
// class, RETAIN and set of properties. Only the packet identifier and DUP differ per
// receiver. They are patched while the packet is copied; Encoded itself never changes,
// so receivers may share it.
type Encoded struct {
	b  []byte
	id int // where the packet identifier is; where it would be at QoS 0
}

// Encode appends the packet to dst and returns it as an Encoded that aliases the
// appended bytes. PacketID and Dup need not be set.
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

// Tail returns the part after AppendHead's. It is shared: it must not be changed.
func (e Encoded) Tail() []byte { return e.b[e.headLen():] }

func (e Encoded) headLen() int {
	if e.QoS() == 0 {
		return e.id
	}
	return e.id + 2
}

// patch writes the packet identifier and DUP into a copy of the packet. QoS 0 has
// neither [MQTT-2.2.1-2] [MQTT-3.3.1-2].
func (e Encoded) patch(b []byte, packetID uint16, dup bool) {
	if e.QoS() == 0 { // [MQTT-2.2.1-2] [MQTT-3.3.1-2]
		return
	}
	b[0] &^= 8
	if dup { // [MQTT-3.3.1-1]
		b[0] |= 8
	}
	binary.BigEndian.PutUint16(b[e.id:], packetID)
}

// Topic returns the Topic Name. It is shared: it must not be changed.
func (e Encoded) Topic() []byte {
	n := 1
	for e.b[n] >= 0x80 {
		n++
	}
	return e.b[n+3 : e.id]
}

// AliasOverhead is how much larger than Size a packet with an alias may be.
const AliasOverhead = 5

// AppendAliased is Append with a Topic Alias, for MQTT 5 only. known leaves the
// Topic Name out: the receiver has it from an earlier packet.
func (e Encoded) AppendAliased(dst []byte, packetID uint16, dup bool, alias uint16, known bool) []byte {
	topic, rest := e.Topic(), e.b[e.headLen():]
	if known {
		topic = nil
	}
	props, n, _ := parseVarint(rest, "properties") // as Encode wrote them
	length := 2 + len(topic) + e.headLen() - e.id + varintSize(int(props)+3) + 3 + len(rest) - n
	flags := e.b[0] & 0x0F &^ 8
	if dup && e.QoS() > 0 {
		flags |= 8
	}
	dst = appendHeader(dst, TypePublish, flags, length)
	dst = appendBinary(dst, topic)
	if e.QoS() > 0 {
		dst = binary.BigEndian.AppendUint16(dst, packetID)
	}
	dst = appendVarint(dst, props+3)
	dst = append(dst, byte(PropTopicAlias), byte(alias>>8), byte(alias))
	return append(dst, rest[n:]...)
}

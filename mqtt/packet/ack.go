package packet

import "encoding/binary"

// ack is the layout that the four acknowledgements of a PUBLISH share.
type ack struct {
	PacketID   uint16
	ReasonCode ReasonCode
	Properties Properties
}

func (a *ack) decode(t Type, v Version, flags byte, body []byte) error {
	a.ReasonCode = Success
	a.Properties.reset()
	if err := checkFlags(t, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	a.PacketID = d.packetID("MQTT-2.2.1-5")
	if v == V5 && len(d.b) > 0 {
		a.ReasonCode = d.reason(t)
		if len(d.b) > 0 {
			a.Properties.decode(&d, t)
		}
	}
	return d.end()
}

// length returns the length of the body: Reason Code and properties are left
// out when they say nothing.
func (a *ack) length(v Version) int {
	if v == V5 {
		if n := a.Properties.size(); n > 0 {
			return 3 + varintSize(n) + n
		}
		if a.ReasonCode != Success {
			return 3
		}
	}
	return 2
}

func (a *ack) append(dst []byte, t Type, v Version) []byte {
	n := a.length(v)
	dst = appendHeader(dst, t, fixedFlags[t], n)
	dst = binary.BigEndian.AppendUint16(dst, a.PacketID)
	if n > 2 {
		dst = append(dst, byte(a.ReasonCode))
	}
	if n > 3 {
		dst = a.Properties.Append(dst)
	}
	return dst
}

// Puback answers a PUBLISH at QoS 1.
type Puback ack

// Type returns [TypePuback].
func (p *Puback) Type() Type { return TypePuback }

// Decode implements [Packet].
func (p *Puback) Decode(v Version, flags byte, body []byte) error {
	return (*ack)(p).decode(TypePuback, v, flags, body)
}

// Append implements [Packet].
func (p *Puback) Append(dst []byte, v Version) []byte { return (*ack)(p).append(dst, TypePuback, v) }

// Size implements [Packet].
func (p *Puback) Size(v Version) int { return packetSize((*ack)(p).length(v)) }

// Pubrec answers a PUBLISH at QoS 2.
type Pubrec ack

// Type returns [TypePubrec].
func (p *Pubrec) Type() Type { return TypePubrec }

// Decode implements [Packet].
func (p *Pubrec) Decode(v Version, flags byte, body []byte) error {
	return (*ack)(p).decode(TypePubrec, v, flags, body)
}

// Append implements [Packet].
func (p *Pubrec) Append(dst []byte, v Version) []byte { return (*ack)(p).append(dst, TypePubrec, v) }

// Size implements [Packet].
func (p *Pubrec) Size(v Version) int { return packetSize((*ack)(p).length(v)) }

// Pubrel answers a PUBREC.
type Pubrel ack

// Type returns [TypePubrel].
func (p *Pubrel) Type() Type { return TypePubrel }

// Decode implements [Packet].
func (p *Pubrel) Decode(v Version, flags byte, body []byte) error {
	return (*ack)(p).decode(TypePubrel, v, flags, body)
}

// Append implements [Packet].
func (p *Pubrel) Append(dst []byte, v Version) []byte { return (*ack)(p).append(dst, TypePubrel, v) }

// Size implements [Packet].
func (p *Pubrel) Size(v Version) int { return packetSize((*ack)(p).length(v)) }

// Pubcomp answers a PUBREL.
type Pubcomp ack

// Type returns [TypePubcomp].
func (p *Pubcomp) Type() Type { return TypePubcomp }

// Decode implements [Packet].
func (p *Pubcomp) Decode(v Version, flags byte, body []byte) error {
	return (*ack)(p).decode(TypePubcomp, v, flags, body)
}

// Append implements [Packet].
func (p *Pubcomp) Append(dst []byte, v Version) []byte { return (*ack)(p).append(dst, TypePubcomp, v) }

// Size implements [Packet].
func (p *Pubcomp) Size(v Version) int { return packetSize((*ack)(p).length(v)) }

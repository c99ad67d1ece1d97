package packet

import "encoding/binary"

// Unsuback answers an UNSUBSCRIBE with one Reason Code per Topic Filter, in
// their order. In 3.1.1 it has none.
type Unsuback struct {
	PacketID    uint16
	Properties  Properties
	ReasonCodes []ReasonCode
}

// Type returns [TypeUnsuback].
func (p *Unsuback) Type() Type { return TypeUnsuback }

// Decode implements [Packet].
func (p *Unsuback) Decode(v Version, flags byte, body []byte) error {
	p.Properties.reset()
	p.ReasonCodes = nil
	if err := checkFlags(TypeUnsuback, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	p.PacketID = d.packetID("MQTT-2.2.1-6")
	if v == V5 {
		p.Properties.decode(&d, TypeUnsuback)
		p.ReasonCodes = d.reasons(TypeUnsuback, "MQTT-3.11.3-1")
	}
	return d.end()
}

func (p *Unsuback) length(v Version) int {
	if v == V5 {
		return 2 + p.Properties.Size() + len(p.ReasonCodes)
	}
	return 2
}

// Append implements [Packet].
func (p *Unsuback) Append(dst []byte, v Version) []byte {
	dst = appendHeader(dst, TypeUnsuback, 0, p.length(v))
	dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	if v == V5 {
		dst = p.Properties.Append(dst)
		for _, c := range p.ReasonCodes {
			dst = append(dst, byte(c))
		}
	}
	return dst
}

// Size implements [Packet].
func (p *Unsuback) Size(v Version) int { return packetSize(p.length(v)) }

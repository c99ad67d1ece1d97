package packet

import "encoding/binary"

// Suback answers a SUBSCRIBE with one Reason Code per Topic Filter, in their
// order. To 3.1.1 every failure is 0x80.
type Suback struct {
	PacketID    uint16
	Properties  Properties
	ReasonCodes []ReasonCode
}

// Type returns [TypeSuback].
func (p *Suback) Type() Type { return TypeSuback }

// Decode implements [Packet].
func (p *Suback) Decode(v Version, flags byte, body []byte) error {
	p.Properties.reset()
	p.ReasonCodes = nil
	if err := checkFlags(TypeSuback, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	p.PacketID = d.packetID("MQTT-2.2.1-6")
	if v == V5 {
		p.Properties.decode(&d, TypeSuback)
	}
	p.ReasonCodes = d.reasons(TypeSuback, "MQTT-3.8.4-6")
	for _, c := range p.ReasonCodes {
		if v != V5 && c > UnspecifiedError {
			d.fail(violation("MQTT-3.1.1 [3.9.3-2]", "return code is reserved"))
		}
	}
	return d.end()
}

// reasons reads Reason Codes to the end of the packet, at least one.
func (d *decoder) reasons(t Type, statement string) []ReasonCode {
	if len(d.b) == 0 { // [MQTT-3.8.4-6]
		d.fail(violation(statement, t.String()+" without a reason code"))
	}
	var codes []ReasonCode
	if d.err == nil {
		codes = make([]ReasonCode, 0, len(d.b))
	}
	for len(d.b) > 0 {
		codes = append(codes, d.reason(t))
	}
	return codes
}

func (p *Suback) length(v Version) int {
	n := 2 + len(p.ReasonCodes)
	if v == V5 {
		n += p.Properties.Size()
	}
	return n
}

// Append implements [Packet].
func (p *Suback) Append(dst []byte, v Version) []byte {
	dst = appendHeader(dst, TypeSuback, 0, p.length(v))
	dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	for _, c := range p.ReasonCodes {
		if v != V5 && c.Failed() {
			c = UnspecifiedError
		}
		dst = append(dst, byte(c))
	}
	return dst
}

// Size implements [Packet].
func (p *Suback) Size(v Version) int { return packetSize(p.length(v)) }

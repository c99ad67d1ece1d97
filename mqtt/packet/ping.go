package packet

// Pingreq asks the server for a sign of life.
type Pingreq struct{}

// Type returns [TypePingreq].
func (p *Pingreq) Type() Type { return TypePingreq }

// Decode implements [Packet].
func (p *Pingreq) Decode(_ Version, flags byte, body []byte) error {
	return decodeEmpty(TypePingreq, flags, body)
}

// Append implements [Packet].
func (p *Pingreq) Append(dst []byte, _ Version) []byte { return appendHeader(dst, TypePingreq, 0, 0) }

// Size implements [Packet].
func (p *Pingreq) Size(Version) int { return packetSize(0) }

// Pingresp answers a PINGREQ.
type Pingresp struct{}

// Type returns [TypePingresp].
func (p *Pingresp) Type() Type { return TypePingresp }

// Decode implements [Packet].
func (p *Pingresp) Decode(_ Version, flags byte, body []byte) error {
	return decodeEmpty(TypePingresp, flags, body)
}

// Append implements [Packet].
func (p *Pingresp) Append(dst []byte, _ Version) []byte { return appendHeader(dst, TypePingresp, 0, 0) }

// Size implements [Packet].
func (p *Pingresp) Size(Version) int { return packetSize(0) }

// decodeEmpty checks a packet without a body.
func decodeEmpty(t Type, flags byte, body []byte) error {
	if err := checkFlags(t, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	return d.end()
}

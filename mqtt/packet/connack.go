package packet

// Connack answers a CONNECT.
type Connack struct {
	SessionPresent bool
	ReasonCode     ReasonCode
	Properties     Properties
}

// Type returns [TypeConnack].
func (p *Connack) Type() Type { return TypeConnack }

// Decode implements [Packet]. A Return Code of 3.1.1 becomes its Reason Code.
func (p *Connack) Decode(v Version, flags byte, body []byte) error {
	p.Properties.reset()
	if err := checkFlags(TypeConnack, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	c := d.byte("acknowledge flags")
	if c > 1 { // [MQTT-3.2.2-1]
		d.fail(malformed("MQTT-3.2.2-1", "reserved acknowledge flags are set"))
	}
	p.SessionPresent = c == 1
	if v == V5 {
		p.ReasonCode = d.reason(TypeConnack)
		p.Properties.decode(&d, TypeConnack)
	} else {
		p.ReasonCode = d.returnCode()
	}
	if p.SessionPresent && p.ReasonCode != Success { // [MQTT-3.2.2-6]
		d.fail(violation("MQTT-3.2.2-6", "session present in a refusal"))
	}
	return d.end()
}

// returnCode reads a CONNACK Return Code of 3.1.1.
func (d *decoder) returnCode() ReasonCode {
	c := int(d.byte("return code"))
	if c >= len(returnCodes) {
		d.fail(violation("", "return code is reserved"))
		return UnspecifiedError
	}
	return returnCodes[c]
}

func (p *Connack) length(v Version) int {
	if v == V5 {
		return 2 + p.Properties.Size()
	}
	return 2
}

// Append implements [Packet]. A Reason Code that 3.1.1 has no Return Code for
// is sent to it as "server unavailable"; see [ReasonCode.ReturnCode].
func (p *Connack) Append(dst []byte, v Version) []byte {
	var flags byte
	if p.SessionPresent {
		flags = 1
	}
	dst = append(appendHeader(dst, TypeConnack, 0, p.length(v)), flags)
	if v == V5 {
		return p.Properties.Append(append(dst, byte(p.ReasonCode)))
	}
	code, ok := p.ReasonCode.ReturnCode()
	if !ok {
		code, _ = ServerUnavailable.ReturnCode()
	}
	return append(dst, code)
}

// Size implements [Packet].
func (p *Connack) Size(v Version) int { return packetSize(p.length(v)) }

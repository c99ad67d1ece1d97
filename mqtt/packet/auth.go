package packet

// Auth is a step of extended authentication. MQTT 5 alone has it.
type Auth struct {
	ReasonCode ReasonCode
	Properties Properties
}

// Type returns [TypeAuth].
func (p *Auth) Type() Type { return TypeAuth }

// Decode implements [Packet].
func (p *Auth) Decode(v Version, flags byte, body []byte) error {
	p.ReasonCode = Success
	p.Properties.reset()
	if v != V5 {
		return malformed("MQTT-3.1.1 [2.2.1]", "packet type 15 is forbidden in "+v.String())
	}
	if err := checkFlags(TypeAuth, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	if len(d.b) > 0 {
		p.ReasonCode = d.reason(TypeAuth)
		p.Properties.decode(&d, TypeAuth)
		if !p.Properties.Has(PropAuthenticationMethod) {
			d.fail(violation("", "AUTH without Authentication Method"))
		}
	}
	return d.end()
}

// CheckClient applies the rule for an AUTH that a client sent: only a server
// tells of success [MQTT-3.15.2-1].
func (p *Auth) CheckClient() error {
	if p.ReasonCode == Success { // [MQTT-3.15.2-1]
		return violation("MQTT-3.15.2-1", "AUTH of a client cannot carry success")
	}
	return nil
}

// CheckServer applies the rule for an AUTH that a server sent: only a client
// asks for re-authentication [MQTT-3.15.2-1].
func (p *Auth) CheckServer() error {
	if p.ReasonCode == ReAuthenticate { // [MQTT-3.15.2-1]
		return violation("MQTT-3.15.2-1", "AUTH of a server cannot carry "+p.ReasonCode.String())
	}
	return nil
}

func (p *Auth) length(v Version) int { return outcomeLength(v, p.ReasonCode, &p.Properties) }

// Append implements [Packet].
func (p *Auth) Append(dst []byte, v Version) []byte {
	return appendOutcome(dst, TypeAuth, p.length(v), p.ReasonCode, &p.Properties)
}

// Size implements [Packet].
func (p *Auth) Size(v Version) int { return packetSize(p.length(v)) }

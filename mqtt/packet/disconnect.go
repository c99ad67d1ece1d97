package packet

// Disconnect is the last packet of a connection. In 3.1.1 only a client sends
// it, and it has no content.
type Disconnect struct {
	ReasonCode ReasonCode
	Properties Properties
}

// Type returns [TypeDisconnect].
func (p *Disconnect) Type() Type { return TypeDisconnect }

// Decode implements [Packet].
func (p *Disconnect) Decode(v Version, flags byte, body []byte) error {
	p.ReasonCode = NormalDisconnection
	p.Properties.reset()
	if err := checkFlags(TypeDisconnect, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	if v == V5 && len(d.b) > 0 {
		p.ReasonCode = d.reason(TypeDisconnect)
		if len(d.b) > 0 {
			p.Properties.decode(&d, TypeDisconnect)
		}
	}
	return d.end()
}

// serverOnly are the Reason Codes that only a server's DISCONNECT has (table 3-13).
// DisconnectWithWillMessage is the only code that only a client's has.
var serverOnly = [...]ReasonCode{
	NotAuthorized, ServerBusy, ServerShuttingDown, BadAuthenticationMethod, KeepAliveTimeout, SessionTakenOver,
	TopicFilterInvalid, RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved,
	SharedSubscriptionsNotSupported, ConnectionRateExceeded, MaximumConnectTime,
	SubscriptionIdentifiersNotSupported, WildcardSubscriptionsNotSupported,
}

// CheckClient applies the rules for a DISCONNECT that a client sent: its Reason
// Code is one of a client's [MQTT-3.14.2-1], and it names no other server.
func (p *Disconnect) CheckClient() error {
	for _, c := range serverOnly {
		if p.ReasonCode == c { // [MQTT-3.14.2-1]
			return violation("MQTT-3.14.2-1", "DISCONNECT of a client cannot carry "+c.String())
		}
	}
	if p.Properties.Has(PropServerReference) {
		return violation("", "DISCONNECT of a client carries a Server Reference")
	}
	return nil
}

// CheckServer applies the rules for a DISCONNECT that a server sent: its Reason
// Code is one of a server's [MQTT-3.14.2-1], and it has no Session Expiry
// Interval [MQTT-3.14.2-2].
func (p *Disconnect) CheckServer() error {
	if p.ReasonCode == DisconnectWithWillMessage { // [MQTT-3.14.2-1]
		return violation("MQTT-3.14.2-1", "DISCONNECT of a server cannot carry "+p.ReasonCode.String())
	}
	if p.Properties.Has(PropSessionExpiryInterval) { // [MQTT-3.14.2-2]
		return violation("MQTT-3.14.2-2", "DISCONNECT of a server carries a Session Expiry Interval")
	}
	return nil
}

func (p *Disconnect) length(v Version) int { return outcomeLength(v, p.ReasonCode, &p.Properties) }

// Append implements [Packet].
func (p *Disconnect) Append(dst []byte, v Version) []byte {
	return appendOutcome(dst, TypeDisconnect, p.length(v), p.ReasonCode, &p.Properties)
}

// Size implements [Packet].
func (p *Disconnect) Size(v Version) int { return packetSize(p.length(v)) }

// outcomeLength returns the length of a body that is a Reason Code and
// properties, each left out when it says nothing.
func outcomeLength(v Version, c ReasonCode, p *Properties) int {
	if v == V5 {
		if n := p.size(); n > 0 {
			return 1 + varintSize(n) + n
		}
		if c != Success {
			return 1
		}
	}
	return 0
}

func appendOutcome(dst []byte, t Type, length int, c ReasonCode, p *Properties) []byte {
	dst = appendHeader(dst, t, 0, length)
	if length > 0 {
		dst = append(dst, byte(c))
	}
	if length > 1 {
		dst = p.Append(dst)
	}
	return dst
}

package packet

// Fit makes p fit into limit bytes, the receiver's Maximum Packet Size, by leaving out
// the parts that the specification lets a sender leave out: first the User Properties,
// then the Reason String. It reports whether p fits now; if not, it must not be sent
// [MQTT-3.1.2-24]. A message's properties are never touched.
func Fit(p Packet, v Version, limit int) bool {
	if p.Size(v) <= limit {
		return true
	}
	props := explanation(p)
	if props == nil {
		return false
	}
	// [MQTT-3.2.2-20] [MQTT-3.4.2-3] [MQTT-3.5.2-3] [MQTT-3.6.2-3] [MQTT-3.7.2-3] [MQTT-3.9.2-2]
	// [MQTT-3.11.2-2] [MQTT-3.14.2-4] [MQTT-3.15.2-3]
	props.Clear(PropUserProperty)
	if p.Size(v) <= limit {
		return true
	}
	// [MQTT-3.2.2-19] [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.6.2-2] [MQTT-3.7.2-2] [MQTT-3.9.2-1]
	// [MQTT-3.11.2-1] [MQTT-3.14.2-3] [MQTT-3.15.2-2]
	props.Clear(PropReasonString)
	return p.Size(v) <= limit
}

// explanation returns the properties of a packet that may explain itself by a
// Reason String and User Properties, else nil.
func explanation(p Packet) *Properties {
	switch p := p.(type) {
	case *Connack:
		return &p.Properties
	case *Puback:
		return &p.Properties
	case *Pubrec:
		return &p.Properties
	case *Pubrel:
		return &p.Properties
	case *Pubcomp:
		return &p.Properties
	case *Suback:
		return &p.Properties
	case *Unsuback:
		return &p.Properties
	case *Disconnect:
		return &p.Properties
	case *Auth:
		return &p.Properties
	}
	return nil
}

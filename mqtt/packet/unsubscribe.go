package packet

import "encoding/binary"

// Unsubscribe ends subscriptions.
type Unsubscribe struct {
	PacketID     uint16
	Properties   Properties
	TopicFilters []string
}

// Type returns [TypeUnsubscribe].
func (p *Unsubscribe) Type() Type { return TypeUnsubscribe }

// Decode implements [Packet].
func (p *Unsubscribe) Decode(v Version, flags byte, body []byte) error {
	p.Properties.reset()
	p.TopicFilters = nil
	if err := checkFlags(TypeUnsubscribe, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	p.PacketID = d.packetID("MQTT-2.2.1-3")
	if v == V5 {
		p.Properties.decode(&d, TypeUnsubscribe)
	}
	if len(d.b) == 0 { // [MQTT-3.10.3-2]
		d.fail(violation("MQTT-3.10.3-2", "UNSUBSCRIBE without a topic filter"))
	}
	for len(d.b) > 0 {
		p.TopicFilters = append(p.TopicFilters, d.filter("MQTT-3.10.3-1"))
	}
	return d.end()
}

func (p *Unsubscribe) length(v Version) int {
	n := 2
	if v == V5 {
		n += p.Properties.Size()
	}
	for _, f := range p.TopicFilters {
		n += textSize(f)
	}
	return n
}

// Append implements [Packet].
func (p *Unsubscribe) Append(dst []byte, v Version) []byte {
	dst = appendHeader(dst, TypeUnsubscribe, fixedFlags[TypeUnsubscribe], p.length(v))
	dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	for _, f := range p.TopicFilters {
		dst = appendText(dst, f)
	}
	return dst
}

// Size implements [Packet].
func (p *Unsubscribe) Size(v Version) int { return packetSize(p.length(v)) }

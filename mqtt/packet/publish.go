package packet

import "encoding/binary"

// Publish carries a message, either way.
type Publish struct {
	Dup       bool
	Retain    bool
	QoS       byte
	PacketID  uint16 // 0 at QoS 0
	TopicName []byte // aliases the body after Decode; empty when a Topic Alias stands for it
	Payload   []byte // aliases the body after Decode

	Properties Properties
}

// Type returns [TypePublish].
func (p *Publish) Type() Type { return TypePublish }

// Decode implements [Packet]. It allocates only for properties.
func (p *Publish) Decode(v Version, flags byte, body []byte) error {
	p.PacketID = 0
	p.Properties.reset()
	if err := checkPublishFlags(flags); err != nil {
		return err
	}
	p.Dup, p.QoS, p.Retain = flags&8 != 0, flags>>1&3, flags&1 != 0
	d := decoder{b: body}
	p.TopicName = d.text("topic name", "MQTT-3.3.2-1")
	if p.QoS > 0 {
		p.PacketID = d.packetID("MQTT-2.2.1-3")
	}
	if v == V5 {
		p.Properties.decode(&d, TypePublish)
	}
	if len(p.TopicName) > 0 || !p.Properties.Has(PropTopicAlias) {
		d.checkTopic(p.TopicName, "topic name", "MQTT-3.3.2-2")
	}
	p.Payload = d.b
	return asError(d.err)
}

// CheckClient applies the rule for a PUBLISH that a client sent: it has no
// Subscription Identifier [MQTT-3.3.4-6].
func (p *Publish) CheckClient() error {
	if len(p.Properties.SubscriptionIDs) > 0 { // [MQTT-3.3.4-6]
		return violation("MQTT-3.3.4-6", "PUBLISH of a client carries a Subscription Identifier")
	}
	return nil
}

func (p *Publish) flags() byte {
	flags := p.QoS << 1
	if p.Dup {
		flags |= 8
	}
	if p.Retain {
		flags |= 1
	}
	return flags
}

// topicLen is how much of the Topic Name is sent.
func (p *Publish) topicLen() int { return min(len(p.TopicName), maxField) }

func (p *Publish) length(v Version) int {
	n := 2 + p.topicLen() + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if v == V5 {
		n += p.Properties.Size()
	}
	return n
}

// Append implements [Packet].
func (p *Publish) Append(dst []byte, v Version) []byte {
	dst = appendHeader(dst, TypePublish, p.flags(), p.length(v))
	dst = appendBinary(dst, p.TopicName)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	return append(dst, p.Payload...)
}

// Size implements [Packet].
func (p *Publish) Size(v Version) int { return packetSize(p.length(v)) }

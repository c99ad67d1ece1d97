package packet

import (
	"encoding/binary"
	"strings"
)

// Subscribe asks for subscriptions.
type Subscribe struct {
	PacketID      uint16
	Properties    Properties
	Subscriptions []Subscription
}

// Subscription is one Topic Filter of a SUBSCRIBE and its options. The options after
// QoS are of MQTT 5 alone.
type Subscription struct {
	TopicFilter       string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0: send retained messages, 1: for a new subscription only, 2: do not
}

// The bits of the Subscription Options.
const (
	optionNoLocal           = 1 << 2
	optionRetainAsPublished = 1 << 3
	optionsReserved         = 0xC0
	optionsReservedV311     = 0xFC
	retainHandlingShift     = 4
)

// Type returns [TypeSubscribe].
func (p *Subscribe) Type() Type { return TypeSubscribe }

// Decode implements [Packet].
func (p *Subscribe) Decode(v Version, flags byte, body []byte) error {
	p.Properties.reset()
	p.Subscriptions = nil
	if err := checkFlags(TypeSubscribe, flags); err != nil {
		return err
	}
	d := decoder{b: body}
	p.PacketID = d.packetID("MQTT-2.2.1-3")
	if v == V5 {
		p.Properties.decode(&d, TypeSubscribe)
	}
	if len(d.b) == 0 { // [MQTT-3.8.3-2]
		d.fail(violation("MQTT-3.8.3-2", "SUBSCRIBE without a topic filter"))
	}
	for len(d.b) > 0 {
		s := Subscription{TopicFilter: d.filter("MQTT-3.8.3-1")}
		s.decodeOptions(&d, v)
		p.Subscriptions = append(p.Subscriptions, s)
	}
	return d.end()
}

// filter reads a Topic Filter, which is not empty [MQTT-4.7.3-1].
func (d *decoder) filter(statement string) string {
	f := d.string("topic filter", statement)
	if f == "" { // [MQTT-4.7.3-1]
		d.fail(violation("MQTT-4.7.3-1", "topic filter is empty"))
	}
	return f
}

func (s *Subscription) decodeOptions(d *decoder, v Version) {
	o := d.byte("subscription options")
	s.QoS = o & 3
	s.NoLocal, s.RetainAsPublished = o&optionNoLocal != 0, o&optionRetainAsPublished != 0
	s.RetainHandling = o >> retainHandlingShift & 3
	switch {
	case v != V5 && o&optionsReservedV311 != 0: // [MQTT-3.8.3-5]
		d.fail(malformed("MQTT-3.1.1 [3.8.3-4]", "reserved bits beside the requested QoS are set"))
	case o&optionsReserved != 0: // [MQTT-3.8.3-5]
		d.fail(malformed("MQTT-3.8.3-5", "reserved subscription options are set"))
	case s.QoS == 3:
		d.fail(violation("", "requested QoS is 3"))
	case s.RetainHandling == 3:
		d.fail(violation("", "Retain Handling is 3"))
	case s.NoLocal && strings.HasPrefix(s.TopicFilter, "$share/"): // [MQTT-3.8.3-4]
		d.fail(violation("MQTT-3.8.3-4", "No Local on a shared subscription"))
	}
}

func (s *Subscription) options(v Version) byte {
	o := s.QoS
	if v != V5 {
		return o
	}
	if s.NoLocal {
		o |= optionNoLocal
	}
	if s.RetainAsPublished {
		o |= optionRetainAsPublished
	}
	return o | s.RetainHandling<<retainHandlingShift
}

func (p *Subscribe) length(v Version) int {
	n := 2
	if v == V5 {
		n += p.Properties.Size()
	}
	for i := range p.Subscriptions {
		n += textSize(p.Subscriptions[i].TopicFilter) + 1
	}
	return n
}

// Append implements [Packet].
func (p *Subscribe) Append(dst []byte, v Version) []byte {
	dst = appendHeader(dst, TypeSubscribe, fixedFlags[TypeSubscribe], p.length(v))
	dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	for i := range p.Subscriptions {
		s := &p.Subscriptions[i]
		dst = append(appendText(dst, s.TopicFilter), s.options(v))
	}
	return dst
}

// Size implements [Packet].
func (p *Subscribe) Size(v Version) int { return packetSize(p.length(v)) }

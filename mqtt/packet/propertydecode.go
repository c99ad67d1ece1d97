package packet

import (
	"bytes"
	"strconv"
)

// will is the place of the will properties in tables indexed by packet type.
const will = 0

const (
	repeatable = PropertySet(1<<PropUserProperty | 1<<PropSubscriptionIdentifier)
	forwarded  = PropertySet(1<<PropPayloadFormatIndicator | 1<<PropMessageExpiryInterval | 1<<PropContentType |
		1<<PropResponseTopic | 1<<PropCorrelationData)
	answer = PropertySet(1<<PropReasonString | 1<<PropUserProperty)
	auth   = PropertySet(1<<PropAuthenticationMethod | 1<<PropAuthenticationData)
)

// allowedIn is table 2-4 of the specification: the properties that each packet
// may carry.
var allowedIn = [16]PropertySet{
	will: forwarded | 1<<PropWillDelayInterval | 1<<PropUserProperty,
	TypeConnect: auth | 1<<PropSessionExpiryInterval | 1<<PropReceiveMaximum | 1<<PropMaximumPacketSize |
		1<<PropTopicAliasMaximum | 1<<PropRequestResponseInformation | 1<<PropRequestProblemInformation | 1<<PropUserProperty,
	TypeConnack: auth | answer | 1<<PropSessionExpiryInterval | 1<<PropReceiveMaximum | 1<<PropMaximumQoS |
		1<<PropRetainAvailable | 1<<PropMaximumPacketSize | 1<<PropAssignedClientIdentifier | 1<<PropTopicAliasMaximum |
		1<<PropWildcardSubscriptionAvailable | 1<<PropSubscriptionIdentifierAvailable | 1<<PropSharedSubscriptionAvailable |
		1<<PropServerKeepAlive | 1<<PropResponseInformation | 1<<PropServerReference,
	TypePublish:     forwarded | 1<<PropTopicAlias | 1<<PropSubscriptionIdentifier | 1<<PropUserProperty,
	TypePuback:      answer,
	TypePubrec:      answer,
	TypePubrel:      answer,
	TypePubcomp:     answer,
	TypeSubscribe:   1<<PropSubscriptionIdentifier | 1<<PropUserProperty,
	TypeSuback:      answer,
	TypeUnsubscribe: 1 << PropUserProperty,
	TypeUnsuback:    answer,
	TypeDisconnect:  answer | 1<<PropSessionExpiryInterval | 1<<PropServerReference,
	TypeAuth:        auth | answer,
}

// Decode replaces p by the properties at the start of b, the properties of a packet of
// type t, and returns how many bytes they took.
func (p *Properties) Decode(t Type, b []byte) (n int, err error) {
	d := decoder{b: b}
	p.decode(&d, t)
	return len(b) - len(d.b), asError(d.err)
}

// decode reads the Property Length and the properties of a packet of type t.
func (p *Properties) decode(d *decoder, t Type) {
	p.reset()
	block := d.take(int(d.varint("property length")), "properties")
	if len(block) == 0 {
		return
	}
	r := propertyReader{decoder: decoder{b: block}, block: block}
	for len(r.b) > 0 {
		r.property(p, t)
	}
	if p.Has(PropAuthenticationData) && !p.Has(PropAuthenticationMethod) {
		r.fail(violation("", "Authentication Data without Authentication Method"))
	}
	if r.err != nil {
		d.fail(r.err)
	}
}

// reset empties p. Most packets have no properties, and an empty p is left
// alone: it is not small.
func (p *Properties) reset() {
	if p.Present != 0 || p.User != nil || p.SubscriptionIDs != nil {
		*p = Properties{}
	}
}

// propertyReader reads one block of properties. Its strings are parts of text,
// one copy of the block made when the first string comes.
type propertyReader struct {
	decoder
	block []byte
	text  string
}

// string reads a UTF-8 Encoded String.
func (r *propertyReader) string(what, statement string) string {
	s := r.decoder.text(what, statement)
	if len(s) == 0 {
		return ""
	}
	if r.text == "" {
		r.text = string(r.block)
	}
	end := len(r.block) - len(r.b)
	if r.err != nil {
		return ""
	}
	return r.text[end-len(s) : end]
}

// property reads one property into p. A property that a packet of type t cannot carry
// is malformed (section 2.2.2.2), a repeated one is a protocol error.
func (r *propertyReader) property(p *Properties, t Type) {
	n := r.varint("property identifier")
	if n >= uint32(len(propertyNames)) {
		r.fail(malformed("", "property "+strconv.Itoa(int(n))+" is unknown"))
	}
	if r.err != nil {
		return
	}
	id := PropertyID(n)
	if allowedIn[t]&id.set() == 0 {
		r.fail(malformed("", typeNames[t]+" cannot carry "+id.String()))
		return
	}
	if p.ids()&^r.repeatable(t)&id.set() != 0 {
		r.fail(violation("", id.String()+" is there twice"))
		return
	}
	r.value(p.field(id), id)
	p.Present |= id.set() &^ repeatable
}

// repeatable returns the properties that may come more than once in t.
func (r *propertyReader) repeatable(t Type) PropertySet {
	if t == TypePublish {
		return repeatable
	}
	return PropUserProperty.set()
}

// value reads the value of id into its field and checks its range.
func (r *propertyReader) value(field any, id PropertyID) {
	what := propertyNames[id]
	switch f := field.(type) {
	case *byte: // all of them are booleans in a byte
		if *f = r.byte(what); *f > 1 {
			r.fail(violation("", what+" is neither 0 nor 1"))
		}
	case *uint16:
		*f = r.uint16(what)
		r.checkZero(id, uint32(*f))
	case *uint32:
		*f = r.uint32(what)
		r.checkZero(id, *f)
	case *string:
		*f = r.string(what, textStatements[id])
		if id == PropResponseTopic { // [MQTT-3.3.2-14]
			r.checkTopic([]byte(*f), what, "MQTT-3.3.2-14")
		}
	case *[]byte:
		*f = bytes.Clone(r.binary(what))
	case *[]uint32:
		v := r.varint(what)
		r.checkZero(id, v)
		*f = append(*f, v)
	case *[]UserProperty:
		key := r.string(what, "MQTT-1.5.7-1")
		*f = append(*f, UserProperty{key, r.string(what, "MQTT-1.5.7-1")})
	}
}

// textStatements names the statement that makes a property a string.
var textStatements = [len(propertyNames)]string{
	PropResponseTopic: "MQTT-3.3.2-13",
	PropContentType:   "MQTT-3.3.2-19",
}

// checkZero refuses 0 where the specification does.
func (r *propertyReader) checkZero(id PropertyID, v uint32) {
	const nonzero = PropertySet(1<<PropReceiveMaximum | 1<<PropMaximumPacketSize | 1<<PropSubscriptionIdentifier | 1<<PropTopicAlias)
	if v != 0 || nonzero&id.set() == 0 || r.err != nil {
		return
	}
	if id == PropTopicAlias { // [MQTT-3.3.2-8]
		r.fail(&Error{TopicAliasInvalid, "MQTT-3.3.2-8", "Topic Alias is 0"})
		return
	}
	r.fail(violation("", id.String()+" is 0"))
}

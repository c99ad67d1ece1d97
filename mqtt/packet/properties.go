package packet

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"
)

// PropertyID identifies a property (section 2.2.2.2).
type PropertyID byte

// The property identifiers, by the specification's names.
const (
	PropPayloadFormatIndicator          PropertyID = 1
	PropMessageExpiryInterval           PropertyID = 2
	PropContentType                     PropertyID = 3
	PropResponseTopic                   PropertyID = 8
	PropCorrelationData                 PropertyID = 9
	PropSubscriptionIdentifier          PropertyID = 11
	PropSessionExpiryInterval           PropertyID = 17
	PropAssignedClientIdentifier        PropertyID = 18
	PropServerKeepAlive                 PropertyID = 19
	PropAuthenticationMethod            PropertyID = 21
	PropAuthenticationData              PropertyID = 22
	PropRequestProblemInformation       PropertyID = 23
	PropWillDelayInterval               PropertyID = 24
	PropRequestResponseInformation      PropertyID = 25
	PropResponseInformation             PropertyID = 26
	PropServerReference                 PropertyID = 28
	PropReasonString                    PropertyID = 31
	PropReceiveMaximum                  PropertyID = 33
	PropTopicAliasMaximum               PropertyID = 34
	PropTopicAlias                      PropertyID = 35
	PropMaximumQoS                      PropertyID = 36
	PropRetainAvailable                 PropertyID = 37
	PropUserProperty                    PropertyID = 38
	PropMaximumPacketSize               PropertyID = 39
	PropWildcardSubscriptionAvailable   PropertyID = 40
	PropSubscriptionIdentifierAvailable PropertyID = 41
	PropSharedSubscriptionAvailable     PropertyID = 42
)

var propertyNames = [...]string{
	PropPayloadFormatIndicator:          "Payload Format Indicator",
	PropMessageExpiryInterval:           "Message Expiry Interval",
	PropContentType:                     "Content Type",
	PropResponseTopic:                   "Response Topic",
	PropCorrelationData:                 "Correlation Data",
	PropSubscriptionIdentifier:          "Subscription Identifier",
	PropSessionExpiryInterval:           "Session Expiry Interval",
	PropAssignedClientIdentifier:        "Assigned Client Identifier",
	PropServerKeepAlive:                 "Server Keep Alive",
	PropAuthenticationMethod:            "Authentication Method",
	PropAuthenticationData:              "Authentication Data",
	PropRequestProblemInformation:       "Request Problem Information",
	PropWillDelayInterval:               "Will Delay Interval",
	PropRequestResponseInformation:      "Request Response Information",
	PropResponseInformation:             "Response Information",
	PropServerReference:                 "Server Reference",
	PropReasonString:                    "Reason String",
	PropReceiveMaximum:                  "Receive Maximum",
	PropTopicAliasMaximum:               "Topic Alias Maximum",
	PropTopicAlias:                      "Topic Alias",
	PropMaximumQoS:                      "Maximum QoS",
	PropRetainAvailable:                 "Retain Available",
	PropUserProperty:                    "User Property",
	PropMaximumPacketSize:               "Maximum Packet Size",
	PropWildcardSubscriptionAvailable:   "Wildcard Subscription Available",
	PropSubscriptionIdentifierAvailable: "Subscription Identifier Available",
	PropSharedSubscriptionAvailable:     "Shared Subscription Available",
}

// String returns the specification's name of id.
func (id PropertyID) String() string {
	if int(id) < len(propertyNames) && propertyNames[id] != "" {
		return propertyNames[id]
	}
	return "property " + strconv.Itoa(int(id))
}

// UserProperty is a pair of strings with a meaning that the application gives them.
type UserProperty struct{ Key, Value string }

// Properties are the properties of a packet or of a will. A property is sent when it is
// in Present. User and SubscriptionIDs are sent when they are not empty; the Set
// methods keep field and Present together. The field of an absent property means
// nothing.
type Properties struct {
	Present PropertySet

	// Of a message.
	PayloadFormatIndicator byte // 1: the payload is UTF-8
	TopicAlias             uint16
	MessageExpiryInterval  uint32 // seconds
	WillDelayInterval      uint32 // seconds
	ContentType            string
	ResponseTopic          string
	CorrelationData        []byte
	SubscriptionIDs        []uint32 // SUBSCRIBE has at most one

	// Of a session and a connection.
	RequestProblemInformation       byte
	RequestResponseInformation      byte
	MaximumQoS                      byte
	RetainAvailable                 byte
	WildcardSubscriptionAvailable   byte
	SubscriptionIdentifierAvailable byte
	SharedSubscriptionAvailable     byte
	ReceiveMaximum                  uint16
	TopicAliasMaximum               uint16
	ServerKeepAlive                 uint16 // seconds
	MaximumPacketSize               uint32
	SessionExpiryInterval           uint32 // seconds; all ones: never
	AssignedClientIdentifier        string
	ResponseInformation             string
	ServerReference                 string
	AuthenticationMethod            string
	AuthenticationData              []byte

	// Of any packet.
	ReasonString string
	User         []UserProperty // in the sender's order
}

// field returns a pointer to the field of id, or nil for an unknown one. The
// pointer's type says how the property is encoded.
func (p *Properties) field(id PropertyID) any {
	switch id {
	case PropPayloadFormatIndicator:
		return &p.PayloadFormatIndicator
	case PropMessageExpiryInterval:
		return &p.MessageExpiryInterval
	case PropContentType:
		return &p.ContentType
	case PropResponseTopic:
		return &p.ResponseTopic
	case PropCorrelationData:
		return &p.CorrelationData
	case PropSubscriptionIdentifier:
		return &p.SubscriptionIDs
	case PropSessionExpiryInterval:
		return &p.SessionExpiryInterval
	case PropAssignedClientIdentifier:
		return &p.AssignedClientIdentifier
	case PropServerKeepAlive:
		return &p.ServerKeepAlive
	case PropAuthenticationMethod:
		return &p.AuthenticationMethod
	case PropAuthenticationData:
		return &p.AuthenticationData
	case PropRequestProblemInformation:
		return &p.RequestProblemInformation
	case PropWillDelayInterval:
		return &p.WillDelayInterval
	case PropRequestResponseInformation:
		return &p.RequestResponseInformation
	case PropResponseInformation:
		return &p.ResponseInformation
	case PropServerReference:
		return &p.ServerReference
	case PropReasonString:
		return &p.ReasonString
	case PropReceiveMaximum:
		return &p.ReceiveMaximum
	case PropTopicAliasMaximum:
		return &p.TopicAliasMaximum
	case PropTopicAlias:
		return &p.TopicAlias
	case PropMaximumQoS:
		return &p.MaximumQoS
	case PropRetainAvailable:
		return &p.RetainAvailable
	case PropUserProperty:
		return &p.User
	case PropMaximumPacketSize:
		return &p.MaximumPacketSize
	case PropWildcardSubscriptionAvailable:
		return &p.WildcardSubscriptionAvailable
	case PropSubscriptionIdentifierAvailable:
		return &p.SubscriptionIdentifierAvailable
	case PropSharedSubscriptionAvailable:
		return &p.SharedSubscriptionAvailable
	}
	return nil
}

// Has reports whether the property id is there.
func (p *Properties) Has(id PropertyID) bool {
	return p.ids()&id.set() != 0
}

// Clear removes the property id, all of them where it may be repeated.
func (p *Properties) Clear(id PropertyID) {
	p.keep(^id.set())
}

// ids is Present completed by the two that may be repeated.
func (p *Properties) ids() PropertySet {
	ids := p.Present &^ repeatable
	if len(p.User) > 0 {
		ids |= PropUserProperty.set()
	}
	if len(p.SubscriptionIDs) > 0 {
		ids |= PropSubscriptionIdentifier.set()
	}
	return ids
}

// keep removes the properties outside ids.
func (p *Properties) keep(ids PropertySet) {
	p.Present &= ids
	if ids&PropUserProperty.set() == 0 {
		p.User = nil
	}
	if ids&PropSubscriptionIdentifier.set() == 0 {
		p.SubscriptionIDs = nil
	}
}

// Clone returns a copy that shares nothing that can be written.
func (p *Properties) Clone() Properties {
	c := *p
	c.CorrelationData = bytes.Clone(p.CorrelationData)
	c.AuthenticationData = bytes.Clone(p.AuthenticationData)
	c.User = slices.Clone(p.User)
	c.SubscriptionIDs = slices.Clone(p.SubscriptionIDs)
	return c
}

// Forwarded returns the properties of a PUBLISH or a will that a server passes
// on unchanged to subscribers [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16]
// [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]. They share the slices of p, which Decode made for
// p alone and never touches again.
func (p *Properties) Forwarded() Properties {
	if p.Present == 0 && len(p.User) == 0 {
		return Properties{}
	}
	return Properties{
		Present:                p.Present & forwarded,
		PayloadFormatIndicator: p.PayloadFormatIndicator,
		MessageExpiryInterval:  p.MessageExpiryInterval,
		ContentType:            p.ContentType,
		ResponseTopic:          p.ResponseTopic,
		CorrelationData:        p.CorrelationData,
		User:                   p.User,
	}
}

// size returns the bytes of the properties without the length before them.
func (p *Properties) size() int {
	n := 0
	for ids := p.ids(); ids != 0; ids &= ids - 1 {
		switch f := p.field(ids.first()).(type) {
		case *byte:
			n += 2
		case *uint16:
			n += 3
		case *uint32:
			n += 5
		case *string:
			n += 1 + textSize(*f)
		case *[]byte:
			n += 1 + binarySize(*f)
		case *[]uint32:
			for _, id := range *f {
				n += 1 + varintSize(int(id))
			}
		case *[]UserProperty:
			for i := range *f {
				n += 1 + textSize((*f)[i].Key) + textSize((*f)[i].Value)
			}
		}
	}
	return n
}

// Size returns how many bytes Append appends.
func (p *Properties) Size() int {
	n := p.size()
	return varintSize(n) + n
}

// Append appends the Property Length, which is never left out [MQTT-2.2.2-1],
// and the properties.
func (p *Properties) Append(dst []byte) []byte {
	dst = appendVarint(dst, uint32(p.size())) // [MQTT-2.2.2-1]
	for ids := p.ids(); ids != 0; ids &= ids - 1 {
		id := ids.first()
		switch f := p.field(id).(type) {
		case *byte:
			dst = append(dst, byte(id), *f)
		case *uint16:
			dst = binary.BigEndian.AppendUint16(append(dst, byte(id)), *f)
		case *uint32:
			dst = binary.BigEndian.AppendUint32(append(dst, byte(id)), *f)
		case *string:
			dst = appendText(append(dst, byte(id)), *f)
		case *[]byte:
			dst = appendBinary(append(dst, byte(id)), *f)
		case *[]uint32:
			for _, v := range *f {
				dst = appendVarint(append(dst, byte(id)), v)
			}
		case *[]UserProperty:
			for i := range *f {
				dst = appendText(appendText(append(dst, byte(id)), (*f)[i].Key), (*f)[i].Value)
			}
		}
	}
	return dst
}

// PropertySet is a set of property identifiers; the bit 1<<id stands for id.
type PropertySet uint64

func (id PropertyID) set() PropertySet { return 1 << id }

// first returns the smallest member of a set that has one.
func (s PropertySet) first() PropertyID { return PropertyID(bits.TrailingZeros64(uint64(s))) }

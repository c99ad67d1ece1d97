package packet

import "strconv"

// Version is a protocol level as CONNECT carries it.
type Version byte

// The protocol versions that this package speaks.
const (
	V311 Version = 4 // MQTT 3.1.1
	V5   Version = 5 // MQTT 5.0
)

// String returns the version as people write it, such as "3.1.1".
func (v Version) String() string {
	if v == V311 {
		return "3.1.1"
	}
	return strconv.Itoa(int(v))
}

// Type is the type of a packet, the upper half of its first byte.
type Type byte

// The packet types. Zero is forbidden on the wire.
const (
	TypeConnect     Type = 1
	TypeConnack     Type = 2
	TypePublish     Type = 3
	TypePuback      Type = 4
	TypePubrec      Type = 5
	TypePubrel      Type = 6
	TypePubcomp     Type = 7
	TypeSubscribe   Type = 8
	TypeSuback      Type = 9
	TypeUnsubscribe Type = 10
	TypeUnsuback    Type = 11
	TypePingreq     Type = 12
	TypePingresp    Type = 13
	TypeDisconnect  Type = 14
	TypeAuth        Type = 15
)

var typeNames = [...]string{
	"will properties", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

// String returns the specification's name of t, such as "PUBLISH".
func (t Type) String() string {
	if t == 0 || int(t) >= len(typeNames) {
		return "packet type " + strconv.Itoa(int(t))
	}
	return typeNames[t]
}

// FromClient reports whether a client may send packets of type t.
func (t Type) FromClient() bool {
	const clients = 1<<TypeConnect | 1<<TypePublish | 1<<TypePuback | 1<<TypePubrec | 1<<TypePubrel | 1<<TypePubcomp |
		1<<TypeSubscribe | 1<<TypeUnsubscribe | 1<<TypePingreq | 1<<TypeDisconnect | 1<<TypeAuth
	return clients>>t&1 == 1
}

// MaxRemainingLength is the largest length that a fixed header can announce,
// MaxSize the largest packet.
const (
	MaxRemainingLength = 1<<28 - 1
	MaxSize            = 1 + 4 + MaxRemainingLength
)

// Header is a packet's fixed header.
type Header struct {
	Type   Type
	Flags  byte // the lower half of the first byte
	Length int  // Remaining Length: bytes of the body that follows
}

// ParseHeader reads the fixed header at the start of b and returns it with its
// size. A header that b does not hold completely yet is n == 0 without an
// error; one that can never be right is an [Error], if possible from its first
// byte. A length that is not in its shortest form is refused in every version
// [MQTT-1.5.5-1]: the version is not known before CONNECT is read.
func ParseHeader(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&0x0F
	if e := checkFlags(h.Type, h.Flags); e != nil {
		return Header{}, 0, e
	}
	length, n, e := parseVarint(b[1:], "remaining length")
	if e != nil || n == 0 {
		return Header{}, 0, asError(e)
	}
	h.Length = int(length)
	return h, 1 + n, nil
}

// fixedFlags has, per type, the only value that the flags may have; PUBLISH has
// rules of its own.
var fixedFlags = [16]byte{TypePubrel: 2, TypeSubscribe: 2, TypeUnsubscribe: 2}

// flagStatements has the statement that demands it where a type has one.
var flagStatements = [16]string{
	TypePubrel: "MQTT-3.6.1-1", TypeSubscribe: "MQTT-3.8.1-1", TypeUnsubscribe: "MQTT-3.10.1-1",
	TypeDisconnect: "MQTT-3.14.1-1", TypeAuth: "MQTT-3.15.1-1",
}

// checkFlags applies [MQTT-2.1.3-1] and its refinements per type.
func checkFlags(t Type, flags byte) *Error {
	switch {
	case t == TypePublish:
		return checkPublishFlags(flags)
	case t == 0 || t > TypeAuth:
		return malformed("", "packet type 0 is forbidden")
	// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
	case flags != fixedFlags[t]:
		statement := flagStatements[t]
		if statement == "" {
			statement = "MQTT-2.1.3-1"
		}
		return malformed(statement, "reserved flags of "+t.String()+" are "+strconv.Itoa(int(flags)))
	}
	return nil
}

// checkPublishFlags applies [MQTT-3.3.1-4] and [MQTT-3.3.1-2].
func checkPublishFlags(flags byte) *Error {
	switch {
	case flags&0x06 == 0x06: // [MQTT-3.3.1-4]
		return malformed("MQTT-3.3.1-4", "both QoS bits are set")
	case flags&0x0E == 0x08: // [MQTT-3.3.1-2]
		return malformed("MQTT-3.3.1-2", "DUP is set at QoS 0")
	}
	return nil
}

// appendHeader appends the fixed header of a packet with a body of length bytes.
func appendHeader(dst []byte, t Type, flags byte, length int) []byte {
	return appendVarint(append(dst, byte(t)<<4|flags), uint32(length))
}

// packetSize returns the size of a packet with a body of length bytes.
func packetSize(length int) int {
	return 1 + varintSize(length) + length
}

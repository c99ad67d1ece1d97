package packet

import "strconv"

// ReasonCode is the result of an operation (section 2.4). Codes of 0x80 and
// above are failures.
type ReasonCode byte

// The Reason Codes, by the specification's names.
const (
	Success                             ReasonCode = 0x00
	NormalDisconnection                 ReasonCode = 0x00
	GrantedQoS0                         ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
	DisconnectWithWillMessage           ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

// Sets of packet types for the table below.
const (
	inConnack    = 1 << TypeConnack
	inReceived   = 1<<TypePuback | 1<<TypePubrec
	inReleased   = 1<<TypePubrel | 1<<TypePubcomp
	inSuback     = 1 << TypeSuback
	inUnsuback   = 1 << TypeUnsuback
	inDisconnect = 1 << TypeDisconnect
	inAuth       = 1 << TypeAuth
)

// reasons is table 2-6 of the specification: each code's name and the packets
// that may carry it.
var reasons = [256]struct {
	name  string
	types uint16
}{
	Success:                             {"success", inConnack | inReceived | inReleased | inSuback | inUnsuback | inDisconnect | inAuth},
	GrantedQoS1:                         {"granted QoS 1", inSuback},
	GrantedQoS2:                         {"granted QoS 2", inSuback},
	DisconnectWithWillMessage:           {"disconnect with will message", inDisconnect},
	NoMatchingSubscribers:               {"no matching subscribers", inReceived},
	NoSubscriptionExisted:               {"no subscription existed", inUnsuback},
	ContinueAuthentication:              {"continue authentication", inAuth},
	ReAuthenticate:                      {"re-authenticate", inAuth},
	UnspecifiedError:                    {"unspecified error", inConnack | inReceived | inSuback | inUnsuback | inDisconnect},
	MalformedPacket:                     {"malformed packet", inConnack | inDisconnect},
	ProtocolError:                       {"protocol error", inConnack | inDisconnect},
	ImplementationSpecificError:         {"implementation specific error", inConnack | inReceived | inSuback | inUnsuback | inDisconnect},
	UnsupportedProtocolVersion:          {"unsupported protocol version", inConnack},
	ClientIdentifierNotValid:            {"client identifier not valid", inConnack},
	BadUserNameOrPassword:               {"bad user name or password", inConnack},
	NotAuthorized:                       {"not authorized", inConnack | inReceived | inSuback | inUnsuback | inDisconnect},
	ServerUnavailable:                   {"server unavailable", inConnack},
	ServerBusy:                          {"server busy", inConnack | inDisconnect},
	Banned:                              {"banned", inConnack},
	ServerShuttingDown:                  {"server shutting down", inDisconnect},
	BadAuthenticationMethod:             {"bad authentication method", inConnack | inDisconnect},
	KeepAliveTimeout:                    {"keep alive timeout", inDisconnect},
	SessionTakenOver:                    {"session taken over", inDisconnect},
	TopicFilterInvalid:                  {"topic filter invalid", inSuback | inUnsuback | inDisconnect},
	TopicNameInvalid:                    {"topic name invalid", inConnack | inReceived | inDisconnect},
	PacketIdentifierInUse:               {"packet identifier in use", inReceived | inSuback | inUnsuback},
	PacketIdentifierNotFound:            {"packet identifier not found", inReleased},
	ReceiveMaximumExceeded:              {"receive maximum exceeded", inDisconnect},
	TopicAliasInvalid:                   {"topic alias invalid", inDisconnect},
	PacketTooLarge:                      {"packet too large", inConnack | inDisconnect},
	MessageRateTooHigh:                  {"message rate too high", inDisconnect},
	QuotaExceeded:                       {"quota exceeded", inConnack | inReceived | inSuback | inDisconnect},
	AdministrativeAction:                {"administrative action", inDisconnect},
	PayloadFormatInvalid:                {"payload format invalid", inConnack | inReceived | inDisconnect},
	RetainNotSupported:                  {"retain not supported", inConnack | inDisconnect},
	QoSNotSupported:                     {"QoS not supported", inConnack | inDisconnect},
	UseAnotherServer:                    {"use another server", inConnack | inDisconnect},
	ServerMoved:                         {"server moved", inConnack | inDisconnect},
	SharedSubscriptionsNotSupported:     {"shared subscriptions not supported", inSuback | inDisconnect},
	ConnectionRateExceeded:              {"connection rate exceeded", inConnack | inDisconnect},
	MaximumConnectTime:                  {"maximum connect time", inDisconnect},
	SubscriptionIdentifiersNotSupported: {"subscription identifiers not supported", inSuback | inDisconnect},
	WildcardSubscriptionsNotSupported:   {"wildcard subscriptions not supported", inSuback | inDisconnect},
}

// String returns the specification's name of c in lower case.
func (c ReasonCode) String() string {
	if name := reasons[c].name; name != "" {
		return name
	}
	return "reason code " + strconv.Itoa(int(c))
}

// Failed reports whether c tells of a failure.
func (c ReasonCode) Failed() bool { return c >= 0x80 }

// ValidIn reports whether a packet of type t may carry c.
func (c ReasonCode) ValidIn(t Type) bool { return reasons[c].types>>t&1 == 1 }

// reasonStatements names, per packet type, the statement that demands a code of
// the table.
var reasonStatements = [16]string{
	TypeConnack: "MQTT-3.2.2-8", TypePuback: "MQTT-3.4.2-1", TypePubrec: "MQTT-3.5.2-1",
	TypePubrel: "MQTT-3.6.2-1", TypePubcomp: "MQTT-3.7.2-1", TypeSuback: "MQTT-3.9.3-2",
	TypeUnsuback: "MQTT-3.11.3-2", TypeDisconnect: "MQTT-3.14.2-1", TypeAuth: "MQTT-3.15.2-1",
}

// reason reads a Reason Code of a packet of type t.
func (d *decoder) reason(t Type) ReasonCode {
	c := ReasonCode(d.byte("reason code"))
	// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2]
	// [MQTT-3.11.3-2] [MQTT-3.14.2-1] [MQTT-3.15.2-1]
	if d.err == nil && !c.ValidIn(t) {
		d.fail(violation(reasonStatements[t], t.String()+" cannot carry "+c.String()))
	}
	return c
}

// returnCodes are the Reason Codes of the CONNACK Return Codes 0 to 5 of 3.1.1.
var returnCodes = [...]ReasonCode{
	Success, UnsupportedProtocolVersion, ClientIdentifierNotValid,
	ServerUnavailable, BadUserNameOrPassword, NotAuthorized,
}

// ReturnCode returns the CONNACK Return Code that tells a 3.1.1 client of c.
// Without one (ok is false) the server closes and sends no CONNACK.
func (c ReasonCode) ReturnCode() (code byte, ok bool) {
	if c == ServerBusy || c == ConnectionRateExceeded {
		c = ServerUnavailable // for now, as all three say
	}
	for i, r := range returnCodes {
		if r == c {
			return byte(i), true
		}
	}
	return 0, false
}

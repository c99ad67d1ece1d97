package packet

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
)

// raw makes a packet of first byte and body.
func raw(first byte, body string) []byte {
	return append(appendVarint([]byte{first}, uint32(len(body))), body...)
}

const (
	head5   = "\x00\x04MQTT\x05" // of CONNECT, before the flags
	head311 = "\x00\x04MQTT\x04"
	id      = "\x00\x01"
)

// TestRefuses has one case per rule; its id is the statement that the rule
// stands for.
func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, statement string
		code            ReasonCode
		v               Version
		packet          []byte
	}{
		{"surrogate", "MQTT-1.5.4-1", MalformedPacket, V5, raw(0xe0, "\x00\x06\x1f\x00\x03\xed\xa0\x80")},
		{"overlong", "MQTT-1.5.4-1", MalformedPacket, V5, raw(0xe0, "\x00\x05\x1f\x00\x02\xc0\x80")},
		{"U+0000", "MQTT-1.5.4-2", MalformedPacket, V5, raw(0x30, "\x00\x03a\x00b\x00")},
		{"U+0000 in a filter", "MQTT-1.5.4-2", MalformedPacket, V311, raw(0x82, id+"\x00\x01\x00\x00")},
		{"remaining length too long", "MQTT-1.5.5-1", MalformedPacket, V5, []byte("\xc0\x80\x00")},
		{"remaining length of five bytes", "", MalformedPacket, V5, []byte("\xc0\xff\xff\xff\xff\x01")},
		{"property length too long", "MQTT-1.5.5-1", MalformedPacket, V5, raw(0x30, "\x00\x01a\x80\x00")},
		{"user property key", "MQTT-1.5.7-1", MalformedPacket, V5, raw(0x30, "\x00\x01a\x07\x26\x00\x01\xff\x00\x01b")},
		{"user property value", "MQTT-1.5.7-1", MalformedPacket, V5, raw(0x30, "\x00\x01a\x07\x26\x00\x01a\x00\x01\xff")},
		{"type 0", "", MalformedPacket, V5, raw(0x00, "")},
		{"flags of CONNECT", "MQTT-2.1.3-1", MalformedPacket, V5, raw(0x11, "")},
		{"flags of PINGREQ", "MQTT-2.1.3-1", MalformedPacket, V311, raw(0xc8, "")},
		{"packet id 0 of PUBLISH", "MQTT-2.2.1-3", ProtocolError, V5, raw(0x32, "\x00\x01a\x00\x00\x00")},
		{"packet id 0 of SUBSCRIBE", "MQTT-2.2.1-3", ProtocolError, V5, raw(0x82, "\x00\x00\x00\x00\x01a\x00")},
		{"packet id 0 of UNSUBSCRIBE", "MQTT-2.2.1-3", ProtocolError, V311, raw(0xa2, "\x00\x00\x00\x01a")},
		{"packet id 0 of PUBACK", "MQTT-2.2.1-5", ProtocolError, V5, raw(0x40, "\x00\x00")},
		{"packet id 0 of SUBACK", "MQTT-2.2.1-6", ProtocolError, V5, raw(0x90, "\x00\x00\x00\x00")},

		{"protocol name", "MQTT-3.1.2-1", UnsupportedProtocolVersion, V5, raw(0x10, "\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01c")},
		{"protocol version", "MQTT-3.1.2-2", UnsupportedProtocolVersion, V5, raw(0x10, "\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01c")},
		{"reserved connect flag", "MQTT-3.1.2-3", MalformedPacket, V5, raw(0x10, head5+"\x03\x00\x00\x00\x00\x01c")},
		{"will QoS without will", "MQTT-3.1.2-11", MalformedPacket, V5, raw(0x10, head5+"\x0a\x00\x00\x00\x00\x01c")},
		{"will QoS 3", "MQTT-3.1.2-12", MalformedPacket, V5, raw(0x10, head5+"\x1e\x00\x00\x00\x00\x01c\x00\x00\x01w\x00\x00")},
		{"will retain without will", "MQTT-3.1.2-13", MalformedPacket, V5, raw(0x10, head5+"\x22\x00\x00\x00\x00\x01c")},
		{"will missing", "", MalformedPacket, V5, raw(0x10, head5+"\x06\x00\x00\x00\x00\x01c")},                     // [MQTT-3.1.2-9]
		{"user name not announced", "", MalformedPacket, V5, raw(0x10, head5+"\x02\x00\x00\x00\x00\x01c\x00\x01u")}, // [MQTT-3.1.2-16]
		{"user name missing", "", MalformedPacket, V5, raw(0x10, head5+"\x82\x00\x00\x00\x00\x01c")},                // [MQTT-3.1.2-17]
		{"password missing", "", MalformedPacket, V5, raw(0x10, head5+"\x42\x00\x00\x00\x00\x01c")},                 // [MQTT-3.1.2-19]
		{"password without user name in 3.1.1", "MQTT-3.1.1 [3.1.2-22]", MalformedPacket, V311, raw(0x10, head311+"\x42\x00\x00\x00\x01c\x00\x01p")},
		{"client id missing", "", MalformedPacket, V5, raw(0x10, head5+"\x02\x00\x00\x00")}, // [MQTT-3.1.3-3]
		{"client id", "MQTT-3.1.3-4", MalformedPacket, V5, raw(0x10, head5+"\x02\x00\x00\x00\x00\x01\xff")},
		{"no client id, session kept, 3.1.1", "MQTT-3.1.1 [3.1.3-8]", ClientIdentifierNotValid, V311, raw(0x10, head311+"\x00\x00\x00\x00\x00")},
		{"will topic", "MQTT-3.1.3-11", MalformedPacket, V5, raw(0x10, head5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01\xff\x00\x00")},
		{"will topic with wildcard", "MQTT-4.7.0-1", TopicNameInvalid, V5, raw(0x10, head5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01#\x00\x00")},
		{"will topic empty", "MQTT-4.7.3-1", ProtocolError, V311, raw(0x10, head311+"\x06\x00\x00\x00\x01c\x00\x00\x00\x00")},
		{"user name", "MQTT-3.1.3-12", MalformedPacket, V5, raw(0x10, head5+"\x82\x00\x00\x00\x00\x01c\x00\x01\xff")},
		{"data after CONNECT", "", MalformedPacket, V311, raw(0x10, head311+"\x02\x00\x00\x00\x01c\x00")},
		{"authentication data alone", "", ProtocolError, V5, raw(0x10, head5+"\x02\x00\x00\x03\x16\x00\x00\x00\x01c")},
		{"connack flags", "MQTT-3.2.2-1", MalformedPacket, V5, raw(0x20, "\x02\x00\x00")},
		{"session present in a refusal", "MQTT-3.2.2-6", ProtocolError, V5, raw(0x20, "\x01\x87\x00")},
		{"session present in a refusal of 3.1.1", "MQTT-3.2.2-6", ProtocolError, V311, raw(0x20, "\x01\x05")},
		{"connack code", "MQTT-3.2.2-8", ProtocolError, V5, raw(0x20, "\x00\x8e\x00")},
		{"return code", "", ProtocolError, V311, raw(0x20, "\x00\x06")},

		{"DUP at QoS 0", "MQTT-3.3.1-2", MalformedPacket, V5, raw(0x38, "\x00\x01a\x00")},
		{"QoS 3", "MQTT-3.3.1-4", MalformedPacket, V311, raw(0x36, "\x00\x01a\x00\x01")},
		{"topic name", "MQTT-3.3.2-1", MalformedPacket, V5, raw(0x30, "\x00\x01\xff\x00")},
		{"topic name with +", "MQTT-3.3.2-2", TopicNameInvalid, V5, raw(0x30, "\x00\x03a/+\x00")},
		{"topic name with #", "MQTT-3.3.2-2", TopicNameInvalid, V311, raw(0x30, "\x00\x01#")},
		{"no topic name, no alias", "MQTT-4.7.3-1", ProtocolError, V5, raw(0x30, "\x00\x00\x00")},
		{"no topic name in 3.1.1", "MQTT-4.7.3-1", ProtocolError, V311, raw(0x30, "\x00\x00")},
		{"alias 0", "MQTT-3.3.2-8", TopicAliasInvalid, V5, raw(0x30, "\x00\x01a\x03\x23\x00\x00")},
		{"response topic", "MQTT-3.3.2-13", MalformedPacket, V5, raw(0x30, "\x00\x01a\x04\x08\x00\x01\xff")},
		{"response topic with wildcard", "MQTT-3.3.2-14", TopicNameInvalid, V5, raw(0x30, "\x00\x01a\x04\x08\x00\x01+")},
		{"content type", "MQTT-3.3.2-19", MalformedPacket, V5, raw(0x30, "\x00\x01a\x04\x03\x00\x01\xff")},
		{"subscription id 0", "", ProtocolError, V5, raw(0x30, "\x00\x01a\x02\x0b\x00")},
		{"payload format 2", "", ProtocolError, V5, raw(0x30, "\x00\x01a\x02\x01\x02")},
		{"property twice", "", ProtocolError, V5, raw(0x30, "\x00\x01a\x04\x01\x01\x01\x01")},
		{"property unknown", "", MalformedPacket, V5, raw(0x30, "\x00\x01a\x02\x04\x00")},
		{"property of two bytes unknown", "", MalformedPacket, V5, raw(0x30, "\x00\x01a\x03\xff\x01\x00")},
		{"property of another packet", "", MalformedPacket, V5, raw(0x30, "\x00\x01a\x05\x11\x00\x00\x00\x01")},
		{"property cut", "", MalformedPacket, V5, raw(0x30, "\x00\x01a\x03\x02\x00\x00payload")},
		{"property length beyond the packet", "", MalformedPacket, V5, raw(0x30, "\x00\x01a\xff\xff\xff\x7f")},
		{"topic length beyond the packet", "", MalformedPacket, V5, raw(0x30, "\xff\xffa")},

		{"puback code", "MQTT-3.4.2-1", ProtocolError, V5, raw(0x40, id+"\x92")},
		{"puback of 3.1.1 with a code", "", MalformedPacket, V311, raw(0x40, id+"\x00")},
		{"data after PUBACK", "", MalformedPacket, V5, raw(0x40, id+"\x00\x00\x00")},
		{"pubrec code", "MQTT-3.5.2-1", ProtocolError, V5, raw(0x50, id+"\x92")},
		{"pubrel flags", "MQTT-3.6.1-1", MalformedPacket, V5, raw(0x60, id)},
		{"pubrel code", "MQTT-3.6.2-1", ProtocolError, V5, raw(0x62, id+"\x80")},
		{"pubcomp code", "MQTT-3.7.2-1", ProtocolError, V5, raw(0x70, id+"\x80")},

		{"subscribe flags", "MQTT-3.8.1-1", MalformedPacket, V5, raw(0x80, id+"\x00\x00\x01a\x00")},
		{"subscribe filter", "MQTT-3.8.3-1", MalformedPacket, V5, raw(0x82, id+"\x00\x00\x01\xff\x00")},
		{"subscribe to nothing", "MQTT-3.8.3-2", ProtocolError, V5, raw(0x82, id+"\x00")},
		{"subscribe without options", "", MalformedPacket, V5, raw(0x82, id+"\x00\x00\x01a")},
		{"subscribe to an empty filter", "MQTT-4.7.3-1", ProtocolError, V311, raw(0x82, id+"\x00\x00\x00")},
		{"no local on shared", "MQTT-3.8.3-4", ProtocolError, V5, raw(0x82, id+"\x00\x00\x0a$share/g/a\x04")},
		{"reserved options", "MQTT-3.8.3-5", MalformedPacket, V5, raw(0x82, id+"\x00\x00\x01a\x40")},
		{"reserved options of 3.1.1", "MQTT-3.1.1 [3.8.3-4]", MalformedPacket, V311, raw(0x82, id+"\x00\x01a\x04")},
		{"subscribe QoS 3", "", ProtocolError, V5, raw(0x82, id+"\x00\x00\x01a\x03")},
		{"retain handling 3", "", ProtocolError, V5, raw(0x82, id+"\x00\x00\x01a\x30")},
		{"two subscription ids", "", ProtocolError, V5, raw(0x82, id+"\x04\x0b\x01\x0b\x02\x00\x01a\x00")},
		{"suback code", "MQTT-3.9.3-2", ProtocolError, V5, raw(0x90, id+"\x00\x03")},
		{"suback code of 3.1.1", "MQTT-3.1.1 [3.9.3-2]", ProtocolError, V311, raw(0x90, id+"\x87")},
		{"suback without code", "MQTT-3.8.4-6", ProtocolError, V5, raw(0x90, id+"\x00")},
		{"unsubscribe flags", "MQTT-3.10.1-1", MalformedPacket, V5, raw(0xa0, id+"\x00\x00\x01a")},
		{"unsubscribe filter", "MQTT-3.10.3-1", MalformedPacket, V5, raw(0xa2, id+"\x00\x00\x01\xff")},
		{"unsubscribe from nothing", "MQTT-3.10.3-2", ProtocolError, V5, raw(0xa2, id+"\x00")},
		{"unsuback without code", "MQTT-3.11.3-1", ProtocolError, V5, raw(0xb0, id+"\x00")},
		{"unsuback code", "MQTT-3.11.3-2", ProtocolError, V5, raw(0xb0, id+"\x00\x01")},
		{"unsuback of 3.1.1 with a code", "", MalformedPacket, V311, raw(0xb0, id+"\x00")},
		{"PINGREQ with a body", "", MalformedPacket, V5, raw(0xc0, "\x00")},
		{"disconnect flags", "MQTT-3.14.1-1", MalformedPacket, V5, raw(0xe1, "")},
		{"disconnect code", "MQTT-3.14.2-1", ProtocolError, V5, raw(0xe0, "\x01")},
		{"disconnect of 3.1.1 with a code", "", MalformedPacket, V311, raw(0xe0, "\x00")},
		{"auth flags", "MQTT-3.15.1-1", MalformedPacket, V5, raw(0xf2, "")},
		{"auth code", "MQTT-3.15.2-1", ProtocolError, V5, raw(0xf0, "\x80\x04\x15\x00\x01m")},
		{"auth without method", "", ProtocolError, V5, raw(0xf0, "\x18\x00")},
		{"auth in 3.1.1", "MQTT-3.1.1 [2.2.1]", MalformedPacket, V311, raw(0xf0, "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := decodeAll(tt.v, tt.packet)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %+v and %v, want an Error", p, err)
			}
			if e.Code != tt.code || e.Statement != tt.statement {
				t.Errorf("got 0x%02X %q (%v), want 0x%02X %q", byte(e.Code), e.Statement, err, byte(tt.code), tt.statement)
			}
		})
	}
}

// Rules about values that no packet may have, for each property that has one.
func TestRefusesPropertyValues(t *testing.T) {
	for _, tt := range []struct {
		t     Type
		id    PropertyID
		value string
	}{
		{TypeConnect, PropReceiveMaximum, "\x00\x00"},
		{TypeConnect, PropMaximumPacketSize, "\x00\x00\x00\x00"},
		{TypeConnect, PropRequestProblemInformation, "\x02"},
		{TypeConnect, PropRequestResponseInformation, "\x02"},
		{TypeConnack, PropMaximumQoS, "\x02"},
		{TypeConnack, PropRetainAvailable, "\x02"},
		{TypeConnack, PropWildcardSubscriptionAvailable, "\x02"},
		{TypeConnack, PropSubscriptionIdentifierAvailable, "\x02"},
		{TypeConnack, PropSharedSubscriptionAvailable, "\x02"},
		{TypeSubscribe, PropSubscriptionIdentifier, "\x00"},
		{TypePublish, PropResponseTopic, "\x00\x00"},
	} {
		var p Properties
		block := append([]byte{byte(len(tt.value) + 1), byte(tt.id)}, tt.value...)
		var e *Error
		if _, err := p.Decode(tt.t, block); !errors.As(err, &e) || e.Code != ProtocolError {
			t.Errorf("%v of % x in %v: %v, want a protocol error", tt.id, tt.value, tt.t, err)
		}
	}
}

func TestDirection(t *testing.T) {
	expiry := with(func(p *Properties) { p.SetSessionExpiryInterval(1) })
	elsewhere := with(func(p *Properties) { p.SetServerReference("x") })
	for _, tt := range []struct {
		name, statement string
		err             error
	}{
		{"subscription id", "MQTT-3.3.4-6", (&Publish{Properties: Properties{SubscriptionIDs: []uint32{1}}}).CheckClient()},
		{"session taken over", "MQTT-3.14.2-1", (&Disconnect{ReasonCode: SessionTakenOver}).CheckClient()},
		{"server reference", "", (&Disconnect{Properties: elsewhere}).CheckClient()},
		{"with will message", "MQTT-3.14.2-1", (&Disconnect{ReasonCode: DisconnectWithWillMessage}).CheckServer()},
		{"session expiry", "MQTT-3.14.2-2", (&Disconnect{Properties: expiry}).CheckServer()},
		{"success", "MQTT-3.15.2-1", (&Auth{}).CheckClient()},
		{"re-authenticate", "MQTT-3.15.2-1", (&Auth{ReasonCode: ReAuthenticate}).CheckServer()},
	} {
		var e *Error
		if !errors.As(tt.err, &e) || e.Statement != tt.statement || e.Code != ProtocolError {
			t.Errorf("%s: %v, want [%s]", tt.name, tt.err, tt.statement)
		}
	}
	for name, err := range map[string]error{
		"publish":                 (&Publish{}).CheckClient(),
		"disconnect of a client":  (&Disconnect{ReasonCode: DisconnectWithWillMessage, Properties: expiry}).CheckClient(),
		"disconnect of a server":  (&Disconnect{ReasonCode: ServerMoved, Properties: elsewhere}).CheckServer(),
		"auth of a client":        (&Auth{ReasonCode: ReAuthenticate}).CheckClient(),
		"auth of a server, done":  (&Auth{}).CheckServer(),
		"auth of a server, going": (&Auth{ReasonCode: ContinueAuthentication}).CheckServer(),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A CONNECT that is refused still tells in which version to answer.
func TestConnectVersionSurvivesRefusal(t *testing.T) {
	for body, want := range map[string]Version{
		"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01c":                  3,
		"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01c":                6,
		head311 + "\x00\x00\x00\x00\x00":                           V311,
		head5 + "\x03\x00\x00\x00\x00\x01c":                        V5,
		head5 + "\x02\x00\x00\x06\x21\x00\x00\x21\x00\x00\x00\x00": V5,
	} {
		var p Connect
		if err := p.Decode(0, 0, []byte(body)); err == nil || p.Version != want {
			t.Errorf("version %v, error %v; want %v and an error", p.Version, err, want)
		}
	}
}

func TestHeaderIncomplete(t *testing.T) {
	for _, b := range []string{"", "\x30", "\x30\x80", "\x30\xff\xff\xff"} {
		if h, n, err := ParseHeader([]byte(b)); n != 0 || err != nil {
			t.Errorf("ParseHeader(% x) = %v, %d, %v, want 0 and no error", b, h, n, err)
		}
	}
	if _, n, err := ParseHeader([]byte("\x36")); n != 0 || err == nil {
		t.Error("the first byte of a PUBLISH at QoS 3 was taken")
	}
}

// Memory follows the bytes that are there, not the claimed length.
func TestClaimsCostNothing(t *testing.T) {
	claims := map[string]func(){
		"stream": func() {
			_, err := Read(bufio.NewReaderSize(strings.NewReader("\x30\xff\xff\xff\x7fabc"), 16), V5, MaxSize)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Read = %v, want unexpected EOF", err)
			}
		},
		"properties": func() {
			var p Publish
			if p.Decode(V5, 0, []byte("\x00\x01a\xff\xff\xff\x7f\x26")) == nil {
				t.Error("properties beyond the packet were taken")
			}
		},
		"will payload": func() {
			var p Connect
			if p.Decode(V5, 0, []byte(head5+"\x06\x00\x00\x00\x00\x01c\x00\x00\x01w\xff\xff")) == nil {
				t.Error("a payload beyond the packet was taken")
			}
		},
	}
	for name, claim := range claims {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		claim()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<10 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

func TestRead(t *testing.T) {
	var stream bytes.Buffer
	for range 3 {
		stream.Write((&Publish{TopicName: []byte("a"), Payload: make([]byte, 5000)}).Append(nil, V5))
	}
	stream.WriteString("\xc0")
	r := bufio.NewReader(&stream)
	for range 3 {
		p, err := Read(r, V5, 5007)
		if publish, ok := p.(*Publish); err != nil || !ok || len(publish.Payload) != 5000 {
			t.Fatalf("Read = %v, %v", p, err)
		}
	}
	if _, err := Read(r, V5, 10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("inside a packet: %v, want unexpected EOF", err)
	}
	if _, err := Read(bufio.NewReader(&stream), V5, 10); !errors.Is(err, io.EOF) {
		t.Errorf("after the last packet: %v, want EOF", err)
	}
	var e *Error
	_, err := Read(bufio.NewReader(strings.NewReader("\x30\x06")), V5, 7)
	if !errors.As(err, &e) || e.Code != PacketTooLarge {
		t.Errorf("8 bytes of 7: %v, want packet too large", err)
	}
}

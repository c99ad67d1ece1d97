package packet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// with returns properties that set has filled.
func with(set func(p *Properties)) (p Properties) {
	set(&p)
	return p
}

// golden has packets and their bytes: from the specification's figures where there are
// some, the rest made by hand from its tables.
var golden = []struct {
	name   string
	v      Version
	packet Packet
	bytes  string
}{
	{
		"CONNECT of 3.1.1, figure 3.6", V311,
		&Connect{
			Version: V311, CleanStart: true, KeepAlive: 10, ClientID: "c", UserNameFlag: true, UserName: "u", PasswordFlag: true,
			Password: []byte("p"), Will: &Will{QoS: 1, Topic: "w", Payload: []byte("bye")},
		},
		"\x10\x1b\x00\x04MQTT\x04\xce\x00\x0a\x00\x01c\x00\x01w\x00\x03bye\x00\x01u\x00\x01p",
	},
	{
		"CONNECT of 5, figure 3-6", V5,
		&Connect{
			Version: V5, CleanStart: true, KeepAlive: 10, ClientID: "c", UserNameFlag: true, UserName: "u", PasswordFlag: true,
			Password: []byte("p"), Will: &Will{
				QoS: 1, Topic: "w", Payload: []byte("bye"),
				Properties: with(func(p *Properties) { p.SetWillDelayInterval(3) }),
			},
			Properties: with(func(p *Properties) { p.SetSessionExpiryInterval(10) }),
		},
		"\x10\x27\x00\x04MQTT\x05\xce\x00\x0a\x05\x11\x00\x00\x00\x0a\x00\x01c\x05\x18\x00\x00\x00\x03\x00\x01w\x00\x03bye\x00\x01u\x00\x01p",
	},
	{
		"CONNECT with a password alone", V5,
		&Connect{Version: V5, PasswordFlag: true, Password: []byte{}},
		"\x10\x0f\x00\x04MQTT\x05\x40\x00\x00\x00\x00\x00\x00\x00",
	},
	{
		"CONNECT with a retained will", V5,
		&Connect{Version: V5, ClientID: "\ufeffA\U0002A6D4", Will: &Will{Retain: true, QoS: 2, Topic: "w", Payload: []byte{}}},
		"\x10\x1b\x00\x04MQTT\x05\x34\x00\x00\x00\x00\x08\xef\xbb\xbfA\xf0\xaa\x9b\x94\x00\x00\x01w\x00\x00", // [MQTT-1.5.4-3]
	},
	{"CONNACK of 3.1.1", V311, &Connack{SessionPresent: true}, "\x20\x02\x01\x00"},
	{"CONNACK refusing 3.1.1", V311, &Connack{ReasonCode: NotAuthorized}, "\x20\x02\x00\x05"},
	{
		"CONNACK", V5,
		&Connack{Properties: with(func(p *Properties) {
			p.SetAssignedClientIdentifier("x")
			p.SetServerKeepAlive(60)
			p.SetMaximumQoS(1)
			p.SetReceiveMaximum(256)
			p.SetMaximumPacketSize(1 << 20)
		})},
		"\x20\x14\x00\x00\x11\x12\x00\x01x\x13\x00\x3c\x21\x01\x00\x24\x01\x27\x00\x10\x00\x00",
	},
	{"PUBLISH of 3.1.1", V311, &Publish{TopicName: []byte("a/b"), Payload: []byte("hi")}, "\x30\x07\x00\x03a/bhi"},
	{
		"PUBLISH, figure 3-9", V5,
		&Publish{QoS: 1, PacketID: 10, TopicName: []byte("a/b"), Payload: []byte{}},
		"\x32\x08\x00\x03a/b\x00\x0a\x00",
	},
	{
		"PUBLISH with everything", V5,
		&Publish{
			Dup: true, Retain: true, QoS: 2, PacketID: 10, TopicName: []byte{}, Payload: []byte("hi"),
			Properties: with(func(p *Properties) {
				p.SetPayloadFormatIndicator(1)
				p.SetMessageExpiryInterval(0)
				p.SetContentType("")
				p.SetResponseTopic("r")
				p.SetCorrelationData([]byte{0})
				p.SetTopicAlias(5)
				p.SubscriptionIDs = []uint32{1, 128}
				p.User = []UserProperty{{"b", "2"}, {"a", "1"}, {"b", ""}}
			}),
		},
		"\x3d\x35\x00\x00\x00\x0a\x2e\x01\x01\x02\x00\x00\x00\x00\x03\x00\x00\x08\x00\x01r\x09\x00\x01\x00\x0b\x01\x0b\x80\x01\x23\x00\x05" +
			"\x26\x00\x01b\x00\x012\x26\x00\x01a\x00\x011\x26\x00\x01b\x00\x00hi",
	},
	{"PUBACK of 3.1.1", V311, &Puback{PacketID: 10}, "\x40\x02\x00\x0a"},
	{"PUBACK that says nothing", V5, &Puback{PacketID: 10}, "\x40\x02\x00\x0a"},
	{"PUBACK with a code", V5, &Puback{PacketID: 10, ReasonCode: NoMatchingSubscribers}, "\x40\x03\x00\x0a\x10"},
	{
		"PUBREC with properties", V5,
		&Pubrec{PacketID: 10, ReasonCode: QuotaExceeded, Properties: with(func(p *Properties) { p.SetReasonString("no") })},
		"\x50\x09\x00\x0a\x97\x05\x1f\x00\x02no",
	},
	{"PUBREL", V5, &Pubrel{PacketID: 10}, "\x62\x02\x00\x0a"},
	{"PUBCOMP", V5, &Pubcomp{PacketID: 10, ReasonCode: PacketIdentifierNotFound}, "\x70\x03\x00\x0a\x92"},
	{
		"SUBSCRIBE of 3.1.1, figure 3.23", V311,
		&Subscribe{PacketID: 10, Subscriptions: []Subscription{{TopicFilter: "a/b", QoS: 1}, {TopicFilter: "c/d", QoS: 2}}},
		"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02",
	},
	{
		"SUBSCRIBE, figure 3-22", V5,
		&Subscribe{PacketID: 10, Subscriptions: []Subscription{{TopicFilter: "a/b", QoS: 1}, {TopicFilter: "c/d", QoS: 2}}},
		"\x82\x0f\x00\x0a\x00\x00\x03a/b\x01\x00\x03c/d\x02",
	},
	{
		"SUBSCRIBE with options", V5,
		&Subscribe{
			PacketID: 10, Properties: Properties{SubscriptionIDs: []uint32{268435455}},
			Subscriptions: []Subscription{{TopicFilter: "#", NoLocal: true, RetainAsPublished: true, RetainHandling: 2}},
		},
		"\x82\x0c\x00\x0a\x05\x0b\xff\xff\xff\x7f\x00\x01#\x2c",
	},
	{"SUBACK of 3.1.1", V311, &Suback{PacketID: 10, ReasonCodes: []ReasonCode{GrantedQoS2, UnspecifiedError}}, "\x90\x04\x00\x0a\x02\x80"},
	{"SUBACK", V5, &Suback{PacketID: 10, ReasonCodes: []ReasonCode{GrantedQoS1, NotAuthorized}}, "\x90\x05\x00\x0a\x00\x01\x87"},
	{"UNSUBSCRIBE of 3.1.1", V311, &Unsubscribe{PacketID: 10, TopicFilters: []string{"a/b", "c/d"}}, "\xa2\x0c\x00\x0a\x00\x03a/b\x00\x03c/d"},
	{"UNSUBSCRIBE", V5, &Unsubscribe{PacketID: 10, TopicFilters: []string{"a/b", "c/d"}}, "\xa2\x0d\x00\x0a\x00\x00\x03a/b\x00\x03c/d"},
	{"UNSUBACK of 3.1.1", V311, &Unsuback{PacketID: 10}, "\xb0\x02\x00\x0a"},
	{"UNSUBACK", V5, &Unsuback{PacketID: 10, ReasonCodes: []ReasonCode{Success, NoSubscriptionExisted}}, "\xb0\x05\x00\x0a\x00\x00\x11"},
	{"PINGREQ", V5, &Pingreq{}, "\xc0\x00"},
	{"PINGRESP", V311, &Pingresp{}, "\xd0\x00"},
	{"DISCONNECT of 3.1.1", V311, &Disconnect{}, "\xe0\x00"},
	{"DISCONNECT that says nothing", V5, &Disconnect{}, "\xe0\x00"},
	{"DISCONNECT with a code", V5, &Disconnect{ReasonCode: DisconnectWithWillMessage}, "\xe0\x01\x04"},
	{
		"DISCONNECT with properties", V5,
		&Disconnect{Properties: with(func(p *Properties) { p.SetSessionExpiryInterval(0) })},
		"\xe0\x07\x00\x05\x11\x00\x00\x00\x00",
	},
	{"AUTH that says nothing", V5, &Auth{}, "\xf0\x00"},
	{
		"AUTH", V5,
		&Auth{ReasonCode: ContinueAuthentication, Properties: with(func(p *Properties) {
			p.SetAuthenticationMethod("m")
			p.SetAuthenticationData([]byte{1, 2})
		})},
		"\xf0\x0b\x18\x09\x15\x00\x01m\x16\x00\x02\x01\x02",
	},
}

func TestGolden(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			got := string(tt.packet.Append([]byte("before"), tt.v))
			if diff := cmp.Diff("before"+tt.bytes, got); diff != "" {
				t.Errorf("Append (-want +got):\n%s", diff)
			}
			if size := tt.packet.Size(tt.v); size != len(tt.bytes) {
				t.Errorf("Size = %d, want %d", size, len(tt.bytes))
			}
			p, err := decodeAll(tt.v, []byte(tt.bytes))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.packet, p, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("Decode (-want +got):\n%s", diff)
			}
		})
	}
}

// decodeAll decodes the one packet that b holds.
func decodeAll(v Version, b []byte) (Packet, error) {
	h, n, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	return Decode(v, h, b[n:n+h.Length])
}

// Fields that a 3.1.1 receiver does not know are left out.
func TestAppendV311LeavesOut(t *testing.T) {
	explained := with(func(p *Properties) {
		p.SetReasonString("why")
		p.User = []UserProperty{{"a", "b"}}
	})
	for _, tt := range []struct {
		packet Packet
		want   string
	}{
		{&Connack{ReasonCode: BadAuthenticationMethod, Properties: explained}, "\x20\x02\x00\x03"},
		{&Publish{TopicName: []byte("a"), Properties: explained}, "\x30\x03\x00\x01a"},
		{&Puback{PacketID: 1, ReasonCode: NotAuthorized, Properties: explained}, "\x40\x02\x00\x01"},
		{
			&Subscribe{PacketID: 1, Properties: explained, Subscriptions: []Subscription{{"a", 1, true, true, 2}}},
			"\x82\x06\x00\x01\x00\x01a\x01",
		},
		{&Suback{PacketID: 1, ReasonCodes: []ReasonCode{NotAuthorized}}, "\x90\x03\x00\x01\x80"},
		{&Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{NotAuthorized}}, "\xb0\x02\x00\x01"},
		{&Disconnect{ReasonCode: NotAuthorized, Properties: explained}, "\xe0\x00"},
	} {
		if got := string(tt.packet.Append(nil, V311)); got != tt.want || tt.packet.Size(V311) != len(tt.want) {
			t.Errorf("%v: % x (Size %d), want % x", tt.packet.Type(), got, tt.packet.Size(V311), tt.want)
		}
	}
}

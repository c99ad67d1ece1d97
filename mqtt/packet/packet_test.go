package packet

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Table 1-1 of the specification.
func TestVarint(t *testing.T) {
	for v, want := range map[uint32]string{
		0: "\x00", 127: "\x7f", 128: "\x80\x01", 16383: "\xff\x7f", 16384: "\x80\x80\x01",
		2097151: "\xff\xff\x7f", 2097152: "\x80\x80\x80\x01", 268435455: "\xff\xff\xff\x7f",
	} {
		if got := string(appendVarint(nil, v)); got != want || varintSize(int(v)) != len(want) {
			t.Errorf("appendVarint(%d) = % x, size %d, want % x", v, got, varintSize(int(v)), want)
		}
		if got, n, err := parseVarint([]byte(want+"x"), "length"); got != v || n != len(want) || err != nil {
			t.Errorf("parseVarint(% x) = %d, %d, %v, want %d", want, got, n, err, v)
		}
	}
}

// The codes of the tables 3-1, 3-4, 3-5, 3-6, 3-7, 3-8, 3-9, 3-13 and 2-6.
// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2] [MQTT-3.11.3-2]
// [MQTT-3.14.2-1] [MQTT-3.15.2-1]
func TestReasonCodesPerPacket(t *testing.T) {
	published := []ReasonCode{0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
	for of, want := range map[Type][]ReasonCode{
		TypeConnack: {
			0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
			0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
		},
		TypePublish:  nil,
		TypePuback:   published,
		TypePubrec:   published,
		TypePubrel:   {0x00, 0x92},
		TypePubcomp:  {0x00, 0x92},
		TypeSuback:   {0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
		TypeUnsuback: {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
		TypeDisconnect: {
			0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
			0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
		},
		TypeAuth: {0x00, 0x18, 0x19},
	} {
		for c := range 256 {
			if got := ReasonCode(c).ValidIn(of); got != slices.Contains(want, ReasonCode(c)) {
				t.Errorf("0x%02X in %v: %v, want %v", c, of, got, !got)
			}
		}
	}
}

func TestReturnCode(t *testing.T) {
	for code := range byte(6) {
		c := returnCodes[code]
		if got, ok := c.ReturnCode(); got != code || !ok {
			t.Errorf("%v: %d, %v, want %d", c, got, ok, code)
		}
	}
	for _, c := range []ReasonCode{ServerBusy, ConnectionRateExceeded} {
		if got, ok := c.ReturnCode(); got != 3 || !ok {
			t.Errorf("%v: %d, %v, want 3", c, got, ok)
		}
	}
	if code, ok := ProtocolError.ReturnCode(); ok {
		t.Errorf("protocol error: %d, want none", code)
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"3.1.1":                                  V311.String(),
		"5":                                      V5.String(),
		"PUBLISH":                                TypePublish.String(),
		"packet type 0":                          Type(0).String(),
		"not authorized":                         NotAuthorized.String(),
		"reason code 255":                        ReasonCode(255).String(),
		"Message Expiry Interval":                PropMessageExpiryInterval.String(),
		"property 200":                           PropertyID(200).String(),
		"x (0x81 malformed packet)":              malformed("", "x").Error(),
		"x (0x82 protocol error) [MQTT-2.2.1-3]": violation("MQTT-2.2.1-3", "x").Error(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for of := range Type(17) {
		p := New(of)
		if p == nil != (of == 0 || of == 16) || p != nil && p.Type() != of {
			t.Errorf("New(%v) = %T", of, p)
		}
	}
	if TypeConnack.FromClient() || TypePingresp.FromClient() || !TypeConnect.FromClient() || !TypeAuth.FromClient() {
		t.Error("FromClient is wrong")
	}
}

// A string that the length before it cannot count is cut between characters.
func TestLongStringsAreCut(t *testing.T) {
	p := Disconnect{ReasonCode: UnspecifiedError}
	p.Properties.SetReasonString(strings.Repeat("a", maxField-1) + "é")
	b := p.Append(nil, V5)
	got, err := decodeAll(V5, b)
	if err != nil || p.Size(V5) != len(b) {
		t.Fatalf("Size %d, %d bytes: %v", p.Size(V5), len(b), err)
	}
	if s := got.(*Disconnect).Properties.ReasonString; len(s) != maxField-1 {
		t.Errorf("%d bytes arrived, want %d", len(s), maxField-1)
	}
}

func TestForwarded(t *testing.T) {
	p := with(func(p *Properties) {
		p.SetPayloadFormatIndicator(1)
		p.SetTopicAlias(3)
		p.SetWillDelayInterval(9)
		p.SetResponseTopic("r")
		p.User = []UserProperty{{"b", "1"}, {"a", "2"}} // [MQTT-3.3.2-18]
		p.SubscriptionIDs = []uint32{7}
	})
	want := with(func(p *Properties) {
		p.SetPayloadFormatIndicator(1)
		p.SetResponseTopic("r")
		p.User = []UserProperty{{"b", "1"}, {"a", "2"}}
	})
	got := p.Forwarded()
	if !bytes.Equal(got.Append(nil), want.Append(nil)) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !p.Has(PropTopicAlias) || !p.Has(PropSubscriptionIdentifier) {
		t.Error("the original lost properties")
	}
	p.Clear(PropSubscriptionIdentifier)
	p.Clear(PropTopicAlias)
	if p.Has(PropSubscriptionIdentifier) || p.Has(PropTopicAlias) || !p.Has(PropUserProperty) {
		t.Errorf("after Clear: %+v", p)
	}
}

func TestFit(t *testing.T) {
	explain := func() Properties {
		return with(func(p *Properties) {
			p.SetReasonString("reason")
			p.User = []UserProperty{{"key", "value"}}
		})
	}
	for _, tt := range []struct {
		statements string // on the Reason String and on the User Properties
		p          Packet
	}{
		{"3.2.2-19 3.2.2-20", &Connack{Properties: explain()}},
		{"3.4.2-2 3.4.2-3", &Puback{PacketID: 1, Properties: explain()}},
		{"3.5.2-2 3.5.2-3", &Pubrec{PacketID: 1, Properties: explain()}},
		{"3.6.2-2 3.6.2-3", &Pubrel{PacketID: 1, Properties: explain()}},
		{"3.7.2-2 3.7.2-3", &Pubcomp{PacketID: 1, Properties: explain()}},
		{"3.9.2-1 3.9.2-2", &Suback{PacketID: 1, ReasonCodes: []ReasonCode{0}, Properties: explain()}},
		{"3.11.2-1 3.11.2-2", &Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{0}, Properties: explain()}},
		{"3.14.2-3 3.14.2-4", &Disconnect{Properties: explain()}},
		{"3.15.2-2 3.15.2-3", &Auth{Properties: explain()}},
	} {
		t.Run(tt.statements, func(t *testing.T) {
			p, size := tt.p, tt.p.Size(V5)
			if !Fit(p, V5, size) || p.Size(V5) != size {
				t.Errorf("%v of %d bytes: changed to %d", p.Type(), size, p.Size(V5))
			}
			if !Fit(p, V5, size-1) || p.Size(V5) != size-13 {
				t.Errorf("%v of %d bytes: %d without user properties, want %d", p.Type(), size, p.Size(V5), size-13)
			}
			if !Fit(p, V5, size-14) || explanation(p).Has(PropReasonString) {
				t.Errorf("%v of %d bytes: kept its reason string", p.Type(), size)
			}
			if Fit(p, V5, 1) {
				t.Errorf("%v fits into a byte", p.Type())
			}
		})
	}
	p := &Publish{TopicName: []byte("a"), Properties: Properties{User: []UserProperty{{"a", "b"}}}}
	if Fit(p, V5, p.Size(V5)-1) || len(p.Properties.User) != 1 { // [MQTT-3.3.2-17]
		t.Error("a message lost its user properties")
	}
}

func TestEncoded(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		for qos := range byte(3) {
			p := Publish{QoS: qos, Retain: true, TopicName: []byte("a/b"), Payload: bytes.Repeat([]byte("x"), 200)}
			e := p.Encode(make([]byte, 0, 512), v)
			original := string(e.Append(nil, 0, false))
			if qos > 0 {
				p.PacketID, p.Dup = 0x1234, true
			}
			want := string(p.Append(nil, v))
			if got := string(e.Append([]byte("before"), 0x1234, true)); got != "before"+want {
				t.Errorf("%v, QoS %d: Append % x, want % x", v, qos, got[:20], want[:20])
			}
			head := e.AppendHead([]byte("before"), 0x1234, true)
			if got := string(append(head, e.Tail()...)); got != "before"+want {
				t.Errorf("%v, QoS %d: head and tail % x, want % x", v, qos, got[:20], want[:20])
			}
			if e.Size() != len(want) || e.QoS() != qos || string(e.Append(nil, 0, false)) != original {
				t.Errorf("%v, QoS %d: the encoded packet changed", v, qos)
			}
		}
	}
}

func TestEncodedWithAlias(t *testing.T) {
	for qos := range byte(3) {
		for _, size := range []int{0, 100, 121, 20_000} {
			p := Publish{QoS: qos, Retain: true, TopicName: []byte("a/long/topic"), Payload: bytes.Repeat([]byte("x"), size)}
			p.Properties.User = []UserProperty{{Key: "k", Value: strings.Repeat("v", min(size, 121))}}
			e := p.Encode(nil, V5)
			if got := string(e.Topic()); got != "a/long/topic" {
				t.Errorf("topic %q", got)
			}
			if qos > 0 {
				p.PacketID, p.Dup = 0x1234, true
			}
			p.Properties.SetTopicAlias(0x0102)
			for _, known := range []bool{false, true} {
				if known {
					p.TopicName = nil
				}
				b := e.AppendAliased([]byte("before"), 0x1234, true, 0x0102, known)
				if len(b)-6 > e.Size()+AliasOverhead {
					t.Errorf("%d bytes more", len(b)-6-e.Size())
				}
				want, got := decodePublish(t, p.Append(nil, V5)), decodePublish(t, b[6:])
				if !reflect.DeepEqual(got, want) {
					t.Errorf("QoS %d, %d bytes, known %v: %+v, want %+v", qos, size, known, got, want)
				}
			}
		}
	}
}

func decodePublish(t *testing.T, b []byte) (p Publish) {
	t.Helper()
	h, n, err := ParseHeader(b)
	if err == nil {
		err = p.Decode(V5, h.Flags, b[n:])
	}
	if err != nil || n+h.Length != len(b) {
		t.Fatalf("%v, length %d of %d", err, n+h.Length, len(b))
	}
	return p
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	publish := Publish{QoS: 1, PacketID: 7, TopicName: []byte("site/a/pump/7"), Payload: make([]byte, 100)}
	wire := map[Version][]byte{V311: publish.Append(nil, V311), V5: publish.Append(nil, V5)}
	encoded := publish.Encode(nil, V5)
	var in Publish
	dst := make([]byte, 0, 4096)
	for _, v := range []Version{V311, V5} {
		if n := testing.AllocsPerRun(100, func() {
			h, n, err := ParseHeader(wire[v])
			if err == nil {
				err = in.Decode(v, h.Flags, wire[v][n:])
			}
			if err != nil {
				t.Error(err)
			}
			dst = in.Append(dst[:0], v)
			dst = encoded.Append(dst, 9, true)
			dst = append(encoded.AppendHead(dst, 9, false), encoded.Tail()...)
		}); n != 0 {
			t.Errorf("PUBLISH of %v: %v allocations, want 0", v, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			puback, pubrec, pubrel, pubcomp := Puback{PacketID: 1}, Pubrec{PacketID: 1}, Pubrel{PacketID: 1}, Pubcomp{PacketID: 1}
			dst = puback.Append(dst[:0], v)
			dst = pubrec.Append(dst, v)
			dst = pubrel.Append(dst, v)
			dst = pubcomp.Append(dst, v)
			if puback.Decode(v, 0, dst[2:4]) != nil || pubrec.Decode(v, 0, dst[6:8]) != nil ||
				pubrel.Decode(v, 2, dst[10:12]) != nil || pubcomp.Decode(v, 0, dst[14:16]) != nil {
				t.Error("an acknowledgement was refused")
			}
		}); n != 0 {
			t.Errorf("acknowledgements of %v: %v allocations, want 0", v, n)
		}
	}
	for _, tt := range golden {
		if n := testing.AllocsPerRun(100, func() { dst = tt.packet.Append(dst[:0], tt.v) }); n != 0 {
			t.Errorf("Append of %s: %v allocations, want 0", tt.name, n)
		}
	}
}

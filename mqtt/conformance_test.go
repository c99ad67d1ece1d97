package mqtt

import (
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// The tests of the files conformance_*_test.go prove normative statements of
// MQTT 5. A subtest is named for the statements that it proves, by their numbers
// without "MQTT-": docs/conformance.md finds it by that name. The functions
// Test...Statements are the tables of contents: a line for each subtest, with the
// function that proves its statements.

// prove proves statements in both protocol versions.
func prove(t *testing.T, statements string, test func(t *testing.T, srv *testServer, v packet.Version)) {
	t.Helper()
	t.Run(statements, func(t *testing.T) { runInBothVersions(t, test) })
}

// prove5 proves statements with clients of MQTT 5, because 3.1.1 does not have what
// they are about, or because the test chooses the versions itself.
func prove5(t *testing.T, statements string, test func(t *testing.T, srv *testServer)) {
	t.Helper()
	t.Run(statements, func(t *testing.T) { runWithServer(t, nil, test) })
}

// prove5With is prove5 with options of its own.
func prove5With(t *testing.T, statements string, change func(*Options), test func(t *testing.T, srv *testServer)) {
	t.Helper()
	t.Run(statements, func(t *testing.T) { runWithServer(t, change, test) })
}

// keepSession makes a session outlive its connection, in either version.
func keepSession(v packet.Version) func(*packet.Connect) {
	if v == packet.V311 {
		return resumeSession
	}
	return sessionExpiry(1000)
}

// maxPacketSize sets CONNECT's Maximum Packet Size.
func maxPacketSize(n int) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetMaximumPacketSize(uint32(n)) }
}

// rawPacket returns the bytes of a packet with this first byte and this body.
func rawPacket(first byte, body string) string {
	b := []byte{first}
	n := len(body)
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return string(append(b, byte(n))) + body
}

// brokenPacket is a packet that a statement forbids, in the bytes of each version. An
// empty string stands for a version without such a packet.
type brokenPacket struct {
	statement string
	code      packet.ReasonCode // in DISCONNECT of MQTT 5
	v5, v311  string
}

// wantPacketRefused sends b's packet on an open connection. The broker has to
// tell the reason, if the version can, and to close that connection and no other.
// [MQTT-4.13.1-1]
func (s *testServer) wantPacketRefused(v packet.Version, b brokenPacket) {
	s.t.Helper()
	bytes := b.v311
	if v == packet.V5 {
		bytes = b.v5
	}
	if bytes == "" {
		return
	}
	other := s.connect(v, "other")
	c := s.connect(v, "broken")
	_, _ = c.nc.Write([]byte(bytes))
	if v == packet.V5 {
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != b.code {
			s.t.Errorf("% x: got %s, want %s", bytes, describePacket(got), b.code)
		}
	}
	if c.wantNothing(); !c.closedByServer() {
		s.t.Errorf("% x: the connection stays open", bytes)
	}
	other.send(&packet.Pingreq{})
	wantPacket[*packet.Pingresp](other)
}

// TestBrokenPackets has the packets that no client may send.
func TestBrokenPackets(t *testing.T) {
	const malformed, protocol = packet.MalformedPacket, packet.ProtocolError
	byStatement := map[string][]brokenPacket{}
	var order []string
	for _, b := range []brokenPacket{
		{"1.5.4-1", malformed, rawPacket(0x82, "\x00\x01\x00\x00\x03\xed\xa0\x80\x00"), rawPacket(0x82, "\x00\x01\x00\x03\xed\xa0\x80\x00")},
		{"1.5.4-1", malformed, rawPacket(0xe0, "\x00\x05\x1f\x00\x02\xc0\x80"), ""},
		{"1.5.4-2", malformed, rawPacket(0x30, "\x00\x03a\x00b\x00"), rawPacket(0x30, "\x00\x03a\x00b")},
		{"1.5.4-2", malformed, rawPacket(0x82, "\x00\x01\x00\x00\x01\x00\x00"), rawPacket(0x82, "\x00\x01\x00\x01\x00\x00")},
		{"1.5.5-1", malformed, "\xc0\x80\x00", "\xc0\x80\x00"},
		{"1.5.5-1", malformed, rawPacket(0x30, "\x00\x01a\x80\x00"), ""},
		{"1.5.7-1", malformed, rawPacket(0x30, "\x00\x01a\x07\x26\x00\x01\xff\x00\x01b"), ""},
		{"1.5.7-1", malformed, rawPacket(0x30, "\x00\x01a\x07\x26\x00\x01a\x00\x01\xff"), ""},
		{"2.1.3-1", malformed, rawPacket(0x42, "\x00\x01"), rawPacket(0x42, "\x00\x01")},
		{"2.1.3-1", malformed, rawPacket(0x51, "\x00\x01"), rawPacket(0x51, "\x00\x01")},
		{"2.1.3-1", malformed, rawPacket(0x74, "\x00\x01"), rawPacket(0x74, "\x00\x01")},
		{"2.1.3-1", malformed, rawPacket(0xc8, ""), rawPacket(0xc8, "")},
		{"2.2.1-3", protocol, rawPacket(0x32, "\x00\x01a\x00\x00\x00"), rawPacket(0x32, "\x00\x01a\x00\x00")},
		{"2.2.1-3", protocol, rawPacket(0x82, "\x00\x00\x00\x00\x01a\x00"), rawPacket(0x82, "\x00\x00\x00\x01a\x00")},
		{"2.2.1-3", protocol, rawPacket(0xa2, "\x00\x00\x00\x00\x01a"), rawPacket(0xa2, "\x00\x00\x00\x01a")},
		{"2.2.1-5", protocol, rawPacket(0x40, "\x00\x00"), rawPacket(0x40, "\x00\x00")},
		{"2.2.2-1", malformed, rawPacket(0x82, "\x00\x01\x00\x01a\x00"), ""}, // its topic is read as properties
		{"3.1.0-2", protocol, string(connectPacket("c").Append(nil, packet.V5)), string(connectPacket("c").Append(nil, packet.V311))},
		{"3.3.1-2", malformed, rawPacket(0x38, "\x00\x01a\x00"), rawPacket(0x38, "\x00\x01a")},
		{"3.3.1-4", malformed, rawPacket(0x36, "\x00\x01a\x00\x01\x00"), rawPacket(0x36, "\x00\x01a\x00\x01")},
		{"3.3.2-1", malformed, rawPacket(0x30, "\x00\x01\xff\x00"), rawPacket(0x30, "\x00\x01\xff")},
		{"3.3.2-1", malformed, rawPacket(0x30, "\x00\x09a"), rawPacket(0x30, "\x00\x09a")},
		{"3.3.2-2", packet.TopicNameInvalid, rawPacket(0x30, "\x00\x03a/+\x00"), rawPacket(0x30, "\x00\x03a/+")},
		{"3.3.2-8", packet.TopicAliasInvalid, rawPacket(0x30, "\x00\x01a\x03\x23\x00\x00"), ""},
		{"3.3.2-9", packet.TopicAliasInvalid, rawPacket(0x30, "\x00\x01a\x03\x23\x00\x21"), ""},
		{"3.3.2-13", malformed, rawPacket(0x30, "\x00\x01a\x04\x08\x00\x01\xff"), ""},
		{"3.3.2-14", packet.TopicNameInvalid, rawPacket(0x30, "\x00\x01a\x04\x08\x00\x01#"), ""},
		{"3.3.2-19", malformed, rawPacket(0x30, "\x00\x01a\x04\x03\x00\x01\xff"), ""},
		{"3.3.4-6", protocol, rawPacket(0x30, "\x00\x01a\x02\x0b\x01"), ""},
		{"3.4.2-1", protocol, rawPacket(0x40, "\x00\x01\x92"), ""},
		{"3.5.2-1", protocol, rawPacket(0x50, "\x00\x01\x92"), ""},
		{"3.6.1-1", malformed, rawPacket(0x60, "\x00\x01"), rawPacket(0x60, "\x00\x01")},
		{"3.6.1-1", malformed, rawPacket(0x63, "\x00\x01"), rawPacket(0x63, "\x00\x01")},
		{"3.6.2-1", protocol, rawPacket(0x62, "\x00\x01\x80"), ""},
		{"3.7.2-1", protocol, rawPacket(0x70, "\x00\x01\x80"), ""},
		{"3.8.1-1", malformed, rawPacket(0x80, "\x00\x01\x00\x00\x01a\x00"), rawPacket(0x80, "\x00\x01\x00\x01a\x00")},
		{"3.8.3-1", malformed, rawPacket(0x82, "\x00\x01\x00\x00\x01\xff\x00"), rawPacket(0x82, "\x00\x01\x00\x01\xff\x00")},
		{"3.8.3-2", protocol, rawPacket(0x82, "\x00\x01\x00"), rawPacket(0x82, "\x00\x01")},
		{"3.8.3-2", malformed, rawPacket(0x82, "\x00\x01\x00\x00\x01a"), rawPacket(0x82, "\x00\x01\x00\x01a")},
		{"3.8.3-4", protocol, rawPacket(0x82, "\x00\x01\x00\x00\x0a$share/g/a\x04"), ""},
		{"3.8.3-5", malformed, rawPacket(0x82, "\x00\x01\x00\x00\x01a\x40"), rawPacket(0x82, "\x00\x01\x00\x01a\x04")},
		{"3.10.1-1", malformed, rawPacket(0xa0, "\x00\x01\x00\x00\x01a"), rawPacket(0xa0, "\x00\x01\x00\x01a")},
		{"3.10.3-1", malformed, rawPacket(0xa2, "\x00\x01\x00\x00\x01\xff"), rawPacket(0xa2, "\x00\x01\x00\x01\xff")},
		{"3.10.3-2", protocol, rawPacket(0xa2, "\x00\x01\x00"), rawPacket(0xa2, "\x00\x01")},
		{"3.14.1-1", malformed, rawPacket(0xe1, ""), rawPacket(0xe1, "")},
		{"3.14.2-1", protocol, rawPacket(0xe0, "\x01"), ""},
		{"3.14.2-1", protocol, rawPacket(0xe0, "\x8e"), ""}, // a server's
		{"3.15.1-1", malformed, rawPacket(0xf1, ""), rawPacket(0xf1, "")},
		{"3.15.2-1", protocol, rawPacket(0xf0, "\x80\x00"), ""},
		{"4.7.0-1", packet.TopicNameInvalid, rawPacket(0x30, "\x00\x01+\x00"), rawPacket(0x30, "\x00\x01+")},
		{"4.7.3-1", protocol, rawPacket(0x30, "\x00\x00\x00"), rawPacket(0x30, "\x00\x00")},
		{"4.7.3-1", protocol, rawPacket(0x82, "\x00\x01\x00\x00\x00\x00"), rawPacket(0x82, "\x00\x01\x00\x00\x00")},
		{"4.7.3-2", malformed, rawPacket(0xa2, "\x00\x01\x00\x00\x02a\x00"), rawPacket(0xa2, "\x00\x01\x00\x02a\x00")},
		{"4.12.0-7", protocol, rawPacket(0xf0, "\x18\x04\x15\x00\x01m"), rawPacket(0xf0, "")},
		{"4.13.1-1", malformed, rawPacket(0xc0, "\x00"), rawPacket(0xc0, "\x00")},
		{"4.13.1-1", protocol, rawPacket(0xd0, ""), rawPacket(0xd0, "")}, // a server's
	} {
		if byStatement[b.statement] == nil {
			order = append(order, b.statement)
		}
		byStatement[b.statement] = append(byStatement[b.statement], b)
	}
	for _, statement := range order {
		t.Run(statement, func(t *testing.T) {
			for _, b := range byStatement[statement] {
				runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) { srv.wantPacketRefused(v, b) })
			}
		})
	}
}

package mqtt

import (
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

var versions = []packet.Version{packet.V311, packet.V5}

// runInBothVersions runs a test twice, with clients of MQTT 3.1.1 and of MQTT 5,
// each time with a broker of its own.
func runInBothVersions(t *testing.T, test func(t *testing.T, srv *testServer, v packet.Version)) {
	t.Helper()
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			runWithServer(t, nil, func(t *testing.T, srv *testServer) { test(t, srv, v) })
		})
	}
}

func TestConnectAssignsClientIdentifier(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) { // [MQTT-3.1.3-6] [MQTT-3.2.2-16]
		_, ack := srv.connectAck(packet.V5, "")
		if got := ack.Properties.AssignedClientIdentifier; !strings.HasPrefix(got, "x-") || len(got) != 2+26 {
			t.Errorf("assigned %q, want the identity's name and a ULID", got)
		}
		if ack.Properties.ReceiveMaximum != 256 || ack.Properties.MaximumPacketSize != 1<<20 {
			t.Errorf("limits not announced: %+v", ack.Properties)
		}
		if got := srv.connect(packet.V311, ""); got == nil {
			t.Error("3.1.1 with a clean session and no identifier is fine")
		}
		_, ack = srv.connectAck(packet.V311, "", resumeSession) // MQTT 3.1.1 [3.1.3-8]
		if ack.ReasonCode != packet.ClientIdentifierNotValid {
			t.Errorf("got %s", describePacket(ack))
		}
	})
}

func TestConnectRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		v      packet.Version
		change func(*packet.Connect)
		want   packet.ReasonCode
	}{
		{"enhanced authentication", packet.V5, func(p *packet.Connect) { p.Properties.SetAuthenticationMethod("X") }, packet.BadAuthenticationMethod}, // [MQTT-4.12.0-1]
		{"identity without rights", packet.V5, func(p *packet.Connect) { p.ClientID = "n" }, packet.NotAuthorized},
		{"will not granted", packet.V5, withWill("no/will", "x", 0), packet.NotAuthorized},
		{"will on a reserved topic", packet.V5, withWill("$SYS/x", "x", 0), packet.NotAuthorized},
		{"will not granted", packet.V311, withWill("no/will", "x", 0), packet.NotAuthorized},
	} {
		t.Run(tt.name+" "+tt.v.String(), func(t *testing.T) {
			runWithServer(t, nil, func(t *testing.T, srv *testServer) {
				srv.denied.change(func(d *denyList) { d.will = []string{"no/will"}; d.connect = []string{"nox"} })
				who := "c"
				if strings.HasPrefix(tt.name, "identity") {
					who = "no"
				}
				c, ack := srv.connectAck(tt.v, who, tt.change)
				if ack.ReasonCode != tt.want || !c.closedByServer() {
					t.Errorf("got %s, ended %v, want %s", describePacket(ack), c.closedByServer(), tt.want)
				}
			})
		})
	}
}

func TestBadInput(t *testing.T) {
	connect := func(change ...func(*packet.Connect)) string {
		return string(connectPacket("c", change...).Append(nil, packet.V5))
	}
	for _, tt := range []struct {
		name, bytes string
		want        packet.ReasonCode // of DISCONNECT; 0 for a silent end
	}{
		{"http", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
		{"tls", "\x16\x03\x01\x02\x00\x01\x00", 0},
		{"zero", "\x00\x00\x00\x00", 0},
		{"not connect first", "\xc0\x00", 0},                                       // [MQTT-3.1.0-1]
		{"second connect", connect() + connect(), packet.ProtocolError},            // [MQTT-3.1.0-2]
		{"huge length", connect() + "\x30\xff\xff\xff\x7f", packet.PacketTooLarge}, // [MQTT-3.2.2-15]
		{"five-byte length", connect() + "\x30\xff\xff\xff\xff", packet.MalformedPacket},
		{"reserved flags", connect() + "\x80\x00", packet.MalformedPacket},         // [MQTT-3.8.1-1]
		{"qos 3", connect() + "\x36\x05\x00\x01a\x00\x01", packet.MalformedPacket}, // [MQTT-3.3.1-4]
		{"packet id 0", connect() + "\x32\x06\x00\x01a\x00\x00\x00", packet.ProtocolError},
		{"wildcard topic", connect() + "\x30\x04\x00\x01#\x00", packet.TopicNameInvalid}, // [MQTT-3.3.2-2]
		{"filter without options", connect() + "\x82\x07\x00\x01\x00\x00\x02a/", packet.MalformedPacket},
		{"server packet", connect() + "\xd0\x00", packet.ProtocolError},
		{"alias 0", connect() + "\x30\x07\x00\x01a\x03\x23\x00\x00", packet.TopicAliasInvalid},
		{"alias too high", connect() + "\x30\x07\x00\x01a\x03\x23\x00\x21", packet.TopicAliasInvalid}, // [MQTT-3.3.2-9]
		{"alias unknown", connect() + "\x30\x06\x00\x00\x03\x23\x00\x01", packet.ProtocolError},
		{"auth", connect() + "\xf0\x00", packet.ProtocolError},                                               // [MQTT-4.12.0-7]
		{"subscription id from a client", connect() + "\x30\x06\x00\x01a\x02\x0b\x01", packet.ProtocolError}, // [MQTT-3.3.4-6]
		{"empty share name", connect() + "\x82\x10\x00\x01\x00\x00\x0a$share//ab\x00", 0x8F},
		{"expiry after none", connect() + "\xe0\x07\x00\x05\x11\x00\x00\x00\x01", packet.ProtocolError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runWithServer(t, nil, func(t *testing.T, srv *testServer) {
				other := srv.connect(packet.V5, "other")
				c := srv.dial(packet.V5, "bad")
				_, _ = c.nc.Write([]byte(tt.bytes))
				if strings.HasPrefix(tt.bytes, "\x10") {
					wantPacket[*packet.Connack](c)
				}
				switch got := c.nextPacket().(type) {
				case *packet.Disconnect:
					if got.ReasonCode != tt.want {
						t.Errorf("got %s, want %s", describePacket(got), tt.want)
					}
				case *packet.Suback:
					if got.ReasonCodes[0] != tt.want {
						t.Errorf("got %v, want %s", got.ReasonCodes, tt.want)
					}
					return
				default:
					if tt.want != 0 {
						t.Errorf("got %s, want DISCONNECT %s", describePacket(got), tt.want)
					}
				}
				if !c.closedByServer() {
					t.Error("the connection stays open")
				}
				other.send(&packet.Pingreq{})
				wantPacket[*packet.Pingresp](other)
			})
		})
	}
}

func TestConnectDeadline(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		slow, mute := srv.dial(packet.V5, "slow"), srv.dial(packet.V5, "mute")
		start := time.Now()
		for _, b := range connectPacket("c").Append(nil, packet.V5) {
			if _, err := slow.nc.Write([]byte{b}); err != nil {
				break
			}
			advanceTime(time.Second)
		}
		if got := time.Since(start); !slow.closedByServer() || !mute.closedByServer() || got > 11*time.Second {
			t.Errorf("one byte a second held the connection for %v", got)
		}
	})
}

func TestKeepAlive(t *testing.T) { // [MQTT-3.1.2-22]
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		watcher := srv.connect(v, "watcher")
		watcher.subscribe(subscribeTo("gone", 1))
		c := srv.connect(v, "c", keepAlive(10), withWill("gone", "c", 0))
		for range 3 {
			advanceTime(14 * time.Second)
			c.send(&packet.Pingreq{})
			wantPacket[*packet.Pingresp](c)
		}
		advanceTime(15*time.Second - time.Millisecond)
		c.wantNothing()
		if c.closedByServer() {
			t.Fatal("closed too early")
		}
		advanceTime(time.Millisecond)
		if v == packet.V5 {
			if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.KeepAliveTimeout {
				t.Errorf("got %s", describePacket(got))
			}
		}
		if !c.closedByServer() {
			t.Error("still open after 1.5 times the keep alive")
		}
		watcher.wantMessage("c")
	})
}

func TestTakeover(t *testing.T) { // [MQTT-3.1.4-3]
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		watcher := srv.connect(v, "watcher")
		watcher.subscribe(subscribeTo("gone", 1))
		a := srv.connect(v, "c", withWill("gone", "a", 0))
		b := srv.connect(v, "c")
		if v == packet.V5 {
			if got := wantPacket[*packet.Disconnect](a); got.ReasonCode != packet.SessionTakenOver {
				t.Errorf("got %s", describePacket(got))
			}
		}
		if !a.closedByServer() || b.closedByServer() {
			t.Error("want the old one closed, the new one open")
		}
		watcher.wantMessage("a")
		watcher.wantNothing()
		other := srv.dial(v, "stranger")
		other.send(connectPacket("c"))
		wantPacket[*packet.Connack](other)
		if b.closedByServer() {
			t.Error("another identity took over the session")
		}
	})
}

func TestTakeoverStorm(t *testing.T) { // [MQTT-3.1.4-3]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		const n = 500
		clients := make([]*client, n)
		for i := range clients {
			clients[i] = srv.dial(packet.V5, "storm")
		}
		for i, c := range clients {
			clean := i%2 == 0
			go c.trySend(connectPacket("one", sessionExpiry(100), func(p *packet.Connect) { p.CleanStart = clean }))
		}
		open := 0
		for _, c := range clients {
			if !c.closedByServer() {
				open++
			}
		}
		if open != 1 {
			t.Errorf("%d connections are open, want 1", open)
		}
		if got := srv.counters(); got.Clients != 1 || got.Sessions != 1 {
			t.Errorf("counters: %d clients, %d sessions", got.Clients, got.Sessions)
		}
	})
}

func TestConnectionsPerIdentity(t *testing.T) {
	runWithServer(t, func(o *Options) { o.ConnectionsPerIdentity = 2 }, func(t *testing.T, srv *testServer) {
		for i, wantCode := range []packet.ReasonCode{0, 0, packet.QuotaExceeded} {
			c := srv.dial(packet.V5, "many")
			c.send(connectPacket(string(rune('a' + i))))
			if got := wantPacket[*packet.Connack](c); got.ReasonCode != wantCode {
				t.Errorf("connection %d: %s", i, describePacket(got))
			}
		}
	})
}

func TestResponseInformation(t *testing.T) { // [MQTT-3.1.2-28]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		srv.denied.change(func(d *denyList) { d.subscribe = []string{"response/device/deniedx/#"} })
		for _, tt := range []struct {
			id   string
			ask  func(*packet.Connect)
			want string
		}{
			{"asks", func(p *packet.Connect) { p.Properties.SetRequestResponseInformation(1) }, "response/device/asksx"},
			{"denied", func(p *packet.Connect) { p.Properties.SetRequestResponseInformation(1) }, ""},
			{"wants none", func(p *packet.Connect) { p.Properties.SetRequestResponseInformation(0) }, ""},
			{"silent", func(*packet.Connect) {}, ""},
		} {
			_, ack := srv.connectAck(packet.V5, tt.id, tt.ask)
			if got := ack.Properties.ResponseInformation; got != tt.want || ack.Properties.Has(packet.PropResponseInformation) != (tt.want != "") {
				t.Errorf("%s: %q", tt.id, got)
			}
		}
	})
}

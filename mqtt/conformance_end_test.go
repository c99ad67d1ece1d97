package mqtt

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestPingStatements(t *testing.T) {
	prove(t, "3.12.4-1", func(t *testing.T, srv *testServer, v packet.Version) {
		c := srv.connect(v, "c")
		c.sendBytes([]byte("\xc0\x00\xc0\x00\xc0\x00"))
		for range 3 {
			wantPacket[*packet.Pingresp](c)
		}
		c.wantNothing()
	})
}

func TestDisconnectStatements(t *testing.T) {
	prove5(t, "3.14.0-1", testNoDisconnectBeforeConnack)
	prove5(t, "3.14.2-1 3.14.2-2 3.14.4-1 3.14.4-2 4.13.2-1", testDisconnectReasons)
	prove(t, "3.14.4-3 3.1.2-10", testNothingAfterDisconnect)
	prove5(t, "3.1.2-8", testWillAfterOtherDisconnect)
}

// testNoDisconnectBeforeConnack wants no DISCONNECT on a connection that had no
// CONNACK.
func testNoDisconnectBeforeConnack(t *testing.T, srv *testServer) {
	srv.denied.change(func(d *denyList) { d.connect = []string{"nox"} })
	late := srv.dial(packet.V5, "late")
	for _, bytes := range []string{
		"\xc0\x00", "\xe0\x00", rawPacket(0x10, connect5+"\x03\x00\x00\x00\x00\x01c"),
		string(connectPacket("no").Append(nil, packet.V5)), "\xff",
	} {
		c := srv.dial(packet.V5, "nox")
		c.sendBytes([]byte(bytes))
		for p := c.nextPacket(); p != nil; p = c.nextPacket() {
			if p.Type() != packet.TypeConnack {
				t.Errorf("% x: got %s", bytes, describePacket(p))
			}
		}
		if !c.closedByServer() {
			t.Errorf("% x: the connection stays open", bytes)
		}
	}
	advanceTime(time.Minute)
	if late.wantNothing(); !late.closedByServer() {
		t.Error("a connection without CONNECT stays open")
	}
	early, open := srv.dial(packet.V5, "early"), srv.connect(packet.V5, "open")
	srv.stop()
	if got := wantPacket[*packet.Disconnect](open); got.ReasonCode != packet.ServerShuttingDown {
		t.Errorf("got %s", describePacket(got))
	}
	if early.wantNothing(); !early.closedByServer() {
		t.Error("a connection outlives the broker")
	}
}

// testDisconnectReasons wants each end by the broker to be told with its reason
// code and to close the connection at once.
func testDisconnectReasons(t *testing.T, srv *testServer) {
	pub := srv.connect(packet.V5, "pub")
	for name, tt := range map[string]struct {
		end  func(c *client)
		code packet.ReasonCode
	}{
		"protocol":   {func(c *client) { c.sendBytes([]byte("\xd0\x00")) }, packet.ProtocolError},
		"malformed":  {func(c *client) { c.sendBytes([]byte("\xc1\x00")) }, packet.MalformedPacket},
		"keep alive": {func(*client) { advanceTime(15 * time.Second) }, packet.KeepAliveTimeout},
		"taken over": {func(*client) { srv.connect(packet.V5, "c", sessionExpiry(100)) }, packet.SessionTakenOver},
		"forbidden": {func(*client) {
			srv.denied.change(func(d *denyList) { d.connect = []string{"cx"} })
			srv.broker.Reauthorize()
		}, packet.NotAuthorized},
		"no code of DISCONNECT": {func(*client) { srv.broker.Disconnect(testID("cx"), Removal{Code: packet.BadUserNameOrPassword}) }, packet.UnspecifiedError},
		"by operator": {func(*client) {
			srv.broker.Disconnect(testID("cx"), Removal{Code: packet.AdministrativeAction, Reason: "enough"})
		}, packet.AdministrativeAction},
	} {
		c := srv.connect(packet.V5, "c", sessionExpiry(100), keepAlive(10))
		c.subscribe(subscribeTo("#", 0))
		tt.end(c)
		pub.publish("a", "x", 0, 0)
		got := wantPacket[*packet.Disconnect](c)
		if got.ReasonCode != tt.code || got.Properties.Has(packet.PropSessionExpiryInterval) {
			t.Errorf("%s: %s", name, describePacket(got))
		}
		if c.wantNothing(); !c.closedByServer() {
			t.Errorf("%s: the connection stays open", name)
		}
		srv.denied.change(func(d *denyList) { d.connect = nil })
	}
}

// testNothingAfterDisconnect wants neither the will nor a message that came after
// DISCONNECT.
func testNothingAfterDisconnect(t *testing.T, srv *testServer, v packet.Version) {
	watcher := srv.connect(v, "watcher")
	watcher.subscribe(subscribeTo("w", 0))
	for _, change := range []func(*packet.Connect){func(*packet.Connect) {}, keepSession(v)} {
		c := srv.connect(v, "c", change, withWill("w", "gone", 0))
		c.sendBytes(append((&packet.Disconnect{}).Append(nil, v), rawPacket(0x30, "\x00\x01w\x00")...))
		c.dropConnection()
		advanceTime(time.Hour)
		watcher.wantNothing() // neither the will nor what came after DISCONNECT
	}
}

func TestAuthStatements(t *testing.T) {
	prove5(t, "4.12.0-6", func(t *testing.T, srv *testServer) {
		_, ack := srv.connectAck(packet.V5, "c")
		if ack.Properties.Has(packet.PropAuthenticationMethod) || ack.Properties.Has(packet.PropAuthenticationData) {
			t.Errorf("CONNACK has %+v", ack.Properties)
		}
	})
	prove5(t, "4.12.0-1", func(t *testing.T, srv *testServer) {
		c, ack := srv.connectAck(packet.V5, "c", func(p *packet.Connect) { p.Properties.SetAuthenticationMethod("nobody knows it") })
		if ack.ReasonCode != packet.BadAuthenticationMethod || !c.closedByServer() {
			t.Errorf("got %s", describePacket(ack))
		}
	})
}

package mqtt

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestPingStatements(t *testing.T) {
	prove(t, "3.12.4-1", func(t *testing.T, w *world, v packet.Version) {
		c := w.connect(v, "c")
		c.raw([]byte("\xc0\x00\xc0\x00\xc0\x00"))
		for range 3 {
			want[*packet.Pingresp](c)
		}
		c.silence()
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
func testNoDisconnectBeforeConnack(t *testing.T, w *world) {
	w.rules.set(func(r *rules) { r.nobody = []string{"nox"} })
	late := w.dial(packet.V5, "late")
	for _, bytes := range []string{
		"\xc0\x00", "\xe0\x00", raw(0x10, connect5+"\x03\x00\x00\x00\x00\x01c"),
		string(connectPacket("no").Append(nil, packet.V5)), "\xff",
	} {
		c := w.dial(packet.V5, "nox")
		c.raw([]byte(bytes))
		for p := c.next(); p != nil; p = c.next() {
			if p.Type() != packet.TypeConnack {
				t.Errorf("% x: got %s", bytes, show(p))
			}
		}
		if !c.ended() {
			t.Errorf("% x: the connection stays open", bytes)
		}
	}
	wait(time.Minute)
	if late.silence(); !late.ended() {
		t.Error("a connection without CONNECT stays open")
	}
	early, open := w.dial(packet.V5, "early"), w.connect(packet.V5, "open")
	w.stop()
	if got := want[*packet.Disconnect](open); got.ReasonCode != packet.ServerShuttingDown {
		t.Errorf("got %s", show(got))
	}
	if early.silence(); !early.ended() {
		t.Error("a connection outlives the broker")
	}
}

// testDisconnectReasons wants each end by the broker to be told with its reason
// code and to close the connection at once.
func testDisconnectReasons(t *testing.T, w *world) {
	pub := w.connect(packet.V5, "pub")
	for name, tt := range map[string]struct {
		end  func(c *client)
		code packet.ReasonCode
	}{
		"protocol":              {func(c *client) { c.raw([]byte("\xd0\x00")) }, packet.ProtocolError},
		"malformed":             {func(c *client) { c.raw([]byte("\xc1\x00")) }, packet.MalformedPacket},
		"keep alive":            {func(*client) { wait(15 * time.Second) }, packet.KeepAliveTimeout},
		"taken over":            {func(*client) { w.connect(packet.V5, "c", expiry(100)) }, packet.SessionTakenOver},
		"forbidden":             {func(*client) { w.rules.set(func(r *rules) { r.nobody = []string{"cx"} }); w.b.Reauthorize() }, packet.NotAuthorized},
		"no code of DISCONNECT": {func(*client) { w.b.Disconnect(testID("cx"), Removal{Code: packet.BadUserNameOrPassword}) }, packet.UnspecifiedError},
		"by operator": {func(*client) {
			w.b.Disconnect(testID("cx"), Removal{Code: packet.AdministrativeAction, Reason: "enough"})
		}, packet.AdministrativeAction},
	} {
		c := w.connect(packet.V5, "c", expiry(100), keepAlive(10))
		c.subscribe(filter("#", 0))
		tt.end(c)
		pub.publish("a", "x", 0, 0)
		got := want[*packet.Disconnect](c)
		if got.ReasonCode != tt.code || got.Properties.Has(packet.PropSessionExpiryInterval) {
			t.Errorf("%s: %s", name, show(got))
		}
		if c.silence(); !c.ended() {
			t.Errorf("%s: the connection stays open", name)
		}
		w.rules.set(func(r *rules) { r.nobody = nil })
	}
}

// testNothingAfterDisconnect wants neither the will nor a message that came after
// DISCONNECT.
func testNothingAfterDisconnect(t *testing.T, w *world, v packet.Version) {
	watcher := w.connect(v, "watcher")
	watcher.subscribe(filter("w", 0))
	for _, change := range []func(*packet.Connect){func(*packet.Connect) {}, kept(v)} {
		c := w.connect(v, "c", change, withWill("w", "gone", 0))
		c.raw(append((&packet.Disconnect{}).Append(nil, v), raw(0x30, "\x00\x01w\x00")...))
		c.close()
		wait(time.Hour)
		watcher.silence() // neither the will nor what came after DISCONNECT
	}
}

func TestAuthStatements(t *testing.T) {
	prove5(t, "4.12.0-6", func(t *testing.T, w *world) {
		_, ack := w.connectAck(packet.V5, "c")
		if ack.Properties.Has(packet.PropAuthenticationMethod) || ack.Properties.Has(packet.PropAuthenticationData) {
			t.Errorf("CONNACK has %+v", ack.Properties)
		}
	})
	prove5(t, "4.12.0-1", func(t *testing.T, w *world) {
		c, ack := w.connectAck(packet.V5, "c", func(p *packet.Connect) { p.Properties.SetAuthenticationMethod("nobody knows it") })
		if ack.ReasonCode != packet.BadAuthenticationMethod || !c.ended() {
			t.Errorf("got %s", show(ack))
		}
	})
}

package mqtt

import (
	"slices"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// testWillOfLostConnection wants the will once the connection is lost. A later
// CONNECT without a will, and DISCONNECT, publish none.
func testWillOfLostConnection(t *testing.T, srv *testServer, v packet.Version) {
	watcher := srv.connect(v, "watcher")
	watcher.subscribe(subscribeTo("w", 2))
	c := srv.connect(v, "c", withWill("w", "gone", 0))
	watcher.wantNothing()
	c.dropConnection()
	if p := watcher.wantMessage("gone"); p.Retain || p.QoS != 1 {
		t.Errorf("RETAIN %v, QoS %d", p.Retain, p.QoS)
	} else {
		watcher.acknowledge(p)
	}
	c = srv.connect(v, "c") // without a will
	c.dropConnection()
	c = srv.connect(v, "c", withWill("w", "never", 0))
	c.disconnect()
	watcher.wantNothing()
	late := srv.connect(v, "late")
	late.subscribe(subscribeTo("w", 0))
	late.wantNothing()
}

// testRetainedWill wants a will with RETAIN to be retained.
func testRetainedWill(t *testing.T, srv *testServer, v packet.Version) {
	srv.connect(v, "c", withWill("w", "gone", 0), func(p *packet.Connect) { p.Will.Retain = true }).dropConnection()
	late := srv.connect(v, "late")
	late.subscribe(subscribeTo("w", 0))
	if p := late.wantMessage("gone"); !p.Retain {
		t.Error("the will is not retained")
	}
}

// testWillDelay wants a client that returns before its Will Delay Interval has
// passed to have no will published, and its next will after the new delay.
func testWillDelay(t *testing.T, srv *testServer) {
	watcher := srv.connect(packet.V5, "watcher")
	watcher.subscribe(subscribeTo("w", 0))
	srv.connect(packet.V5, "c", sessionExpiry(100), withWill("w", "old", 20)).dropConnection()
	advanceTime(20*time.Second - time.Millisecond)
	c := srv.connect(packet.V5, "c", resumeSession, sessionExpiry(100), withWill("w", "new", 30))
	advanceTime(time.Minute)
	watcher.wantNothing()
	c.dropConnection()
	advanceTime(30*time.Second - time.Millisecond)
	watcher.wantNothing()
	advanceTime(time.Millisecond)
	watcher.wantMessage("new")
	advanceTime(time.Hour) // past the end of the session
	watcher.wantNothing()
}

// testWillProperties wants the will's properties in its PUBLISH, the user
// properties in their order and without the delay.
func testWillProperties(t *testing.T, srv *testServer) {
	watcher := srv.connect(packet.V5, "watcher")
	watcher.subscribe(subscribeTo("w", 1))
	pairs := []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "0"}, {}}
	srv.connect(packet.V5, "c", withWill("w", "gone", 0), func(p *packet.Connect) {
		p.Will.Properties.User = pairs
		p.Will.Properties.SetContentType("text/plain")
		p.Will.Properties.SetMessageExpiryInterval(60)
	}).dropConnection()
	got := watcher.wantMessage("gone").Properties
	if !slices.Equal(got.User, pairs) || got.ContentType != "text/plain" || got.MessageExpiryInterval != 60 {
		t.Errorf("got %+v", got)
	}
	if got.Has(packet.PropWillDelayInterval) {
		t.Error("the will's delay was published")
	}
}

// testWillAfterOtherDisconnect wants the will after a DISCONNECT with any code
// but the normal one.
func testWillAfterOtherDisconnect(t *testing.T, srv *testServer) {
	watcher := srv.connect(packet.V5, "watcher")
	watcher.subscribe(subscribeTo("w", 0))
	for _, code := range []packet.ReasonCode{packet.DisconnectWithWillMessage, packet.UnspecifiedError, packet.QuotaExceeded} {
		c := srv.connect(packet.V5, "c", withWill("w", "gone", 0))
		c.send(&packet.Disconnect{ReasonCode: code})
		c.dropConnection()
		watcher.wantMessage("gone")
		watcher.wantNothing()
	}
}

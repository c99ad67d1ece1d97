package mqtt

import (
	"slices"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// testWillOfLostConnection wants the will once the connection is lost. A later
// CONNECT without a will, and DISCONNECT, publish none.
func testWillOfLostConnection(t *testing.T, w *world, v packet.Version) {
	watcher := w.connect(v, "watcher")
	watcher.subscribe(filter("w", 2))
	c := w.connect(v, "c", withWill("w", "gone", 0))
	watcher.silence()
	c.close()
	if p := watcher.wantMessage("gone"); p.Retain || p.QoS != 1 {
		t.Errorf("RETAIN %v, QoS %d", p.Retain, p.QoS)
	} else {
		watcher.finish(p)
	}
	c = w.connect(v, "c") // without a will
	c.close()
	c = w.connect(v, "c", withWill("w", "never", 0))
	c.bye()
	watcher.silence()
	late := w.connect(v, "late")
	late.subscribe(filter("w", 0))
	late.silence()
}

// testRetainedWill wants a will with RETAIN to be retained.
func testRetainedWill(t *testing.T, w *world, v packet.Version) {
	w.connect(v, "c", withWill("w", "gone", 0), func(p *packet.Connect) { p.Will.Retain = true }).close()
	late := w.connect(v, "late")
	late.subscribe(filter("w", 0))
	if p := late.wantMessage("gone"); !p.Retain {
		t.Error("the will is not retained")
	}
}

// testWillDelay wants a client that returns before its Will Delay Interval has
// passed to have no will published, and its next will after the new delay.
func testWillDelay(t *testing.T, w *world) {
	watcher := w.connect(packet.V5, "watcher")
	watcher.subscribe(filter("w", 0))
	w.connect(packet.V5, "c", expiry(100), withWill("w", "old", 20)).close()
	wait(20*time.Second - time.Millisecond)
	c := w.connect(packet.V5, "c", resume, expiry(100), withWill("w", "new", 30))
	wait(time.Minute)
	watcher.silence()
	c.close()
	wait(30*time.Second - time.Millisecond)
	watcher.silence()
	wait(time.Millisecond)
	watcher.wantMessage("new")
	wait(time.Hour) // past the end of the session
	watcher.silence()
}

// testWillProperties wants the will's properties in its PUBLISH, the user
// properties in their order and without the delay.
func testWillProperties(t *testing.T, w *world) {
	watcher := w.connect(packet.V5, "watcher")
	watcher.subscribe(filter("w", 1))
	pairs := []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "0"}, {}}
	w.connect(packet.V5, "c", withWill("w", "gone", 0), func(p *packet.Connect) {
		p.Will.Properties.User = pairs
		p.Will.Properties.SetContentType("text/plain")
		p.Will.Properties.SetMessageExpiryInterval(60)
	}).close()
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
func testWillAfterOtherDisconnect(t *testing.T, w *world) {
	watcher := w.connect(packet.V5, "watcher")
	watcher.subscribe(filter("w", 0))
	for _, code := range []packet.ReasonCode{packet.DisconnectWithWillMessage, packet.UnspecifiedError, packet.QuotaExceeded} {
		c := w.connect(packet.V5, "c", withWill("w", "gone", 0))
		c.send(&packet.Disconnect{ReasonCode: code})
		c.close()
		watcher.wantMessage("gone")
		watcher.silence()
	}
}

package mqtt

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestWill(t *testing.T) {
	code := func(c packet.ReasonCode) func(*testing.T, *world, *client) {
		return func(_ *testing.T, _ *world, c2 *client) {
			c2.send(&packet.Disconnect{ReasonCode: c})
			c2.close()
		}
	}
	lost := func(_ *testing.T, _ *world, c *client) { c.close() }
	again := func(change ...func(*packet.Connect)) func(*testing.T, *world, *client) {
		return func(_ *testing.T, w *world, _ *client) { w.connect(packet.V5, "c", change...) }
	}
	for _, tt := range []struct {
		name   string
		delay  uint32
		expiry uint32
		end    func(t *testing.T, w *world, c *client)
		after  time.Duration // when the will comes; negative: never
	}{
		{"lost", 0, 0, lost, 0}, // [MQTT-3.1.2-8]
		{"disconnect", 0, 0, code(packet.NormalDisconnection), -1}, // [MQTT-3.14.4-3]
		{"disconnect with will", 0, 0, code(packet.DisconnectWithWillMessage), 0},
		{"disconnect with an error", 0, 100, code(packet.UnspecifiedError), 0},
		{"delay", 20, 100, lost, 20 * time.Second},
		{"session ends before the delay", 50, 10, lost, 10 * time.Second},
		{"delay without expiry", 50, 0, lost, 0},
		{"protocol error", 0, 0, func(_ *testing.T, _ *world, c *client) { c.try(connectPacket("c")); c.close() }, 0},
		{"back in time", 20, 100, func(t *testing.T, w *world, c *client) { // [MQTT-3.1.3-9]
			c.close()
			wait(10 * time.Second)
			again(resume, expiry(100))(t, w, c)
		}, -1},
		{"taken over without delay", 0, 100, again(resume, expiry(100)), 0},
		{"taken over in time", 20, 100, again(resume, expiry(100)), -1},
		{"taken over with a clean start", 20, 100, again(expiry(100)), 0},
		{"clean start in time", 20, 100, func(t *testing.T, w *world, c *client) {
			c.close()
			again(expiry(100))(t, w, c)
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				watcher := w.connect(packet.V5, "watcher")
				watcher.subscribe(filter("w", 2))
				c := w.connect(packet.V5, "c", expiry(tt.expiry), withWill("w", "gone", tt.delay))
				start := time.Now()
				tt.end(t, w, c)
				if tt.after > 0 {
					wait(tt.after - time.Since(start) - time.Millisecond)
					watcher.silence()
					wait(time.Millisecond)
				}
				if tt.after >= 0 {
					if p := watcher.wantMessage("gone"); p.QoS != 1 || p.Retain {
						t.Errorf("got QoS %d, RETAIN %v", p.QoS, p.Retain)
					} else {
						watcher.finish(p)
					}
				}
				wait(time.Hour)
				watcher.silence()
			})
		})
	}
}

// TestDeathWithFullOutbox has a client die that took nothing of what it asked for,
// while the broker waits for it with its next packet.
func TestDeathWithFullOutbox(t *testing.T) {
	bubble(t, func(o *Options) { o.Outbox = 1 }, func(t *testing.T, w *world) {
		watcher := w.connect(packet.V5, "watcher")
		watcher.subscribe(filter("w", 0))
		nc, err := w.l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, nc: nc, v: packet.V5}
		c.raw([]byte("x\n"))
		c.try(connectPacket("c", withWill("w", "gone", 0)))
		for range 3 {
			c.try(&packet.Pingreq{})
		}
		wait(time.Second)
		nc.Close()
		watcher.wantMessage("gone")
	})
}

func TestWillIsRetained(t *testing.T) { // [MQTT-3.1.2-15]
	bubble(t, nil, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c", withWill("w", "gone", 0), func(p *packet.Connect) { p.Will.Retain = true })
		c.close()
		late := w.connect(packet.V5, "late")
		late.subscribe(filter("w", 0))
		if p := late.wantMessage("gone"); !p.Retain {
			t.Error("not retained")
		}
	})
}

func TestWillIsCheckedWhenItFires(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		watcher := w.connect(packet.V5, "watcher")
		watcher.subscribe(filter("w", 0))
		c := w.connect(packet.V5, "c", withWill("w", "gone", 0))
		w.rules.set(func(r *rules) { r.will = []string{"w"} })
		w.b.Reauthorize()
		c.close()
		watcher.silence()
		if got := w.counters().DeniedPublish; got != 1 {
			t.Errorf("denied %d", got)
		}
	})
}

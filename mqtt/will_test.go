package mqtt

import (
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestWill(t *testing.T) {
	disconnectWith := func(c packet.ReasonCode) func(*testing.T, *testServer, *client) {
		return func(_ *testing.T, _ *testServer, c2 *client) {
			c2.send(&packet.Disconnect{ReasonCode: c})
			c2.dropConnection()
		}
	}
	loseConnection := func(_ *testing.T, _ *testServer, c *client) { c.dropConnection() }
	connectAgain := func(change ...func(*packet.Connect)) func(*testing.T, *testServer, *client) {
		return func(_ *testing.T, srv *testServer, _ *client) { srv.connect(packet.V5, "c", change...) }
	}
	for _, tt := range []struct {
		name   string
		delay  uint32
		expiry uint32
		end    func(t *testing.T, srv *testServer, c *client)
		after  time.Duration // when the will comes; negative: never
	}{
		{"lost", 0, 0, loseConnection, 0},                                    // [MQTT-3.1.2-8]
		{"disconnect", 0, 0, disconnectWith(packet.NormalDisconnection), -1}, // [MQTT-3.14.4-3]
		{"disconnect with will", 0, 0, disconnectWith(packet.DisconnectWithWillMessage), 0},
		{"disconnect with an error", 0, 100, disconnectWith(packet.UnspecifiedError), 0},
		{"delay", 20, 100, loseConnection, 20 * time.Second},
		{"session ends before the delay", 50, 10, loseConnection, 10 * time.Second},
		{"delay without expiry", 50, 0, loseConnection, 0},
		{"protocol error", 0, 0, func(_ *testing.T, _ *testServer, c *client) { c.trySend(connectPacket("c")); c.dropConnection() }, 0},
		{"back in time", 20, 100, func(t *testing.T, srv *testServer, c *client) { // [MQTT-3.1.3-9]
			c.dropConnection()
			advanceTime(10 * time.Second)
			connectAgain(resumeSession, sessionExpiry(100))(t, srv, c)
		}, -1},
		{"taken over without delay", 0, 100, connectAgain(resumeSession, sessionExpiry(100)), 0},
		{"taken over in time", 20, 100, connectAgain(resumeSession, sessionExpiry(100)), -1},
		{"taken over with a clean start", 20, 100, connectAgain(sessionExpiry(100)), 0},
		{"clean start in time", 20, 100, func(t *testing.T, srv *testServer, c *client) {
			c.dropConnection()
			connectAgain(sessionExpiry(100))(t, srv, c)
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runWithServer(t, nil, func(t *testing.T, srv *testServer) {
				watcher := srv.connect(packet.V5, "watcher")
				watcher.subscribe(subscribeTo("w", 2))
				c := srv.connect(packet.V5, "c", sessionExpiry(tt.expiry), withWill("w", "gone", tt.delay))
				start := time.Now()
				tt.end(t, srv, c)
				if tt.after > 0 {
					advanceTime(tt.after - time.Since(start) - time.Millisecond)
					watcher.wantNothing()
					advanceTime(time.Millisecond)
				}
				if tt.after >= 0 {
					if p := watcher.wantMessage("gone"); p.QoS != 1 || p.Retain {
						t.Errorf("got QoS %d, RETAIN %v", p.QoS, p.Retain)
					} else {
						watcher.acknowledge(p)
					}
				}
				advanceTime(time.Hour)
				watcher.wantNothing()
			})
		})
	}
}

// TestDeathWithFullOutbox has a client die that took nothing of what it asked for,
// while the broker waits for it with its next packet.
func TestDeathWithFullOutbox(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Outbox = 1 }, func(t *testing.T, srv *testServer) {
		watcher := srv.connect(packet.V5, "watcher")
		watcher.subscribe(subscribeTo("w", 0))
		nc, err := srv.listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, nc: nc, v: packet.V5}
		c.sendBytes([]byte("x\n"))
		c.trySend(connectPacket("c", withWill("w", "gone", 0)))
		for range 3 {
			c.trySend(&packet.Pingreq{})
		}
		advanceTime(time.Second)
		nc.Close()
		watcher.wantMessage("gone")
	})
}

func TestWillIsRetained(t *testing.T) { // [MQTT-3.1.2-15]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c", withWill("w", "gone", 0), func(p *packet.Connect) { p.Will.Retain = true })
		c.dropConnection()
		late := srv.connect(packet.V5, "late")
		late.subscribe(subscribeTo("w", 0))
		if p := late.wantMessage("gone"); !p.Retain {
			t.Error("not retained")
		}
	})
}

func TestWillIsCheckedWhenItFires(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		watcher := srv.connect(packet.V5, "watcher")
		watcher.subscribe(subscribeTo("w", 0))
		c := srv.connect(packet.V5, "c", withWill("w", "gone", 0))
		srv.denied.change(func(d *denyList) { d.will = []string{"w"} })
		srv.broker.Reauthorize()
		c.dropConnection()
		watcher.wantNothing()
		if got := srv.counters().DeniedPublish; got != 1 {
			t.Errorf("denied %d", got)
		}
	})
}

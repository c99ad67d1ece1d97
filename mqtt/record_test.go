package mqtt

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// journal is a store that remembers its transactions, so that a test can have
// the broker killed after any of them.
type journal struct {
	*store.Memory

	mu  sync.Mutex
	all []func(store.Tx)
}

func (j *journal) Update(add func(store.Tx), done func(error)) {
	j.Memory.Update(func(tx store.Tx) {
		j.mu.Lock()
		j.all = append(j.all, add)
		j.mu.Unlock()
		add(tx)
	}, done)
}

// contentAfter returns what a broker that was killed after n transactions left.
func (j *journal) contentAfter(n int) *store.Memory {
	m := store.NewMemory(store.Limits{})
	for _, add := range j.all[:n] {
		m.Update(add, nil)
	}
	return m
}

// TestWillSurvivesKill ends a client in all ways that publish its will, and kills
// the broker after each transaction: the will is then in its receiver's queue, or
// still in the record of its session, and never in both or neither.
func TestWillSurvivesKill(t *testing.T) {
	for _, tt := range []struct {
		name          string
		delay, expiry uint32
		end           func(srv *testServer, c *client)
	}{
		{"lost", 0, 100, func(_ *testServer, c *client) { c.dropConnection() }},
		{"delay", 20, 100, func(_ *testServer, c *client) { c.dropConnection() }},
		{"session ends before the delay", 50, 10, func(_ *testServer, c *client) { c.dropConnection() }},
		{"taken over", 0, 100, func(srv *testServer, _ *client) { srv.connect(packet.V5, "c", resumeSession, sessionExpiry(100)) }},
		{"taken over with a clean start", 20, 100, func(srv *testServer, _ *client) { srv.connect(packet.V5, "c", sessionExpiry(100)) }},
		{"ended by an operator", 20, 100, func(srv *testServer, _ *client) {
			srv.broker.Disconnect(testID("cx"), Removal{Code: packet.AdministrativeAction, EndSessions: true})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &journal{Memory: store.NewMemory(store.Limits{})}
			runWithServer(t, func(o *Options) { o.Store = j }, func(_ *testing.T, srv *testServer) {
				watcher := srv.connect(packet.V5, "watcher", sessionExpiry(never))
				watcher.subscribe(subscribeTo("w", 1))
				watcher.dropConnection()
				c := srv.connect(packet.V5, "c", sessionExpiry(tt.expiry), withWill("w", "gone", tt.delay))
				before := len(j.all)
				tt.end(srv, c)
				advanceTime(time.Minute)
				queue := store.SessionKey{Identity: testID("watcherx").String(), ClientID: "watcher"}
				for n := before; n <= len(j.all); n++ {
					m := j.contentAfter(n)
					found := m.QueueStats(queue).Messages
					for _, s := range m.Sessions() {
						if s.Will != nil {
							found++
						}
					}
					if found != 1 {
						t.Errorf("killed after %d of %d transactions: %d wills", n-before, len(j.all)-before, found)
					}
				}
				if n := j.QueueStats(queue).Messages; n != 1 {
					t.Errorf("%d wills in the end", n)
				}
			})
		})
	}
}

// unsubscribedHook is a Forwarder that calls a function when a filter's last
// subscription ends.
type unsubscribedHook func()

func (unsubscribedHook) Wants(string) bool                { return false }
func (unsubscribedHook) Forward(store.Tx, *store.Message) {}
func (unsubscribedHook) Refuses(*store.Message) error     { return nil }
func (unsubscribedHook) Subscribed(string)                {}
func (f unsubscribedHook) Unsubscribed(string)            { f() }

// TestEndDuringReconnect has a client come back while an operator ends its
// session: what the new session is promised is kept.
func TestEndDuringReconnect(t *testing.T) {
	var ending func()
	runWithServer(t, func(o *Options) { o.Forwarder = unsubscribedHook(func() { ending() }) }, func(_ *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c", sessionExpiry(100))
		c.subscribe(subscribeTo("a", 1))
		c.dropConnection()
		again := srv.dial(packet.V5, "cx")
		ending = func() {
			ending = func() {}
			again.send(connectPacket("c", resumeSession, sessionExpiry(100)))
			synctest.Wait()
		}
		srv.broker.Disconnect(testID("cx"), Removal{Code: packet.AdministrativeAction, EndSessions: true})
		if ack := wantPacket[*packet.Connack](again); ack.ReasonCode != packet.Success || ack.SessionPresent {
			t.Fatalf("%s, session present %v", describePacket(ack), ack.SessionPresent)
		}
		again.subscribe(subscribeTo("b", 1))
		if kept := srv.broker.opts.Store.Sessions(); len(kept) != 1 || len(kept[0].Subscriptions) != 1 {
			t.Errorf("the store has %+v", kept)
		}
	})
}

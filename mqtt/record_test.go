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

// killed returns what a broker that was killed after n transactions left.
func (j *journal) killed(n int) *store.Memory {
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
		end           func(w *world, c *client)
	}{
		{"lost", 0, 100, func(_ *world, c *client) { c.close() }},
		{"delay", 20, 100, func(_ *world, c *client) { c.close() }},
		{"session ends before the delay", 50, 10, func(_ *world, c *client) { c.close() }},
		{"taken over", 0, 100, func(w *world, _ *client) { w.connect(packet.V5, "c", resume, expiry(100)) }},
		{"taken over with a clean start", 20, 100, func(w *world, _ *client) { w.connect(packet.V5, "c", expiry(100)) }},
		{"ended by an operator", 20, 100, func(w *world, _ *client) {
			w.b.Disconnect(testID("cx"), Removal{Code: packet.AdministrativeAction, EndSessions: true})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &journal{Memory: store.NewMemory(store.Limits{})}
			bubble(t, func(o *Options) { o.Store = j }, func(_ *testing.T, w *world) {
				watcher := w.connect(packet.V5, "watcher", expiry(never))
				watcher.subscribe(filter("w", 1))
				watcher.close()
				c := w.connect(packet.V5, "c", expiry(tt.expiry), withWill("w", "gone", tt.delay))
				before := len(j.all)
				tt.end(w, c)
				wait(time.Minute)
				queue := store.SessionKey{Identity: testID("watcherx").String(), ClientID: "watcher"}
				for n := before; n <= len(j.all); n++ {
					m := j.killed(n)
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

// unsubscribed is a Forwarder that calls a function when a filter's last
// subscription is gone.
type unsubscribed func()

func (unsubscribed) Wants(string) bool                { return false }
func (unsubscribed) Forward(store.Tx, *store.Message) {}
func (unsubscribed) Refuses(*store.Message) error     { return nil }
func (unsubscribed) Subscribed(string)                {}
func (f unsubscribed) Unsubscribed(string)            { f() }

// TestEndDuringReconnect has a client come back while an operator ends its
// session: what the new session is promised is kept.
func TestEndDuringReconnect(t *testing.T) {
	var ending func()
	bubble(t, func(o *Options) { o.Forwarder = unsubscribed(func() { ending() }) }, func(_ *testing.T, w *world) {
		c := w.connect(packet.V5, "c", expiry(100))
		c.subscribe(filter("a", 1))
		c.close()
		again := w.dial(packet.V5, "cx")
		ending = func() {
			ending = func() {}
			again.send(connectPacket("c", resume, expiry(100)))
			synctest.Wait()
		}
		w.b.Disconnect(testID("cx"), Removal{Code: packet.AdministrativeAction, EndSessions: true})
		if ack := want[*packet.Connack](again); ack.ReasonCode != packet.Success || ack.SessionPresent {
			t.Fatalf("%s, session present %v", show(ack), ack.SessionPresent)
		}
		again.subscribe(filter("b", 1))
		if kept := w.b.opts.Store.Sessions(); len(kept) != 1 || len(kept[0].Subscriptions) != 1 {
			t.Errorf("the store has %+v", kept)
		}
	})
}

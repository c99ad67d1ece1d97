package mqtt

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// TestRestoredTime restarts a broker whose clients were connected when it was
// killed: their time begins when it runs, and goes on over further restarts.
func TestRestoredTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := store.NewMemory(store.Limits{})
		watcher := store.SessionKey{Identity: testID("watcher").String(), ClientID: "watcher"}
		client := store.SessionKey{Identity: testID("c").String(), ClientID: "c"}
		will := &store.Message{Topic: "w", Payload: []byte("gone"), QoS: 1, Publisher: client.Identity, ClientID: "c"}
		kept.Update(func(tx store.Tx) {
			tx.PutSession(store.Session{Key: watcher, Expiry: never})
			tx.Subscribe(watcher, store.Subscription{Filter: "w", QoS: 1})
			tx.PutSession(store.Session{Key: client, Expiry: 30, Will: will, WillDelay: 20})
		}, nil)
		sessions := func() int { return kept.Stats().Sessions }
		wills := func() int { return kept.QueueStats(watcher).Messages }

		b := New(Options{Store: kept, Authorizer: &denyList{}})
		advanceTime(time.Minute)
		if wills() != 0 || sessions() != 2 {
			t.Fatalf("before Run: %d wills, %d sessions", wills(), sessions())
		}
		run := func(b *Broker, d time.Duration) {
			ctx, cancel := context.WithCancel(t.Context())
			var done sync.WaitGroup
			done.Go(func() { _ = b.Run(ctx) })
			advanceTime(d)
			cancel()
			done.Wait()
		}
		run(b, 10*time.Second)
		run(New(Options{Store: kept, Authorizer: &denyList{}}), 9*time.Second)
		if wills() != 0 || sessions() != 2 {
			t.Errorf("after 19 s: %d wills, %d sessions", wills(), sessions())
		}
		run(New(Options{Store: kept, Authorizer: &denyList{}}), 2*time.Second)
		if wills() != 1 || sessions() != 2 {
			t.Errorf("after 21 s: %d wills, %d sessions", wills(), sessions())
		}
		run(New(Options{Store: kept, Authorizer: &denyList{}}), 10*time.Second)
		if wills() != 1 || sessions() != 1 {
			t.Errorf("after 31 s: %d wills, %d sessions", wills(), sessions())
		}
	})
}

// TestRestartedTwice kills the broker while a client has a message, and ends the
// next one before the client is back: the third sends it with DUP [MQTT-3.3.1-1].
func TestRestartedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{Memory: store.NewMemory(store.Limits{})}
		over := func(s store.Store) func(*Options) { return func(o *Options) { o.Store = s } }
		srv := startServer(t, over(j))
		sub := srv.connect(packet.V5, "sub", sessionExpiry(never))
		sub.subscribe(subscribeTo("a", 1))
		srv.connect(packet.V5, "pub").publishAndWait("a", "sent", 1)
		sub.wantMessage("sent")
		kept := j.contentAfter(len(j.all))
		srv.close()

		srv = startServer(t, over(kept))
		advanceTime(time.Second)
		srv.close()
		srv = startServer(t, over(kept))
		defer srv.close()
		if p := srv.connect(packet.V5, "sub", resumeSession, sessionExpiry(never)).wantMessage("sent"); !p.Dup {
			t.Error("sent as new")
		}
	})
}

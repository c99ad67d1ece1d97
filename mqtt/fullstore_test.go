package mqtt

import (
	"testing"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// fullStore refuses what somebody waits for.
type fullStore struct {
	*store.Memory
	full bool
}

func (f *fullStore) Update(add func(store.Tx), done func(error)) {
	if f.full && done != nil {
		done(store.ErrFull)
		return
	}
	f.Memory.Update(add, done)
}

// TestConnectOnFullStore connects while nothing can be kept: a session that is
// new or changes is refused and leaves nothing behind, one that is as it was can
// empty its queue.
func TestConnectOnFullStore(t *testing.T) {
	full := &fullStore{Memory: store.NewMemory(store.Limits{})}
	bubble(t, func(o *Options) { o.Store = full }, func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub", expiry(100))
		sub.subscribe(filter("a", 1))
		sub.close()
		w.connect(packet.V5, "pub").exchange("a", "kept", 1)

		full.full = true
		for _, tt := range []struct {
			id     string
			change []func(*packet.Connect)
		}{
			{"sub2", []func(*packet.Connect){expiry(100)}},
			{"sub", []func(*packet.Connect){resume, expiry(200)}},
			{"sub", []func(*packet.Connect){resume, expiry(100), withWill("a", "of a refused client", 0)}},
		} {
			if _, ack := w.connectAck(packet.V5, tt.id, tt.change...); ack.ReasonCode != packet.ServerUnavailable {
				t.Errorf("%s: %v", tt.id, ack.ReasonCode)
			}
		}
		again, ack := w.connectAck(packet.V5, "sub", resume, expiry(100))
		if !ack.SessionPresent {
			t.Fatalf("the session is gone: %v", ack.ReasonCode)
		}
		again.finish(again.wantMessage("kept"))
		again.silence()
		again.close()

		full.full = false
		if _, ack := w.connectAck(packet.V5, "sub2", resume, expiry(100)); ack.SessionPresent {
			t.Error("a session that was refused is there")
		}
	})
}

package durable

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

func entryValue(d store.Delivery) []byte { return appendMessage(appendDelivery(nil, d), d.Message) }

func FuzzEntry(f *testing.F) {
	m := storetest.Message("a/b", "payload")
	m.Expires = 7
	f.Add(entryValue(store.Delivery{Message: m, QoS: 2, Retain: true, IDs: []uint32{1, 1 << 28}}))
	f.Add(entryValue(store.Delivery{Message: &store.Message{}}))
	f.Fuzz(func(t *testing.T, value []byte) {
		d, err := decodeEntry(bytes.Clone(value))
		if err != nil {
			return
		}
		again, err := decodeEntry(entryValue(d))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, again); diff != "" {
			t.Error(diff)
		}
		if !hasProps(d.Message) && !bytes.Equal(entryValue(d), value) {
			t.Errorf("%x became %x", value, entryValue(d))
		}
	})
}

// hasProps reports whether m has properties, which may change their order.
func hasProps(m *store.Message) bool { return m != nil && m.Props.Size() > 1 }

func FuzzSession(f *testing.F) {
	f.Add(appendSession(nil, &store.Session{Key: alice, Expiry: 1, Disconnected: 2}))
	f.Add(appendSession(nil, &store.Session{Key: alice, Will: storetest.Message("w", "x"), WillAt: 3, WillDelay: 4}))
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := decodeSession(bytes.Clone(value))
		if err == nil && !hasProps(s.Will) && !bytes.Equal(appendSession(nil, s), value) {
			t.Errorf("%x became %x", value, appendSession(nil, s))
		}
	})
}

// FuzzSmall decodes values without a message.
func FuzzSmall(f *testing.F) {
	f.Add(appendSubscription(nil, store.Subscription{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: 9}))
	f.Add(appendSent(nil, store.Sent{PacketID: 5, Released: true}))
	f.Add(appendOrigin([]byte{version}, store.Origin{Epoch: 1, Seq: 2}))
	f.Fuzz(func(t *testing.T, value []byte) {
		if s, err := decodeSubscription("a", value); err == nil && !bytes.Equal(appendSubscription(nil, s), value) {
			t.Errorf("subscription: %x became %x", value, appendSubscription(nil, s))
		}
		if e, err := decodeSent(value); err == nil && !bytes.Equal(appendSent(nil, e), value) {
			t.Errorf("sent: %x became %x", value, appendSent(nil, e))
		}
		if o, err := decodeFloor(laneKey{}, value); err == nil && !bytes.Equal(appendOrigin([]byte{version}, o), value) {
			t.Errorf("floor: %x became %x", value, appendOrigin([]byte{version}, o))
		}
	})
}

// FuzzKeys reads keys as a start does, and must take or refuse each.
func FuzzKeys(f *testing.F) {
	f.Add(appendSessionKey(nil, 1, sessionRecord), appendSession(nil, &store.Session{Key: alice}))
	f.Add(appendOutboundKey(nil, "rome", outboundAcknowledged), []byte{version, 0, 0, 0, 0, 0, 0, 0, 9})
	f.Add(newPeer("rome").log.key(nil, 3), appendMessage([]byte{version}, storetest.Message("a", "b")))
	f.Add(newSession(1).queue.key(nil, 3), entryValue(store.Delivery{Message: storetest.Message("a", "b")}))
	f.Add(appendFloorKey(nil, laneKey{"rome", 2}), appendOrigin([]byte{version}, store.Origin{Epoch: 1}))
	f.Add(appendValueKey(nil, valueKey{"scope", "key"}), []byte{version, 1})
	f.Add(appendRetainedKey(nil, "a"), appendMessage([]byte{version}, storetest.Message("a", "b")))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 {
			return // the database has no such key
		}
		s := &Store{}
		s.forget()
		l := loader{s: s, session: newSession(1)}
		if err := l.key(key, value); err == nil {
			_ = s.Stats()
		}
	})
}

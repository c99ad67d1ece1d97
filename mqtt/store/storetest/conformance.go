package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// Open returns an empty store that serves until the test ends.
type Open func(t *testing.T, l store.Limits) store.Store

// Run tests one form of store.
func Run(t *testing.T, open Open) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, Open)
	}{
		{"sessions", testSessions},
		{"deleted session", testDeletedSession},
		{"queue", testQueue},
		{"queue limits", testQueueLimits},
		{"never confirmed", testNeverConfirmed},
		{"in flight", testInflight},
		{"retained", testRetained},
		{"retained limit", testRetainedLimit},
		{"retained older", testRetainedOlder},
		{"tombstones", testTombstones},
		{"limits together", testLimitsTogether},
		{"outbound", testOutbound},
		{"outbound limit", testOutboundLimit},
		{"acknowledged", testAcknowledged},
		{"floors and values", testFloorsAndValues},
		{"refused as a whole", testRefusedAsAWhole},
		{"memory of sessions", testMemoryOfSessions},
		{"sweep", testSweep},
		{"order of callbacks", testOrder},
		{"update in a callback", testNested},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open) })
	}
}

var alice = store.SessionKey{Identity: "spiffe://lab/device/alice", ClientID: "a"}

// Do makes changes and waits until they are kept or refused.
func Do(s store.Store, add func(store.Tx)) error {
	kept := make(chan error, 1)
	s.Update(add, func(err error) { kept <- err })
	return <-kept
}

func do(t *testing.T, s store.Store, add func(store.Tx)) {
	t.Helper()
	if err := Do(s, add); err != nil {
		t.Fatal(err)
	}
}

// Message returns a message that uses every field.
func Message(topic, payload string) *store.Message {
	m := &store.Message{
		Topic: topic, Payload: []byte(payload), QoS: 1, Retain: true, Publisher: "spiffe://lab/device/bob", ClientID: "b",
		Origin: store.Origin{Site: "rome", Epoch: 7, Lane: 1, Seq: 9}, HLC: 5,
	}
	m.Props.ContentType = "text/plain"
	m.Props.User = []packet.UserProperty{{Key: "k", Value: "v"}, {Key: "k", Value: ""}}
	m.Props.CorrelationData = []byte{0, 255}
	m.Props.Present = 1<<packet.PropContentType | 1<<packet.PropCorrelationData
	return m
}

func testSessions(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	will := Message("will", "gone")
	record := store.Session{Key: alice, Expiry: 60, Disconnected: 5, Will: will, WillDelay: 3, WillAt: 8}
	do(t, s, func(tx store.Tx) {
		tx.PutSession(record)
		tx.Subscribe(alice, store.Subscription{Filter: "a/#", QoS: 1})
		tx.Subscribe(alice, store.Subscription{Filter: "b", QoS: 2, NoLocal: true})
		tx.Receive(alice, 7)
		tx.Receive(alice, 8)
		tx.Receive(alice, 8)
		tx.Subscribe(store.SessionKey{ClientID: "nobody"}, store.Subscription{Filter: "c"})
	})
	do(t, s, func(tx store.Tx) {
		tx.Subscribe(alice, store.Subscription{Filter: "a/#", QoS: 2, ID: 4, RetainAsPublished: true, RetainHandling: 2})
		tx.Unsubscribe(alice, "b")
		tx.Unsubscribe(alice, "unknown")
		tx.Release(alice, 7)
	})
	want := record
	want.Subscriptions = []store.Subscription{{Filter: "a/#", QoS: 2, ID: 4, RetainAsPublished: true, RetainHandling: 2}}
	want.Received = []uint16{8}
	if diff := cmp.Diff([]store.Session{want}, s.Sessions()); diff != "" {
		t.Error(diff)
	}
	record.Will, record.WillAt, record.WillDelay, record.Disconnected = nil, 0, 0, 0
	do(t, s, func(tx store.Tx) { tx.PutSession(record) })
	want.Will, want.WillAt, want.WillDelay, want.Disconnected = nil, 0, 0, 0
	if diff := cmp.Diff([]store.Session{want}, s.Sessions()); diff != "" {
		t.Errorf("after a change: %s", diff)
	}
}

func testDeletedSession(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	for _, messages := range []int{3, 1000} {
		do(t, s, func(tx store.Tx) {
			tx.PutSession(store.Session{Key: alice})
			tx.Subscribe(alice, store.Subscription{Filter: "a"})
			tx.Receive(alice, 1)
		})
		for range messages {
			do(t, s, func(tx store.Tx) { tx.Enqueue(alice, store.Delivery{Message: Message("a", "x"), QoS: 1}) })
		}
		do(t, s, func(tx store.Tx) { tx.Inflight(alice, 2, store.Sent{PacketID: 3}) })
		do(t, s, func(tx store.Tx) { tx.DeleteSession(alice) })
		if got := Dump(s, Names{}); got != Dump(open(t, store.Limits{}), Names{}) {
			t.Errorf("a deleted session left:\n%s", got)
		}
	}
	do(t, s, func(tx store.Tx) { // both in one transaction, and again
		tx.PutSession(store.Session{Key: alice, Expiry: 1})
		tx.Enqueue(alice, store.Delivery{Message: Message("a", "lost")})
		tx.DeleteSession(alice)
		tx.Enqueue(alice, store.Delivery{Message: Message("a", "nobody's")})
		tx.PutSession(store.Session{Key: alice, Expiry: 2})
		tx.Enqueue(alice, store.Delivery{Message: Message("a", "kept")})
	})
	got := Entries(s, alice)
	if len(got) != 1 || string(got[0].Message.Payload) != "kept" || s.Sessions()[0].Expiry != 2 {
		t.Errorf("got %v", Dump(s, Names{}))
	}
}

func testQueue(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	do(t, s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) })
	want := store.Delivery{Message: Message("a/b", "1"), QoS: 2, Retain: true, IDs: []uint32{1, 1 << 28}}
	do(t, s, func(tx store.Tx) { tx.Enqueue(alice, want) })
	for i := range 9 {
		do(t, s, func(tx store.Tx) {
			tx.Enqueue(alice, store.Delivery{Message: &store.Message{Topic: "n", Payload: []byte{byte(i)}}})
		})
	}
	got := Entries(s, alice)
	if len(got) != 10 || got[0].Seq != 1 || got[9].Seq != 10 {
		t.Fatalf("got %d entries: %v", len(got), got)
	}
	if diff := cmp.Diff(want, got[0].Delivery); diff != "" {
		t.Error(diff)
	}
	do(t, s, func(tx store.Tx) {
		tx.Dequeue(alice, 1)
		tx.Dequeue(alice, 5)
		tx.Dequeue(alice, 5)
		tx.Dequeue(alice, 99)
	})
	var seqs []uint64
	for _, e := range Entries(s, alice) {
		seqs = append(seqs, e.Seq)
	}
	if want := []uint64{2, 3, 4, 6, 7, 8, 9, 10}; !slices.Equal(seqs, want) {
		t.Errorf("got %v, want %v", seqs, want)
	}
	if got := s.QueueStats(alice); got.Messages != 8 || got.Bytes != 8*514 || s.Stats().Queued != 8 {
		t.Errorf("got %+v", got)
	}
	if got, err := s.Queue(alice, 10, make([]store.Entry, 0, 4)); len(got) != 0 || err != nil {
		t.Errorf("behind the last: %v", got)
	}
	do(t, s, func(tx store.Tx) {
		for seq := range uint64(11) {
			tx.Dequeue(alice, seq)
		}
		tx.Enqueue(alice, want)
	})
	if got := Entries(s, alice); len(got) != 1 || got[0].Seq != 11 {
		t.Errorf("after the queue was empty: %v", got)
	}
}

func testQueueLimits(t *testing.T, open Open) {
	s := open(t, store.Limits{Queue: store.QueueLimit{Messages: 4, Bytes: 4000}})
	do(t, s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) })
	for i := range 10 {
		m := &store.Message{Topic: "t", Payload: make([]byte, 400)}
		m.Payload[0] = byte(i)
		do(t, s, func(tx store.Tx) {
			tx.Enqueue(alice, store.Delivery{Message: m})
			tx.Dequeue(alice, 2)
		})
	}
	var kept []byte
	for _, e := range Entries(s, alice) {
		kept = append(kept, e.Message.Payload[0])
	}
	if want := []byte{0, 2, 3, 4}; !slices.Equal(kept, want) {
		t.Errorf("got %v, want %v", kept, want)
	}
	if got := s.QueueStats(alice); got.Dropped != 5 || s.Stats().QueueDropped != 5 {
		t.Errorf("got %+v", got)
	}
}

func testNeverConfirmed(t *testing.T, open Open) {
	s := open(t, store.Limits{Queue: store.QueueLimit{Messages: 4, Bytes: 1 << 20}})
	do(t, s, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) })
	d := store.Delivery{Message: &store.Message{Topic: "t"}}
	do(t, s, func(tx store.Tx) { tx.Enqueue(alice, d) })
	for i := range uint64(70) {
		do(t, s, func(tx store.Tx) {
			for j := range uint64(1000) {
				tx.Enqueue(alice, d)
				tx.Dequeue(alice, 2+i*1000+j)
			}
		})
	}
	do(t, s, func(tx store.Tx) { tx.Enqueue(alice, d) })
	all := Entries(s, alice)
	if span := all[len(all)-1].Seq - all[0].Seq; span > 70_000 || s.QueueStats(alice).Dropped == 0 {
		t.Errorf("the queue spans %d numbers", span)
	}
}

func testInflight(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	do(t, s, func(tx store.Tx) {
		tx.PutSession(store.Session{Key: alice})
		tx.Enqueue(alice, store.Delivery{Message: Message("a", "1"), QoS: 2})
		tx.Enqueue(alice, store.Delivery{Message: Message("a", "2"), QoS: 2})
		tx.Inflight(alice, 1, store.Sent{PacketID: 4})
		tx.Inflight(alice, 9, store.Sent{PacketID: 5})
	})
	do(t, s, func(tx store.Tx) {
		tx.Inflight(alice, 1, store.Sent{PacketID: 4, Released: true})
		tx.Inflight(alice, 2, store.Sent{PacketID: 65535})
	})
	got := Entries(s, alice)
	if got[0].PacketID != 4 || !got[0].Released || got[1].PacketID != 65535 || got[1].Released {
		t.Errorf("got %+v", got)
	}
}

func testRetained(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	put := func(topic, payload string, clock uint64) {
		t.Helper()
		do(t, s, func(tx store.Tx) {
			tx.Retain(&store.Message{Topic: topic, Payload: []byte(payload), HLC: clock, Retain: true})
		})
	}
	put("a/b", "1", 5)
	put("a/b", "older", 4)
	put("a", "2", 1)
	put("$SYS/x", "3", 1)
	put("c", "4", 7)
	put("c", "", 6) // older than the clear
	put("d", "5", 1)
	put("d", "", 2)
	put("nothing", "", 2)
	for _, tt := range []struct {
		filter string
		want   []string
	}{
		{"#", []string{"1", "2", "4"}},
		{"a/#", []string{"1", "2"}},
		{"+", []string{"2", "4"}},
		{"a/+", []string{"1"}},
		{"$SYS/#", []string{"3"}},
		{"d", nil},
	} {
		var got []string
		for _, m := range s.Retained(tt.filter) {
			got = append(got, string(m.Payload))
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.filter, got, tt.want)
		}
	}
	if st := s.Stats(); st.Retained != 4 {
		t.Errorf("got %+v", st)
	}
}

func testRetainedLimit(t *testing.T, open Open) {
	s := open(t, store.Limits{Retained: store.QueueLimit{Messages: 2, Bytes: 4000}})
	put := func(topic, payload string) error {
		return Do(s, func(tx store.Tx) { tx.Retain(&store.Message{Topic: topic, Payload: []byte(payload)}) })
	}
	for _, tt := range []struct {
		topic, payload string
		full           bool
	}{
		{"a", "1", false},
		{"b", "2", false},
		{"c", "3", true},
		{"a", "again", false},
		{"a", string(make([]byte, 4000)), true},
		{"b", "", false},
		{"c", string(make([]byte, 4000)), true},
		{"c", "3", false},
	} {
		if err := put(tt.topic, tt.payload); errors.Is(err, store.ErrFull) != tt.full || (err != nil) != tt.full {
			t.Errorf("%s: %v", tt.topic, err)
		}
	}
}

// testRetainedOlder has an older message come that is too large: it would change
// nothing.
func testRetainedOlder(t *testing.T, open Open) {
	s := open(t, store.Limits{Retained: store.QueueLimit{Bytes: 4000}})
	do(t, s, func(tx store.Tx) { tx.Retain(&store.Message{Topic: "a", Payload: []byte("1"), HLC: 2}) })
	do(t, s, func(tx store.Tx) { tx.Retain(&store.Message{Topic: "a", Payload: make([]byte, 4000), HLC: 1}) })
	if got := s.Retained("a"); len(got) != 1 || string(got[0].Payload) != "1" {
		t.Errorf("got %v", got)
	}
}

// testLimitsTogether makes transactions of which each change fits alone.
func testLimitsTogether(t *testing.T, open Open) {
	for name, add := range map[string]func(tx store.Tx, key string){
		"retained": func(tx store.Tx, key string) { tx.Retain(Message(key, "1")) },
		"values":   func(tx store.Tx, key string) { tx.PutValue("f", key, []byte("1")) },
		"bytes":    func(tx store.Tx, key string) { tx.PutValue("g", key, make([]byte, 400)) },
	} {
		s := open(t, store.Limits{
			Retained: store.QueueLimit{Messages: 2}, Values: store.QueueLimit{Messages: 2, Bytes: 1000},
		})
		put := func(keys ...string) error {
			return Do(s, func(tx store.Tx) {
				for _, key := range keys {
					add(tx, key)
				}
			})
		}
		if err := put("a", "b", "c"); !errors.Is(err, store.ErrFull) {
			t.Errorf("three %s: %v, want ErrFull", name, err)
		}
		if err := put("a", "b"); err != nil {
			t.Errorf("two %s: %v", name, err)
		}
		if err := put("a", "b", "a"); err != nil {
			t.Errorf("the same %s again: %v", name, err)
		}
	}
}

func testOutbound(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	grew := s.Committed("rome")
	for range 2 {
		do(t, s, func(tx store.Tx) {
			tx.Outbound("rome", Message("a", "1"))
			tx.Outbound("oslo", Message("a", "1"))
		})
	}
	select {
	case <-grew:
	default:
		t.Error("nobody was told")
	}
	select {
	case <-grew:
		t.Error("told twice")
	default:
	}
	got := s.Outbound("rome", 0, make([]store.Outbound, 0, 9))
	if diff := cmp.Diff([]store.Outbound{{Message: Message("a", "1"), Seq: 1}, {Message: Message("a", "1"), Seq: 2}}, got); diff != "" {
		t.Error(diff)
	}
	do(t, s, func(tx store.Tx) { tx.Acknowledge("rome", 7, 0) })
	do(t, s, func(tx store.Tx) { tx.Outbound("rome", Message("a", "2")) })
	if got := s.Outbound("rome", 0, make([]store.Outbound, 0, 1)); len(got) != 1 || got[0].Seq != 3 {
		t.Errorf("got %v", got)
	}
	if got := s.OutboundStats("oslo"); got.Messages != 2 || s.Stats().Outbound != 3 {
		t.Errorf("got %+v", got)
	}
}

func testOutboundLimit(t *testing.T, open Open) {
	s := open(t, store.Limits{Outbound: store.QueueLimit{Messages: 3, Bytes: 3000}})
	for i := range 5 {
		do(t, s, func(tx store.Tx) { tx.Outbound("rome", &store.Message{Topic: "t", Payload: []byte{byte(i)}}) })
	}
	got := s.Outbound("rome", 0, make([]store.Outbound, 0, 9))
	if len(got) != 3 || got[0].Seq != 3 || s.OutboundStats("rome").Dropped != 2 || s.Stats().OutboundDrops != 2 {
		t.Errorf("got %v", got)
	}
	do(t, s, func(tx store.Tx) { tx.Outbound("rome", &store.Message{Topic: "t", Payload: make([]byte, 2000)}) })
	if got := s.Outbound("rome", 0, make([]store.Outbound, 0, 9)); len(got) != 1 || got[0].Seq != 6 {
		t.Errorf("after a large one: %v", got)
	}
}

func testFloorsAndValues(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	do(t, s, func(tx store.Tx) {
		tx.Floor(store.Origin{Site: "rome", Epoch: 3, Lane: 2, Seq: 9})
		tx.PutValue("f", "k", []byte("v"))
		tx.PutValue("f", "empty", []byte{})
		tx.PutValue("f", "gone", []byte("v"))
	})
	do(t, s, func(tx store.Tx) {
		tx.Floor(store.Origin{Site: "rome", Epoch: 4, Lane: 2, Seq: 1})
		tx.PutValue("f", "gone", nil)
		tx.PutValue("f", "never", nil)
	})
	if epoch, seq := s.Floor("rome", 2); epoch != 4 || seq != 1 {
		t.Errorf("floor %d %d", epoch, seq)
	}
	if epoch, seq := s.Floor("rome", 1); epoch != 0 || seq != 0 {
		t.Errorf("floor of another lane %d %d", epoch, seq)
	}
	for key, want := range map[string]string{"k": "v true", "empty": " true", "gone": " false", "never": " false"} {
		v, ok := s.Value("f", key)
		if got := fmt.Sprintf("%s %t", v, ok); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
	if st := s.Stats(); st.Values != 2 || st.ValueBytes != 1 {
		t.Errorf("got %+v", st)
	}
	do(t, s, func(tx store.Tx) { tx.PutValue("g", "k", []byte("other")) })
	if diff := cmp.Diff(map[string][]byte{"k": []byte("v"), "empty": {}}, s.Values("f")); diff != "" {
		t.Error(diff)
	}
	if got := s.Values("nothing"); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func testRefusedAsAWhole(t *testing.T, open Open) {
	s := open(t, store.Limits{Values: store.QueueLimit{Messages: 1, Bytes: 100}})
	names := Names{Peers: []string{"rome"}, Floors: []store.Origin{{Site: "rome"}}, Values: [][2]string{{"f", "a"}, {"f", "b"}}}
	do(t, s, func(tx store.Tx) {
		tx.PutSession(store.Session{Key: alice})
		tx.PutValue("f", "a", []byte("1"))
	})
	before := Dump(s, names)
	err := Do(s, func(tx store.Tx) {
		tx.Enqueue(alice, store.Delivery{Message: Message("a", "x")})
		tx.Retain(Message("a", "x"))
		tx.Outbound("rome", Message("a", "x"))
		tx.Floor(store.Origin{Site: "rome", Seq: 1})
		tx.PutValue("f", "b", []byte("1"))
	})
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if diff := cmp.Diff(before, Dump(s, names)); diff != "" {
		t.Error(diff)
	}
	if err := Do(s, func(tx store.Tx) { tx.PutValue("f", "a", make([]byte, 101)) }); !errors.Is(err, store.ErrFull) {
		t.Errorf("a value that grows: %v, want ErrFull", err)
	}
	do(t, s, func(tx store.Tx) { tx.PutValue("f", "a", make([]byte, 100)) })
	do(t, s, func(tx store.Tx) { // the limit is that of functions
		tx.PutValue(store.OfHistory+"x", "a", make([]byte, 100))
		tx.PutValue(store.OfHistory+"x", "b", []byte{})
	})
	if st := s.Stats(); st.Values != 1 || st.ValueBytes != 100 || len(s.Values(store.OfHistory+"x")) != 2 {
		t.Errorf("got %+v", st)
	}
	do(t, s, func(tx store.Tx) { tx.PutValue(store.OfHistory+"x", "a", nil) })
	if got := s.Values(store.OfHistory + "x"); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func testMemoryOfSessions(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	held := 0
	step := func(what string, least, most int, add func(store.Tx)) {
		t.Helper()
		do(t, s, add)
		now := s.Stats().Memory
		if d := now - held; d < least || d > most {
			t.Errorf("%s: %d bytes more, want %d to %d", what, d, least, most)
		}
		held = now
	}
	filter := func(n int) string { return fmt.Sprintf("%01000d", n) }
	will := &store.Message{Topic: "w", Payload: make([]byte, 10_000)}
	bob := store.SessionKey{Identity: "bob"}
	step("a session", 100, 2000, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice}) })
	empty := held
	step("the same again", 0, 0, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice, Expiry: 1}) })
	step("subscriptions", 3000, 3600, func(tx store.Tx) {
		for n := range 3 {
			tx.Subscribe(alice, store.Subscription{Filter: filter(n)})
		}
	})
	step("one again", 0, 0, func(tx store.Tx) { tx.Subscribe(alice, store.Subscription{Filter: filter(1), QoS: 2}) })
	step("one less", -1200, -1000, func(tx store.Tx) { tx.Unsubscribe(alice, filter(1)); tx.Unsubscribe(alice, "none") })
	step("a will", 10_000, 11_000, func(tx store.Tx) { tx.PutSession(store.Session{Key: alice, Will: will}) })
	step("received", 6, 100, func(tx store.Tx) {
		for id := range uint16(3) {
			tx.Receive(alice, id)
			tx.Receive(alice, id)
		}
	})
	step("no session", 0, 0, func(tx store.Tx) { tx.Subscribe(bob, store.Subscription{Filter: filter(1)}); tx.DeleteSession(bob) })
	step("gone and back", -13_000, -11_000, func(tx store.Tx) {
		tx.DeleteSession(alice)
		tx.PutSession(store.Session{Key: alice})
		tx.Receive(alice, 1)
		tx.Release(alice, 1)
		tx.Release(alice, 1)
	})
	if held != empty {
		t.Errorf("%d bytes are held for an empty session that took %d at first", held, empty)
	}
	step("gone", -empty, -empty, func(tx store.Tx) { tx.DeleteSession(alice) })
}

func testSweep(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	soon := time.Unix(2_000_000_000, 0)
	expiring := func(topic string, at time.Time) *store.Message {
		return &store.Message{Topic: topic, Payload: []byte("x"), Expires: at.UnixNano()}
	}
	do(t, s, func(tx store.Tx) {
		tx.PutSession(store.Session{Key: alice})
		for _, m := range []*store.Message{
			expiring("sent", soon), expiring("a", soon), expiring("b", soon.Add(1)), {Topic: "never", Payload: []byte("x")},
		} {
			tx.Enqueue(alice, store.Delivery{Message: m})
			tx.Retain(m)
		}
		tx.Inflight(alice, 1, store.Sent{PacketID: 1})
	})
	s.Sweep(soon)
	do(t, s, func(store.Tx) {}) // behind a transaction that the sweep perhaps handed in
	var topics []string
	for _, e := range Entries(s, alice) {
		topics = append(topics, e.Message.Topic)
	}
	if want := []string{"sent", "b", "never"}; !slices.Equal(topics, want) {
		t.Errorf("queue: got %v, want %v", topics, want)
	}
	if st := s.Stats(); st.Retained != 2 || st.Queued != 3 {
		t.Errorf("got %+v", st)
	}
}

func testOrder(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	const writers, each = 8, 200
	var all sync.WaitGroup
	for w := range writers {
		k := store.SessionKey{ClientID: fmt.Sprint(w)}
		do(t, s, func(tx store.Tx) { tx.PutSession(store.Session{Key: k}) })
		all.Go(func() {
			var told sync.WaitGroup
			next := 0 // callbacks run one at a time
			for i := range each {
				told.Add(1)
				s.Update(func(tx store.Tx) {
					tx.Enqueue(k, store.Delivery{Message: &store.Message{Topic: "t", Payload: []byte(fmt.Sprint(i))}})
				}, func(err error) {
					defer told.Done()
					if err != nil || next != i {
						t.Errorf("callback %d came as number %d: %v", i, next, err)
					}
					next++
					if got := s.QueueStats(k).Messages; got < next {
						t.Errorf("%d messages after %d callbacks", got, next)
					}
				})
			}
			told.Wait()
		})
	}
	all.Wait()
	for w := range writers {
		got := Entries(s, store.SessionKey{ClientID: fmt.Sprint(w)})
		if len(got) != each {
			t.Fatalf("%d entries", len(got))
		}
		for i, e := range got {
			if string(e.Message.Payload) != fmt.Sprint(i) {
				t.Fatalf("entry %d is %s", i, e.Message.Payload)
			}
		}
	}
}

func testNested(t *testing.T, open Open) {
	s := open(t, store.Limits{})
	done := make(chan struct{})
	var again func(n int)
	again = func(n int) {
		s.Update(func(tx store.Tx) { tx.PutValue("f", "n", []byte{byte(n)}) }, func(err error) {
			if err != nil || n == 0 {
				close(done)
				return
			}
			again(n - 1)
		})
	}
	again(5)
	<-done
	if v, _ := s.Value("f", "n"); !slices.Equal(v, []byte{0}) {
		t.Errorf("got %v", v)
	}
}

// testAcknowledged separates messages that a peer has from messages that the log lost.
func testAcknowledged(t *testing.T, open Open) {
	s := open(t, store.Limits{Outbound: store.QueueLimit{Messages: 3, Bytes: 1 << 20}})
	for range 5 { // 1 and 2 are lost
		do(t, s, func(tx store.Tx) { tx.Outbound("rome", Message("a", "x")) })
	}
	want := func(messages int, acknowledged, dropped uint64) {
		t.Helper()
		if st := s.OutboundStats("rome"); st.Messages != messages || st.Acknowledged != acknowledged || st.Dropped != dropped {
			t.Errorf("got %+v, want %d messages, up to %d acknowledged, %d dropped", st, messages, acknowledged, dropped)
		}
	}
	want(3, 0, 2)
	do(t, s, func(tx store.Tx) { tx.Acknowledge("rome", 3, 2) }) // 2 and 3 had been sent
	want(2, 3, 1)
	do(t, s, func(tx store.Tx) { tx.Acknowledge("rome", 2, 0) })
	want(2, 3, 1)
	do(t, s, func(tx store.Tx) { tx.Acknowledge("rome", 99, 2) })
	want(0, 5, 1)
	do(t, s, func(tx store.Tx) { tx.Acknowledge("oslo", 1, 0) })
	if st := s.OutboundStats("oslo"); st.Acknowledged != 0 {
		t.Errorf("got %+v", st)
	}
}

// testTombstones clears retained messages: older messages do not come back.
func testTombstones(t *testing.T, open Open) {
	s := open(t, store.Limits{Tombstones: store.QueueLimit{Messages: 2, Bytes: 1 << 20}})
	put := func(topic, payload string, clock uint64) {
		t.Helper()
		m := Message(topic, payload)
		m.Retain, m.HLC, m.Publisher, m.Origin = true, clock, "p", store.Origin{Site: "rome"}
		do(t, s, func(tx store.Tx) { tx.Retain(m) })
	}
	want := func(retained, tombstones string) {
		t.Helper()
		var got [2][]string
		for _, m := range s.Retained("#") {
			got[0] = append(got[0], fmt.Sprintf("%s=%s", m.Topic, m.Payload))
		}
		for _, m := range s.Tombstones() {
			got[1] = append(got[1], fmt.Sprintf("%s@%d", m.Topic, m.HLC))
			if len(m.Payload) > 0 || !m.Retain || m.Publisher != "p" || m.Origin.Site != "rome" || s.Tombstone(m.Topic) != m {
				t.Errorf("tombstone %+v", m)
			}
		}
		slices.Sort(got[0])
		slices.Sort(got[1])
		if diff := cmp.Diff([2]string{retained, tombstones}, [2]string{strings.Join(got[0], " "), strings.Join(got[1], " ")}); diff != "" {
			t.Error(diff)
		}
		if st := s.Stats(); st.Tombstones != len(got[1]) || st.Retained != len(got[0]) {
			t.Errorf("%+v", st)
		}
	}
	put("a", "1", 10)
	put("a", "", 9) // older than the value
	want("a=1", "")
	put("a", "", 11)
	put("a", "2", 10) // older than its end
	want("", "a@11")
	put("a", "3", 12)
	want("a=3", "")
	put("never", "", 5) // another site may have it
	put("a", "", 13)
	want("", "a@13 never@5")
	put("b", "", 14) // the lowest clock makes room
	want("", "a@13 b@14")
	if st := s.Stats(); st.Forgotten != 1 {
		t.Errorf("%+v", st)
	}
	s.Sweep(time.Now().Add(29 * 24 * time.Hour))
	do(t, s, func(store.Tx) {})
	want("", "a@13 b@14")
	s.Sweep(time.Now().Add(31 * 24 * time.Hour))
	do(t, s, func(store.Tx) {})
	want("", "")
	put("a", "4", 1)
	want("a=4", "")
}

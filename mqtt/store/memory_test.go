package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testKey = SessionKey{Identity: "spiffe://lab.test/device/d", ClientID: "c"}

func text(topic, payload string) *Message { return &Message{Topic: topic, Payload: []byte(payload)} }

func entries(m *Memory, k SessionKey, after uint64, most int) []Entry {
	got, _ := m.Queue(k, after, make([]Entry, 0, most)) // memory can be read always
	return got
}

func payloads(entries []Entry) (all []string) {
	for _, e := range entries {
		all = append(all, string(e.Message.Payload))
	}
	return all
}

func update(t *testing.T, m *Memory, add func(Tx)) error {
	t.Helper()
	var result error
	called := false
	m.Update(add, func(err error) { result, called = err, true })
	if !called {
		t.Fatal("a lone update was not done when it returned")
	}
	return result
}

func TestQueue(t *testing.T) {
	m := NewMemory(Limits{Queue: QueueLimit{Messages: 4, Bytes: 1 << 20}})
	k := testKey
	if err := update(t, m, func(tx Tx) {
		tx.Enqueue(k, Delivery{Message: text("t", "lost")}) // no such session yet
		tx.PutSession(Session{Key: k})
		for i := range 6 {
			tx.Enqueue(k, Delivery{Message: text("t", fmt.Sprint(i))})
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got := payloads(entries(m, k, 0, 10)); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("queue %v", got)
	}
	if got := payloads(entries(m, k, 1, 2)); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("after 1: %v", got)
	}
	if got := m.QueueStats(k); got.Messages != 4 || got.Dropped != 2 {
		t.Errorf("stats %+v", got)
	}
	m.Update(func(tx Tx) {
		tx.Dequeue(k, 2)
		tx.Dequeue(k, 99)
		tx.Inflight(k, 3, Sent{PacketID: 7, Released: true})
	}, nil)
	got := entries(m, k, 0, 10)
	if !slices.Equal(payloads(got), []string{"0", "2", "3"}) || got[1].PacketID != 7 || !got[1].Released {
		t.Errorf("queue %+v", got)
	}
	m.Update(func(tx Tx) { tx.DeleteSession(k) }, nil)
	if got := m.Stats(); got.Queued != 0 || got.QueuedBytes != 0 || got.Sessions != 0 || got.QueueDropped != 2 {
		t.Errorf("stats %+v", got)
	}
}

// TestQueueModel compares the queue with a plain list.
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue()
		var model []uint64
		next := uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				q.push(Delivery{Message: text("t", "x")})
				model = append(model, next)
				next++
			},
			"remove": func(t *rapid.T) {
				seq := rapid.Uint64Range(0, next+2).Draw(t, "seq")
				q.remove(seq)
				model = slices.DeleteFunc(model, func(x uint64) bool { return x == seq })
			},
			"": func(t *rapid.T) {
				after := rapid.Uint64Range(0, next).Draw(t, "after")
				var want, got []uint64
				for _, x := range model {
					if x > after {
						want = append(want, x)
					}
				}
				for _, e := range q.read(after, make([]Entry, 0, len(model)+1)) {
					got = append(got, e.Seq)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("after %d: %v, want %v", after, got, want)
				}
				if q.stats.Messages != len(model) {
					t.Fatalf("counts %d, want %d", q.stats.Messages, len(model))
				}
			},
		})
	})
}

func TestRetained(t *testing.T) {
	m := NewMemory(Limits{})
	put := func(topic, payload string, clock uint64) {
		t.Helper()
		r := text(topic, payload)
		r.HLC = clock
		if err := update(t, m, func(tx Tx) { tx.Retain(r) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range []string{"a", "a/b", "a/b/c", "a//c", "/a", "$SYS/x", "b"} {
		put(topic, topic, 5)
	}
	for filter, want := range map[string][]string{
		"#": {"/a", "a", "a//c", "a/b", "a/b/c", "b"}, "+": {"a", "b"}, "a/#": {"a", "a//c", "a/b", "a/b/c"},
		"a/+": {"a/b"}, "a/+/c": {"a//c", "a/b/c"}, "+/+": {"/a", "a/b"}, "$SYS/#": {"$SYS/x"}, "+/x": nil,
		"/+": {"/a"}, "a/b": {"a/b"}, "c": nil, "a/b/c/#": {"a/b/c"}, "+/#": {"/a", "a", "a//c", "a/b", "a/b/c", "b"},
	} {
		var got []string
		for _, r := range m.Retained(filter) {
			got = append(got, r.Topic)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	put("a/b", "older", 4)
	if got := m.Retained("a/b"); string(got[0].Payload) != "a/b" {
		t.Errorf("an older message won: %s", got[0].Payload)
	}
	put("a/b", "", 6)
	put("b", "", 4)
	if got := m.Stats().Retained; got != 6 || len(m.Retained("a/b")) != 0 {
		t.Errorf("%d retained", got)
	}
	for _, topic := range []string{"a", "a/b/c", "a//c", "/a", "$SYS/x", "b"} {
		put(topic, "", 9)
	}
	if got := m.Stats(); got.Retained != 0 || got.RetainedBytes != 0 || m.retained.Len() != 0 {
		t.Errorf("something stays: %+v", got)
	}
}

func TestTransactionIsRefusedAsAWhole(t *testing.T) {
	m := NewMemory(Limits{Retained: QueueLimit{Messages: 1}, Values: QueueLimit{Messages: 1}})
	k := testKey
	m.Update(func(tx Tx) {
		tx.PutSession(Session{Key: k})
		tx.Retain(text("a", "x"))
		tx.PutValue("f", "1", []byte("v"))
	}, nil)
	for _, add := range []func(Tx){
		func(tx Tx) { tx.Enqueue(k, Delivery{Message: text("b", "x")}); tx.Retain(text("b", "x")) },
		func(tx Tx) { tx.Enqueue(k, Delivery{Message: text("b", "x")}); tx.PutValue("f", "2", []byte("v")) },
	} {
		if err := update(t, m, add); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
	}
	if got := m.QueueStats(k).Messages; got != 0 {
		t.Errorf("%d entries of a refused transaction", got)
	}
	if err := update(t, m, func(tx Tx) { tx.Retain(text("a", "y")); tx.PutValue("f", "1", []byte("w")) }); err != nil {
		t.Errorf("replacing: %v", err)
	}
	if got, ok := m.Value("f", "1"); !ok || string(got) != "w" {
		t.Errorf("value %q", got)
	}
}

func TestOutbound(t *testing.T) {
	m := NewMemory(Limits{Outbound: QueueLimit{Messages: 3, Bytes: 1 << 20}})
	grew := m.Committed("far")
	m.Update(func(tx Tx) {
		for i := range 5 {
			tx.Outbound("far", text("t", fmt.Sprint(i)))
		}
	}, nil)
	select {
	case <-grew:
	default:
		t.Error("no token")
	}
	got := m.Outbound("far", 0, make([]Outbound, 0, 10))
	if len(got) != 3 || got[0].Seq != 3 || string(got[0].Message.Payload) != "2" {
		t.Errorf("log %v", got)
	}
	if got := m.OutboundStats("far"); got.Dropped != 2 || got.Messages != 3 {
		t.Errorf("stats %+v", got)
	}
	m.Update(func(tx Tx) { tx.Acknowledge("far", 4, 0) }, nil)
	if got := m.Outbound("far", 4, make([]Outbound, 0, 1)); len(got) != 1 || got[0].Seq != 5 {
		t.Errorf("log %v", got)
	}
	m.Update(func(tx Tx) { tx.Acknowledge("far", 99, 0) }, nil)
	if got := m.Stats(); got.Outbound != 0 || got.OutboundBytes != 0 {
		t.Errorf("stats %+v", got)
	}
}

func TestSessions(t *testing.T) {
	m := NewMemory(Limits{})
	k := testKey
	m.Update(func(tx Tx) {
		tx.PutSession(Session{Key: k, Expiry: 5})
		tx.Subscribe(k, Subscription{Filter: "x", QoS: 1})
		tx.Subscribe(k, Subscription{Filter: "y"})
		tx.Subscribe(k, Subscription{Filter: "x", QoS: 2})
		tx.Unsubscribe(k, "y")
		tx.Receive(k, 4)
		tx.Receive(k, 4)
		tx.Receive(k, 5)
		tx.Release(k, 4)
		tx.PutSession(Session{Key: k, Expiry: 6})
		tx.Floor(Origin{Site: "far", Epoch: 2, Lane: 3, Seq: 9})
	}, nil)
	got := m.Sessions()
	if len(got) != 1 || got[0].Expiry != 6 || len(got[0].Subscriptions) != 1 || got[0].Subscriptions[0].QoS != 2 || !slices.Equal(got[0].Received, []uint16{5}) {
		t.Errorf("sessions %+v", got)
	}
	if epoch, seq := m.Floor("far", 3); epoch != 2 || seq != 9 {
		t.Errorf("floor %d.%d", epoch, seq)
	}
}

func TestSweep(t *testing.T) {
	m := NewMemory(Limits{})
	now := time.Unix(1000, 0)
	old, fresh := text("old", "x"), text("new", "x")
	old.Expires, fresh.Expires = now.UnixNano(), now.UnixNano()+1
	k := testKey
	m.Update(func(tx Tx) {
		tx.PutSession(Session{Key: k})
		for _, x := range []*Message{old, fresh, old, old} {
			tx.Enqueue(k, Delivery{Message: x})
		}
		tx.Inflight(k, 4, Sent{PacketID: 1}) // begun: it is finished
		tx.Retain(old)
		tx.Retain(fresh)
	}, nil)
	m.Sweep(now)
	if got := m.Stats(); got.Retained != 1 || got.Queued != 2 {
		t.Errorf("stats %+v", got)
	}
}

// TestUpdateOrder has many goroutines commit at once: callbacks run one at a
// time, in the order of the changes, and each sees its own change.
func TestUpdateOrder(t *testing.T) {
	m := NewMemory(Limits{})
	k := testKey
	m.Update(func(tx Tx) { tx.PutSession(Session{Key: k}) }, nil)
	var added, done []int
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 100 {
				n := i*100 + j
				m.Update(func(tx Tx) {
					added = append(added, n)
					tx.Enqueue(k, Delivery{Message: text("t", fmt.Sprint(n))})
				}, func(error) {
					done = append(done, n)
					if rand.IntN(10) == 0 {
						m.Update(func(Tx) {}, nil) // a callback may go on
					}
				})
			}
		})
	}
	all.Wait()
	var queued []string
	for _, n := range added {
		queued = append(queued, fmt.Sprint(n))
	}
	if !slices.Equal(added, done) || !slices.Equal(payloads(entries(m, k, 0, 1600)), queued) {
		t.Error("order lost between changes, queue and callbacks")
	}
}

func BenchmarkUpdate(b *testing.B) {
	m := NewMemory(Limits{})
	k := testKey
	m.Update(func(tx Tx) { tx.PutSession(Session{Key: k}) }, nil)
	msg := text("t", "x")
	seq := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		m.Update(func(tx Tx) { tx.Enqueue(k, Delivery{Message: msg}) }, nil)
		m.Update(func(tx Tx) { tx.Dequeue(k, seq) }, nil)
	}
}

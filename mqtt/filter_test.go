package mqtt

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

// chain is a Filter that keeps what it is asked until the test answers.
type chain struct {
	mu    sync.Mutex
	bound map[string]bool // direction, space and topic's first level
	asked []question
	seen  []string
}

type question struct {
	d      Direction
	m      *store.Message
	answer func(FilterResult)
}

func newChain(bound ...string) *chain {
	c := &chain{bound: map[string]bool{}}
	for _, b := range bound {
		c.bound[b] = true
	}
	return c
}

func (c *chain) Bound(d Direction, _ Principal, topic string) bool {
	level, _, _ := strings.Cut(topic, "/")
	return c.bound[d.String()+" "+level]
}

func (c *chain) Submit(d Direction, p Principal, m *store.Message, done func(FilterResult)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, question{d, m, done})
	c.seen = append(c.seen, fmt.Sprintf("%s %s %s=%s", d, p.ClientID, m.Topic, m.Payload))
}

// take returns the questions that wait after all that was sent before.
func (c *chain) take() []question {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.asked
	c.asked = nil
	return q
}

func emit(topic, payload string) FilterResult {
	return FilterResult{Outcome: Publish, Messages: []Emitted{{
		Message:  &store.Message{Topic: topic, Payload: []byte(payload), QoS: 1},
		Function: identity.ID{TrustDomain: "lab.test", Kind: identity.Function, Name: "fn"},
	}}}
}

func filtered1(f *chain) func(*Options) { return func(o *Options) { o.Filter = f } }

func TestFilterKeepsOrder(t *testing.T) { // [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-5]
	for _, session := range []uint32{0, 100} {
		f := newChain("upstream slow", "downstream slow")
		bubble(t, filtered1(f), func(t *testing.T, w *world) {
			sub, pub := w.connect(packet.V5, "sub", expiry(session)), w.connect(packet.V5, "pub")
			sub.subscribe(filter("#", 2))
			const n = 60
			for i := range n {
				topic := []string{"slow/x", "fast/x"}[i%2]
				pub.publish(topic, fmt.Sprint(i), byte(i%3), uint16(i+1))
			}
			sub.silence() // the first waits, and all behind it
			pub.silence()
			for q := f.take(); len(q) > 0; q = f.take() {
				rand.Shuffle(len(q), func(i, j int) { q[i], q[j] = q[j], q[i] })
				var answers sync.WaitGroup
				for _, x := range q {
					answers.Go(func() { x.answer(FilterResult{}) })
				}
				answers.Wait()
			}
			wantOrderPerQoS(t, sub, n) // across QoS there is no promise: some come through the store
			for i := range n {
				switch i % 3 {
				case 1:
					if got := want[*packet.Puback](pub); got.PacketID != uint16(i+1) {
						t.Errorf("PUBACK %d, want %d", got.PacketID, i+1)
					}
				case 2:
					if got := want[*packet.Pubrec](pub); got.PacketID != uint16(i+1) {
						t.Errorf("PUBREC %d, want %d", got.PacketID, i+1)
					}
				}
			}
		})
	}
}

// What a client sent in a session that is over still comes before what it sends in
// the next one.
func TestOrderOverSessions(t *testing.T) { // [MQTT-4.6.0-5]
	f := newChain("upstream slow")
	bubble(t, filtered1(f), func(t *testing.T, w *world) {
		sub := w.connect(packet.V5, "sub")
		sub.subscribe(filter("#", 1))
		const sessions = 4
		before := w.held()
		for i := range sessions {
			pub := w.connect(packet.V5, "pub")
			pub.publish("slow/x", fmt.Sprint(i), 1, 1)
			pub.silence()
			if i%2 == 0 {
				pub.send(&packet.Disconnect{})
			} else {
				pub.close()
			}
			synctest.Wait()
		}
		q := f.take()
		if n := w.held() - before; n < (sessions-1)*sessionCost {
			t.Errorf("%d bytes are counted for %d sessions that wait for each other", n, sessions)
		}
		for i := range slices.Backward(q) {
			sub.silence()
			q[i].answer(FilterResult{})
		}
		for i := range sessions {
			sub.finish(sub.wantMessage(fmt.Sprint(i)))
		}
		w.b.mu.Lock()
		defer w.b.mu.Unlock()
		if n := len(w.b.draining); len(q) != sessions || n != 0 {
			t.Errorf("%d messages of %d seen, %d sessions stay", len(q), sessions, n)
		}
	})
}

func TestBlockedFilterHurtsNobodyElse(t *testing.T) {
	f := newChain("upstream stuck")
	bubble(t, filtered1(f), func(t *testing.T, w *world) {
		sub, other := w.connect(packet.V5, "sub"), w.connect(packet.V5, "other")
		stuck := w.connect(packet.V311, "stuck", keepAlive(10))
		sub.subscribe(filter("#", 1))
		go func() {
			for i := range 500 {
				stuck.try(message("stuck", "x", 1, uint16(i+1)))
			}
		}()
		for range 20 {
			other.exchange("free", "y", 1)
			sub.finish(sub.wantMessage("y"))
		}
		if got := len(f.take()); got != maxParked {
			t.Errorf("%d messages parked, want %d", got, maxParked)
		}
		wait(socket.WriteStall) // parked is not silent: the keep alive does not end it
		if stuck.ended() {
			t.Error("the waiting client was closed")
		}
		other.exchange("free", "z", 1)
		sub.finish(sub.wantMessage("z"))
	})
}

func TestFilterOutcomes(t *testing.T) {
	two := emit("out/1", "a")
	two.Messages = append(two.Messages, emit("out/2", "b").Messages...)
	for _, tt := range []struct {
		name   string
		result FilterResult
		v5     packet.ReasonCode
		gets   []string
	}{
		{"pass", FilterResult{}, 0, []string{"in=raw"}},
		{"publish", emit("out/1", "a"), 0, []string{"out/1=a"}},
		{"publish two", two, 0, []string{"out/1=a", "out/2=b"}},
		{"publish none", FilterResult{Outcome: Publish}, 0, nil},
		{"drop", FilterResult{Outcome: Drop}, 0, nil},
		{"reject", FilterResult{Outcome: Reject, Code: packet.PayloadFormatInvalid, Reason: "no JSON"}, packet.PayloadFormatInvalid, nil},
		{"reject with a wrong code", FilterResult{Outcome: Reject, Code: packet.KeepAliveTimeout}, packet.ImplementationSpecificError, nil},
		{"function not allowed", emit("fn-no", "a"), packet.NotAuthorized, nil},
		{"origin not allowed", emit("pub-no", "a"), packet.NotAuthorized, nil},
		{"wildcard", emit("a/#", "a"), 0, nil},
		{"reserved", emit("$SYS/x", "a"), packet.NotAuthorized, nil},
	} {
		for _, v := range versions {
			t.Run(tt.name+" "+v.String(), func(t *testing.T) {
				f := newChain("upstream in")
				bubble(t, filtered1(f), func(t *testing.T, w *world) {
					w.rules.set(func(r *rules) { r.publish = []string{"fn=fn-no", "pubx=pub-no"} })
					sub, pub := w.connect(packet.V5, "sub"), w.connect(v, "pub")
					sub.subscribe(filter("#", 1), filter("fn-no", 1), filter("$SYS/x", 1))
					pub.publish("in", "raw", 1, 3)
					q := f.take()
					for len(q) == 0 {
						pub.silence()
						q = f.take()
					}
					q[0].answer(tt.result)
					code := tt.v5
					if v == packet.V311 {
						code = 0
					}
					if got := want[*packet.Puback](pub); got.ReasonCode != code {
						t.Errorf("PUBACK %s (%s), want %s", got.ReasonCode, got.Properties.ReasonString, code)
					}
					var gets []string
					for p := sub.next(); p != nil; p = sub.next() {
						m := p.(*packet.Publish)
						gets = append(gets, fmt.Sprintf("%s=%s", m.TopicName, m.Payload))
					}
					if !slices.Equal(gets, tt.gets) {
						t.Errorf("subscriber got %v, want %v", gets, tt.gets)
					}
				})
			})
		}
	}
}

func TestDownstream(t *testing.T) {
	f := newChain("downstream a")
	bubble(t, filtered1(f), func(t *testing.T, w *world) {
		w.rules.set(func(r *rules) { r.receive = []string{"hidden"}; r.publish = []string{"fn=fn-no"} })
		sub, away, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "away", expiry(100)), w.connect(packet.V5, "pub")
		sub.subscribe(filter("a/#", 1))
		away.subscribe(filter("a/#", 1))
		away.close()
		pub.publish("a/1", "raw", 1, 1)
		pub.silence()
		for _, q := range f.take() {
			r := emit("b", "cooked")
			r.Messages = append(r.Messages, emit("hidden", "x").Messages[0], emit("fn-no", "x").Messages[0], emit("b/2", "more").Messages[0])
			q.answer(r)
		}
		want[*packet.Puback](pub)
		sub.wantMessage("cooked")
		sub.wantMessage("more")
		sub.silence()
		away = w.connect(packet.V5, "away", resume, expiry(100))
		away.wantMessage("cooked") // asked once, before the queue
		away.wantMessage("more")
		away.silence()
		if got := f.take(); len(got) != 0 {
			t.Errorf("asked again %d times", len(got))
		}
		if got := w.counters().DeniedFunction; got != 4 {
			t.Errorf("denied %d, want 4", got)
		}
		pub.publish("a/1", "raw", 1, 2)
		pub.silence()
		for _, q := range f.take() {
			q.answer(FilterResult{Outcome: Drop})
		}
		want[*packet.Puback](pub)
		sub.silence()
		away.silence()
	})
}

func TestFilterSeesRetainedAndWills(t *testing.T) {
	f := newChain("upstream w", "downstream r")
	bubble(t, filtered1(f), func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub")
		p := message("r", "kept", 1, 1)
		p.Retain = true
		pub.send(p)
		want[*packet.Puback](pub)
		sub := w.connect(packet.V5, "sub")
		sub.subscribe(filter("#", 1))
		sub.silence()
		for _, q := range f.take() {
			q.answer(emit("r2", "cooked"))
		}
		if p := sub.wantMessage("cooked"); !p.Retain {
			t.Error("not marked as retained")
		}
		c := w.connect(packet.V5, "c", withWill("w", "gone", 0))
		c.close()
		for _, q := range f.take() {
			q.answer(emit("w2", "converted"))
		}
		sub.wantMessage("converted")
		w.b.Inject(&store.Message{Topic: "w", Payload: []byte("far")}, false, nil, nil)
		sub.wantMessage("far") // from other sites: no upstream chain
		if want := []string{"downstream sub r=kept", "upstream c w=gone"}; !slices.Equal(f.seen, want) {
			t.Errorf("functions saw %v, want %v", f.seen, want)
		}
	})
}

// A chain that did not run leaves the message unacknowledged for MQTT 3.1.1 and
// refused for MQTT 5; downstream the receiver goes without.
func TestFilterError(t *testing.T) {
	each(t, func(t *testing.T, w *world, v packet.Version) {
		f := newChain("upstream up", "downstream down")
		w.b.opts.Filter = f
		sub, pub := w.connect(v, "sub"), w.connect(v, "pub")
		sub.subscribe(filter("#", 1))
		pub.publish("up", "lost", 1, 1)
		for _, q := range f.take() {
			q.answer(FilterResult{Err: store.ErrFull})
		}
		if v == packet.V5 {
			if ack, ok := pub.next().(*packet.Puback); !ok || ack.ReasonCode != packet.QuotaExceeded {
				t.Errorf("acknowledged with %v", ack)
			}
		} else if p := pub.next(); p != nil {
			t.Errorf("a message that went nowhere was answered with %v", p)
		}
		pub.publish("down", "lost", 0, 0)
		for _, q := range f.take() {
			q.answer(FilterResult{Err: store.ErrFull})
		}
		if p := sub.next(); p != nil {
			t.Errorf("the receiver got %v", p)
		}
	})
}

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

// fakeFilter is a Filter that keeps the broker's questions until the test answers
// them.
type fakeFilter struct {
	mu         sync.Mutex
	bound      map[string]bool // by direction, space and first level of the topic
	unanswered []question
	submitted  []string // each question in one line
}

// question is one message that the broker submitted.
type question struct {
	d      Direction
	m      *store.Message
	answer func(FilterResult)
}

// newFakeFilter returns a filter that is asked for the given directions and first
// topic levels, such as "upstream slow".
func newFakeFilter(bound ...string) *fakeFilter {
	c := &fakeFilter{bound: map[string]bool{}}
	for _, b := range bound {
		c.bound[b] = true
	}
	return c
}

func (c *fakeFilter) Bound(d Direction, _ Principal, topic string) bool {
	level, _, _ := strings.Cut(topic, "/")
	return c.bound[d.String()+" "+level]
}

func (c *fakeFilter) Submit(d Direction, p Principal, m *store.Message, done func(FilterResult)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unanswered = append(c.unanswered, question{d, m, done})
	c.submitted = append(c.submitted, fmt.Sprintf("%s %s %s=%s", d, p.ClientID, m.Topic, m.Payload))
}

// takeQuestions waits until the broker is idle and returns the questions without
// an answer.
func (c *fakeFilter) takeQuestions() []question {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.unanswered
	c.unanswered = nil
	return q
}

// publishResult is the answer of a function that publishes one message.
func publishResult(topic, payload string) FilterResult {
	return FilterResult{Outcome: Publish, Messages: []Emitted{{
		Message:  &store.Message{Topic: topic, Payload: []byte(payload), QoS: 1},
		Function: identity.ID{TrustDomain: "lab.test", Kind: identity.Function, Name: "fn"},
	}}}
}

// withFilter sets the broker's filter.
func withFilter(f *fakeFilter) func(*Options) { return func(o *Options) { o.Filter = f } }

func TestFilterKeepsOrder(t *testing.T) { // [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-5]
	for _, session := range []uint32{0, 100} {
		f := newFakeFilter("upstream slow", "downstream slow")
		runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
			sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V5, "pub")
			sub.subscribe(subscribeTo("#", 2))
			const n = 60
			for i := range n {
				topic := []string{"slow/x", "fast/x"}[i%2]
				pub.publish(topic, fmt.Sprint(i), byte(i%3), uint16(i+1))
			}
			sub.wantNothing() // the first waits, and all behind it
			pub.wantNothing()
			for q := f.takeQuestions(); len(q) > 0; q = f.takeQuestions() {
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
					if got := wantPacket[*packet.Puback](pub); got.PacketID != uint16(i+1) {
						t.Errorf("PUBACK %d, want %d", got.PacketID, i+1)
					}
				case 2:
					if got := wantPacket[*packet.Pubrec](pub); got.PacketID != uint16(i+1) {
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
	f := newFakeFilter("upstream slow")
	runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub")
		sub.subscribe(subscribeTo("#", 1))
		const sessions = 4
		before := srv.memoryHeld()
		for i := range sessions {
			pub := srv.connect(packet.V5, "pub")
			pub.publish("slow/x", fmt.Sprint(i), 1, 1)
			pub.wantNothing()
			if i%2 == 0 {
				pub.send(&packet.Disconnect{})
			} else {
				pub.dropConnection()
			}
			synctest.Wait()
		}
		q := f.takeQuestions()
		if n := srv.memoryHeld() - before; n < (sessions-1)*sessionCost {
			t.Errorf("%d bytes are counted for %d sessions that wait for each other", n, sessions)
		}
		for i := range slices.Backward(q) {
			sub.wantNothing()
			q[i].answer(FilterResult{})
		}
		for i := range sessions {
			sub.acknowledge(sub.wantMessage(fmt.Sprint(i)))
		}
		srv.broker.mu.Lock()
		defer srv.broker.mu.Unlock()
		if n := len(srv.broker.draining); len(q) != sessions || n != 0 {
			t.Errorf("%d messages of %d seen, %d sessions stay", len(q), sessions, n)
		}
	})
}

func TestBlockedFilterHurtsNobodyElse(t *testing.T) {
	f := newFakeFilter("upstream stuck")
	runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
		sub, other := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "other")
		stuck := srv.connect(packet.V311, "stuck", keepAlive(10))
		sub.subscribe(subscribeTo("#", 1))
		go func() {
			for i := range 500 {
				stuck.trySend(publishPacket("stuck", "x", 1, uint16(i+1)))
			}
		}()
		for range 20 {
			other.publishAndWait("free", "y", 1)
			sub.acknowledge(sub.wantMessage("y"))
		}
		if got := len(f.takeQuestions()); got != maxParked {
			t.Errorf("%d messages parked, want %d", got, maxParked)
		}
		advanceTime(socket.WriteStall) // parked is not silent: the keep alive does not end it
		if stuck.closedByServer() {
			t.Error("the waiting client was closed")
		}
		other.publishAndWait("free", "z", 1)
		sub.acknowledge(sub.wantMessage("z"))
	})
}

func TestFilterOutcomes(t *testing.T) {
	two := publishResult("out/1", "a")
	two.Messages = append(two.Messages, publishResult("out/2", "b").Messages...)
	for _, tt := range []struct {
		name   string
		result FilterResult
		v5     packet.ReasonCode
		gets   []string
	}{
		{"pass", FilterResult{}, 0, []string{"in=raw"}},
		{"publish", publishResult("out/1", "a"), 0, []string{"out/1=a"}},
		{"publish two", two, 0, []string{"out/1=a", "out/2=b"}},
		{"publish none", FilterResult{Outcome: Publish}, 0, nil},
		{"drop", FilterResult{Outcome: Drop}, 0, nil},
		{"reject", FilterResult{Outcome: Reject, Code: packet.PayloadFormatInvalid, Reason: "no JSON"}, packet.PayloadFormatInvalid, nil},
		{"reject with a wrong code", FilterResult{Outcome: Reject, Code: packet.KeepAliveTimeout}, packet.ImplementationSpecificError, nil},
		{"function not allowed", publishResult("fn-no", "a"), packet.NotAuthorized, nil},
		{"origin not allowed", publishResult("pub-no", "a"), packet.NotAuthorized, nil},
		{"wildcard", publishResult("a/#", "a"), 0, nil},
		{"reserved", publishResult("$SYS/x", "a"), packet.NotAuthorized, nil},
	} {
		for _, v := range versions {
			t.Run(tt.name+" "+v.String(), func(t *testing.T) {
				f := newFakeFilter("upstream in")
				runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
					srv.denied.change(func(d *denyList) { d.publish = []string{"fn=fn-no", "pubx=pub-no"} })
					sub, pub := srv.connect(packet.V5, "sub"), srv.connect(v, "pub")
					sub.subscribe(subscribeTo("#", 1), subscribeTo("fn-no", 1), subscribeTo("$SYS/x", 1))
					pub.publish("in", "raw", 1, 3)
					q := f.takeQuestions()
					for len(q) == 0 {
						pub.wantNothing()
						q = f.takeQuestions()
					}
					q[0].answer(tt.result)
					code := tt.v5
					if v == packet.V311 {
						code = 0
					}
					if got := wantPacket[*packet.Puback](pub); got.ReasonCode != code {
						t.Errorf("PUBACK %s (%s), want %s", got.ReasonCode, got.Properties.ReasonString, code)
					}
					var gets []string
					for p := sub.nextPacket(); p != nil; p = sub.nextPacket() {
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
	f := newFakeFilter("downstream a")
	runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
		srv.denied.change(func(d *denyList) { d.receive = []string{"hidden"}; d.publish = []string{"fn=fn-no"} })
		sub, away, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "away", sessionExpiry(100)), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("a/#", 1))
		away.subscribe(subscribeTo("a/#", 1))
		away.dropConnection()
		pub.publish("a/1", "raw", 1, 1)
		pub.wantNothing()
		for _, q := range f.takeQuestions() {
			r := publishResult("b", "cooked")
			r.Messages = append(r.Messages, publishResult("hidden", "x").Messages[0], publishResult("fn-no", "x").Messages[0], publishResult("b/2", "more").Messages[0])
			q.answer(r)
		}
		wantPacket[*packet.Puback](pub)
		sub.wantMessage("cooked")
		sub.wantMessage("more")
		sub.wantNothing()
		away = srv.connect(packet.V5, "away", resumeSession, sessionExpiry(100))
		away.wantMessage("cooked") // asked once, before the queue
		away.wantMessage("more")
		away.wantNothing()
		if got := f.takeQuestions(); len(got) != 0 {
			t.Errorf("asked again %d times", len(got))
		}
		if got := srv.counters().DeniedFunction; got != 4 {
			t.Errorf("denied %d, want 4", got)
		}
		pub.publish("a/1", "raw", 1, 2)
		pub.wantNothing()
		for _, q := range f.takeQuestions() {
			q.answer(FilterResult{Outcome: Drop})
		}
		wantPacket[*packet.Puback](pub)
		sub.wantNothing()
		away.wantNothing()
	})
}

func TestFilterSeesRetainedAndWills(t *testing.T) {
	f := newFakeFilter("upstream w", "downstream r")
	runWithServer(t, withFilter(f), func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		p := publishPacket("r", "kept", 1, 1)
		p.Retain = true
		pub.send(p)
		wantPacket[*packet.Puback](pub)
		sub := srv.connect(packet.V5, "sub")
		sub.subscribe(subscribeTo("#", 1))
		sub.wantNothing()
		for _, q := range f.takeQuestions() {
			q.answer(publishResult("r2", "cooked"))
		}
		if p := sub.wantMessage("cooked"); !p.Retain {
			t.Error("not marked as retained")
		}
		c := srv.connect(packet.V5, "c", withWill("w", "gone", 0))
		c.dropConnection()
		for _, q := range f.takeQuestions() {
			q.answer(publishResult("w2", "converted"))
		}
		sub.wantMessage("converted")
		srv.broker.Inject(&store.Message{Topic: "w", Payload: []byte("far")}, false, nil, nil)
		sub.wantMessage("far") // from other sites: no upstream chain
		if want := []string{"downstream sub r=kept", "upstream c w=gone"}; !slices.Equal(f.submitted, want) {
			t.Errorf("functions saw %v, want %v", f.submitted, want)
		}
	})
}

// A chain that did not run leaves the message unacknowledged for MQTT 3.1.1 and
// refused for MQTT 5; downstream the receiver goes without.
func TestFilterError(t *testing.T) {
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		f := newFakeFilter("upstream up", "downstream down")
		srv.broker.opts.Filter = f
		sub, pub := srv.connect(v, "sub"), srv.connect(v, "pub")
		sub.subscribe(subscribeTo("#", 1))
		pub.publish("up", "lost", 1, 1)
		for _, q := range f.takeQuestions() {
			q.answer(FilterResult{Err: store.ErrFull})
		}
		if v == packet.V5 {
			if ack, ok := pub.nextPacket().(*packet.Puback); !ok || ack.ReasonCode != packet.QuotaExceeded {
				t.Errorf("acknowledged with %v", ack)
			}
		} else if p := pub.nextPacket(); p != nil {
			t.Errorf("a message that went nowhere was answered with %v", p)
		}
		pub.publish("down", "lost", 0, 0)
		for _, q := range f.takeQuestions() {
			q.answer(FilterResult{Err: store.ErrFull})
		}
		if p := sub.nextPacket(); p != nil {
			t.Errorf("the receiver got %v", p)
		}
	})
}

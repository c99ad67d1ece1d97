package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestForwardFollowsInterest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("site/+/temp", "alarm/#")
		synctest.Wait()
		if paris.rerouted == 0 {
			t.Error("interest came, and the broker was not told to ask anew")
		}
		if !paris.links.Wants("site/paris/temp") || paris.links.Wants("site/paris/raw") || paris.links.Wants("$SYS/x") {
			t.Error("Wants does not answer for lyon's interest")
		}
		paris.publish(message("site/paris/temp", "21", 1))
		paris.publish(message("site/paris/raw", "x", 1))
		paris.publish(message("alarm/1", "fire", 2))
		paris.publish(message("alarm/1", "smoke", 0))
		synctest.Wait()
		got := lyon.received()
		if len(got) != 3 {
			t.Fatalf("lyon received %q", lyon.texts())
		}
		if st := paris.to("lyon"); !st.Up || st.Queued != 0 || st.Acked != 2 || st.Interest != 2 {
			t.Errorf("stats %+v", st)
		}
		lyon.unsubscribe("alarm/#")
		synctest.Wait()
		if paris.links.Wants("alarm/1") {
			t.Error("Wants after the interest is gone")
		}
	})
}

func TestMessageArrivesWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("#")
		synctest.Wait()
		m := message("a/b", "payload", 2)
		m.HLC = 1<<60 + 7
		m.Props.SetContentType("text/plain")
		m.Props.SetResponseTopic("r/t")
		m.Props.SetCorrelationData([]byte{1, 0})
		m.Props.SetPayloadFormatIndicator(1)
		m.Props.User = []packet.UserProperty{
			{Key: stampOrigin, Value: "rome.1.0.1"},
			{Key: stampPublisher, Value: "spiffe://lab.test/user/admin"},
			{Key: "x", Value: "1"},
			{Key: "x", Value: ""},
		}
		m.Expires = time.Now().Add(90 * time.Second).UnixNano()
		paris.publish(m)
		synctest.Wait()
		got := lyon.received()
		if len(got) != 1 {
			t.Fatalf("lyon received %q", lyon.texts())
		}
		want := *m
		want.Origin = store.Origin{Site: "paris", Epoch: paris.links.epoch, Seq: 1}
		if diff := cmp.Diff(&want, got[0]); diff != "" {
			t.Errorf("message changed on the way (-want +got):\n%s", diff)
		}
	})
}

func TestInterestFromBeforeRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris")
		s := &site{w: w, filters: map[string]bool{"old": true}}
		l := New(Options{Site: "x", Store: store.NewMemory(store.Limits{}), Dialer: dialer{s}, Peers: w.peers, Changed: w.change})
		l.Subscribed("new")
		l.Unsubscribed("old") // told while Filters still listed it
		l.addLocal([]string{"old", "other"})
		l.Subscribed("old2")
		got := l.filters(&receiver{})
		slices.Sort(got)
		if want := []string{"new", "old2", "other"}; !slices.Equal(got, want) {
			t.Errorf("filters %q, want %q", got, want)
		}
	})
}

func TestOneHop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon", "rome")
		for _, s := range []string{"paris", "lyon", "rome"} {
			w.site(s).subscribe("#")
		}
		synctest.Wait()
		w.site("paris").publish(message("a", "1", 1))
		w.site("lyon").publish(message("a", "2", 1))
		w.site("rome").publish(message("a", "3", 0))
		synctest.Wait()
		for _, s := range []string{"paris", "lyon", "rome"} {
			got := w.site(s).texts()
			if len(got) != 2 {
				t.Errorf("%s received %q, want one message of each other site", s, got)
			}
		}
		// Forward refuses a message that a link brought, even if the broker tried.
		for _, m := range w.site("paris").received() {
			w.site("paris").publish(m)
		}
		synctest.Wait()
		if n := len(w.site("lyon").received()); n != 2 {
			t.Errorf("lyon has %d messages after paris forwarded foreign ones", n)
		}
	})
}

func TestQueueWhileCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		w.sever()
		synctest.Wait()
		if st := paris.to("lyon"); st.Up || st.Reason == "" {
			t.Errorf("stats of a cut link %+v", st)
		}
		var want []string
		for i := range 100 {
			paris.publish(numbered("a", i))
			want = append(want, fmt.Sprint("a ", i))
		}
		paris.publish(message("a", "lost", 0))
		pass(10 * time.Second)
		if st := paris.to("lyon"); st.Queued != 100 || st.Dropped != 1 {
			t.Errorf("stats of a cut link %+v", st)
		}
		w.heal()
		lyon.expect(t, want...)
		if st := paris.to("lyon"); !st.Up || st.Queued != 0 {
			t.Errorf("stats of a healed link %+v", st)
		}
	})
}

// The interest of a site is in force again after a restart, before the link is up.
func TestInterestOutlivesRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a", "b/#", "gone")
		synctest.Wait()
		lyon.unsubscribe("gone")
		synctest.Wait()
		w.sever()
		paris = paris.restart()
		for name, want := range map[string]bool{"a": true, "b/c": true, "gone": false, "x": false} {
			if got := paris.links.Wants(name); got != want {
				t.Errorf("after the restart Wants(%q) is %t", name, got)
			}
		}
		paris.publish(message("a", "1", 1))
		paris.publish(message("x", "2", 1))
		synctest.Wait()
		if st := paris.to("lyon"); st.Queued != 1 {
			t.Errorf("stats of a cut link after a restart %+v", st)
		}
		w.heal()
		lyon.expect(t, "a 1")
	})
}

// For a site that was never heard every message is kept. When the site comes it gets
// the messages that it asks for, and the rest is neither dropped nor missing.
func TestUnknownInterest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.extra = []Peer{{ID: nodeOf("lyon"), Site: "lyon"}}
		refuses := atomic.Bool{}
		paris := w.add("paris", Options{
			Receives: func(_ string, m *store.Message) bool { return m.Topic != "secret" }, RefusesUnknown: refuses.Load,
		})
		for n, topic := range []string{"a", "b", "a", "secret", "b"} {
			paris.publish(numbered(topic, n))
		}
		paris.publish(message("a", "gone", 0))
		synctest.Wait()
		if st := paris.to("lyon"); st.Heard || st.Queued != 4 || st.Dropped != 0 || st.Withheld != 1 {
			t.Errorf("%+v", st)
		}
		if err := paris.links.Refuses(numbered("a", 0)); err != nil {
			t.Error(err)
		}
		refuses.Store(true)
		if err := paris.links.Refuses(numbered("a", 0)); err == nil || !strings.Contains(err.Error(), "lyon") {
			t.Errorf("got %v", err)
		}
		if err := paris.links.Refuses(numbered("secret", 0)); err != nil {
			t.Error(err)
		}
		lyon := w.add("lyon", Options{})
		lyon.subscribe("a", "secret")
		synctest.Wait()
		if err := paris.links.Refuses(numbered("a", 0)); err != nil {
			t.Error(err)
		}
		paris.publish(numbered("a", 5))
		paris.publish(numbered("b", 6))
		lyon.expect(t, "a 0", "a 2", "a 5")
		if st := paris.to("lyon"); !st.Heard || st.Queued != 0 || st.Dropped != 0 || st.Interest != 2 {
			t.Errorf("%+v", st)
		}
		if st := lyon.to("paris"); st.Missing != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// The right to a waiting message is judged again when it is sent.
func TestRightsThatEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		secret := atomic.Pointer[string]{}
		paris := w.add("paris", Options{Receives: func(site string, m *store.Message) bool {
			s := secret.Load()
			return site != "lyon" || s == nil || m.Topic != *s
		}})
		lyon := w.add("lyon", Options{})
		lyon.subscribe("#")
		synctest.Wait()
		paris.publish(retained("r", "kept", 1))
		synctest.Wait()
		w.sever()
		synctest.Wait()
		for n, topic := range []string{"a", "r", "a", "b"} {
			paris.publish(numbered(topic, n))
		}
		name := "r"
		secret.Store(&name)
		w.heal()
		lyon.expect(t, "r kept", "a 0", "a 2", "b 3")
		if st := paris.to("lyon"); st.Withheld != 2 || st.Dropped != 0 || st.Queued != 0 { // the copy of r too
			t.Errorf("%+v", st)
		}
		if st := lyon.to("paris"); st.Missing != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A path that swallows everything, without an error, is noticed by the silence,
// and the link is back soon after the path.
func TestSilentPath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		w.hole.Store(true) // open streams and new ones swallow
		start := time.Now()
		var want []string
		for i := range 20 {
			paris.publish(numbered("a", i))
			want = append(want, fmt.Sprint("a ", i))
			pass(500 * time.Millisecond)
			past := time.Since(start) - deadAfter
			if st := paris.to("lyon"); past != 0 && st.Up != (past < 0) {
				t.Fatalf("%v into the silence: %+v", time.Since(start), st)
			}
		}
		w.hole.Store(false) // for new streams; the old ones have lost bytes
		pass(handshakeTimeout + retryInterval)
		lyon.expect(t, want...)
	})
}

// A peer with a slow store is alive.
func TestStalledPeerStaysUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		lyon.mu.Lock()
		lyon.hold = true
		lyon.mu.Unlock()
		paris.publish(message("a", "1", 1))
		pass(time.Minute)
		if st := paris.to("lyon"); !st.Up || time.Since(st.Since) < time.Minute {
			t.Errorf("stats %+v", st)
		}
		lyon.letGo()
		lyon.expect(t, "a 1")
	})
}

// The link of a site is the lowest of its nodes that are connected. It moves to
// another and back without loss, and nothing that the other node took is missing.
func TestLinkMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris")
		paris := w.site("paris")
		a, b := w.addNode("lyon", "lyon-a", Options{}), w.addNode("lyon", "lyon-b", Options{})
		a.subscribe("a")
		b.subscribe("a")
		synctest.Wait()
		link := func(want *site) {
			t.Helper()
			synctest.Wait()
			if st := paris.to("lyon"); st.Peer != want.id || !st.Up {
				t.Errorf("want the link at %s: %+v", want.id, st)
			}
		}
		link(a)
		paris.publish(numbered("a", 1))
		synctest.Wait()
		w.part(a)
		link(b)
		paris.publish(numbered("a", 2))
		synctest.Wait()
		w.part(b)
		pass(time.Second)
		paris.publish(numbered("a", 3))
		paris = paris.restart()
		paris.publish(numbered("a", 4))
		w.rejoin(a)
		link(a)
		a.expect(t, "a 1", "a 3", "a 4")
		b.expect(t, "a 2")
		w.rejoin(b)
		link(a)
		for _, s := range []*site{a, b} {
			if st := s.to("paris"); st.Missing != 0 || st.Duplicates != 0 {
				t.Errorf("%s: %+v", s.id, st)
			}
		}
		if st := paris.to("lyon"); st.Dropped != 0 || st.Queued != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// Each node of a site sends its own clients' messages, numbered apart. The nodes
// of one site exchange nothing.
func TestTwoNodesSend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris")
		paris := w.site("paris")
		a, b := w.addNode("lyon", "lyon-a", Options{}), w.addNode("lyon", "lyon-b", Options{})
		for _, s := range []*site{paris, a, b} {
			s.subscribe("#")
		}
		synctest.Wait()
		for n := range 3 {
			a.publish(numbered("a", n))
			b.publish(numbered("b", n))
		}
		synctest.Wait()
		got := paris.texts()
		slices.Sort(got)
		if want := []string{"a 0", "a 1", "a 2", "b 0", "b 1", "b 2"}; !slices.Equal(got, want) {
			t.Errorf("paris received %q, want %q", got, want)
		}
		if st := paris.to("lyon"); st.Missing != 0 || st.Duplicates != 0 || !st.Receiving {
			t.Errorf("%+v", st)
		}
		a.expect(t)
		b.expect(t)
		for _, s := range []*site{a, b} {
			if st := s.to("paris"); !st.Up || st.Queued != 0 {
				t.Errorf("%s: %+v", s.id, st)
			}
		}
		w.mu.Lock()
		delete(w.sites, b.id) // its record is revoked
		w.mu.Unlock()
		w.heal()
		synctest.Wait()
		b.publish(numbered("b", 3))
		pass(time.Second)
		if n := len(paris.texts()); n != 6 {
			t.Errorf("paris has %d messages after the second node is none of the site any more", n)
		}
	})
}

func TestRestartOfReceiver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		paris.publish(message("a", "1", 1))
		lyon.expect(t, "a 1")
		lyon.cancel()
		<-lyon.gone
		w.mu.Lock()
		delete(w.sites, lyon.id)
		w.mu.Unlock()
		paris.publish(message("a", "2", 1)) // logged: the interest outlives the stream
		lyon = w.add("lyon", Options{})
		lyon.subscribe("a")
		lyon.expect(t, "a 2")
		if st := lyon.to("paris"); st.Missing != 0 || st.Duplicates != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestRestartOfSender(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		for i := range 3 {
			paris.publish(numbered("a", i))
		}
		lyon.expect(t, "a 0", "a 1", "a 2")
		paris.cancel()
		<-paris.gone
		paris = w.add("paris", Options{}) // its numbers begin at 1 again
		synctest.Wait()
		paris.publish(numbered("a", 3))
		lyon.expect(t, "a 0", "a 1", "a 2", "a 3")
		kept := paris.store
		epoch := paris.links.epoch
		paris.cancel()
		<-paris.gone
		paris = w.add("paris", Options{Store: kept}) // with a store that remembers
		synctest.Wait()
		if paris.links.epoch != epoch {
			t.Error("a store that kept its numbers got another epoch")
		}
		paris.publish(numbered("a", 4))
		lyon.expect(t, "a 0", "a 1", "a 2", "a 3", "a 4")
	})
}

// Every acknowledged message arrives once and in order, wherever the streams
// break.
func TestCutsAnywhere(t *testing.T) {
	const messages = 10_000
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				w := newWorld(t)
				cuts := rand.New(rand.NewPCG(seed, 2)) // under the world's lock
				w.budget = func() int { return 100 + cuts.IntN(1<<uint(6+cuts.IntN(12))) }
				paris := w.add("paris", Options{})
				lyon := w.add("lyon", Options{ReceiveMaximum: uint16(1 + rnd.IntN(3000))})
				lyon.subscribe("t/#")
				pass(time.Second)
				for i := 0; i < messages; {
					for range rnd.IntN(100) {
						paris.publish(numbered(fmt.Sprint("t/", i%7), i))
						i++
					}
					pass(time.Duration(rnd.IntN(600)) * time.Millisecond)
					switch rnd.IntN(8) {
					case 0:
						lyon.mu.Lock()
						lyon.hold = true
						lyon.mu.Unlock()
					case 1:
						lyon.letGo()
					case 2:
						w.sever()
						pass(time.Duration(rnd.IntN(3000)) * time.Millisecond)
						w.heal()
					}
				}
				lyon.letGo()
				w.mu.Lock()
				w.budget = nil
				w.mu.Unlock()
				for range 100 {
					if paris.to("lyon").Queued == 0 {
						break
					}
					pass(time.Second)
				}
				got := lyon.received()
				for i, m := range got {
					if string(m.Payload) != strconv.Itoa(i) {
						t.Fatalf("message %d is %s", i, m.Payload)
					}
				}
				st := paris.to("lyon")
				t.Logf("%d streams, %+v; %d duplicates", w.opened, st, lyon.to("paris").Duplicates)
				if len(got) < messages || st.Queued != 0 || st.Dropped != 0 {
					t.Errorf("%d of %d arrived, stats %+v", len(got), messages, st)
				}
			})
		})
	}
}

func TestLogOverflowIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "lyon")
		small := store.NewMemory(store.Limits{Outbound: store.QueueLimit{Messages: 10, Bytes: 1 << 20}})
		paris, lyon := w.add("paris", Options{Store: small}), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		paris.publish(numbered("a", 0))
		synctest.Wait()
		w.sever()
		for i := 1; i <= 25; i++ {
			paris.publish(numbered("a", i))
		}
		w.heal()
		var want []string
		for _, i := range []int{0, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25} {
			want = append(want, fmt.Sprint("a ", i))
		}
		lyon.expect(t, want...)
		if st := paris.to("lyon"); st.Dropped != 15 {
			t.Errorf("sender dropped %d, want 15", st.Dropped)
		}
		if st := lyon.to("paris"); st.Missing != 15 {
			t.Errorf("receiver misses %d, want 15", st.Missing)
		}
	})
}

func TestStoreThatFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		broken := true
		lyon.mu.Lock()
		lyon.fail = func(m *store.Message) error {
			switch {
			case string(m.Payload) == "1":
				return fmt.Errorf("retain: %w", store.ErrFull)
			case string(m.Payload) == "2" && broken:
				broken = false
				return fmt.Errorf("disk is gone")
			}
			return nil
		}
		lyon.mu.Unlock()
		w.sever()
		for i := range 4 {
			paris.publish(numbered("a", i))
		}
		w.heal()
		pass(2 * time.Second)
		synctest.Wait()
		got := lyon.texts()
		slices.Sort(got)
		if want := []string{"a 0", "a 2", "a 3"}; !slices.Equal(got, want) {
			t.Errorf("received %q, want %q: what the store failed to keep comes again", got, want)
		}
		if st := paris.to("lyon"); st.Queued != 0 {
			t.Errorf("stats %+v", st)
		}
		if st := lyon.to("paris"); st.Refused != 1 {
			t.Errorf("%d refused for the store's limit, want 1", st.Refused)
		}
	})
}

func TestSlowPeerIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		paris := w.add("paris", Options{QoS0: store.QueueLimit{Messages: 100, Bytes: 1 << 20}})
		lyon := w.add("lyon", Options{ReceiveMaximum: 50})
		lyon.subscribe("a")
		synctest.Wait()
		lyon.mu.Lock()
		lyon.hold = true
		lyon.mu.Unlock()
		for i := range 1000 {
			paris.publish(numbered("a", i))
		}
		synctest.Wait()
		lyon.mu.Lock()
		held := len(lyon.held)
		lyon.mu.Unlock()
		if held != 50 {
			t.Errorf("%d messages in flight, want the Receive Maximum of 50", held)
		}
		if st := paris.to("lyon"); st.Queued != 1000 || !st.Up {
			t.Errorf("stats %+v", st)
		}
		// Large QoS 0 messages fill the pending bytes; then the stream is not read, the
		// queue fills, and the oldest go.
		big := string(make([]byte, 1<<19))
		for range 200 {
			paris.publish(message("a", big, 0))
			synctest.Wait()
		}
		lyon.mu.Lock()
		held = len(lyon.held)
		lyon.mu.Unlock()
		if held > 50+2*maxPendingBytes>>19 {
			t.Errorf("%d messages of 512 KiB pending", held)
		}
		if st := paris.to("lyon"); st.Dropped == 0 {
			t.Errorf("nothing dropped: %+v", st)
		}
		lyon.letGo()
		pass(time.Minute)
		n := 0
		for _, m := range lyon.received() {
			if m.QoS == 1 {
				if string(m.Payload) != strconv.Itoa(n) {
					t.Fatalf("message %d is %s", n, m.Payload)
				}
				n++
			}
		}
		if n != 1000 {
			t.Errorf("%d of 1000 arrived", n)
		}
	})
}

// TestFullDiskLosesNothing publishes while the disk of the other site is full.
func TestFullDiskLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		full := func(err error) {
			lyon.mu.Lock()
			defer lyon.mu.Unlock()
			lyon.fail = func(*store.Message) error { return err }
		}
		full(fmt.Errorf("store: %w", store.ErrNoSpace))
		for i := range 3 {
			paris.publish(numbered("a", i))
		}
		pass(4*roomInterval - time.Second)
		st := paris.to("lyon")
		if st.Queued != 3 || st.Dropped != 0 || st.Sent > 3*6 || !strings.Contains(st.Reason, "no disk space") {
			t.Errorf("stats %+v", st)
		}
		full(nil)
		pass(2 * roomInterval)
		synctest.Wait()
		lyon.expect(t, "a 0", "a 1", "a 2")
	})
}

// TestFailedMessageSurvivesCrash restarts a site whose store failed to keep a
// message and kept the next, before the first came again.
func TestFailedMessageSurvivesCrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		paris.publish(numbered("a", 0))
		synctest.Wait()
		lyon.mu.Lock()
		lyon.fail = func(m *store.Message) error {
			if string(m.Payload) == "1" {
				return errors.New("disk is gone")
			}
			return nil
		}
		lyon.hold = true // until both are taken
		lyon.mu.Unlock()
		paris.publish(numbered("a", 1))
		paris.publish(numbered("a", 2))
		synctest.Wait()
		w.sever()
		lyon.letGo()
		lyon.cancel()
		<-lyon.gone
		again := w.add("lyon", Options{Store: lyon.store})
		again.subscribe("a")
		w.heal()
		pass(5 * time.Second)
		synctest.Wait()
		if got := again.texts(); !slices.Contains(got, "a 1") {
			t.Errorf("received %q, and %q before the crash: %q is lost", got, lyon.texts(), "a 1")
		}
	})
}

func TestTooManyFiltersMeanEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		synctest.Wait()
		w.sever()
		for i := range maxInterest + 1 {
			lyon.links.Subscribed(fmt.Sprint("f/", i))
		}
		w.heal()
		synctest.Wait()
		if !paris.links.Wants("any/thing") || paris.to("lyon").Interest != 1 {
			t.Errorf("stats %+v", paris.to("lyon"))
		}
		p := paris.links.peers["lyon"]
		p.mustPicture(t)
		for i := range maxInterest + 1 {
			p.mustSubscribe(t, fmt.Sprint("f/", i))
		}
		if !paris.links.Wants("any/thing") || paris.links.wanted.Len() != 1 {
			t.Errorf("%d filters kept", paris.links.wanted.Len())
		}
		p.mustUnsubscribe(t, "f/1", everything)
		if !paris.links.Wants("any/thing") {
			t.Error("everything was taken back")
		}
	})
}

// Filters count by their length too: a few that are as long as MQTT allows are
// as much as all the short ones.
func TestLongFiltersMeanEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris := w.site("paris")
		synctest.Wait()
		long := make([]string, maxInterestSize/60_000+1)
		for i := range long {
			long[i] = fmt.Sprint(i, strings.Repeat("x", 60_000))
		}
		p := paris.links.peers["lyon"]
		p.mustPicture(t, long...)
		if n := paris.links.wanted.Len(); n != 1 || !paris.links.Wants("any/thing") {
			t.Errorf("%d filters kept of one picture", n)
		}
		p.mustPicture(t)
		for _, f := range long {
			p.mustSubscribe(t, f)
			p.mustUnsubscribe(t, f)
		}
		if n := paris.links.wanted.Len(); n != 0 {
			t.Errorf("%d filters kept of those taken back", n)
		}
		p.mustSubscribe(t, long...)
		if n := paris.links.wanted.Len(); n != 1 || !paris.links.Wants("any/thing") {
			t.Errorf("%d filters kept", n)
		}
	})
}

func TestLargeMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		paris := w.add("paris", Options{})
		lyon := w.add("lyon", Options{PacketSize: 512 << 10})
		lyon.subscribe("a")
		synctest.Wait()
		fits, not := strings.Repeat("x", 512<<10), strings.Repeat("y", 1<<20)
		paris.publish(message("a", not, 1))
		paris.publish(message("a", not, 0))
		paris.publish(message("a", fits, 1))
		paris.publish(message("a", fits, 0))
		synctest.Wait()
		got := lyon.received()
		if len(got) != 2 || string(got[0].Payload) != fits || string(got[1].Payload) != fits {
			t.Errorf("%d messages received", len(got))
		}
		if st := paris.to("lyon"); st.Dropped != 2 || st.Queued != 0 || !st.Up {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestExpiredStaysBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		w.sever()
		for i := range 10 {
			m := numbered("a", i)
			if i%2 == 0 {
				m.Expires = time.Now().Add(time.Second).UnixNano()
			}
			paris.publish(m)
		}
		pass(3 * time.Second)
		w.heal()
		lyon.expect(t, "a 1", "a 3", "a 5", "a 7", "a 9")
		if st := paris.to("lyon"); st.Queued != 0 || st.Dropped != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// Changes of interest in every order leave the peer with the subscribed filters.
func TestInterestConverges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(5, 6))
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		synctest.Wait()
		for round := range 40 {
			for range rnd.IntN(50) {
				f := fmt.Sprint("f/", rnd.IntN(20))
				if rnd.IntN(2) == 0 {
					lyon.subscribe(f)
				} else {
					lyon.unsubscribe(f)
				}
			}
			switch round % 10 {
			case 3:
				w.sever()
			case 5:
				w.heal()
			}
			if round%10 >= 3 && round%10 < 5 {
				continue
			}
			synctest.Wait()
			want := lyon.Filters()
			for i := range 20 {
				f := fmt.Sprint("f/", i)
				if paris.links.Wants(f) != slices.Contains(want, f) {
					t.Fatalf("round %d: %s is wanted: %v", round, f, !slices.Contains(want, f))
				}
			}
			if n := paris.links.wanted.Len(); n != len(want) {
				t.Fatalf("round %d: %d filters known, want %d", round, n, len(want))
			}
		}
	})
}

func TestSitesThatComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		w.mu.Lock()
		delete(w.sites, lyon.id)
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		synctest.Wait()
		if st := paris.to("lyon"); st.Up || st.Receiving || !st.Peer.IsZero() || paris.links.Wants("a") {
			t.Errorf("stats of a site that is gone %+v", st)
		}
	})
}

// TestStays has a site keep some of its own messages to itself.
func TestStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "lyon")
		paris := w.add("paris", Options{Stays: func(m *store.Message) bool { return strings.HasPrefix(m.Topic, "here/") }})
		lyon := w.site("lyon")
		paris.publish(retained("here/kept", "1", 1))
		paris.publish(retained("there/kept", "1", 1))
		synctest.Wait()
		lyon.subscribe("#")
		lyon.expect(t, "there/kept 1")
		for qos := range byte(2) {
			paris.publish(message("here/x", "2", qos))
			paris.publish(message("there/x", fmt.Sprint(qos), qos))
		}
		lyon.expect(t, "there/kept 1", "there/x 0", "there/x 1")
	})
}

// A site that is removed leaves nothing behind, and one of its name begins anew.
func TestForget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "paris", "lyon")
		paris, lyon := w.site("paris"), w.site("lyon")
		lyon.subscribe("a")
		synctest.Wait()
		lyon.publish(numbered("x", 0))
		paris.subscribe("x")
		w.sever()
		synctest.Wait()
		paris.publish(numbered("a", 1))
		synctest.Wait()
		w.mu.Lock()
		delete(w.sites, lyon.id)
		w.mu.Unlock()
		w.heal()
		synctest.Wait()
		if st := paris.to("lyon"); st.Queued != 1 {
			t.Errorf("%+v", st)
		}
		if err := paris.links.Forget(t.Context(), "lyon"); err != nil {
			t.Fatal(err)
		}
		if err := paris.links.Forget(t.Context(), "never"); err != nil {
			t.Fatal(err)
		}
		if all := paris.links.Stats(); len(all) != 0 {
			t.Errorf("%+v", all)
		}
		if st := paris.store.OutboundStats("lyon"); st.Messages != 0 || len(paris.store.Values(interestScope("lyon"))) != 0 || paris.links.Wants("a") {
			t.Errorf("%+v is kept", st)
		}
		lyon.cancel()
		<-lyon.gone
		lyon = w.add("lyon", Options{})
		lyon.subscribe("a")
		synctest.Wait()
		paris.publish(numbered("a", 2))
		lyon.expect(t, "a 2")
		if st := lyon.to("paris"); st.Missing != 0 {
			t.Errorf("%+v", st)
		}
		paris.cancel()
		<-paris.gone
		if err := paris.links.Forget(t.Context(), "lyon"); !errors.Is(err, errEnded) {
			t.Errorf("got %v", err)
		}
	})
}

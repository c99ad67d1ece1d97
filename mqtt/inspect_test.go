package mqtt

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestRetainedInfo(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub")
		for topic, payload := range map[string]string{"a/1": "x", "a/2": "four", "b": "y"} {
			p := message(topic, payload, 0, 0)
			p.Retain = true
			if topic == "a/2" {
				p.Properties.SetMessageExpiryInterval(60)
			}
			pub.send(p)
		}
		start := time.Now()
		wait(10 * time.Second)
		got := slices.Collect(w.b.Retained("a/#"))
		if len(got) != 2 || got[0].Topic != "a/1" || got[0].Size != 1 || !got[0].Expires.IsZero() || got[0].Publisher != testID("pubx").String() {
			t.Fatalf("got %+v", got)
		}
		if age := got[1].Published.Sub(start); got[1].Size != 4 || age < -time.Second || age > time.Second || got[1].Expires.Sub(start).Round(time.Second) != time.Minute {
			t.Errorf("got %+v at %v", got[1], start)
		}

		watch := w.connect(packet.V5, "watch")
		watch.subscribe(filter("a/#", 0))
		kept := []string{string(want[*packet.Publish](watch).Payload), string(want[*packet.Publish](watch).Payload)}
		if slices.Sort(kept); !slices.Equal(kept, []string{"four", "x"}) {
			t.Fatalf("got %q", kept)
		}
		if n, err := w.b.ClearRetained(t.Context(), "a/#", testID("operator")); n != 2 || err != nil {
			t.Fatalf("cleared %d, %v", n, err)
		}
		watch.wantMessage("")
		watch.wantMessage("")
		if left := slices.Collect(w.b.Retained("#")); len(left) != 1 || left[0].Topic != "b" {
			t.Errorf("left %+v", left)
		}
	})
}

// TestClearRetainedOf clears what one identity left, also by way of another site,
// and nothing else.
func TestClearRetainedOf(t *testing.T) {
	far := &farSite{wants: "a/#"}
	bubble(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, w *world) {
		lost, other := w.connect(packet.V5, "lost"), w.connect(packet.V5, "other")
		for _, m := range []struct {
			from  *client
			topic string
		}{{lost, "a/1"}, {lost, "a/2"}, {lost, "b"}, {lost, "over"}, {other, "a/3"}, {other, "over"}} {
			p := message(m.topic, "x", 1, 1)
			p.Retain = true
			m.from.send(p)
			want[*packet.Puback](m.from)
		}
		w.b.Inject(&store.Message{Topic: "c", Retain: true, Payload: []byte("x"), Publisher: testID("lostx").String()}, true, nil, nil)
		watch := w.connect(packet.V5, "watch")
		watch.subscribe(filter("b", 0))
		watch.wantMessage("x")
		if n, err := w.b.ClearRetainedOf(t.Context(), testID("lostx"), testID("operator")); n != 4 || err != nil {
			t.Fatalf("cleared %d, %v", n, err)
		}
		watch.wantMessage("")
		var left []string
		for m := range w.b.Retained("#") {
			left = append(left, m.Topic)
		}
		if want := []string{"a/3", "over"}; !slices.Equal(left, want) {
			t.Errorf("left %v, want %v", left, want)
		}
		told := w.b.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10))
		cleared := 0 // all of them, for the site may hold a copy of what it does not want now
		for _, o := range told {
			if o.Message.Retain && len(o.Message.Payload) == 0 {
				cleared++
			}
		}
		if len(told) != 7 || cleared != 4 {
			t.Errorf("the other site got %d messages, %d of them empty; want 7 and 4", len(told), cleared)
		}
		if n, err := w.b.ClearRetainedOf(t.Context(), testID("lostx"), testID("operator")); n != 0 || err != nil {
			t.Errorf("cleared %d again, %v", n, err)
		}
	})
}

func TestReceivers(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.rules.set(func(r *rules) { r.receive = []string{"deniedx=a/secret"} })
		for _, s := range []struct {
			who     string
			persist bool
			subs    []packet.Subscription
		}{
			{"plain", false, []packet.Subscription{filter("a/#", 1), filter("a/+", 0), filter("b", 0)}},
			{"denied", false, []packet.Subscription{filter("a/#", 1)}},
			{"away", true, []packet.Subscription{filter("a/secret", 1), filter("#", 0)}},
			{"member1", false, []packet.Subscription{filter("$share/g/a/+", 1)}},
			{"member2", false, []packet.Subscription{filter("$share/g/a/+", 1)}},
		} {
			var change []func(*packet.Connect)
			if s.persist {
				change = append(change, expiry(100))
			}
			c := w.connect(packet.V5, s.who, change...)
			c.subscribe(s.subs...)
			if s.persist {
				c.bye()
			}
		}
		wait(time.Second)
		type line struct {
			Client, Filter string
			Gets           bool
			Why            string
		}
		var got []line
		for _, r := range w.b.Receivers("a/secret") {
			got = append(got, line{r.ClientID, r.Filter, r.Gets, r.Why})
		}
		want := []line{
			{"away", "#", false, "away, and nothing keeps QoS 0"},
			{"away", "a/secret", true, "away: QoS 1 and 2 wait for it"},
			{"denied", "a/#", false, "not granted: a/secret"},
			{"member1", "$share/g/a/+", true, "one member of the group gets each message"},
			{"member2", "$share/g/a/+", true, "one member of the group gets each message"},
			{"plain", "a/#", true, ""},
			{"plain", "a/+", true, ""},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if n := w.counters().DeniedReceive; n != 0 {
			t.Errorf("the question counted as %d denials", n)
		}
		filters := w.b.Subscribed("a/#")
		if diff := cmp.Diff([]FilterInfo{{"#", 1}, {"a/#", 2}, {"a/+", 3}, {"a/secret", 1}}, filters); diff != "" {
			t.Error(diff)
		}
	})
}

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
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		for topic, payload := range map[string]string{"a/1": "x", "a/2": "four", "b": "y"} {
			p := publishPacket(topic, payload, 0, 0)
			p.Retain = true
			if topic == "a/2" {
				p.Properties.SetMessageExpiryInterval(60)
			}
			pub.send(p)
		}
		start := time.Now()
		advanceTime(10 * time.Second)
		got := slices.Collect(srv.broker.Retained("a/#"))
		if len(got) != 2 || got[0].Topic != "a/1" || got[0].Size != 1 || !got[0].Expires.IsZero() || got[0].Publisher != testID("pubx").String() {
			t.Fatalf("got %+v", got)
		}
		if age := got[1].Published.Sub(start); got[1].Size != 4 || age < -time.Second || age > time.Second || got[1].Expires.Sub(start).Round(time.Second) != time.Minute {
			t.Errorf("got %+v at %v", got[1], start)
		}

		watch := srv.connect(packet.V5, "watch")
		watch.subscribe(subscribeTo("a/#", 0))
		kept := []string{string(wantPacket[*packet.Publish](watch).Payload), string(wantPacket[*packet.Publish](watch).Payload)}
		if slices.Sort(kept); !slices.Equal(kept, []string{"four", "x"}) {
			t.Fatalf("got %q", kept)
		}
		if n, err := srv.broker.ClearRetained(t.Context(), "a/#", testID("operator")); n != 2 || err != nil {
			t.Fatalf("cleared %d, %v", n, err)
		}
		watch.wantMessage("")
		watch.wantMessage("")
		if left := slices.Collect(srv.broker.Retained("#")); len(left) != 1 || left[0].Topic != "b" {
			t.Errorf("left %+v", left)
		}
	})
}

// TestClearRetainedOf clears what one identity left, also by way of another site,
// and nothing else.
func TestClearRetainedOf(t *testing.T) {
	far := &peerSite{wants: "a/#"}
	runWithServer(t, func(o *Options) { o.Forwarder = far }, func(t *testing.T, srv *testServer) {
		lost, other := srv.connect(packet.V5, "lost"), srv.connect(packet.V5, "other")
		for _, m := range []struct {
			from  *client
			topic string
		}{{lost, "a/1"}, {lost, "a/2"}, {lost, "b"}, {lost, "over"}, {other, "a/3"}, {other, "over"}} {
			p := publishPacket(m.topic, "x", 1, 1)
			p.Retain = true
			m.from.send(p)
			wantPacket[*packet.Puback](m.from)
		}
		srv.broker.Inject(&store.Message{Topic: "c", Retain: true, Payload: []byte("x"), Publisher: testID("lostx").String()}, true, nil, nil)
		watch := srv.connect(packet.V5, "watch")
		watch.subscribe(subscribeTo("b", 0))
		watch.wantMessage("x")
		if n, err := srv.broker.ClearRetainedOf(t.Context(), testID("lostx"), testID("operator")); n != 4 || err != nil {
			t.Fatalf("cleared %d, %v", n, err)
		}
		watch.wantMessage("")
		var left []string
		for m := range srv.broker.Retained("#") {
			left = append(left, m.Topic)
		}
		if want := []string{"a/3", "over"}; !slices.Equal(left, want) {
			t.Errorf("left %v, want %v", left, want)
		}
		told := srv.broker.opts.Store.Outbound("far", 0, make([]store.Outbound, 0, 10))
		cleared := 0 // all of them, for the site may hold a copy of what it does not want now
		for _, o := range told {
			if o.Message.Retain && len(o.Message.Payload) == 0 {
				cleared++
			}
		}
		if len(told) != 7 || cleared != 4 {
			t.Errorf("the other site got %d messages, %d of them empty; want 7 and 4", len(told), cleared)
		}
		if n, err := srv.broker.ClearRetainedOf(t.Context(), testID("lostx"), testID("operator")); n != 0 || err != nil {
			t.Errorf("cleared %d again, %v", n, err)
		}
	})
}

func TestReceivers(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		srv.denied.change(func(d *denyList) { d.receive = []string{"deniedx=a/secret"} })
		for _, s := range []struct {
			who     string
			persist bool
			subs    []packet.Subscription
		}{
			{"plain", false, []packet.Subscription{subscribeTo("a/#", 1), subscribeTo("a/+", 0), subscribeTo("b", 0)}},
			{"denied", false, []packet.Subscription{subscribeTo("a/#", 1)}},
			{"away", true, []packet.Subscription{subscribeTo("a/secret", 1), subscribeTo("#", 0)}},
			{"member1", false, []packet.Subscription{subscribeTo("$share/g/a/+", 1)}},
			{"member2", false, []packet.Subscription{subscribeTo("$share/g/a/+", 1)}},
		} {
			var change []func(*packet.Connect)
			if s.persist {
				change = append(change, sessionExpiry(100))
			}
			c := srv.connect(packet.V5, s.who, change...)
			c.subscribe(s.subs...)
			if s.persist {
				c.disconnect()
			}
		}
		advanceTime(time.Second)
		type line struct {
			Client, Filter string
			Gets           bool
			Why            string
		}
		var got []line
		for _, r := range srv.broker.Receivers("a/secret") {
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
		if n := srv.counters().DeniedReceive; n != 0 {
			t.Errorf("the question counted as %d denials", n)
		}
		filters := srv.broker.Subscribed("a/#")
		if diff := cmp.Diff([]FilterInfo{{"#", 1}, {"a/#", 2}, {"a/+", 3}, {"a/secret", 1}}, filters); diff != "" {
			t.Error(diff)
		}
	})
}

package mqtt

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

func TestDeniedPublish(t *testing.T) {
	each(t, func(t *testing.T, w *world, v packet.Version) {
		w.rules.set(func(r *rules) { r.publish = []string{"no"} })
		sub, pub := w.connect(packet.V5, "sub"), w.connect(v, "pub")
		sub.subscribe(filter("#", 1))
		for qos := range byte(3) {
			for _, topic := range []string{"no", "$SYS/x", "$hpmq/me/denied", "$share/g/a"} {
				code := pub.exchange(topic, "x", qos)
				if wantCode := packet.NotAuthorized; v == packet.V5 && qos > 0 && code != wantCode || v == packet.V311 && code != 0 {
					t.Errorf("%s at QoS %d: %s", topic, qos, code)
				}
			}
		}
		pub.exchange("yes", "y", 1)
		sub.wantMessage("y")
		sub.silence()
		if got := w.counters().DeniedPublish; got != 12 {
			t.Errorf("counted %d, want 12", got)
		}
		pub.publish("no", "x", 1, 5)
		reason := want[*packet.Puback](pub).Properties.ReasonString
		if v == packet.V5 && !strings.Contains(reason, "main.hcl:7") {
			t.Errorf("reason %q names no rule", reason)
		}
		if v == packet.V5 { // [MQTT-3.1.2-29]
			quiet := w.connect(v, "quiet", func(p *packet.Connect) { p.Properties.SetRequestProblemInformation(0) })
			quiet.publish("no", "x", 1, 5)
			if got := want[*packet.Puback](quiet); got.Properties.ReasonString != "" {
				t.Errorf("explained to one who did not ask: %q", got.Properties.ReasonString)
			}
		}
	})
}

func TestDeniedSubscribe(t *testing.T) {
	each(t, func(t *testing.T, w *world, v packet.Version) {
		w.rules.set(func(r *rules) { r.subscribe = []string{"no/#"} })
		c := w.connect(v, "c")
		got := c.subscribe(filter("no/#", 1), filter("yes", 1), filter("$share/g/no/#", 1), filter("$hpmq/#", 1), filter("a/#/b", 1))
		wantCodes := []packet.ReasonCode{packet.NotAuthorized, 1, packet.NotAuthorized, packet.NotAuthorized, packet.TopicFilterInvalid}
		if v == packet.V311 {
			wantCodes = []packet.ReasonCode{0x80, 1, 0x80, 0x80, 0x80}
		}
		if !slices.Equal(got, wantCodes) {
			t.Errorf("got %v, want %v", got, wantCodes)
		}
		if got := w.counters().DeniedSubscribe; got != 3 {
			t.Errorf("counted %d", got)
		}
	})
}

func TestDeniedNotices(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.rules.set(func(r *rules) { r.publish = []string{"no"} })
		mine, other := w.connect(packet.V5, "mine"), w.dial(packet.V5, "other")
		watch := w.dial(packet.V5, "minex") // another client of the same identity
		for _, c := range []*client{other, watch} {
			c.send(connectPacket("watch"))
			want[*packet.Connack](c)
			if got := c.subscribe(filter("$hpmq/me/denied", 1)); got[0] != 1 {
				t.Fatalf("got %v", got)
			}
		}
		wait(time.Second)
		for range 25 {
			mine.publish("no", "x", 0, 0)
		}
		for range noticesPerSecond {
			p := want[*packet.Publish](watch)
			var n struct{ Action, Topic, Rule, Reason string }
			if err := json.Unmarshal(p.Payload, &n); err != nil || n.Action != "publish" || n.Topic != "no" || n.Rule == "" {
				t.Fatalf("notice %s: %v", p.Payload, err)
			}
		}
		watch.silence()
		other.silence()
		wait(time.Second)
		mine.publish("no", "x", 0, 0)
		want[*packet.Publish](watch)
		if got := w.b.Filters(); len(got) != 0 {
			t.Errorf("the view left the node: %v", got)
		}
	})
}

func TestFilteredSubscription(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.rules.set(func(r *rules) { r.receive = []string{"subx=a/secret"} })
		sub, other, pub := w.connect(packet.V5, "sub"), w.connect(packet.V5, "other"), w.connect(packet.V5, "pub")
		p := message("a/secret", "old", 0, 0)
		p.Retain = true
		pub.send(p)
		for _, c := range []*client{sub, other} {
			c.subscribe(filter("a/#", 1), filter("$share/"+fmt.Sprint(c == sub)+"/a/+", 1))
		}
		other.wantMessage("old")
		pub.exchange("a/secret", "x", 1)
		pub.exchange("a/open", "y", 1)
		for range 2 { // the plain and the shared one
			sub.finish(sub.wantMessage("y"))
		}
		sub.silence()
		for _, payload := range []string{"x", "x", "y", "y"} {
			other.finish(other.wantMessage(payload))
		}
	})
}

func TestReauthorize(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		a, b := w.connect(packet.V5, "a", expiry(100)), w.connect(packet.V5, "b")
		a.subscribe(filter("x/#", 1), filter("y", 1))
		b.subscribe(filter("y", 1))
		pub := w.connect(packet.V5, "pub")
		if code := pub.exchange("y", "1", 1); code != 0 {
			t.Fatalf("got %s", code)
		}
		for _, c := range []*client{a, b} {
			c.finish(c.wantMessage("1"))
		}
		w.rules.set(func(r *rules) { r.subscribe = []string{"x/#"}; r.publish = []string{"y"}; r.nobody = []string{"bx"} })
		w.b.Reauthorize()
		for _, c := range []*client{a, b} {
			if got := want[*packet.Disconnect](c); got.ReasonCode != packet.NotAuthorized || got.Properties.ReasonString == "" || !c.ended() {
				t.Errorf("got %s", show(got))
			}
		}
		if code := pub.exchange("y", "2", 1); code != packet.NotAuthorized {
			t.Errorf("a remembered verdict outlived its policy: %s", code)
		}
		pub.exchange("x/1", "3", 1)
		w.rules.set(func(r *rules) { r.publish = nil })
		w.b.Reauthorize()
		pub.exchange("y", "4", 1)
		a = w.connect(packet.V5, "a", resume, expiry(100))
		a.finish(a.wantMessage("4"))
		a.silence()
	})
}

func TestReauthorizeForgetsVerdicts(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		pub := w.connect(packet.V5, "pub")
		for range 2 {
			if code := pub.exchange("y", "1", 1); code.Failed() {
				t.Fatalf("got %s", code)
			}
		}
		w.rules.set(func(r *rules) { r.publish = []string{"y"} })
		w.b.Reauthorize()
		if code := pub.exchange("y", "2", 1); code != packet.NotAuthorized {
			t.Errorf("got %s", code)
		}
	})
}

func TestDisconnectIdentity(t *testing.T) {
	for _, drop := range []bool{false, true} {
		bubble(t, nil, func(t *testing.T, w *world) {
			watcher := w.connect(packet.V5, "watcher")
			watcher.subscribe(filter("w", 1))
			c := w.connect(packet.V5, "c", expiry(100), withWill("w", "gone", 0))
			r := Removal{Code: packet.AdministrativeAction, Reason: "revoked", EndSessions: true, DropWills: drop}
			start := time.Now()
			if got := w.b.Disconnect(testID("cx"), r); got != (Removed{1, 1}) {
				t.Errorf("ended %+v", got)
			}
			if got := want[*packet.Disconnect](c); got.ReasonCode != packet.AdministrativeAction || got.Properties.ReasonString != "revoked" || !c.ended() {
				t.Errorf("got %s", show(got))
			}
			if time.Since(start) != 0 {
				t.Errorf("took %v", time.Since(start))
			}
			if !drop {
				watcher.finish(watcher.wantMessage("gone"))
			}
			watcher.silence()
			if got := w.counters().Store.Sessions; got != 0 {
				t.Errorf("%d sessions are still in the store", got)
			}
			if _, ack := w.connectAck(packet.V5, "c", resume); ack.SessionPresent {
				t.Error("the session is still there")
			}
		})
	}
}

// TestCredentialGivenUp: a credential is judged by its generation, where the name
// may connect with the next one.
func TestCredentialGivenUp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		early, renewed := w.dial(packet.V5, "cx!1"), w.dial(packet.V5, "cx!2")
		first := w.connect(packet.V5, "d", expiry(100))
		first.close()
		again := w.dial(packet.V5, "dx!2")
		again.send(connectPacket("d", resume))
		if ack := want[*packet.Connack](again); !ack.SessionPresent {
			t.Fatalf("got %s", show(ack))
		}

		w.rules.set(func(r *rules) { r.givenUp = 1 })
		w.b.Disconnect(testID("cx"), Removal{Code: packet.NotAuthorized, EndSessions: true})
		early.send(connectPacket("c"))
		if ack := want[*packet.Connack](early); ack.ReasonCode != packet.NotAuthorized {
			t.Errorf("given up before CONNECT: %s", show(ack))
		}
		renewed.send(connectPacket("c"))
		if ack := want[*packet.Connack](renewed); ack.ReasonCode != packet.Success {
			t.Errorf("the next one: %s", show(ack))
		}

		w.rules.set(func(r *rules) { r.givenUp = 2 })
		w.b.Reauthorize()
		if got := want[*packet.Disconnect](again); got.ReasonCode != packet.NotAuthorized {
			t.Errorf("a session that another credential began: %s", show(got))
		}
	})
}

func TestStatusTopics(t *testing.T) {
	bubble(t, func(o *Options) { o.Version = "hpmq test" }, func(t *testing.T, w *world) {
		c := w.connect(packet.V5, "c")
		c.subscribe(filter("$SYS/broker/version", 0), filter("#", 0))
		if p := c.wantMessage("hpmq test"); !p.Retain {
			t.Error("not as retained")
		}
		c.silence()
		wait(statusInterval)
		c.wantMessage("hpmq test")
		c.silence() // [MQTT-4.7.2-1]
	})
}

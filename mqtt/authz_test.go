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
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		srv.denied.change(func(d *denyList) { d.publish = []string{"no"} })
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(v, "pub")
		sub.subscribe(subscribeTo("#", 1))
		for qos := range byte(3) {
			for _, topic := range []string{"no", "$SYS/x", "$hpmq/me/denied", "$share/g/a"} {
				code := pub.publishAndWait(topic, "x", qos)
				if wantCode := packet.NotAuthorized; v == packet.V5 && qos > 0 && code != wantCode || v == packet.V311 && code != 0 {
					t.Errorf("%s at QoS %d: %s", topic, qos, code)
				}
			}
		}
		pub.publishAndWait("yes", "y", 1)
		sub.wantMessage("y")
		sub.wantNothing()
		if got := srv.counters().DeniedPublish; got != 12 {
			t.Errorf("counted %d, want 12", got)
		}
		pub.publish("no", "x", 1, 5)
		reason := wantPacket[*packet.Puback](pub).Properties.ReasonString
		if v == packet.V5 && !strings.Contains(reason, "main.hcl:7") {
			t.Errorf("reason %q names no rule", reason)
		}
		if v == packet.V5 { // [MQTT-3.1.2-29]
			quiet := srv.connect(v, "quiet", func(p *packet.Connect) { p.Properties.SetRequestProblemInformation(0) })
			quiet.publish("no", "x", 1, 5)
			if got := wantPacket[*packet.Puback](quiet); got.Properties.ReasonString != "" {
				t.Errorf("explained to one who did not ask: %q", got.Properties.ReasonString)
			}
		}
	})
}

func TestDeniedSubscribe(t *testing.T) {
	runInBothVersions(t, func(t *testing.T, srv *testServer, v packet.Version) {
		srv.denied.change(func(d *denyList) { d.subscribe = []string{"no/#"} })
		c := srv.connect(v, "c")
		got := c.subscribe(
			subscribeTo("no/#", 1), subscribeTo("yes", 1), subscribeTo("$share/g/no/#", 1),
			subscribeTo("$hpmq/#", 1), subscribeTo("a/#/b", 1),
		)
		wantCodes := []packet.ReasonCode{packet.NotAuthorized, 1, packet.NotAuthorized, packet.NotAuthorized, packet.TopicFilterInvalid}
		if v == packet.V311 {
			wantCodes = []packet.ReasonCode{0x80, 1, 0x80, 0x80, 0x80}
		}
		if !slices.Equal(got, wantCodes) {
			t.Errorf("got %v, want %v", got, wantCodes)
		}
		if got := srv.counters().DeniedSubscribe; got != 3 {
			t.Errorf("counted %d", got)
		}
	})
}

func TestDeniedNotices(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		srv.denied.change(func(d *denyList) { d.publish = []string{"no"} })
		mine, other := srv.connect(packet.V5, "mine"), srv.dial(packet.V5, "other")
		watch := srv.dial(packet.V5, "minex") // another client of the same identity
		for _, c := range []*client{other, watch} {
			c.send(connectPacket("watch"))
			wantPacket[*packet.Connack](c)
			if got := c.subscribe(subscribeTo("$hpmq/me/denied", 1)); got[0] != 1 {
				t.Fatalf("got %v", got)
			}
		}
		advanceTime(time.Second)
		for range 25 {
			mine.publish("no", "x", 0, 0)
		}
		for range noticesPerSecond {
			p := wantPacket[*packet.Publish](watch)
			var n struct{ Action, Topic, Rule, Reason string }
			if err := json.Unmarshal(p.Payload, &n); err != nil || n.Action != "publish" || n.Topic != "no" || n.Rule == "" {
				t.Fatalf("notice %s: %v", p.Payload, err)
			}
		}
		watch.wantNothing()
		other.wantNothing()
		advanceTime(time.Second)
		mine.publish("no", "x", 0, 0)
		wantPacket[*packet.Publish](watch)
		if got := srv.broker.Filters(); len(got) != 0 {
			t.Errorf("the view left the node: %v", got)
		}
	})
}

func TestFilteredSubscription(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		srv.denied.change(func(d *denyList) { d.receive = []string{"subx=a/secret"} })
		sub, other, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "other"), srv.connect(packet.V5, "pub")
		p := publishPacket("a/secret", "old", 0, 0)
		p.Retain = true
		pub.send(p)
		for _, c := range []*client{sub, other} {
			c.subscribe(subscribeTo("a/#", 1), subscribeTo("$share/"+fmt.Sprint(c == sub)+"/a/+", 1))
		}
		other.wantMessage("old")
		pub.publishAndWait("a/secret", "x", 1)
		pub.publishAndWait("a/open", "y", 1)
		for range 2 { // the plain and the shared one
			sub.acknowledge(sub.wantMessage("y"))
		}
		sub.wantNothing()
		for _, payload := range []string{"x", "x", "y", "y"} {
			other.acknowledge(other.wantMessage(payload))
		}
	})
}

func TestReauthorize(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		a, b := srv.connect(packet.V5, "a", sessionExpiry(100)), srv.connect(packet.V5, "b")
		a.subscribe(subscribeTo("x/#", 1), subscribeTo("y", 1))
		b.subscribe(subscribeTo("y", 1))
		pub := srv.connect(packet.V5, "pub")
		if code := pub.publishAndWait("y", "1", 1); code != 0 {
			t.Fatalf("got %s", code)
		}
		for _, c := range []*client{a, b} {
			c.acknowledge(c.wantMessage("1"))
		}
		srv.denied.change(func(d *denyList) {
			d.subscribe = []string{"x/#"}
			d.publish = []string{"y"}
			d.connect = []string{"bx"}
		})
		srv.broker.Reauthorize()
		for _, c := range []*client{a, b} {
			if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.NotAuthorized || got.Properties.ReasonString == "" || !c.closedByServer() {
				t.Errorf("got %s", describePacket(got))
			}
		}
		if code := pub.publishAndWait("y", "2", 1); code != packet.NotAuthorized {
			t.Errorf("a remembered verdict outlived its policy: %s", code)
		}
		pub.publishAndWait("x/1", "3", 1)
		srv.denied.change(func(d *denyList) { d.publish = nil })
		srv.broker.Reauthorize()
		pub.publishAndWait("y", "4", 1)
		a = srv.connect(packet.V5, "a", resumeSession, sessionExpiry(100))
		a.acknowledge(a.wantMessage("4"))
		a.wantNothing()
	})
}

func TestReauthorizeForgetsVerdicts(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		pub := srv.connect(packet.V5, "pub")
		for range 2 {
			if code := pub.publishAndWait("y", "1", 1); code.Failed() {
				t.Fatalf("got %s", code)
			}
		}
		srv.denied.change(func(d *denyList) { d.publish = []string{"y"} })
		srv.broker.Reauthorize()
		if code := pub.publishAndWait("y", "2", 1); code != packet.NotAuthorized {
			t.Errorf("got %s", code)
		}
	})
}

func TestDisconnectIdentity(t *testing.T) {
	for _, drop := range []bool{false, true} {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			watcher := srv.connect(packet.V5, "watcher")
			watcher.subscribe(subscribeTo("w", 1))
			c := srv.connect(packet.V5, "c", sessionExpiry(100), withWill("w", "gone", 0))
			r := Removal{Code: packet.AdministrativeAction, Reason: "revoked", EndSessions: true, DropWills: drop}
			start := time.Now()
			if got := srv.broker.Disconnect(testID("cx"), r); got != (Removed{1, 1}) {
				t.Errorf("ended %+v", got)
			}
			got := wantPacket[*packet.Disconnect](c)
			if got.ReasonCode != packet.AdministrativeAction || got.Properties.ReasonString != "revoked" || !c.closedByServer() {
				t.Errorf("got %s", describePacket(got))
			}
			if time.Since(start) != 0 {
				t.Errorf("took %v", time.Since(start))
			}
			if !drop {
				watcher.acknowledge(watcher.wantMessage("gone"))
			}
			watcher.wantNothing()
			if got := srv.counters().Store.Sessions; got != 0 {
				t.Errorf("%d sessions are still in the store", got)
			}
			if _, ack := srv.connectAck(packet.V5, "c", resumeSession); ack.SessionPresent {
				t.Error("the session is still there")
			}
		})
	}
}

// TestCredentialGivenUp: a credential is judged by its generation, where the name
// may connect with the next one.
func TestCredentialGivenUp(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		early, renewed := srv.dial(packet.V5, "cx!1"), srv.dial(packet.V5, "cx!2")
		first := srv.connect(packet.V5, "d", sessionExpiry(100))
		first.dropConnection()
		again := srv.dial(packet.V5, "dx!2")
		again.send(connectPacket("d", resumeSession))
		if ack := wantPacket[*packet.Connack](again); !ack.SessionPresent {
			t.Fatalf("got %s", describePacket(ack))
		}

		srv.denied.change(func(d *denyList) { d.revokedUpTo = 1 })
		srv.broker.Disconnect(testID("cx"), Removal{Code: packet.NotAuthorized, EndSessions: true})
		early.send(connectPacket("c"))
		if ack := wantPacket[*packet.Connack](early); ack.ReasonCode != packet.NotAuthorized {
			t.Errorf("given up before CONNECT: %s", describePacket(ack))
		}
		renewed.send(connectPacket("c"))
		if ack := wantPacket[*packet.Connack](renewed); ack.ReasonCode != packet.Success {
			t.Errorf("the next one: %s", describePacket(ack))
		}

		srv.denied.change(func(d *denyList) { d.revokedUpTo = 2 })
		srv.broker.Reauthorize()
		if got := wantPacket[*packet.Disconnect](again); got.ReasonCode != packet.NotAuthorized {
			t.Errorf("a session that another credential began: %s", describePacket(got))
		}
	})
}

func TestStatusTopics(t *testing.T) {
	runWithServer(t, func(o *Options) { o.Version = "hpmq test" }, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		c.subscribe(subscribeTo("$SYS/broker/version", 0), subscribeTo("#", 0))
		if p := c.wantMessage("hpmq test"); !p.Retain {
			t.Error("not as retained")
		}
		c.wantNothing()
		advanceTime(statusInterval)
		c.wantMessage("hpmq test")
		c.wantNothing() // [MQTT-4.7.2-1]
	})
}

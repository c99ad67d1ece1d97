package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// publishAndWait publishes one message, completes its handshake and returns the
// reason code of PUBACK or PUBREC.
func (c *client) publishAndWait(topic, payload string, qos byte) packet.ReasonCode {
	c.t.Helper()
	c.publish(topic, payload, qos, uint16(qos)*7)
	switch qos {
	case 1:
		return wantPacket[*packet.Puback](c).ReasonCode
	case 2:
		rec := wantPacket[*packet.Pubrec](c)
		if rec.ReasonCode.Failed() {
			return rec.ReasonCode
		}
		c.send(&packet.Pubrel{PacketID: 14})
		wantPacket[*packet.Pubcomp](c)
		return rec.ReasonCode
	}
	return 0
}

// acknowledge acknowledges a message that arrived and completes its handshake.
// Packets that come meanwhile stay unread.
func (c *client) acknowledge(p *packet.Publish) {
	c.t.Helper()
	switch p.QoS {
	case 1:
		c.send(&packet.Puback{PacketID: p.PacketID})
	case 2:
		c.send(&packet.Pubrec{PacketID: p.PacketID})
		var before []packet.Packet // messages that came meanwhile
		for got := c.nextPacket(); got != nil; got = c.nextPacket() {
			if rel, ok := got.(*packet.Pubrel); ok && rel.PacketID == p.PacketID {
				break
			}
			before = append(before, got)
		}
		c.unread = append(before, c.unread...)
		c.send(&packet.Pubcomp{PacketID: p.PacketID})
	}
}

func TestQoS(t *testing.T) { // [MQTT-3.8.4-8] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11]
	for _, session := range []uint32{0, 100} {
		for _, v := range versions {
			for qos := range byte(3) {
				for granted := range byte(3) {
					t.Run(fmt.Sprintf("%s/expiry=%d/qos=%d/granted=%d", v, session, qos, granted), func(t *testing.T) {
						runWithServer(t, nil, func(t *testing.T, srv *testServer) {
							change := sessionExpiry(session)
							if v == packet.V311 {
								change = func(p *packet.Connect) { p.CleanStart = session == 0 }
							}
							sub, pub := srv.connect(v, "sub", change), srv.connect(v, "pub", change)
							if got := sub.subscribe(subscribeTo("a/+", granted)); got[0] != packet.ReasonCode(granted) {
								t.Fatalf("granted %v", got)
							}
							for i := range 3 {
								payload := fmt.Sprint(i)
								if code := pub.publishAndWait("a/b", payload, qos); code != 0 {
									t.Errorf("acknowledged with %s", code)
								}
								p := sub.wantMessage(payload)
								if p.QoS != min(qos, granted) || p.Dup || p.Retain || string(p.TopicName) != "a/b" {
									t.Errorf("got %+v", p)
								}
								sub.acknowledge(p)
							}
							sub.wantNothing()
							if got := srv.counters().Store.Queued; got != 0 {
								t.Errorf("%d messages stay in queues", got)
							}
						})
					})
				}
			}
		}
	}
}

func TestNobodyListens(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		for qos := byte(1); qos < 3; qos++ {
			if code := c.publishAndWait("a", "x", qos); code != packet.NoMatchingSubscribers {
				t.Errorf("QoS %d: %s", qos, code)
			}
		}
	})
}

func TestQoS0TouchesNoStore(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
		away := srv.connect(packet.V5, "away", sessionExpiry(100))
		sub.subscribe(subscribeTo("#", 2))
		away.subscribe(subscribeTo("#", 0))
		before := srv.counters().Store.Commits
		for qos := range byte(3) {
			pub.publishAndWait("a", "x", qos)
			sub.acknowledge(sub.wantMessage("x"))
			away.wantMessage("x")
		}
		if got := srv.counters().Store.Commits; got != before {
			t.Errorf("%d commits for traffic that no disk must keep", got-before)
		}
	})
}

func TestQoS2Repeats(t *testing.T) { // [MQTT-4.3.3-10] [MQTT-4.3.3-12]
	for _, session := range []uint32{0, 100} {
		t.Run(fmt.Sprint("expiry=", session), func(t *testing.T) {
			runWithServer(t, nil, func(t *testing.T, srv *testServer) {
				sub := srv.connect(packet.V5, "sub")
				sub.subscribe(subscribeTo("a", 0))
				pub := srv.connect(packet.V5, "pub", sessionExpiry(session))
				pub.publish("a", "1", 2, 5)
				wantPacket[*packet.Pubrec](pub)
				repeat := publishPacket("a", "1", 2, 5)
				repeat.Dup = true
				pub.send(repeat)
				wantPacket[*packet.Pubrec](pub)
				if session > 0 { // the state outlives the connection
					pub.dropConnection()
					pub = srv.connect(packet.V5, "pub", resumeSession, sessionExpiry(session))
					pub.send(repeat)
					wantPacket[*packet.Pubrec](pub)
				}
				pub.send(&packet.Pubrel{PacketID: 5})
				wantPacket[*packet.Pubcomp](pub)
				sub.wantMessage("1")
				sub.wantNothing()
				pub.publish("a", "2", 2, 5)
				wantPacket[*packet.Pubrec](pub)
				sub.wantMessage("2")
				pub.send(&packet.Pubrel{PacketID: 6})
				if got := wantPacket[*packet.Pubcomp](pub); got.ReasonCode != packet.PacketIdentifierNotFound {
					t.Errorf("PUBCOMP of an unknown exchange: %s", got.ReasonCode)
				}
			})
		})
	}
}

func TestReceiveMaximumOfClient(t *testing.T) { // [MQTT-3.3.4-9] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
	for _, session := range []uint32{0, 100} {
		for qos := byte(1); qos < 3; qos++ {
			t.Run(fmt.Sprintf("expiry=%d/qos=%d", session, qos), func(t *testing.T) {
				runWithServer(t, nil, func(t *testing.T, srv *testServer) {
					sub, pub := srv.connect(packet.V5, "sub", receiveMaximum(3), sessionExpiry(session)), srv.connect(packet.V5, "pub")
					sub.subscribe(subscribeTo("a", 2), subscribeTo("zero", 0))
					for i := range 10 {
						pub.publishAndWait("a", fmt.Sprint(i), qos)
					}
					var open []*packet.Publish
					for i := range 3 {
						open = append(open, sub.wantMessage(fmt.Sprint(i)))
					}
					sub.wantNothing()
					pub.publish("zero", "z", 0, 0)
					sub.wantMessage("z")
					for i := 3; i < 10; i++ {
						sub.acknowledge(open[0])
						open = append(open[1:], sub.wantMessage(fmt.Sprint(i)))
						sub.wantNothing()
					}
				})
			})
		}
	}
}

// TestReceiveMaximumIsOfTheConnection: what earlier ones left unfinished does not
// count (MQTT 5.0 §3.1.2.11.3).
func TestReceiveMaximumIsOfTheConnection(t *testing.T) {
	runWithServer(t, func(o *Options) { o.ReceiveMaximum = 2 }, func(t *testing.T, srv *testServer) {
		var pub *client
		for id := uint16(1); id <= 4; id += 2 {
			pub = srv.connect(packet.V5, "pub", resumeSession, sessionExpiry(100))
			for i := range uint16(2) {
				pub.publish("a", "x", 2, id+i)
				wantPacket[*packet.Pubrec](pub)
			}
			if id == 1 {
				pub.dropConnection()
			}
		}
		pub.send(publishPacket("a", "x", 2, 5))
		if p := wantPacket[*packet.Disconnect](pub); p.ReasonCode != packet.ReceiveMaximumExceeded {
			t.Errorf("got %s", describePacket(p))
		}
	})
}

func TestReceiveMaximumOfServer(t *testing.T) { // [MQTT-3.3.4-7]
	runWithServer(t, func(o *Options) { o.ReceiveMaximum = 3 }, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		for id := range uint16(3) {
			c.publish("a", "x", 2, id+1)
			wantPacket[*packet.Pubrec](c)
		}
		c.publish("a", "x", 2, 9)
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.ReceiveMaximumExceeded {
			t.Errorf("got %s", describePacket(got))
		}
		old := srv.connect(packet.V311, "old")
		for id := range uint16(50) {
			old.publish("a", "x", 2, id+1)
			wantPacket[*packet.Pubrec](old)
		}
	})
}

func TestTopicAlias(t *testing.T) { // [MQTT-3.3.2-7] [MQTT-3.3.2-12]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub"), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("a/#", 1))
		send := func(topic, payload string, alias uint16) *packet.Publish {
			p := publishPacket(topic, payload, 0, 0)
			p.Properties.SetTopicAlias(alias)
			pub.send(p)
			got := sub.wantMessage(payload)
			if got.Properties.Has(packet.PropTopicAlias) {
				t.Error("the publisher's alias leaked")
			}
			return got
		}
		send("a/1", "first", 1)
		send("a/2", "second", 32)
		for alias, topic := range map[uint16]string{1: "a/1", 32: "a/2"} {
			if got := send("", "again", alias); string(got.TopicName) != topic {
				t.Errorf("alias %d went to %s", alias, got.TopicName)
			}
		}
		send("a/3", "redefined", 1)
		if got := send("", "again", 1); string(got.TopicName) != "a/3" {
			t.Errorf("redefined alias went to %s", got.TopicName)
		}
	})
}

func TestPropertiesAreForwarded(t *testing.T) { // [MQTT-3.3.2-4] [MQTT-3.3.2-15] to [MQTT-3.3.2-20]
	for _, session := range []uint32{0, 100} {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			sub, old, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V311, "old"), srv.connect(packet.V5, "pub")
			sub.subscribe(subscribeTo("a", 1))
			old.subscribe(subscribeTo("a", 1))
			p := publishPacket("a", "x", 1, 3)
			p.Properties.SetPayloadFormatIndicator(1)
			p.Properties.SetContentType("text/plain")
			p.Properties.SetResponseTopic("r")
			p.Properties.SetCorrelationData([]byte{1, 2})
			p.Properties.User = []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}}
			pub.send(p)
			got := sub.wantMessage("x").Properties
			if got.PayloadFormatIndicator != 1 || got.ContentType != "text/plain" || got.ResponseTopic != "r" ||
				string(got.CorrelationData) != "\x01\x02" || !slices.Equal(got.User, p.Properties.User) {
				t.Errorf("got %+v", got)
			}
			old.wantMessage("x")
		})
	}
}

func TestMessageExpiry(t *testing.T) { // [MQTT-3.3.2-5] [MQTT-3.3.2-6]
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(1000)), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("#", 1))
		sub.dropConnection()
		send := func(topic string, seconds uint32, retain bool) {
			p := publishPacket(topic, topic, 1, 1)
			p.Retain = retain
			p.Properties.SetMessageExpiryInterval(seconds)
			pub.send(p)
			wantPacket[*packet.Puback](pub)
		}
		send("short", 5, true)
		send("long", 60, true)
		advanceTime(20 * time.Second)
		sub = srv.connect(packet.V5, "sub", resumeSession, sessionExpiry(1000))
		if got := sub.wantMessage("long").Properties.MessageExpiryInterval; got != 40 {
			t.Errorf("%d s left, want 40", got)
		}
		sub.wantNothing()
		fresh := srv.connect(packet.V5, "fresh")
		fresh.subscribe(subscribeTo("#", 1))
		if got := fresh.wantMessage("long").Properties.MessageExpiryInterval; got != 40 {
			t.Errorf("retained: %d s left, want 40", got)
		}
		fresh.wantNothing()
		advanceTime(2 * time.Minute)
		if got := srv.counters().Store; got.Retained != 0 {
			t.Errorf("%d expired messages are still retained", got.Retained)
		}
	})
}

func TestMaximumPacketSizeOfClient(t *testing.T) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
	for _, session := range []uint32{0, 100} {
		runWithServer(t, nil, func(t *testing.T, srv *testServer) {
			size := func(n uint32) func(*packet.Connect) {
				return func(p *packet.Connect) { p.Properties.SetMaximumPacketSize(n) }
			}
			fits := publishPacket("a", strings.Repeat("x", 20), 1, 1)
			n := uint32(fits.Size(packet.V5))
			sub, pub := srv.connect(packet.V5, "sub", size(n), sessionExpiry(session)), srv.connect(packet.V5, "pub")
			sub.subscribe(subscribeTo("a", 1))
			for _, payload := range []string{strings.Repeat("y", 21), strings.Repeat("x", 20), "z"} {
				pub.publishAndWait("a", payload, 1)
			}
			sub.wantMessage(strings.Repeat("x", 20))
			sub.wantMessage("z")
			if sub.wantNothing(); srv.counters().MessagesDropped != 1 {
				t.Errorf("dropped %d, want 1", srv.counters().MessagesDropped)
			}
			srv.denied.change(func(d *denyList) { d.publish = []string{"secret"} })
			short := srv.connect(packet.V5, "short", size(20))
			if got := short.publishAndWait("secret", "x", 1); got != packet.NotAuthorized { // [MQTT-3.4.2-2]
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestRetained(t *testing.T) { // [MQTT-3.3.1-5] to [MQTT-3.3.1-13]
	type subscription = packet.Subscription
	for _, tt := range []struct {
		name     string
		sub      subscription
		again    bool
		retained bool // is sent at subscribe
		flag     bool // RETAIN of a live message
	}{
		{"send", subscription{QoS: 1}, false, true, false},
		{"send again", subscription{QoS: 1}, true, true, false},
		{"new only", subscription{QoS: 1, RetainHandling: 1}, false, true, false},
		{"new only again", subscription{QoS: 1, RetainHandling: 1}, true, false, false},
		{"never", subscription{QoS: 1, RetainHandling: 2}, false, false, false},
		{"as published", subscription{QoS: 1, RetainAsPublished: true}, false, true, true},
		{"qos 0", subscription{}, false, true, false},
		{"qos 2", subscription{QoS: 2}, false, true, false},
	} {
		for _, session := range []uint32{0, 100} {
			t.Run(fmt.Sprintf("%s/expiry=%d", tt.name, session), func(t *testing.T) {
				runWithServer(t, nil, func(t *testing.T, srv *testServer) {
					sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(session)), srv.connect(packet.V5, "pub")
					retain := func(payload string) {
						p := publishPacket("a/b", payload, 1, 1)
						p.Retain = true
						pub.send(p)
						wantPacket[*packet.Puback](pub)
					}
					retain("old")
					retain("kept")
					tt.sub.TopicFilter = "a/+"
					ask := &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{tt.sub}}
					ask.Properties.SubscriptionIDs = []uint32{77}
					for range 1 + map[bool]int{true: 1}[tt.again] {
						for c := sub.nextPacket(); c != nil; c = sub.nextPacket() {
							sub.acknowledge(c.(*packet.Publish))
						}
						sub.send(ask)
						wantPacket[*packet.Suback](sub)
					}
					if tt.retained {
						p := sub.wantMessage("kept")
						if !p.Retain || p.QoS != min(1, tt.sub.QoS) || !slices.Equal(p.Properties.SubscriptionIDs, []uint32{77}) {
							t.Errorf("retained came as %+v", p)
						}
						sub.acknowledge(p)
					}
					sub.wantNothing()
					retain("live")
					if p := sub.wantMessage("live"); p.Retain != tt.flag {
						t.Errorf("live message has RETAIN %v", p.Retain)
					} else {
						sub.acknowledge(p)
					}
					retain("")
					sub.acknowledge(sub.wantMessage("")) // [MQTT-3.3.1-6]
					late := srv.connect(packet.V5, "late")
					late.subscribe(subscribeTo("#", 1))
					late.wantNothing() // [MQTT-3.3.1-7]
				})
			})
		}
	}
}

func TestRetainedStoreFull(t *testing.T) {
	limits := store.Limits{Retained: store.QueueLimit{Messages: 1, Bytes: 1 << 20}}
	runWithServer(t, func(o *Options) { o.Store = store.NewMemory(limits) }, func(t *testing.T, srv *testServer) {
		pub, old := srv.connect(packet.V5, "pub"), srv.connect(packet.V311, "old")
		for topic, code := range map[string]packet.ReasonCode{"a": packet.NoMatchingSubscribers} {
			p := publishPacket(topic, "x", 1, 1)
			p.Retain = true
			pub.send(p)
			if got := wantPacket[*packet.Puback](pub); got.ReasonCode != code {
				t.Errorf("%s: %s", topic, got.ReasonCode)
			}
		}
		p := publishPacket("b", "x", 1, 1)
		p.Retain = true
		pub.send(p)
		if got := wantPacket[*packet.Puback](pub); got.ReasonCode != packet.QuotaExceeded {
			t.Errorf("full: %s", got.ReasonCode)
		}
		old.send(p)
		old.wantNothing() // not acknowledged: not kept
	})
}

func TestInvalidTopicLevels(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c")
		c.publish(strings.Repeat("/", 60_000), "x", 0, 0)
		if got := wantPacket[*packet.Disconnect](c); got.ReasonCode != packet.TopicNameInvalid {
			t.Errorf("got %s", describePacket(got))
		}
		s := srv.connect(packet.V5, "s")
		if got := s.subscribe(subscribeTo(strings.Repeat("+/", 30_000)+"#", 0)); got[0] != packet.TopicFilterInvalid {
			t.Errorf("got %v", got)
		}
	})
}

func TestNodePublish(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		sub := srv.connect(packet.V5, "sub")
		sub.subscribe(subscribeTo("$SYS/dead/#", 1), subscribeTo("a", 1))
		results := make(chan error, 3)
		done := func(err error) { results <- err }
		srv.broker.Publish(&store.Message{Topic: "a", Payload: []byte("x"), QoS: 1}, done)
		sub.wantMessage("x")
		srv.broker.Publish(&store.Message{Topic: "a/#"}, done)
		srv.broker.Publish(&store.Message{Topic: "$SYS/dead/f", Payload: []byte("y")}, nil)
		sub.wantMessage("y")
		var bad *packet.Error
		if first, second := <-results, <-results; first != nil || !errors.As(second, &bad) {
			t.Errorf("got %v and %v", first, second)
		}
	})
}

// TestOrderOverLateStore has a receiver whose messages come by three ways: at
// once, from the store, and from the store once it knows their identifiers. Those
// of one QoS keep their order.
func TestOrderOverLateStore(t *testing.T) { // [MQTT-4.6.0-5] [MQTT-4.6.0-6]
	late := newLateStore()
	runWithServer(t, func(o *Options) { o.Store = late }, func(t *testing.T, srv *testServer) {
		defer late.commitUntilStopped(srv)()
		sub, pub := srv.connect(packet.V5, "sub", sessionExpiry(100)), srv.connect(packet.V5, "pub")
		sub.subscribe(subscribeTo("#", 2))
		for round := range 20 {
			const n = 12
			for i := range n {
				pub.publish("a", fmt.Sprint(i), byte([]int{2, 0, 1, 2, 0, 0}[i%6]), uint16(round*n+i+1))
			}
			wantOrderPerQoS(t, sub, n)
		}
	})
}

// wantOrderPerQoS takes n messages, whose payloads are numbers that grow within
// each QoS.
func wantOrderPerQoS(t *testing.T, sub *client, n int) {
	t.Helper()
	last := [3]int{-1, -1, -1}
	for range n {
		p := wantPacket[*packet.Publish](sub)
		i, err := strconv.Atoi(string(p.Payload))
		if err != nil || i <= last[p.QoS] {
			t.Errorf("QoS %d: %d after %d (%v)", p.QoS, i, last[p.QoS], err)
		}
		last[p.QoS] = i
		sub.acknowledge(p)
	}
}

// TestWaitsAsItCame has a message wait for room while its publisher, who gets it,
// sends something else: what is sent then is the message, not what the read buffer
// holds by now.
func TestWaitsAsItCame(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		c := srv.connect(packet.V5, "c", receiveMaximum(1))
		c.send(&packet.Subscribe{
			PacketID: 9, Subscriptions: []packet.Subscription{subscribeTo("topic", 1)},
			Properties: packet.Properties{SubscriptionIDs: []uint32{5}},
		})
		wantPacket[*packet.Suback](c)
		c.publish("topic", "one", 1, 1)
		one := c.wantMessage("one")
		wantPacket[*packet.Puback](c)
		c.publish("topic", "two", 1, 2)
		wantPacket[*packet.Puback](c)
		ack := &packet.Puback{PacketID: one.PacketID}
		ack.Properties.SetReasonString(strings.Repeat("x", 100))
		c.send(ack)
		if p := c.wantMessage("two"); string(p.TopicName) != "topic" {
			t.Errorf("topic %q", p.TopicName)
		}
	})
}

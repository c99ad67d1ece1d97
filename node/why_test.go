package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/memnet"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/node/control"
)

// askedSubjects are the subjects of TestWhyAgreesWithBroker. The directory knows
// them in these states, each at its site.
var askedSubjects = []struct {
	short, site string
	state       directory.State
}{
	{"device:pump-7", "home", directory.Active},
	{"device:lost", "home", directory.Revoked},
	{"device:given-up", "home", directory.Replaced},
	{"device:roams", "lyon", directory.Active},
	{"node:home-1", "home", directory.Active},
	{"node:lyon-1", "lyon", directory.Active},
	{"user:anna", "home", directory.Active},
	{"service:local", "", ""},
	{"service:guest", "", ""},
}

// TestWhyAgreesWithBroker asks a broker and hpmq why the same 10,000 random
// questions, under random policies. A client per subject asks the broker.
func TestWhyAgreesWithBroker(t *testing.T) {
	const policies, questions = 50, 200
	r := rand.New(rand.NewPCG(1, 2))
	for p := range policies {
		text := randomPolicy(r)
		b := newAskedBroker(t, text)
		for range questions {
			who := askedSubjects[r.IntN(len(askedSubjects))].short
			action := pick(r, "publish", "retain", "will", "subscribe")
			object := randomTopic(r, action == "subscribe")
			e, err := (&api{Node: b.node}).why(control.WhyRequest{Who: who, Action: action, Object: object})
			if err != nil {
				t.Fatalf("why %s %s %s: %v", who, action, object, err)
			}
			if got := b.allows(t, who, action, object); got != e.Allowed {
				t.Fatalf("policy %d: %s %s %s: the broker says %v, why says %v (%s)\n%s", p, who, action, object, got, e.Allowed, e.Reason, text)
			}
		}
		b.stop()
	}
}

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

// randomTopic is a topic name, or a filter.
func randomTopic(r *rand.Rand, filter bool) string {
	levels := []string{pick(r, "a", "b", "site", "$SYS", "$hpmq", "$share"), pick(r, "home", "me", "func", "x"), pick(r, "denied", "pump-7", "x")}
	if filter && levels[0] == "$share" {
		levels = append([]string{"$share", "g"}, pick(r, "a", "b", "$hpmq"), pick(r, "x", "me", "func"), pick(r, "x", "denied"))
		return strings.Join(levels[:3+r.IntN(3)], "/")
	}
	levels = levels[:1+r.IntN(3)]
	if filter {
		for i := range levels {
			if r.IntN(4) == 0 {
				levels[i] = "+"
			}
		}
		if r.IntN(4) == 0 {
			levels[len(levels)-1] = "#"
		}
	}
	return strings.Join(levels, "/")
}

// randomPolicy has grants and denies that often concern the questions.
func randomPolicy(r *rand.Rand) string {
	var b strings.Builder
	for i := range 1 + r.IntN(8) {
		kind := pick(r, "grant", "grant", "deny")
		fmt.Fprintf(&b, "%s \"r%d\" {\n  to = [%q]\n", kind, i, pick(r, "*", "device:*", "node:*", "user:anna", "service:local", "service:*", "device:pump-7"))
		if r.IntN(5) == 0 {
			b.WriteString("  when = session.site == id.site\n")
		}
		b.WriteString("  topics {\n")
		for _, action := range []string{"publish", "subscribe", "retain", "will"} {
			if r.IntN(2) == 0 {
				filter := pick(r, randomTopic(r, true), "a/#", "#", "$hpmq/#", "site/${id.site}/${id.name}/#")
				if action != "subscribe" && strings.HasPrefix(filter, "$share/") {
					filter = "a/x" // a shared subscription is only subscribed to
				}
				fmt.Fprintf(&b, "    %s = [%q]\n", action, filter)
			}
		}
		b.WriteString("  }\n}\n")
	}
	return b.String()
}

// askedBroker is a broker of a node's rights, and a listener for each subject.
type askedBroker struct {
	node      *Node
	listeners map[string]*memnet.Listener
	clients   map[string]*paho.Client
	stop      func()
}

func newAskedBroker(t *testing.T, policyText string) *askedBroker {
	t.Helper()
	b := &askedBroker{node: newTestNode(t), listeners: map[string]*memnet.Listener{}, clients: map[string]*paho.Client{}}
	if found, err := b.node.policy.Apply(map[string][]byte{"main.hcl": []byte(policyText)}); err != nil {
		t.Fatalf("%v\n%s", found, policyText)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	b.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	t.Cleanup(b.stop)
	broker := mqtt.New(mqtt.Options{Store: store.NewMemory(store.Limits{}), Authorizer: newAuthorizer(b.node)})
	done.Go(func() {
		if err := broker.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, s := range askedSubjects {
		id, err := identity.ParseShort("lab.test", s.short)
		if err != nil {
			t.Fatal(err)
		}
		if s.state != "" {
			if _, err := b.node.directory.Put(directory.Identity{ID: id, Site: s.site, State: s.state, Generation: 1}); err != nil {
				t.Fatal(err)
			}
		}
		l := memnet.Listen()
		b.listeners[s.short] = l
		done.Go(func() {
			err := broker.Serve(ctx, l, func(net.Conn) (mqtt.Principal, error) { return mqtt.Principal{ID: id}, nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	return b
}

// connect opens a connection of who, with a will if topic is not empty. It is nil
// for a subject that may not connect, or not with that will.
func (b *askedBroker) connect(t *testing.T, who, willTopic string) *paho.Client {
	t.Helper()
	conn, err := b.listeners[who].Dial()
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn)})
	q := &paho.Connect{KeepAlive: 60, CleanStart: true}
	if willTopic != "" {
		q.WillMessage = &paho.WillMessage{Topic: willTopic, Payload: []byte("x")}
	}
	if a, err := c.Connect(context.WithoutCancel(t.Context()), q); err != nil {
		if a == nil || a.ReasonCode != 0x87 { // Not authorized
			t.Fatal(err)
		}
		return nil
	}
	return c
}

// allows asks the broker.
func (b *askedBroker) allows(t *testing.T, who, action, object string) bool {
	t.Helper()
	if action == "will" {
		c := b.connect(t, who, object)
		if c != nil {
			_ = c.Disconnect(&paho.Disconnect{}) // the will ends with it
		}
		return c != nil
	}
	c, known := b.clients[who]
	if !known {
		c = b.connect(t, who, "")
		b.clients[who] = c
	}
	if c == nil {
		return false
	}
	ctx := context.WithoutCancel(t.Context())
	code, err := byte(0), error(nil)
	if action == "subscribe" {
		var a *paho.Suback
		if a, err = c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: object}}}); a != nil {
			code = a.Reasons[0]
		}
	} else {
		var a *paho.PublishResponse
		if a, err = c.Publish(ctx, &paho.Publish{Topic: object, QoS: 1, Retain: action == "retain"}); a != nil {
			code = a.ReasonCode
		}
	}
	if err != nil && code != 0x87 {
		t.Fatal(errors.Join(fmt.Errorf("%s %s %s: 0x%02x", who, action, object, code), err))
	}
	return code < 0x80
}

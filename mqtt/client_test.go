package mqtt

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/memnet"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// rules is an Authorizer that allows everything but what it lists.
type rules struct {
	mu        sync.Mutex
	nobody    []string // identities that may not connect
	givenUp   uint64   // generations up to here may not, except 0
	publish   []string // topics that nobody may publish
	will      []string
	subscribe []string // filters that are not granted, nor is what they match
	receive   []string // topics that filtered subscriptions do not get
	limits    map[string]Limits
}

func (r *rules) set(f func(*rules)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *rules) Rights(p Principal) Rights {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.nobody, p.ID.Name) || p.Generation != 0 && p.Generation <= r.givenUp {
		return nil
	}
	return &ruleRights{
		who: p.ID.Name, publish: slices.Clone(r.publish), will: slices.Clone(r.will),
		subscribe: slices.Clone(r.subscribe), receive: slices.Clone(r.receive), limits: r.limits[p.ID.Name],
	}
}

type ruleRights struct {
	who                               string
	publish, will, subscribe, receive []string
	limits                            Limits
}

func (r *ruleRights) Limits() Limits { return r.limits }

// answer looks for the object, alone or as identity=object.
func (r *ruleRights) answer(denied []string, object string) Verdict {
	if slices.Contains(denied, object) || slices.Contains(denied, r.who+"="+object) {
		return Verdict{Rule: `grant "test" main.hcl:7`, Reason: "not granted: " + object}
	}
	return Verdict{Allowed: true, Filtered: len(r.receive) > 0}
}

func (r *ruleRights) Publish(topic string, _ byte, _ bool, _ int) Verdict {
	return r.answer(r.publish, topic)
}
func (r *ruleRights) Subscribe(filter string) Verdict { return r.answer(r.subscribe, filter) }
func (r *ruleRights) Will(topic string, _ byte, _ bool, _ int) Verdict {
	return r.answer(r.will, topic)
}

// world is a broker with a listener in memory.
type world struct {
	t     *testing.T
	b     *Broker
	rules *rules
	l     *memnet.Listener
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// bubble runs a test in a bubble with a broker; change, if not nil, edits its
// options.
func bubble(t *testing.T, change func(*Options), test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change)
		defer w.close()
		test(t, w)
	})
}

func newWorld(t *testing.T, change func(*Options)) *world {
	w := &world{t: t, rules: &rules{}, l: memnet.Listen()}
	o := Options{Store: store.NewMemory(store.Limits{}), Authorizer: w.rules}
	if change != nil {
		change(&o)
	}
	w.b = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	w.done.Go(func() {
		if err := w.b.Serve(ctx, w.l, admitTest); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	w.done.Go(func() {
		if err := w.b.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

func (w *world) close() {
	w.stop()
	w.done.Wait()
}

// counters comes after all that was sent before.
func (w *world) counters() Counters {
	synctest.Wait()
	return w.b.Counters()
}

// held is what is counted in the memory budget after all that was sent before.
func (w *world) held() int64 {
	synctest.Wait()
	return w.b.memory.total()
}

func testID(name string) identity.ID {
	return identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: name}
}

// admitTest takes the identity from the first line that the test client sends.
// After a question mark a user name may decide instead, and nothing is nobody. A
// digit after an exclamation mark is the credential's generation.
func admitTest(nc net.Conn) (Principal, error) {
	var name []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(nc, one); err != nil {
			return Principal{}, err
		}
		if one[0] == '\n' {
			break
		}
		name = append(name, one[0])
	}
	p := Principal{Remote: "192.0.2.7:4711"}
	who, passwords := strings.CutPrefix(string(name), "?")
	who, generation, _ := strings.Cut(who, "!")
	if generation != "" {
		p.Generation = uint64(generation[0] - '0')
	}
	p.Passwords = passwords
	if who != "" {
		p.ID = testID(who)
	} else if !passwords {
		return Principal{}, errors.New("no identity")
	}
	return p, nil
}

// client is a small MQTT client for tests. Its reader collects what comes.
type client struct {
	t    *testing.T
	nc   net.Conn
	v    packet.Version
	got  chan packet.Packet // closed at the end of the connection
	held []packet.Packet
	done sync.WaitGroup
}

// dial opens a connection for an identity without sending CONNECT.
func (w *world) dial(v packet.Version, who string) *client {
	w.t.Helper()
	nc, err := w.l.Dial()
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{t: w.t, nc: nc, v: v, got: make(chan packet.Packet, 10_000)}
	c.collect()
	c.raw([]byte(who + "\n"))
	return c
}

// collect reads what comes.
func (c *client) collect() {
	c.done.Go(func() {
		defer close(c.got)
		r := bufio.NewReader(c.nc)
		for {
			p, err := packet.Read(r, c.v, packet.MaxSize)
			if err != nil {
				c.complain(err)
				return
			}
			c.check(p)
			c.got <- p
		}
	})
}

// complain fails the test if the broker sent what is no packet: the decoder is
// as strict with servers as with clients.
func (c *client) complain(err error) {
	if bad, ok := errors.AsType[*packet.Error](err); ok {
		c.t.Errorf("the broker broke the protocol: %v", bad)
	}
}

// check fails the test if p is not for a server to send.
func (c *client) check(p packet.Packet) {
	switch p := p.(type) {
	case *packet.Publish, *packet.Connack, *packet.Puback, *packet.Pubrec, *packet.Pubrel, *packet.Pubcomp,
		*packet.Suback, *packet.Unsuback, *packet.Pingresp:
	case *packet.Disconnect:
		if c.v != packet.V5 {
			c.t.Error("the broker sent DISCONNECT to a client of 3.1.1")
		}
		c.complain(p.CheckServer())
	case *packet.Auth:
		c.complain(p.CheckServer())
	default:
		c.t.Errorf("the broker sent %s", p.Type())
	}
}

func (c *client) raw(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Errorf("write: %v", err)
	}
}

func (c *client) send(p packet.Packet) {
	c.t.Helper()
	c.raw(p.Append(nil, c.v))
}

// try sends and does not mind a closed connection.
func (c *client) try(p packet.Packet) { _, _ = c.nc.Write(p.Append(nil, c.v)) }

// next returns the next packet, or nil at the end of the connection or when all
// goroutines of the bubble wait and none came.
func (c *client) next() packet.Packet {
	if len(c.held) > 0 {
		p := c.held[0]
		c.held = c.held[1:]
		return p
	}
	synctest.Wait()
	select {
	case p := <-c.got:
		return p
	default:
		return nil
	}
}

// want returns the next packet, which must be of type P.
func want[P packet.Packet](c *client) P {
	c.t.Helper()
	p := c.next()
	got, ok := p.(P)
	if !ok {
		var w P
		c.t.Fatalf("got %s, want %T", show(p), w)
	}
	return got
}

func show(p packet.Packet) string {
	switch p := p.(type) {
	case nil:
		return "nothing"
	case *packet.Publish:
		return "PUBLISH " + string(p.TopicName) + "=" + string(p.Payload)
	case *packet.Disconnect:
		return "DISCONNECT " + p.ReasonCode.String() + " " + p.Properties.ReasonString
	case *packet.Connack:
		return "CONNACK " + p.ReasonCode.String() + " " + p.Properties.ReasonString
	}
	return p.Type().String()
}

// silence fails if something came.
func (c *client) silence() {
	c.t.Helper()
	if p := c.next(); p != nil {
		c.t.Errorf("got %s, want nothing", show(p))
	}
}

// ended reports whether the broker closed the connection, after what is unread.
func (c *client) ended() bool {
	synctest.Wait()
	for {
		select {
		case _, ok := <-c.got:
			if !ok {
				return true
			}
		default:
			return false
		}
	}
}

// close ends the connection without DISCONNECT.
func (c *client) close() {
	c.nc.Close()
	c.done.Wait()
	synctest.Wait()
}

func (c *client) bye() {
	c.try(&packet.Disconnect{})
	c.close()
}

// connectPacket is a CONNECT with a clean start.
func connectPacket(id string, change ...func(*packet.Connect)) *packet.Connect {
	p := &packet.Connect{ClientID: id, CleanStart: true}
	for _, f := range change {
		f(p)
	}
	return p
}

func expiry(seconds uint32) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetSessionExpiryInterval(seconds) }
}

func resume(p *packet.Connect) { p.CleanStart = false }

func keepAlive(seconds uint16) func(*packet.Connect) {
	return func(p *packet.Connect) { p.KeepAlive = seconds }
}

func quota(n uint16) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetReceiveMaximum(n) }
}

func withWill(topic, payload string, delay uint32) func(*packet.Connect) {
	return func(p *packet.Connect) {
		p.Will = &packet.Will{Topic: topic, Payload: []byte(payload), QoS: 1}
		if delay > 0 {
			p.Will.Properties.SetWillDelayInterval(delay)
		}
	}
}

// connect opens a session; the identity is the client identifier.
func (w *world) connect(v packet.Version, id string, change ...func(*packet.Connect)) *client {
	w.t.Helper()
	c, ack := w.connectAck(v, id, change...)
	if ack.ReasonCode != packet.Success {
		w.t.Fatalf("connect %s: %s", id, show(ack))
	}
	return c
}

func (w *world) connectAck(v packet.Version, id string, change ...func(*packet.Connect)) (*client, *packet.Connack) {
	w.t.Helper()
	c := w.dial(v, strings.ToLower(id + "x")[:len(id)+1])
	c.send(connectPacket(id, change...))
	return c, want[*packet.Connack](c)
}

// subscribe comes after all that others sent before.
func (c *client) subscribe(subs ...packet.Subscription) []packet.ReasonCode {
	c.t.Helper()
	synctest.Wait()
	c.send(&packet.Subscribe{PacketID: 9, Subscriptions: subs})
	return want[*packet.Suback](c).ReasonCodes
}

func filter(f string, qos byte) packet.Subscription {
	return packet.Subscription{TopicFilter: f, QoS: qos}
}

// publish comes after all that others sent before.
func (c *client) publish(topic, payload string, qos byte, id uint16) {
	c.t.Helper()
	synctest.Wait()
	c.send(message(topic, payload, qos, id))
}

func message(topic, payload string, qos byte, id uint16) *packet.Publish {
	return &packet.Publish{TopicName: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: id}
}

// wantMessage returns the next packet, a PUBLISH of payload.
func (c *client) wantMessage(payload string) *packet.Publish {
	c.t.Helper()
	p := want[*packet.Publish](c)
	if string(p.Payload) != payload {
		c.t.Fatalf("got %s, want payload %q", show(p), payload)
	}
	return p
}

func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// recordedLog returns a logger and what it wrote.
func recordedLog() (*logrus.Logger, *logtest.Hook) { return logtest.NewNullLogger() }

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

// denyList is an Authorizer that allows everything except the entries of its
// lists.
type denyList struct {
	mu          sync.Mutex
	connect     []string // identities that may not connect
	revokedUpTo uint64   // credentials of this generation and earlier ones may not connect, except of 0
	publish     []string // topics of PUBLISH
	will        []string // topics of wills
	subscribe   []string // filters, and all topics that match them
	receive     []string // topics of messages that are not delivered
	limits      map[string]Limits
}

// change edits the lists. Broker.Reauthorize makes the broker ask again.
func (d *denyList) change(f func(*denyList)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *denyList) Rights(p Principal) Rights {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.connect, p.ID.Name) || p.Generation != 0 && p.Generation <= d.revokedUpTo {
		return nil
	}
	return &ruleRights{
		who: p.ID.Name, publish: slices.Clone(d.publish), will: slices.Clone(d.will),
		subscribe: slices.Clone(d.subscribe), receive: slices.Clone(d.receive), limits: d.limits[p.ID.Name],
	}
}

// ruleRights are the rights of one identity by a denyList.
type ruleRights struct {
	who                               string
	publish, will, subscribe, receive []string
	limits                            Limits
}

func (r *ruleRights) Limits() Limits { return r.limits }

// answer denies the object if the list has it, alone or as identity=object.
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

// testServer is a running broker with a listener in memory. Its clients'
// identities are the lines that they send first, see admitTest.
type testServer struct {
	t        *testing.T
	broker   *Broker
	denied   *denyList
	listener *memnet.Listener
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// runWithServer runs a test in a synctest bubble with a broker of its own.
// change, if not nil, edits the broker's options.
func runWithServer(t *testing.T, change func(*Options), test func(t *testing.T, srv *testServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := startServer(t, change)
		defer srv.close()
		test(t, srv)
	})
}

// startServer starts a broker that runs until close. change, if not nil, edits
// its options.
func startServer(t *testing.T, change func(*Options)) *testServer {
	srv := &testServer{t: t, denied: &denyList{}, listener: memnet.Listen()}
	o := Options{Store: store.NewMemory(store.Limits{}), Authorizer: srv.denied}
	if change != nil {
		change(&o)
	}
	srv.broker = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	srv.stop = cancel
	srv.done.Go(func() {
		if err := srv.broker.Serve(ctx, srv.listener, admitTest); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	srv.done.Go(func() {
		if err := srv.broker.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return srv
}

// close stops the broker and waits for its end.
func (s *testServer) close() {
	s.stop()
	s.done.Wait()
}

// counters waits until the broker has handled all packets and returns its
// counters.
func (s *testServer) counters() Counters {
	synctest.Wait()
	return s.broker.Counters()
}

// memoryHeld waits until the broker has handled all packets and returns the bytes
// that its memory budget counts.
func (s *testServer) memoryHeld() int64 {
	synctest.Wait()
	return s.broker.memory.total()
}

// testID returns the identity of a device in the trust domain of the tests.
func testID(name string) identity.ID {
	return identity.ID{TrustDomain: "lab.test", Kind: identity.Device, Name: name}
}

// admitTest takes the identity from the first line that the client sends: name,
// ?name or ?, and after it perhaps ! and a digit. The question mark allows a user
// name and password in place of the identity, which may then be missing. The
// digit is the credential's generation.
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

// client is a small MQTT client for tests. A goroutine of its own reads the
// packets of the broker.
type client struct {
	t       *testing.T
	nc      net.Conn
	v       packet.Version
	packets chan packet.Packet // as they arrived; closed at the end of the connection
	unread  []packet.Packet    // received and put back, before those of packets
	done    sync.WaitGroup
}

// dial opens a connection for an identity without sending CONNECT.
func (s *testServer) dial(v packet.Version, who string) *client {
	s.t.Helper()
	nc, err := s.listener.Dial()
	if err != nil {
		s.t.Fatal(err)
	}
	c := &client{t: s.t, nc: nc, v: v, packets: make(chan packet.Packet, 10_000)}
	c.startReader()
	c.sendBytes([]byte(who + "\n"))
	return c
}

// startReader starts the goroutine that reads packets until the connection ends.
func (c *client) startReader() {
	c.done.Go(func() {
		defer close(c.packets)
		r := bufio.NewReader(c.nc)
		for {
			p, err := packet.Read(r, c.v, packet.MaxSize)
			if err != nil {
				c.reportInvalid(err)
				return
			}
			c.checkFromServer(p)
			c.packets <- p
		}
	})
}

// reportInvalid fails the test if err says that the broker sent a malformed
// packet: the decoder is as strict with servers as with clients.
func (c *client) reportInvalid(err error) {
	if bad, ok := errors.AsType[*packet.Error](err); ok {
		c.t.Errorf("the broker broke the protocol: %v", bad)
	}
}

// checkFromServer fails the test if p is of a type that only clients send.
func (c *client) checkFromServer(p packet.Packet) {
	switch p := p.(type) {
	case *packet.Publish, *packet.Connack, *packet.Puback, *packet.Pubrec, *packet.Pubrel, *packet.Pubcomp,
		*packet.Suback, *packet.Unsuback, *packet.Pingresp:
	case *packet.Disconnect:
		if c.v != packet.V5 {
			c.t.Error("the broker sent DISCONNECT to a client of 3.1.1")
		}
		c.reportInvalid(p.CheckServer())
	case *packet.Auth:
		c.reportInvalid(p.CheckServer())
	default:
		c.t.Errorf("the broker sent %s", p.Type())
	}
}

// sendBytes writes b to the connection and fails the test if it cannot.
func (c *client) sendBytes(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Errorf("write: %v", err)
	}
}

// send sends p and fails the test if it cannot.
func (c *client) send(p packet.Packet) {
	c.t.Helper()
	c.sendBytes(p.Append(nil, c.v))
}

// trySend sends p, on a connection that may be closed already.
func (c *client) trySend(p packet.Packet) { _, _ = c.nc.Write(p.Append(nil, c.v)) }

// nextPacket returns the next packet. It returns nil at the end of the
// connection, and when the broker is idle and has sent no packet.
func (c *client) nextPacket() packet.Packet {
	if len(c.unread) > 0 {
		p := c.unread[0]
		c.unread = c.unread[1:]
		return p
	}
	synctest.Wait()
	select {
	case p := <-c.packets:
		return p
	default:
		return nil
	}
}

// wantPacket returns the next packet and fails the test if it is not of type P.
func wantPacket[P packet.Packet](c *client) P {
	c.t.Helper()
	p := c.nextPacket()
	got, ok := p.(P)
	if !ok {
		var w P
		c.t.Fatalf("got %s, want %T", describePacket(p), w)
	}
	return got
}

// describePacket returns a packet's type and the fields that say most, for error
// messages.
func describePacket(p packet.Packet) string {
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

// wantNothing fails the test if the broker has sent a packet.
func (c *client) wantNothing() {
	c.t.Helper()
	if p := c.nextPacket(); p != nil {
		c.t.Errorf("got %s, want nothing", describePacket(p))
	}
}

// closedByServer throws away the unread packets and reports whether the broker
// closed the connection.
func (c *client) closedByServer() bool {
	synctest.Wait()
	for {
		select {
		case _, ok := <-c.packets:
			if !ok {
				return true
			}
		default:
			return false
		}
	}
}

// dropConnection closes the connection without DISCONNECT, as a broken network
// does.
func (c *client) dropConnection() {
	c.nc.Close()
	c.done.Wait()
	synctest.Wait()
}

// disconnect sends a normal DISCONNECT and closes the connection.
func (c *client) disconnect() {
	c.trySend(&packet.Disconnect{})
	c.dropConnection()
}

// connectPacket returns a CONNECT with Clean Start.
func connectPacket(id string, change ...func(*packet.Connect)) *packet.Connect {
	p := &packet.Connect{ClientID: id, CleanStart: true}
	for _, f := range change {
		f(p)
	}
	return p
}

// sessionExpiry sets CONNECT's Session Expiry Interval.
func sessionExpiry(seconds uint32) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetSessionExpiryInterval(seconds) }
}

// resumeSession has CONNECT ask for the session that exists: no Clean Start.
func resumeSession(p *packet.Connect) { p.CleanStart = false }

// keepAlive sets CONNECT's Keep Alive.
func keepAlive(seconds uint16) func(*packet.Connect) {
	return func(p *packet.Connect) { p.KeepAlive = seconds }
}

// receiveMaximum sets CONNECT's Receive Maximum.
func receiveMaximum(n uint16) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties.SetReceiveMaximum(n) }
}

// withWill adds a will of QoS 1 to CONNECT, with a Will Delay Interval if that is
// not zero.
func withWill(topic, payload string, delay uint32) func(*packet.Connect) {
	return func(p *packet.Connect) {
		p.Will = &packet.Will{Topic: topic, Payload: []byte(payload), QoS: 1}
		if delay > 0 {
			p.Will.Properties.SetWillDelayInterval(delay)
		}
	}
}

// connect opens a session. The identity is the client identifier and an x. A
// refusal fails the test.
func (s *testServer) connect(v packet.Version, id string, change ...func(*packet.Connect)) *client {
	s.t.Helper()
	c, ack := s.connectAck(v, id, change...)
	if ack.ReasonCode != packet.Success {
		s.t.Fatalf("connect %s: %s", id, describePacket(ack))
	}
	return c
}

// connectAck is connect, but returns CONNACK, which may be a refusal.
func (s *testServer) connectAck(v packet.Version, id string, change ...func(*packet.Connect)) (*client, *packet.Connack) {
	s.t.Helper()
	c := s.dial(v, strings.ToLower(id + "x")[:len(id)+1])
	c.send(connectPacket(id, change...))
	return c, wantPacket[*packet.Connack](c)
}

// subscribe waits until the broker is idle, sends SUBSCRIBE and returns SUBACK's
// reason codes.
func (c *client) subscribe(subs ...packet.Subscription) []packet.ReasonCode {
	c.t.Helper()
	synctest.Wait()
	c.send(&packet.Subscribe{PacketID: 9, Subscriptions: subs})
	return wantPacket[*packet.Suback](c).ReasonCodes
}

// subscribeTo returns one entry of a SUBSCRIBE.
func subscribeTo(f string, qos byte) packet.Subscription {
	return packet.Subscription{TopicFilter: f, QoS: qos}
}

// publish waits until the broker is idle and sends a PUBLISH. It does not wait
// for the acknowledgement, see publishAndWait.
func (c *client) publish(topic, payload string, qos byte, id uint16) {
	c.t.Helper()
	synctest.Wait()
	c.send(publishPacket(topic, payload, qos, id))
}

// publishPacket returns a PUBLISH. id is its Packet Identifier, which QoS 0 does
// not have.
func publishPacket(topic, payload string, qos byte, id uint16) *packet.Publish {
	return &packet.Publish{TopicName: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: id}
}

// wantMessage returns the next packet, which has to be a PUBLISH with this
// payload.
func (c *client) wantMessage(payload string) *packet.Publish {
	c.t.Helper()
	p := wantPacket[*packet.Publish](c)
	if string(p.Payload) != payload {
		c.t.Fatalf("got %s, want payload %q", describePacket(p), payload)
	}
	return p
}

// advanceTime lets d pass on the bubble's clock and waits until the broker is
// idle.
func advanceTime(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// recordedLog returns a logger and the hook that has its entries.
func recordedLog() (*logrus.Logger, *logtest.Hook) { return logtest.NewNullLogger() }

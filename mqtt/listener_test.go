package mqtt

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startBroker runs a broker with the listener l until the test ends.
func startBroker(t testing.TB, l net.Listener, o Options, admit Admission) *Broker {
	t.Helper()
	o.Authorizer = &denyList{}
	if o.Store == nil {
		o.Store = store.NewMemory(store.Limits{})
	}
	b := New(o)
	b.serve(t, l, admit)
	return b
}

func (b *Broker) serve(t testing.TB, l net.Listener, admit Admission) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := b.Serve(ctx, l, admit); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// admitAnyone admits every connection under the same identity.
func admitAnyone(net.Conn) (Principal, error) { return Principal{ID: testID("any")}, nil }

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// socketClient is a client on a real connection. It reads when the test asks for
// a packet.
type socketClient struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
	v  packet.Version
}

// connectSocket sends CONNECT on nc and waits for CONNACK.
func connectSocket(t testing.TB, nc net.Conn, connect *packet.Connect) *socketClient {
	t.Helper()
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	w := &socketClient{t: t, nc: nc, r: bufio.NewReaderSize(nc, 64<<10), v: packet.V5}
	w.send(connect)
	if p, ok := w.read().(*packet.Connack); !ok || p.ReasonCode != 0 {
		t.Fatalf("got %s", describePacket(p))
	}
	return w
}

func (w *socketClient) send(ps ...packet.Packet) {
	w.t.Helper()
	var b []byte
	for _, p := range ps {
		b = p.Append(b, w.v)
	}
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

func (w *socketClient) read() packet.Packet {
	w.t.Helper()
	p, err := packet.Read(w.r, w.v, packet.MaxSize)
	if err != nil {
		w.t.Fatalf("read: %v", err)
	}
	return p
}

func (w *socketClient) subscribe(f string, qos byte) {
	w.t.Helper()
	w.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo(f, qos)}})
	if _, ok := w.read().(*packet.Suback); !ok {
		w.t.Fatal("no SUBACK")
	}
}

func (w *socketClient) ping() {
	w.t.Helper()
	w.send(&packet.Pingreq{})
	if p, ok := w.read().(*packet.Pingresp); !ok {
		w.t.Fatalf("got %s, want PINGRESP", describePacket(p))
	}
}

func dialTCP(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	nc, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// selfSigned returns a server's and a client's configuration.
func selfSigned(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, DynamicRecordSizingDisabled: true}
	return server, &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// quickListener is a listener whose connections have the socket options that the
// daemon sets below TLS.
type quickListener struct{ net.Listener }

func wrapQuick(l net.Listener) net.Listener { return quickListener{l} }

func (l quickListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return socket.Quick(nc), nil
}

// TestTransports sends 64 KiB messages and small ones both ways over each kind of
// connection, to a receiver that does not read until all are published. [MQTT-4.2-1]
func TestTransports(t *testing.T) {
	all := maps.Clone(transports)
	all["quick tcp"] = func(t testing.TB) (net.Listener, func() net.Conn) {
		l := listenTCP(t)
		return wrapQuick(l), func() net.Conn { return dialTCP(t, l) }
	}
	all["plain tls"] = func(t testing.TB) (net.Listener, func() net.Conn) {
		server, client := selfSigned(t)
		l := listenTCP(t)
		return tls.NewListener(l, server), func() net.Conn { return tls.Client(dialTCP(t, l), client) }
	}
	all["websocket, plain tls"] = func(t testing.TB) (net.Listener, func() net.Conn) {
		s := listenWebSocket(t, wrapNothing)
		return s, func() net.Conn { return s.dial(t) }
	}
	all["unix"] = func(t testing.TB) (net.Listener, func() net.Conn) {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "mqtt.sock"))
		if err != nil {
			t.Fatal(err)
		}
		return l, func() net.Conn { return dialTCP(t, l) }
	}
	for name, listen := range all {
		t.Run(name, func(t *testing.T) {
			l, dial := listen(t)
			b := startBroker(t, l, Options{Outbox: 64 << 20}, admitAnyone)
			sub, pub := connectSocket(t, dial(), connectPacket("sub")), connectSocket(t, dial(), connectPacket("pub"))
			sub.subscribe("a", 0)
			const n = 200
			for i := range n {
				payload := fmt.Appendf(nil, "%0*d", []int{8, 64 << 10}[i%2], i)
				pub.send(&packet.Publish{TopicName: []byte("a"), Payload: payload})
			}
			pub.send(&packet.Pingreq{})
			if _, ok := pub.read().(*packet.Pingresp); !ok {
				t.Fatal("no PINGRESP")
			}
			for i := range n {
				p, ok := sub.read().(*packet.Publish)
				if want := fmt.Sprintf("%0*d", []int{8, 64 << 10}[i%2], i); !ok || string(p.Payload) != want {
					t.Fatalf("message %d is not what was sent", i)
				}
			}
			if got := b.Counters().MessagesDropped; got != 0 {
				t.Errorf("%d dropped", got)
			}
			pub.send(&packet.Publish{TopicName: []byte("a"), Payload: []byte("x"), QoS: 1, PacketID: 0xFFFF})
			if p, ok := pub.read().(*packet.Puback); !ok || p.PacketID != 0xFFFF {
				t.Error("no PUBACK")
			}
		})
	}
}

// TestStress has clients come, publish, be taken over and go at once, while two
// that stay see every message of each other in order.
func TestStress(t *testing.T) {
	l := listenTCP(t)
	b := startBroker(t, l, Options{}, admitAnyone)
	steady := connectSocket(t, dialTCP(t, l), connectPacket("steady", sessionExpiry(60)))
	steady.subscribe("steady/#", 1)
	var guests sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		guests.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				runHastyClient(dialTCP(t, l), i, n)
			}
		})
	}
	pub := connectSocket(t, dialTCP(t, l), connectPacket("pub"))
	const messages = 3000
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range messages {
			payload := binary.BigEndian.AppendUint32(nil, uint32(i))
			pub.send(&packet.Publish{TopicName: []byte("steady/x"), Payload: payload, QoS: 1, PacketID: uint16(i%100) + 1})
			if i >= 90 {
				pub.read()
			}
		}
	})
	for i := range messages {
		p, ok := steady.read().(*packet.Publish)
		if !ok || binary.BigEndian.Uint32(p.Payload) != uint32(i) {
			t.Fatalf("message %d: got %s", i, describePacket(p))
		}
		steady.send(&packet.Puback{PacketID: p.PacketID})
	}
	sender.Wait()
	close(stop)
	guests.Wait()
	if got := b.Counters(); got.ConnectionsTotal < 10 {
		t.Errorf("only %d guests came", got.ConnectionsTotal)
	}
	b.Sessions()
}

// runHastyClient connects, subscribes and publishes without waiting for any answer,
// and leaves with DISCONNECT or without.
func runHastyClient(nc net.Conn, i, n int) {
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return
	}
	seconds := []uint32{0, 1, 100}[n%3]
	change := []func(*packet.Connect){sessionExpiry(seconds), withWill("guest/will", "x", uint32(n%2))}
	if n%4 > 0 {
		change = append(change, resumeSession)
	}
	b := connectPacket(fmt.Sprint("guest", i%3), change...).Append(nil, packet.V5)
	b = append(b, subscribePacket(packet.V5, "guest/#", byte(n%3))...)
	b = append(b, subscribePacket(packet.V5, "$share/g/guest/+", 1)...)
	for id := range uint16(20) {
		p := packet.Publish{TopicName: []byte("guest/x"), Payload: []byte("hello"), QoS: byte(id % 3), PacketID: id + 1, Retain: id == 7}
		if p.QoS == 0 {
			p.PacketID = 0
		}
		b = p.Append(b, packet.V5)
	}
	if _, err := nc.Write(b); err != nil {
		return
	}
	buf := make([]byte, 4096)
	if _, err := nc.Read(buf); err != nil {
		return
	}
	if n%2 == 0 {
		_, _ = nc.Write((&packet.Disconnect{}).Append(nil, packet.V5))
	}
}

func TestHalfOpenConnections(t *testing.T) {
	l := listenTCP(t)
	const connectTimeout = 20 * time.Second // of those who say nothing
	startBroker(t, l, Options{ConnectTimeout: connectTimeout}, admitAnyone)
	for range 300 {
		nc := dialTCP(t, l)
		t.Cleanup(func() { nc.Close() })
		if _, err := nc.Write([]byte{0x10}); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	connectSocket(t, dialTCP(t, l), connectPacket("good"))
	if got := time.Since(start); got > connectTimeout/2 {
		t.Errorf("a good client waited %v", got)
	}
}

// lateContext tells those that are derived from it a moment after others.
type lateContext struct {
	context.Context
	done chan struct{}
}

func (c lateContext) Done() <-chan struct{} { return c.done }

func (c lateContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// closedWith is a listener that somebody else closes at the end of a context.
type closedWith struct{ ctx context.Context }

func (l closedWith) Accept() (net.Conn, error) {
	<-l.ctx.Done()
	return nil, net.ErrClosed
}
func (closedWith) Close() error   { return nil }
func (closedWith) Addr() net.Addr { return textAddress("test") }

// TestServeEndsWithItsListener closes the listener as the context ends: that is no
// error, whichever of them Serve sees first.
func TestServeEndsWithItsListener(t *testing.T) {
	runWithServer(t, nil, func(t *testing.T, srv *testServer) {
		for range 200 {
			ctx := lateContext{t.Context(), make(chan struct{})}
			ended := make(chan error, 1)
			go func() { ended <- srv.broker.Serve(ctx, closedWith{ctx}, nil) }()
			advanceTime(time.Millisecond)
			close(ctx.done)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
	})
}

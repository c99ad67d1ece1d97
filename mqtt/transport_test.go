package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/quic"
	"github.com/hpmq/hpmq/mqtt/websocket"
)

// webSocketServer is a listener for WebSockets, and how to reach it.
type webSocketServer struct {
	net.Listener
	url    string
	client *http.Client
}

// listenWebSocket starts an HTTP server. wrap is what is below its TLS, or nil for
// none.
func listenWebSocket(t testing.TB, wrap func(net.Listener) net.Listener) *webSocketServer {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	l, err := websocket.New(websocket.Options{Addr: srv.Listener.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = l
	if wrap == nil {
		srv.Start()
	} else {
		srv.TLS = &tls.Config{DynamicRecordSizingDisabled: true}
		srv.Listener = wrap(srv.Listener)
		srv.StartTLS()
	}
	t.Cleanup(srv.Close)
	return &webSocketServer{l, "ws" + strings.TrimPrefix(srv.URL, "http") + websocket.Path, srv.Client()}
}

// openConn connects a stock client.
func (s *webSocketServer) openConn(t testing.TB) *coder.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := coder.Dial(ctx, s.url, &coder.DialOptions{HTTPClient: s.client, Subprotocols: []string{websocket.Subprotocol}}) //nolint:bodyclose // the WebSocket's now
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

func (s *webSocketServer) dial(t testing.TB) net.Conn {
	t.Helper()
	return coder.NetConn(context.WithoutCancel(t.Context()), s.openConn(t), coder.MessageBinary)
}

func listenQUIC(t testing.TB) (net.Listener, func() net.Conn) {
	t.Helper()
	server, client := selfSigned(t)
	l, err := quic.Listen("127.0.0.1:0", server, quic.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, func() net.Conn {
		nc, err := quic.Dial(t.Context(), l.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
}

func wrapNothing(l net.Listener) net.Listener { return l }

// transport starts a listener and tells how to connect to it.
type transport func(t testing.TB) (net.Listener, func() net.Conn)

// transports has those that are flushed inline.
var transports = map[string]transport{
	"tcp": func(t testing.TB) (net.Listener, func() net.Conn) {
		l := listenTCP(t)
		return l, func() net.Conn { return dialTCP(t, l) }
	},
	"tls": func(t testing.TB) (net.Listener, func() net.Conn) {
		server, client := selfSigned(t)
		l := listenTCP(t)
		return tls.NewListener(wrapQuick(l), server), func() net.Conn { return tls.Client(dialTCP(t, l), client) }
	},
	"websocket": func(t testing.TB) (net.Listener, func() net.Conn) {
		s := listenWebSocket(t, nil)
		return s, func() net.Conn { return s.dial(t) }
	},
	"websocket tls": func(t testing.TB) (net.Listener, func() net.Conn) {
		s := listenWebSocket(t, wrapQuick)
		return s, func() net.Conn { return s.dial(t) }
	},
	"quic": func(t testing.TB) (net.Listener, func() net.Conn) { return listenQUIC(t) },
}

// publishAndReceive publishes a message and waits until the subscriber has it.
func publishAndReceive(t testing.TB, pub, sub *socketClient, payload []byte) {
	pub.send(&packet.Publish{TopicName: []byte("a"), Payload: payload})
	if p, ok := sub.read().(*packet.Publish); !ok || len(p.Payload) != len(payload) {
		t.Fatal("not what was published")
	}
}

// A client that keeps up is flushed by whoever delivers to it.
func TestFlushStartsNoGoroutine(t *testing.T) {
	started := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
	for name, listen := range transports {
		t.Run(name, func(t *testing.T) {
			l, dial := listen(t)
			startBroker(t, l, Options{}, admitAnyone)
			sub, pub := connectSocket(t, dial(), connectPacket("sub")), connectSocket(t, dial(), connectPacket("pub"))
			sub.subscribe("a", 0)
			payload := make([]byte, 100)
			publishAndReceive(t, pub, sub, payload)
			metrics.Read(started)
			before := started[0].Value.Uint64()
			const n = 2000
			for range n {
				publishAndReceive(t, pub, sub, payload)
			}
			metrics.Read(started)
			if got := started[0].Value.Uint64() - before; got > n/20 {
				t.Errorf("%d goroutines for %d messages", got, n)
			}
		})
	}
}

// A subscriber that does not read costs only itself: another one has everything
// meanwhile, and then it has everything too, in order. [MQTT-4.2-1]
func TestSlowReaderCostsOnlyItself(t *testing.T) {
	for name, listen := range transports {
		t.Run(name, func(t *testing.T) {
			l, dial := listen(t)
			startBroker(t, l, Options{Outbox: 64 << 20}, admitAnyone)
			slow := connectSocket(t, dial(), connectPacket("slow"))
			sub, pub := connectSocket(t, dial(), connectPacket("sub")), connectSocket(t, dial(), connectPacket("pub"))
			slow.subscribe("a", 0)
			sub.subscribe("a", 0)
			const n = 200
			size := func(i int) int { return []int{8, 100, 20 << 10, 80 << 10}[i%4] }
			for i := range n {
				publishAndReceive(t, pub, sub, fmt.Appendf(nil, "%0*d", size(i), i))
			}
			for i := range n {
				p, ok := slow.read().(*packet.Publish)
				if want := fmt.Sprintf("%0*d", size(i), i); !ok || string(p.Payload) != want {
					t.Fatalf("message %d is not what was sent", i)
				}
			}
		})
	}
}

// Control frames and data frames share the socket: pings of WebSocket are
// answered while the client is idle and while messages come, all of which arrive.
func TestWebSocketPing(t *testing.T) {
	for name, wrap := range map[string]func(net.Listener) net.Listener{"tcp": nil, "tls": wrapQuick, "plain tls": wrapNothing} {
		t.Run(name, func(t *testing.T) {
			s := listenWebSocket(t, wrap)
			startBroker(t, s, Options{Outbox: 64 << 20}, admitAnyone)
			ws := s.openConn(t)
			sub := connectSocket(t, coder.NetConn(context.WithoutCancel(t.Context()), ws, coder.MessageBinary), connectPacket("sub"))
			pub := connectSocket(t, s.dial(t), connectPacket("pub"))
			sub.subscribe("a", 0)
			const n = 600
			last := make(chan error, 1)
			go func() {
				for i := range n + 1 {
					p, err := packet.Read(sub.r, packet.V5, packet.MaxSize)
					if err != nil {
						last <- err
						return
					}
					if want := fmt.Sprintf("%08d", i); string(p.(*packet.Publish).Payload[:8]) != want {
						last <- fmt.Errorf("message %d is not what was sent", i)
						return
					}
				}
				last <- nil
			}()
			ping := func() {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := ws.Ping(ctx); err != nil {
					t.Fatal("no pong:", err)
				}
			}
			ping()
			for i := range n {
				pub.send(&packet.Publish{TopicName: []byte("a"), Payload: fmt.Appendf(nil, "%08d%0*d", i, i*50, 0)})
				if i%20 == 0 {
					ping()
				}
			}
			ping()
			pub.send(&packet.Publish{TopicName: []byte("a"), Payload: fmt.Appendf(nil, "%08d", n)})
			if err := <-last; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A client that ends the MQTT connection, and one that is ended, sees the closing
// handshake of WebSocket after what was sent before.
func TestWebSocketClose(t *testing.T) {
	for name, wrap := range map[string]func(net.Listener) net.Listener{"tcp": nil, "tls": wrapQuick, "plain tls": wrapNothing} {
		t.Run(name, func(t *testing.T) {
			s := listenWebSocket(t, wrap)
			startBroker(t, s, Options{}, admitAnyone)
			ended := func(ws *coder.Conn) coder.StatusCode {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, b, err := ws.Read(ctx)
				if err == nil {
					t.Fatalf("got % x, want a close frame", b)
				}
				return coder.CloseStatus(err)
			}
			ws := s.openConn(t)
			c := connectSocket(t, coder.NetConn(context.WithoutCancel(t.Context()), ws, coder.MessageBinary), connectPacket("c"))
			again := connectSocket(t, s.dial(t), connectPacket("c"))
			if p, ok := c.read().(*packet.Disconnect); !ok || p.ReasonCode != packet.SessionTakenOver {
				t.Errorf("got %s, want DISCONNECT", describePacket(p))
			}
			if got := ended(ws); got != coder.StatusNormalClosure {
				t.Errorf("status %v", got)
			}
			again.send(&packet.Disconnect{})
			if _, err := packet.Read(again.r, packet.V5, packet.MaxSize); err == nil {
				t.Error("goes on after DISCONNECT")
			}

			ws = s.openConn(t)
			connectSocket(t, coder.NetConn(context.WithoutCancel(t.Context()), ws, coder.MessageBinary), connectPacket("d"))
			if err := ws.Close(coder.StatusGoingAway, "tab closed"); err != nil {
				t.Errorf("closing handshake: %v", err)
			}
		})
	}
}

// A client that pings and reads no answer stops its own reader alone: its session
// can be taken over at once.
func TestWebSocketStuckPong(t *testing.T) {
	for _, flooded := range []bool{false, true} {
		s := listenWebSocket(t, nil)
		startBroker(t, s, Options{}, admitAnyone)
		raw := dialTCP(t, s).(*net.TCPConn)
		defer raw.Close()
		if err := raw.SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(raw, "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		frame := func(opcode byte, payload []byte) []byte { // masked with zeros
			return append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
		}
		packets := connectPacket("c").Append(nil, packet.V5)
		if flooded {
			packets = (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{subscribeTo("a", 0)}}).Append(packets, packet.V5)
		}
		if _, err := raw.Write(frame(2, packets)); err != nil {
			t.Fatal(err)
		}
		other := connectSocket(t, s.dial(t), connectPacket("other"))
		other.subscribe("alive", 0)
		pings := bytes.Repeat(frame(9, make([]byte, 125)), 100)
		if flooded { // pongs behind messages stand for each other, and the reader goes on
			for range 200 {
				other.send(&packet.Publish{TopicName: []byte("a"), Payload: make([]byte, 100_000)})
			}
			other.ping()
			alive := frame(2, (&packet.Publish{TopicName: []byte("alive")}).Append(nil, packet.V5))
			if _, err := raw.Write(append(pings, alive...)); err != nil {
				t.Fatal(err)
			}
			if p, ok := other.read().(*packet.Publish); !ok {
				t.Fatalf("got %s, want PUBLISH", describePacket(p))
			}
		} else {
			for stuck := error(nil); stuck == nil; _, stuck = raw.Write(pings) {
				if err := raw.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
			}
		}
		again := connectSocket(t, s.dial(t), connectPacket("c"))
		again.ping()
		other.ping()
	}
}

package port

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"pgregory.net/rapid"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/testca"
	"github.com/hpmq/hpmq/mqtt/proxyproto"
	"github.com/hpmq/hpmq/mqtt/socket"
)

// proxied is a PROXY header for a client at ip, port 4711.
func proxied(ip string) string {
	a := netip.MustParseAddr(ip).As4()
	return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + string(a[:]) + "\x7f\x00\x00\x01\x12\x67\x22\xb3"
}

// startPort serves a port on loopback until the test ends.
func startPort(t *testing.T, change func(*Options)) (*Port, func() net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ca := testca.New(t, "lab.test")
	source := ca.Issue(t, ca.ID(t, identity.Node, "n"))
	log, _ := test.NewNullLogger()
	o := Options{Log: log}
	change(&o)
	p := New(l, identity.ServerConfig(source, []string{"mqtt", "http/1.1"}, tls.RequestClientCert), o)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return p, func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// TestOpenPort: what comes out where, and from whom.
func TestOpenPort(t *testing.T) {
	const request = "GET / HTTP/1.1\r\n\r\n"
	fromProxies := func(o *Options) { o.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }
	other := func(o *Options) { o.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }
	web := func(o *Options) { o.PlainHTTP = true }
	both := func(o *Options) { o.MQTT = true }
	for _, tt := range []struct {
		name   string
		port   []func(*Options)
		header string   // sent first
		tls    []string // the ALPN offered; nil: no TLS
		to     string   // mqtt, http, or nowhere
		remote string   // "" for the client itself
	}{
		{"MQTT without ALPN", []func(*Options){both}, "", []string{}, "mqtt", ""},
		{"MQTT with ALPN", []func(*Options){both}, "", []string{"mqtt"}, "mqtt", ""},
		{"HTTP with ALPN", []func(*Options){both}, "", []string{"http/1.1"}, "http", ""},
		{"plain on the TLS port", []func(*Options){both}, request, nil, "nowhere", ""},
		{"plain on the web port", []func(*Options){web}, request, nil, "http", ""},
		{"TLS on the web port", []func(*Options){web}, "", []string{}, "http", ""},
		{"MQTT with ALPN on the web port", []func(*Options){web}, "", []string{"mqtt"}, "http", ""},
		{"a header where nobody is believed", []func(*Options){both}, proxied("192.0.2.7"), []string{}, "nowhere", ""},
		{"a header from elsewhere", []func(*Options){both, other}, proxied("192.0.2.7"), []string{}, "nowhere", ""},
		{"no header from elsewhere", []func(*Options){both, other}, "", []string{}, "mqtt", ""},
		{"proxied", []func(*Options){both, fromProxies}, proxied("192.0.2.7"), []string{}, "mqtt", "192.0.2.7:4711"},
		{"proxied HTTP", []func(*Options){both, fromProxies}, proxied("192.0.2.7"), []string{"http/1.1"}, "http", "192.0.2.7:4711"},
		{"a proxy without a header", []func(*Options){both, fromProxies}, "", []string{}, "nowhere", ""},
		{"two headers", []func(*Options){both, fromProxies}, proxied("192.0.2.7") + proxied("192.0.2.8"), []string{}, "nowhere", ""},
		{"proxied plain", []func(*Options){web, fromProxies}, proxied("192.0.2.7") + request, nil, "nowhere", ""},
		{"proxied plain that claims to be local", []func(*Options){web, fromProxies}, proxied("127.0.0.1") + request, nil, "nowhere", ""},
		{"proxied TLS on the web port", []func(*Options){web, fromProxies}, proxied("192.0.2.7"), []string{}, "http", "192.0.2.7:4711"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, dial := startPort(t, func(o *Options) {
				for _, change := range tt.port {
					change(o)
				}
			})
			client := dial()
			if _, err := io.WriteString(client, tt.header); err != nil {
				t.Fatal(err)
			}
			shaken := make(chan error, 1)
			if tt.tls != nil {
				secure := tls.Client(client, &tls.Config{InsecureSkipVerify: true, NextProtos: tt.tls}) //nolint:gosec // who serves is not the question
				go func() { shaken <- secure.HandshakeContext(t.Context()) }()
			} else {
				go func() {
					_, err := client.Read(make([]byte, 1)) // nobody answers but by hanging up
					shaken <- err
				}()
			}
			var clients chan net.Conn
			if p.mqtt != nil {
				clients = p.mqtt.conns
			}
			var got net.Conn
			to := "nowhere"
			select {
			case got = <-clients:
				to = "mqtt"
			case got = <-p.http.conns:
				to = "http"
			case err := <-shaken:
				if err == nil { // in TLS 1.3 the client is done before the server
					select {
					case got = <-clients:
						to = "mqtt"
					case got = <-p.http.conns:
						to = "http"
					}
				}
			}
			if to != tt.to {
				t.Fatalf("handed to %s, want %s", to, tt.to)
			}
			if got == nil {
				return
			}
			defer got.Close()
			want := tt.remote
			if want == "" {
				want = client.LocalAddr().String()
			}
			if got.RemoteAddr().String() != want {
				t.Errorf("from %s, want %s", got.RemoteAddr(), want)
			}
			if tt.tls == nil {
				begin := make([]byte, len(request))
				if _, err := io.ReadFull(got, begin); err != nil || string(begin) != request {
					t.Errorf("%q, %v", begin, err)
				}
			}
		})
	}
}

// TestStormAtOpenPort: who is not admitted is closed before TLS begins, by the
// address that a proxy tells, if there is one.
func TestStormAtOpenPort(t *testing.T) {
	type question struct{ remote, local string }
	asked := make(chan question, 1)
	for _, port := range []func(*Options){
		func(o *Options) { o.MQTT = true },
		func(o *Options) { o.PlainHTTP = true },
		func(o *Options) { o.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
	} {
		p, dial := startPort(t, func(o *Options) {
			port(o)
			o.Admits = func(remote, local net.Addr) bool {
				asked <- question{remote.String(), local.String()}
				return false
			}
		})
		client := dial()
		want := question{client.LocalAddr().String(), p.inner.Addr().String()}
		if p.proxies != nil {
			want.remote = "192.0.2.7:4711"
			if _, err := io.WriteString(client, proxied("192.0.2.7")); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-asked; got != want {
			t.Errorf("asked about %v, want %v", got, want)
		}
		if n, err := client.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) { // it sent nothing, and is closed
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
}

// refusals is a hook that passes on what is logged.
type refusals chan *logrus.Entry

func (refusals) Levels() []logrus.Level { return logrus.AllLevels }

func (r refusals) Fire(e *logrus.Entry) error {
	r <- e
	return nil
}

// TestRefusedAreNamed: the log tells whose connection was refused, behind a proxy
// too.
func TestRefusedAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, sent, want string }{
		{"a proxy without a header", strings.Repeat("no header ", 10), ""},
		{"no TLS", proxied("192.0.2.7") + "GET / HTTP/1.1\r\n\r\n", "192.0.2.7:4711"},
		{"not admitted", proxied("192.0.2.66"), "192.0.2.66:4711"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			told := make(refusals, 1)
			_, dial := startPort(t, func(o *Options) {
				o.Log.(*logrus.Logger).AddHook(told)
				o.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				o.Admits = func(remote, _ net.Addr) bool { return !strings.HasPrefix(remote.String(), "192.0.2.66:") }
			})
			client := dial()
			if _, err := io.WriteString(client, tt.sent); err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want == "" {
				want = client.LocalAddr().String()
			}
			if e := <-told; e.Data[logfield.Remote] != want {
				t.Errorf("%s of %v, want %s", e.Message, e.Data[logfield.Remote], want)
			}
		})
	}
}

// TestProxiedIsNotLocal: whatever a proxy says, and wherever it runs.
func TestProxiedIsNotLocal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for header, want := range map[string]bool{"": true, proxied("127.0.0.1"): false, strings.Replace(proxied("127.0.0.1"), "\x21\x11", "\x20\x11", 1): false} {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if header != "" {
			if _, err := io.WriteString(client, header); err != nil {
				t.Fatal(err)
			}
			if conn, err = proxyproto.Accept(conn.(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
		}
		if got := local(conn); got != want {
			t.Errorf("with header %q: local is %v", header, got)
		}
	}
}

// TestWebPortShowsSockets: the broker can write to what the web port hands on, and
// below its TLS, without blocking.
func TestWebPortShowsSockets(t *testing.T) {
	p, dial := startPort(t, func(o *Options) { o.PlainHTTP = true })
	if _, err := io.WriteString(dial(), "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	conn := <-p.http.conns
	defer conn.Close()
	if socket.Quick(conn) == conn {
		t.Error("no socket")
	}
	secure := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // who serves is not the question
	shaken := make(chan error, 1)
	go func() { shaken <- secure.HandshakeContext(t.Context()) }()
	conn = <-p.http.conns
	defer conn.Close()
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	if _, bare := conn.(*tls.Conn).NetConn().(*begunConn); bare {
		t.Error("no socket below TLS")
	}
}

// TestSilentClientsMakeRoom: a port full of silent clients serves one that speaks.
func TestSilentClientsMakeRoom(t *testing.T) {
	p, dial := startPort(t, func(o *Options) { o.PlainHTTP = true })
	first := dial()
	for range maxHandshakes + 20 {
		dial()
	}
	began := time.Now()
	client := dial()
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	(<-p.http.conns).Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the oldest of too many silent clients stays: %v", err)
	}
}

// fakeConn is a connection from an address that notes its end.
type fakeConn struct {
	net.Conn
	from   *net.TCPAddr
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.from }

func (c *fakeConn) Close() error {
	c.closed = true
	return nil
}

// TestWaitingRoom compares the room with its rule, applied to a list.
func TestWaitingRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 5
		room := newWaitingRoom(size)
		var inside []*fakeConn
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			if len(inside) > 0 && rapid.Bool().Draw(t, "leaves") {
				i := rapid.IntRange(0, len(inside)-1).Draw(t, "who")
				room.leave(inside[i])
				room.leave(inside[i])
				inside = append(inside[:i:i], inside[i+1:]...)
				continue
			}
			c := &fakeConn{from: &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(rapid.IntRange(1, 3).Draw(t, "from")))}}
			full := len(inside) == size
			room.enter(c)
			if full {
				count, closed := map[string]int{}, -1
				for i, o := range inside {
					count[o.from.String()]++
					if o.closed {
						closed = i
					}
				}
				if closed < 0 {
					t.Fatal("nobody made room")
				}
				who := inside[closed].from.String()
				for i, o := range inside {
					if count[o.from.String()] > count[who] || o.from.String() == who && i < closed {
						t.Fatalf("number %d of %s made room: %v", closed, who, count)
					}
				}
				inside = append(inside[:closed:closed], inside[closed+1:]...)
			}
			inside = append(inside, c)
			if room.inside != len(inside) || len(inside) > size {
				t.Fatalf("%d inside, want %d", room.inside, len(inside))
			}
		}
		for _, c := range inside {
			if c.closed {
				t.Fatal("closed without need")
			}
			room.leave(c)
		}
		if room.inside != 0 || len(room.queues) != 0 {
			t.Fatal("somebody is left")
		}
	})
}

// A client whose clock is wrong refuses this node's certificate, and the log says so.
func TestClientRefusal(t *testing.T) {
	p, dial := startPort(t, func(*Options) {})
	lines := test.NewLocal(p.log.(*logrus.Logger))
	conf := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return errors.New("not yet valid") }}
	client := tls.Client(dial(), conf)
	if client.Handshake() == nil {
		t.Fatal("the client accepted")
	}
	reason := func() string {
		for _, e := range lines.AllEntries() {
			if err, ok := e.Data[logrus.ErrorKey].(error); ok {
				return err.Error()
			}
		}
		return ""
	}
	for reason() == "" {
		runtime.Gosched()
	}
	if got := reason(); !strings.Contains(got, "its clock is") || !strings.Contains(got, "good until") {
		t.Error(got)
	}
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")}
	if got := p.clientRefusal(alert, time.Now().Add(48*time.Hour)); !strings.Contains(got.Error(), "this node's certificate ended at") || !errors.Is(got, alert) {
		t.Error(got)
	}
	for _, other := range []error{io.EOF, &net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}} {
		if got := p.clientRefusal(other, time.Now()); got != other { //nolint:errorlint // the same, untouched
			t.Error(got)
		}
	}
}

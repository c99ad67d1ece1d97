package integration

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// TestWebSocketRules: without TLS a WebSocket is for this machine and wants a
// password, whoever asks; a page's Origin is absent, of the same host or listed.
func TestWebSocketRules(t *testing.T) {
	need(t, "netns", "ip")
	h := newNetwork(t).addHost("paris")
	node := h.up(t, "--ws-origin", "https://console.example.org")
	h.enrol(t, h, "pump-7")
	h.addMeter(t)
	secure := h.clientTLS(t)
	for _, tt := range []struct {
		name, url, origin string
		dial              string // the address, if it is not the URL's
		user, password    string
		says              string // "" for a session
	}{
		{"a password", "ws://127.0.0.1:9001/mqtt", "", "", "meter-3", "correct horse", ""},
		{"a wrong password", "ws://127.0.0.1:9001/mqtt", "", "", "meter-3", "wrong horse", "wrong user name or password"},
		{"root without a user name", "ws://127.0.0.1:9001/mqtt", "", "", "", "", "no client certificate"},
		{"a page of the same host", "ws://127.0.0.1:9001/mqtt", "http://127.0.0.1:9001", "", "meter-3", "correct horse", ""},
		{"a page of a listed host", "ws://127.0.0.1:9001/mqtt", "https://console.example.org", "", "meter-3", "correct horse", ""},
		{"a foreign page", "ws://127.0.0.1:9001/mqtt", "https://evil.test", "", "meter-3", "correct horse", "403"},
		{"a page whose name was made to lead here", "ws://evil.test:9001/mqtt", "http://evil.test:9001", "127.0.0.1:9001", "meter-3", "correct horse", "403"},
		{"without TLS to another address", "ws://" + h.address + ":9001/mqtt", "", "", "meter-3", "correct horse", "handshake request"},
		{"a certificate", "wss://localhost:9001/mqtt", "", "127.0.0.1:9001", "", "", ""},
		{"a certificate in a page of the same host", "wss://localhost:9001/mqtt", "https://localhost:9001", "127.0.0.1:9001", "", "", ""},
		{"a certificate in a foreign page", "wss://localhost:9001/mqtt", "https://evil.test", "127.0.0.1:9001", "", "", "403"},
		{"a certificate in a page that came without TLS", "wss://localhost:9001/mqtt", "http://localhost:9001", "127.0.0.1:9001", "", "", "403"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := h.webSocketSession(t, tt.url, tt.origin, tt.dial, secure, tt.user, tt.password)
			switch {
			case tt.says == "" && err != nil:
				t.Error(err)
			case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("%v, want %s", err, tt.says)
			}
		})
	}
	if lines := strings.Join(node.output(), "\n"); strings.Contains(lines, "service/local") {
		t.Error("a WebSocket was service:local")
	}
}

// webSocketSession connects to an URL as a browser would, and leaves.
func (h *host) webSocketSession(t *testing.T, url, origin, addr string, conf *tls.Config, user, password string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: conf, DialContext: func(ctx context.Context, _, asked string) (net.Conn, error) {
		if addr != "" {
			asked = addr
		}
		return h.dialTCP(ctx, asked)
	}}
	options := &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: transport}, HTTPHeader: http.Header{}}
	if origin != "" {
		options.HTTPHeader.Set("Origin", origin)
	}
	ws, resp, err := websocket.Dial(ctx, url, options)
	if resp != nil && resp.Body != nil {
		resp.Body.Close()
	}
	if err != nil {
		return err
	}
	conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	defer conn.Close()
	c := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn)})
	if _, err := c.Connect(ctx, &paho.Connect{
		KeepAlive: 10, CleanStart: true, UsernameFlag: user != "", Username: user, PasswordFlag: user != "", Password: []byte(password),
	}); err != nil {
		return err
	}
	return c.Disconnect(&paho.Disconnect{})
}

// TestProxyHeader: behind a listed proxy the client's address is the one that the
// proxy tells, TLS goes through to the node, and nobody else may tell.
func TestProxyHeader(t *testing.T) {
	need(t, "netns", "ip")
	lan := newNetwork(t)
	h, proxy := lan.addHost("paris"), lan.addHost("proxy")
	node := h.up(t, "--proxy", "mqtts="+proxy.address, "--proxy", "wss="+proxy.address+",127.0.0.1")
	h.enrol(t, h, "pump-7")
	h.addMeter(t)
	conf := h.clientTLS(t)
	behind := func(from *host, addr, header string) func(context.Context, *tls.Config) (net.Conn, error) {
		return func(ctx context.Context, conf *tls.Config) (net.Conn, error) {
			raw, err := from.dialTCP(ctx, addr)
			if err != nil {
				return nil, err
			}
			if _, err := io.WriteString(raw, header); err != nil {
				return nil, err
			}
			return tls.Client(raw, conf), nil
		}
	}
	header := proxyHeader("203.0.113.9")
	for _, tt := range []struct {
		name   string
		from   *host
		header string
		works  bool
	}{
		{"the proxy", proxy, header, true},
		{"the proxy, for itself", proxy, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", true},
		{"the proxy without a header", proxy, "", false},
		{"a client", h, "", true},
		{"a client with a header", h, header, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := publishOver(ctx, behind(tt.from, h.address+":8883", tt.header), conf, "site/home/pump-7/raw")
			if (err == nil) != tt.works {
				t.Errorf("%v, want works=%v", err, tt.works)
			}
		})
	}
	node.waitLine(`"remote":"203.0.113.9:4711"`, 5*time.Second)

	// A proxy on this machine does not make its clients local.
	conn := h.mustDial(t, "127.0.0.1:9001")
	if _, err := io.WriteString(conn, proxyHeader("127.0.0.1")+"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if took := closed(t, conn); took > 5*time.Second {
		t.Errorf("hung up after %s", took)
	}
	node.waitLine("neither TLS nor from this machine", 5*time.Second)
}

// proxyHeader says, in version 2 of the PROXY protocol, that the client is at
// addr, port 4711.
func proxyHeader(addr string) string {
	ip := netip.MustParseAddr(addr).As4()
	return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + string(ip[:]) + "\x0a\x00\x00\x01\x12\x67\x22\xb3"
}

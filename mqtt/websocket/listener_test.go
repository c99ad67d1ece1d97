package websocket

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func TestRefusal(t *testing.T) {
	s := start(t, Options{Origins: []string{"https://Console.example.org:443", "http://lab.test:8080"}}, false)
	host := strings.TrimPrefix(s.http.URL, "http://")
	for _, tt := range []struct {
		name, path string
		header     [][2]string
		want       int
		says       string
	}{
		{"no Origin", Path, [][2]string{}, 101, ""},
		{"same host", Path, [][2]string{{"Origin", "http://" + host}}, 101, ""},
		{"same host behind a proxy with TLS", Path, [][2]string{{"Origin", "https://" + strings.ToUpper(host)}}, 101, ""},
		{"localhost", Path, [][2]string{{"Origin", "http://localhost:9001"}, {"Host", "localhost:9001"}}, 101, ""},
		{"a name that was made to lead here", Path, [][2]string{{"Origin", "http://evil.test:9001"}, {"Host", "evil.test:9001"}}, 403, "Origin"},
		{"listed", Path, [][2]string{{"Origin", "https://console.example.org"}}, 101, ""},
		{"listed with port", Path, [][2]string{{"Origin", "http://lab.test:8080"}}, 101, ""},
		{"listed host, other scheme", Path, [][2]string{{"Origin", "http://console.example.org"}}, 403, "Origin"},
		{"same name, other port", Path, [][2]string{{"Origin", "http://127.0.0.1"}}, 403, "Origin"},
		{"foreign page", Path, [][2]string{{"Origin", "https://evil.test"}}, 403, "Origin"},
		{"our name as a prefix", Path, [][2]string{{"Origin", "http://" + host + ".evil.test"}}, 403, "Origin"},
		{"our name as a user", Path, [][2]string{{"Origin", "http://" + host + "@evil.test"}}, 403, "Origin"},
		{"other scheme", Path, [][2]string{{"Origin", "chrome-extension://" + host}}, 403, "Origin"},
		{"sandboxed page", Path, [][2]string{{"Origin", "null"}}, 403, "Origin"},
		{"empty", Path, [][2]string{{"Origin", ""}}, 403, "Origin"},
		{"two of them", Path, [][2]string{{"Origin", "http://" + host}, {"Origin", "https://evil.test"}}, 403, "Origin"},
		{"no URL", Path, [][2]string{{"Origin", "http://%zz"}}, 403, "Origin"},
		{"other path", "/", [][2]string{}, 404, Path},
		{"longer path", Path + "/x", [][2]string{}, 404, Path},
		{"no subprotocol", Path, [][2]string{{"Sec-WebSocket-Protocol", ""}}, 400, "subprotocol mqtt"}, // [MQTT-6.0.0-3]
		{"other subprotocol", Path, [][2]string{{"Sec-WebSocket-Protocol", "wamp, mqtt2"}}, 400, "subprotocol mqtt"},
		{"MQTT 3.1", Path, [][2]string{{"Sec-WebSocket-Protocol", "mqttv3.1"}}, 400, "MQTT 3.1 "},
		{"both", Path, [][2]string{{"Sec-WebSocket-Protocol", "mqttv3.1, mqtt"}}, 101, ""},
		{"on two lines", Path, [][2]string{{"Sec-WebSocket-Protocol", "x"}, {"Sec-WebSocket-Protocol", "MQTT"}}, 101, ""},
		{"old WebSocket", Path, [][2]string{{"Sec-WebSocket-Version", "8"}}, 400, "version"},
		{"no key", Path, [][2]string{{"Sec-WebSocket-Key", ""}}, 400, "Key"},
		{"no upgrade", Path, [][2]string{{"Connection", "close"}}, 426, "Upgrade"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(timeout(t), http.MethodGet, s.http.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
				"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {Subprotocol},
			}
			for _, h := range tt.header {
				r.Header.Del(h[0])
			}
			for _, h := range tt.header {
				r.Header.Add(h[0], h[1])
				if h[0] == "Host" {
					r.Host = h[1]
				}
			}
			answer, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if answer.StatusCode != tt.want {
				t.Fatalf("status %d, want %d", answer.StatusCode, tt.want)
			}
			if tt.want == http.StatusSwitchingProtocols {
				if p := answer.Header.Get("Sec-WebSocket-Protocol"); !strings.EqualFold(p, Subprotocol) { // [MQTT-6.0.0-4]
					t.Errorf("subprotocol %q", p)
				}
				s.accept(t).Close()
				return
			}
			if body, _ := io.ReadAll(answer.Body); !strings.Contains(string(body), tt.says) {
				t.Errorf("body %q does not say %q", body, tt.says)
			}
		})
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestOriginUnderTLS(t *testing.T) {
	s := start(t, Options{}, true)
	host := strings.TrimPrefix(s.http.URL, "https://")
	s.dial(t, "Origin", "https://"+host)
	s.accept(t)
	// An attacker on the network can make a page of our host's name without TLS.
	ws, answer, err := websocket.Dial(timeout(t), s.url(), &websocket.DialOptions{
		HTTPClient: s.http.Client(), Subprotocols: []string{Subprotocol}, HTTPHeader: http.Header{"Origin": {"http://" + host}},
	})
	if err == nil {
		_ = ws.CloseNow()
		t.Fatal("a page without TLS may connect")
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", answer.StatusCode)
	}
}

func TestNewRefusesWhatIsNoOrigin(t *testing.T) {
	for _, bad := range []string{"console.example.org", "*", "null", "", "https://", "https://a.test/", "https://a.test/x", "https://u@a.test", "https://a.test?x", "ws://a.test", "https://:80"} {
		if _, err := New(Options{Origins: []string{bad}}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestIdentityOfTheConnection(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := start(t, Options{}, secure)
		_, nc := s.pair(t)
		if nc.RemoteAddr().Network() != "tcp" || nc.LocalAddr().String() != s.Addr().String() {
			t.Errorf("addresses %v, %v", nc.RemoteAddr(), nc.LocalAddr())
		}
		state := nc.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
		if state.HandshakeComplete != secure {
			t.Errorf("TLS %v: state %+v", secure, state)
		}
		// The broker writes to a socket directly where it finds one.
		if _, ok := nc.(interface{ SyscallConn() }); ok {
			t.Error("shows its socket")
		}
		if _, ok := nc.(interface{ NetConn() net.Conn }); ok {
			t.Error("shows its connection")
		}
	}
}

func TestCloseOfListener(t *testing.T) {
	s := start(t, Options{}, false)
	waiting := s.dial(t)
	gone := make(chan websocket.StatusCode, 1)
	go func() { gone <- status(t, waiting) }()
	s.Close()
	if got := <-gone; got != websocket.StatusNormalClosure {
		t.Errorf("waiting client: status %v", got)
	}
	if _, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	r, err := http.NewRequestWithContext(timeout(t), http.MethodGet, s.http.URL+Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", answer.StatusCode)
	}
}

func TestCrowd(t *testing.T) {
	s := start(t, Options{Waiting: 2}, false)
	s.dial(t)
	s.dial(t)
	_, answer, err := websocket.Dial(timeout(t), s.url(), &websocket.DialOptions{Subprotocols: []string{Subprotocol}}) //nolint:bodyclose // closed below
	if err == nil {
		t.Fatal("three wait")
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", answer.StatusCode)
	}
	s.accept(t)
	s.dial(t)
}

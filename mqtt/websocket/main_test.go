package websocket

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long a test waits for events that should take milliseconds.
const limit = 10 * time.Second

func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// server is a listener behind an HTTP server on loopback.
type server struct {
	*Listener
	http *httptest.Server
}

func start(t testing.TB, opts Options, secure bool) *server {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	opts.Addr = srv.Listener.Addr()
	l, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = l
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() {
		l.Close()
		srv.Close()
	})
	return &server{l, srv}
}

func (s *server) url() string { return "ws" + strings.TrimPrefix(s.http.URL, "http") + Path }

// dial connects a stock client.
func (s *server) dial(t testing.TB, header ...string) *websocket.Conn {
	t.Helper()
	opts := &websocket.DialOptions{
		HTTPClient: s.http.Client(), Subprotocols: []string{Subprotocol}, HTTPHeader: make(http.Header),
	}
	for i := 0; i < len(header); i += 2 {
		opts.HTTPHeader.Set(header[i], header[i+1])
	}
	ws, answer, err := websocket.Dial(timeout(t), s.url(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Body != nil {
		answer.Body.Close()
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// accept takes the next connection or fails the test.
func (s *server) accept(t testing.TB) net.Conn {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		if nc, err := s.Accept(); err == nil {
			got <- nc
		}
	}()
	select {
	case nc := <-got:
		t.Cleanup(func() { nc.Close() })
		if err := nc.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		return nc
	case <-time.After(limit):
		t.Fatal("nothing to accept")
	}
	panic("unreachable")
}

func (s *server) pair(t testing.TB) (*websocket.Conn, net.Conn) {
	t.Helper()
	ws := s.dial(t)
	return ws, s.accept(t)
}

func send(t testing.TB, ws *websocket.Conn, message string) {
	t.Helper()
	if err := ws.Write(timeout(t), websocket.MessageBinary, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

// status reads until the client learns how the WebSocket was closed.
func status(t testing.TB, ws *websocket.Conn) websocket.StatusCode {
	t.Helper()
	for {
		if _, _, err := ws.Read(timeout(t)); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

package websocket

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
)

// tap is a response writer that remembers the connection which an upgrade takes
// out of the HTTP server: the WebSocket library shows no deadlines, its own
// contexts end connections, and making one per Read would cost more than the Read.
type tap struct {
	http.ResponseWriter
	socket *socket
}

// Hijack implements [http.Hijacker].
func (t *tap) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take over the connection: %w", err)
	}
	t.socket = &socket{Conn: nc}
	rw.Writer.Reset(t.socket) // empty so far
	return t.socket, rw, nil
}

// socket is the TCP or TLS connection below a WebSocket.
type socket struct {
	net.Conn
	stuck atomic.Bool // a Write failed, so another would as well
}

// Write implements [net.Conn].
func (s *socket) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		s.stuck.Store(true)
	}
	return n, err
}

// Close closes the connection. TLS would try for five seconds to say so to a
// peer that takes nothing: that one is told nothing.
func (s *socket) Close() error {
	if below, ok := s.Conn.(interface{ NetConn() net.Conn }); ok && s.stuck.Load() {
		return below.NetConn().Close()
	}
	return s.Conn.Close()
}

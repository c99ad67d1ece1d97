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
	t.socket = newSocket(nc)
	rw.Writer.Reset(t.socket) // empty so far
	return t.socket, rw, nil
}

// socket is the TCP or TLS connection below a WebSocket, as the library sees it.
type socket struct {
	net.Conn
	wire  wire
	stuck atomic.Bool // a write failed, so another would as well
}

func newSocket(nc net.Conn) *socket {
	s := &socket{Conn: nc}
	s.wire.rested.L = &s.wire.mu
	s.wire.try = s.write
	return s
}

// write is the wire's try until WriteThrough brings one that does not block.
func (s *socket) write(b []byte) (done bool, err error) {
	if _, err := s.Conn.Write(b); err != nil {
		s.stuck.Store(true)
		return false, err
	}
	return true, nil
}

// Write implements [net.Conn] for the library, which writes nothing but control
// frames, one at a time.
func (s *socket) Write(frame []byte) (int, error) {
	if err := s.wire.control(frame); err != nil {
		return 0, err
	}
	return len(frame), nil
}

// Close closes the connection. TLS would try for five seconds to say so to a
// peer that takes nothing: that one is told nothing.
func (s *socket) Close() error {
	if below, ok := s.Conn.(interface{ NetConn() net.Conn }); ok && s.stuck.Load() {
		return below.NetConn().Close()
	}
	return s.Conn.Close()
}

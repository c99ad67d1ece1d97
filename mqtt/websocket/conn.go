package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const network = "websocket"

const (
	// closeGrace is how long Close may wait for room for the close frame. After
	// WriteThrough it does not wait.
	closeGrace = 100 * time.Millisecond
	// linger is the time that a peer which broke the protocol has to read the reason. A
	// socket that is closed with data unread takes back the data that was sent.
	linger = time.Second
)

var errText = errors.New("text message, MQTT needs binary ones [MQTT-6.0.0-1]")

// conn carries a stream of bytes over a WebSocket, as binary messages of one
// frame per Write. As with TLS, a deadline that passes during a Read or Write
// breaks that direction for good, since a frame may be half done.
//
// It is neither a [syscall.Conn] nor a [tls.Conn]: nothing may write to the socket
// but whole frames.
type conn struct {
	ws      *websocket.Conn
	socket  *socket
	tls     *tls.ConnectionState // nil without TLS
	endless context.Context      // for ws, which wants one: the socket's deadlines do its work

	reading sync.Mutex // held by Read, guards message and broken
	message io.Reader  // the message under way; nil between messages
	broken  error      // every later Read returns it

	ending sync.Mutex // guards closed and the socket's deadlines
	closed bool
}

// Read implements [net.Conn]. It returns io.EOF once the client closed the
// WebSocket or its TCP connection.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(p) == 0 {
		return 0, c.broken
	}
	for c.broken == nil {
		n, err := c.read(p)
		if err != nil {
			c.fail(err)
			break
		}
		if n > 0 { // a message may be empty
			return n, nil
		}
	}
	return 0, c.broken
}

// read returns a piece of a message. The bytes that come with an error are not valid:
// their mask is still on.
func (c *conn) read(p []byte) (int, error) {
	if c.message == nil {
		kind, message, err := c.ws.Reader(c.endless)
		if err != nil {
			return 0, err
		}
		if kind != websocket.MessageBinary { // [MQTT-6.0.0-1]
			return 0, errText
		}
		c.message = message
	}
	n, err := c.message.Read(p)
	if err == io.EOF { // exactly EOF ends a message, wrapped it ends the connection
		c.message = nil
		return n, nil
	}
	return n, err
}

// fail ends reading with err. A client that broke the protocol is told.
func (c *conn) fail(err error) {
	c.broken = c.explain("read", err)
	switch {
	case errors.Is(err, errText):
		_ = c.end(websocket.StatusUnsupportedData, "MQTT needs binary messages", linger)
	case errors.Is(err, websocket.ErrMessageTooBig):
		_ = c.end(websocket.StatusMessageTooBig, "", linger)
	case c.broken != io.EOF && !errors.Is(c.broken, os.ErrDeadlineExceeded): //nolint:errorlint // explain returns it bare
		_ = c.end(websocket.StatusProtocolError, "", linger)
	}
}

// Write implements [net.Conn]: p becomes one frame.
func (c *conn) Write(p []byte) (int, error) {
	done, err := c.TryFrame(p)
	if !done && err == nil {
		err = c.Drain()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Below returns the TCP or TLS connection that carries the frames.
func (c *conn) Below() net.Conn { return c.socket.Conn }

// WriteThrough has all frames written to Below by try, which does not block, and
// the rest that it keeps by drain. Deadlines for writing mean nothing then.
func (c *conn) WriteThrough(try func(b []byte) (done bool, err error), drain func() error) {
	c.socket.wire.through(try, drain)
}

// TryFrame writes p as one frame. After WriteThrough it does not block: if not
// all of it goes, done is false, and p is the connection's until Drain returned.
func (c *conn) TryFrame(p []byte) (done bool, err error) {
	if len(p) == 0 {
		return true, nil
	}
	if done, err = c.socket.wire.data(p); err != nil {
		return false, c.explain("write", err)
	}
	return done, nil
}

// Drain blocks until the frame is written of which TryFrame left a rest.
func (c *conn) Drain() error {
	if err := c.socket.wire.wait(); err != nil {
		return c.explain("write", err)
	}
	return nil
}

// explain turns an error of the WebSocket into one of a net.Conn.
func (c *conn) explain(op string, err error) error {
	c.ending.Lock()
	closed := c.closed
	c.ending.Unlock()
	switch {
	case closed:
		err = net.ErrClosed
	case op == "read" && gone(err):
		return io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = os.ErrDeadlineExceeded
	}
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// gone reports whether the client went without a complaint.
func gone(err error) bool {
	status := websocket.CloseStatus(err)
	return status == websocket.StatusNormalClosure || status == websocket.StatusGoingAway ||
		status == websocket.StatusNoStatusRcvd || errors.Is(err, io.EOF)
}

// Close implements [net.Conn]. It says goodbye without waiting for the answer.
func (c *conn) Close() error { return c.end(websocket.StatusNormalClosure, "", 0) }

// end closes the WebSocket with a status. It waits for the client to close its
// end, as long as patience and no later Close say.
func (c *conn) end(status websocket.StatusCode, reason string, patience time.Duration) error {
	c.ending.Lock()
	again := c.closed
	if !again || patience == 0 {
		c.closed = true
		now := time.Now()
		// The deadlines also end reads and writes in other goroutines. If they cannot
		// be set, the socket is closed.
		_ = c.socket.SetReadDeadline(now.Add(patience))
		_ = c.socket.SetWriteDeadline(now.Add(closeGrace))
	}
	c.ending.Unlock()
	if again {
		return net.ErrClosed
	}
	if stuck := c.socket.wire.end(); stuck && patience == 0 {
		_ = c.ws.CloseNow()
	} else {
		_ = c.ws.Close(status, reason) // tells that the client did not answer
	}
	return nil
}

// LocalAddr returns our end of the TCP connection.
func (c *conn) LocalAddr() net.Addr { return c.socket.LocalAddr() }

// RemoteAddr returns the client's end of the TCP connection.
func (c *conn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }

// ConnectionState returns the result of the TLS handshake below the WebSocket; it is
// zero without TLS.
func (c *conn) ConnectionState() tls.ConnectionState {
	if c.tls == nil {
		return tls.ConnectionState{}
	}
	return *c.tls
}

// SetDeadline implements [net.Conn].
func (c *conn) SetDeadline(t time.Time) error { return c.set(c.socket.SetDeadline, t) }

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(t time.Time) error { return c.set(c.socket.SetReadDeadline, t) }

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(c.socket.SetWriteDeadline, t) }

// set sets a deadline unless the deadlines of Close are in force.
func (c *conn) set(deadline func(time.Time) error, t time.Time) error {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return deadline(t)
}

package bench

import (
	"errors"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// loop moves the bytes of a load's connections. Handlers run one at a time, and only
// while a turn is under way, so that the state they share needs no lock.
type loop interface {
	// add takes over a connection after its handshake. handle is called for each
	// packet, with a body that is valid until it returns.
	add(l *link, handle handler) (*conn, error)
	// turn sends the bytes that were appended to the connections since the last turn,
	// waits at most wait for something to happen, and handles it. Its error ends the
	// load.
	turn(wait time.Duration) error
	// flush sends the bytes that were appended to c, now.
	flush(c *conn) error
	// close ends all connections and waits for the goroutines that served them.
	close()
}

type handler func(h packet.Header, body []byte) error

// conn is one connection of a loop.
type conn struct {
	out     []byte // to be sent; after an append comes a call of touch
	rest    []byte // the beginning of an incomplete packet
	handle  handler
	touched *[]*conn
	dirty   bool // in touched
	blocked bool // the socket takes no more for now

	// Of epollLoop.
	fd    int
	index int32
	sent  int // out[:sent] has been written

	pump *pump // of streamLoop

	receiveMaximum int
}

// touch has the next turn send c.out.
func (c *conn) touch() {
	if !c.dirty {
		c.dirty = true
		*c.touched = append(*c.touched, c)
	}
}

// take handles the packets that b completes, and keeps the packet that it begins.
func (c *conn) take(b []byte) error {
	c.rest = append(c.rest, b...)
	left, err := c.feed(c.rest)
	c.rest = append(c.rest[:0], left...)
	return err
}

// feed handles every whole packet of b and returns the rest.
func (c *conn) feed(b []byte) ([]byte, error) {
	for {
		h, n, err := packet.ParseHeader(b)
		if err != nil || n == 0 || len(b)-n < h.Length {
			return b, err
		}
		if err := c.handle(h, b[n:n+h.Length]); err != nil {
			return nil, err
		}
		b = b[n+h.Length:]
	}
}

var errClosed = errors.New("the broker closed a connection")

// buffered returns the bytes that the handshake read beyond its end.
func (l *link) buffered() []byte {
	b, _ := l.r.Peek(l.r.Buffered()) // as many as there are
	return append([]byte(nil), b...)
}

var began = time.Now()

// clock is nanoseconds on the monotonic clock since the program began.
func clock() int64 { return int64(time.Since(began)) }

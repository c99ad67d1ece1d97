package mqtt

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

// conn is one client's network connection. One goroutine, the reader, owns it.
type conn struct {
	b        *Broker
	nc       net.Conn
	loopable *socket.Conn // the socket of nc, if a loop may have it
	out      outbox
	writers  sync.WaitGroup // writer goroutines of the outbox

	// Set before the session has the connection, then constant.
	principal      Principal
	login          login // set until CONNECT, if a user name may decide
	version        packet.Version
	maxPacket      int // largest that the client takes; 0: any
	quota          int // of our QoS 1 and 2 messages in flight
	keepAlive      time.Duration
	problemInfo    bool // the client wants explanations
	will           *store.Message
	willDelay      uint32
	address        netip.Addr                 // that it counts for
	method         string                     // Authentication Method; empty is none
	addressRefusal *refusal                   // one too many of its address
	usage          *usage                     // of its identity
	connectTimer   *time.Timer                // ends a connection without CONNECT
	keepAliveTimer atomic.Pointer[time.Timer] // of the keep alive
	sessionKey     store.SessionKey           // see key

	session     atomic.Pointer[session] // nil before the session is found
	away        atomic.Bool             // a goroutine has the connection, and not its loop
	ready       atomic.Bool             // CONNACK is out: messages may follow [MQTT-3.2.0-1]
	lastHeard   atomic.Int64            // when something last came, since b.start
	paused      atomic.Bool             // the reader waits for room, not for the client
	deniedCount atomic.Uint64
	connectedAt time.Time
	closeOnce   sync.Once
	closing     chan struct{} // closed when the connection shall end
	closed      chan struct{} // closed when the session no longer has it
	cause       error         // why; set before closing is closed

	clients  *sync.WaitGroup // of the listener
	stopHook func() bool     // stops waiting for the listener's end

	// Set by joinLoop.
	descriptor *socket.Descriptor
	loop       *loop     // that reads
	sealed     *tls.Conn // nc, if it is one

	// Of the reader alone.
	own      *session
	lifetime *lifetime // ends the connection with its credential
	*workspace
	looped            bool    // the reader is an event loop
	unread            bool    // the loop has not read since it watches the connection
	partial           *buffer // what a loop has read of a packet
	partialSize       int     // the size of that packet, if known
	lastLarge         int     // the size of the last packet, if it was large
	aliases           [][]byte
	charged           int // bytes that the broker's memory counts for the connection
	partialCharged    int // of them, of a packet that is not complete
	earlierUnanswered int // messages of earlier connections that do not count for this one's Receive Maximum
	cache             routeCache
	received          uint64
	uncounted         amount        // that the rate did not count yet
	rateDelay         time.Duration // before the next read, by the rate
	graceful          bool          // DISCONNECT with Reason Code 0x00 came
	deniedLogged      bool
}

// The read buffer begins small, since most clients are idle, and grows while it
// is filled by one read.
const (
	minReadBuffer = 2 << 10
	maxReadBuffer = 64 << 10
	maxRoomy      = 64 // reads that a larger one stays for nothing
)

func newConn(b *Broker, nc net.Conn) *conn {
	if _, sealed := nc.(*tls.Conn); !sealed {
		nc = socket.Quick(nc)
	}
	c := &conn{
		b: b, nc: nc, loopable: socket.Of(nc), version: packet.V5, connectedAt: time.Now(),
		closing: make(chan struct{}), closed: make(chan struct{}),
		workspace: getWorkspace(b),
	}
	c.chargeMemory(connectionCost(c.nc))
	c.buf = make([]byte, minReadBuffer)
	c.out = outbox{limit: b.opts.Outbox, memory: &b.memory}
	return c
}

var errClosed = errors.New("connection ended by the broker")

// read handles packets until the connection ends. The error is why.
func (c *conn) read() error {
	for {
		n, err := c.nc.Read(c.buf[c.filled:])
		c.lastHeard.Store(int64(time.Since(c.b.start)))
		c.filled += n
		c.b.count.bytesIn.Add(uint64(n))
		if n > 0 {
			if err := c.handleBuffer(n); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if c.own != nil && c.loopable != nil {
			if joined, err := c.joinLoop(); joined || err != nil {
				return cmp.Or(err, errJoined)
			}
		}
	}
}

// handleBuffer handles the whole packets of the buffer and flushes once what
// they caused. n bytes of it are new.
func (c *conn) handleBuffer(n int) error {
	if c.own != nil {
		c.own.pipe.reading.Store(true)
	}
	used, want, err := c.handlePackets()
	c.endBatch()
	if err != nil {
		return err
	}
	copy(c.buf, c.buf[used:c.filled])
	c.filled -= used
	c.partialSize = want // a loop may read on
	c.resize(n, want)
	c.countRate()
	if err := c.awaitRate(); err != nil {
		return err
	}
	return c.awaitOutbox()
}

// qosFlags are those of a PUBLISH that say its QoS (MQTT 5.0 §3.3.1).
const qosFlags = 0x06

// handlePackets handles what is complete. want is the size of the packet that is
// not, if known.
func (c *conn) handlePackets() (used, want int, err error) {
	for {
		b := c.buf[used:c.filled]
		h, n, err := packet.ParseHeader(b)
		if err != nil || n == 0 {
			return used, 0, err
		}
		if c.own == nil && h.Type != packet.TypeConnect { // no need to hear the rest of it
			return used, 0, c.handleConnect(h, nil)
		}
		if n+h.Length > c.b.opts.PacketSize { // [MQTT-3.2.2-15]
			return used, 0, &packet.Error{Code: packet.PacketTooLarge, Statement: "MQTT-3.2.2-15", Msg: fmt.Sprintf("%s of %d bytes", h.Type, n+h.Length)}
		}
		if len(b) < n+h.Length {
			return used, n + h.Length, c.memoryAllows(n + h.Length)
		}
		c.raw = b[:n+h.Length]
		c.eager = c.eager || h.Type != packet.TypePublish || h.Flags&qosFlags != 0
		if c.looped && waits(h.Type) {
			return used, 0, errWaits
		}
		if err := c.handle(h, b[n:n+h.Length]); err != nil {
			return used, 0, err
		}
		if h.Type == packet.TypePublish {
			c.uncounted.add(n + h.Length)
		}
		used += n + h.Length
		c.batch.relieve()
		if err := c.awaitPipeline(); err != nil {
			return used, 0, err
		}
	}
}

// resize grows the buffer for a packet as its bytes come, never for what a header
// merely claims, and shrinks it after a large one.
func (c *conn) resize(n, want int) {
	size := len(c.buf)
	switch {
	case want > size && c.filled*2 >= size:
		c.roomy = 0
		size = min(2*size, max(want, minReadBuffer))
	case size > maxReadBuffer && want <= maxReadBuffer && c.filled <= maxReadBuffer:
		if c.roomy++; c.roomy > maxRoomy {
			size, c.roomy = maxReadBuffer, 0
		}
	case n == size-(c.filled-n) && size < maxReadBuffer, c.filled == size:
		size = min(2*size, max(maxReadBuffer, want))
	}
	if size != len(c.buf) {
		grown := make([]byte, size)
		copy(grown, c.buf[:c.filled])
		c.buf = grown
		c.chargePartial(size)
	}
}

// endBatch flushes everything that the reader and, meanwhile, the session's
// pipeline delivered.
func (c *conn) endBatch() {
	if s := c.own; s != nil {
		s.dequeueAcked()
		s.pipe.reading.Store(false)
		if len(c.batch.dirty) > 0 || c.batch.sent > 0 {
			c.batch.flush()
		}
		s.pipe.run()
	} else {
		c.batch.flush()
	}
	if c.received > 0 {
		c.b.count.received.Add(c.received)
		c.received = 0
	}
}

// awaitPipeline waits while the client has too much parked: its socket is not
// read, and nobody else notices.
func (c *conn) awaitPipeline() error {
	if c.own == nil || !c.own.pipe.full() {
		return nil
	}
	if c.looped {
		return errWaits
	}
	c.endBatch()
	defer c.pauseKeepAlive()()
	for room := c.own.pipe.awaitRoom(); c.own.pipe.full(); {
		select {
		case <-room:
		case <-c.closing:
			return errClosed
		}
	}
	c.own.pipe.reading.Store(true)
	return nil
}

// awaitOutbox waits while the client does not take its answers.
func (c *conn) awaitOutbox() error {
	if !c.out.overLimit() {
		return nil
	}
	defer c.pauseKeepAlive()()
	for room := c.out.backlogWritten(); c.out.overLimit(); {
		select {
		case <-room:
		case <-c.closing:
			return errClosed
		}
	}
	return nil
}

// watchKeepAlive closes the connection of a client that was not heard for 1.5 times its
// keep alive [MQTT-3.1.2-22]. The timer looks at the clock and goes to sleep
// again: nothing is re-armed per packet.
func (c *conn) watchKeepAlive() {
	if c.keepAlive > 0 {
		c.keepAliveTimer.Store(time.AfterFunc(c.allowedSilence(), c.checkKeepAlive))
	}
}

// allowedSilence is how long a client may be silent.
func (c *conn) allowedSilence() time.Duration { return c.keepAlive + c.keepAlive/2 }

// checkKeepAlive is what the timer of watch does.
func (c *conn) checkKeepAlive() {
	left := c.allowedSilence()
	if !c.paused.Load() {
		left -= time.Since(c.b.start) - time.Duration(c.lastHeard.Load())
	}
	if left <= 0 { // [MQTT-3.1.2-22] [MQTT-3.2.2-22]
		c.end(packet.KeepAliveTimeout, "nothing heard for 1.5 times the keep alive")
		return
	}
	alarm := c.keepAliveTimer.Load()
	alarm.Reset(left)
	if c.isClosing() { // and unwatch may have been just before Reset
		alarm.Stop()
	}
}

func (c *conn) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// stopKeepAlive ends the timer of a connection that is closing.
func (c *conn) stopKeepAlive() {
	if alarm := c.keepAliveTimer.Load(); alarm != nil {
		alarm.Stop()
	}
}

// end closes the connection, telling an MQTT 5 client why. Only the first call
// counts. It does not wait.
func (c *conn) end(code packet.ReasonCode, reason string) { c.endReferring(code, reason, "") }

// endReferring is end that names other servers, if reference is not empty.
func (c *conn) endReferring(code packet.ReasonCode, reason, reference string) {
	c.closeOnce.Do(func() {
		c.cause = &packet.Error{Code: code, Msg: reason}
		close(c.closing)
		c.sayGoodbye(code, reason, reference)
		c.closeWhenWritten() // [MQTT-3.14.4-2] [MQTT-4.13.2-1]
	})
}

// sayGoodbye sends DISCONNECT, unless there was no CONNACK [MQTT-3.14.0-1].
func (c *conn) sayGoodbye(code packet.ReasonCode, reason, reference string) {
	if !c.ready.Load() || c.version != packet.V5 { // ready first: CONNECT may be setting version [MQTT-3.14.0-1]
		return
	}
	if !code.ValidIn(packet.TypeDisconnect) { // [MQTT-3.14.2-1]
		code = packet.UnspecifiedError
	}
	p := &packet.Disconnect{ReasonCode: code}
	if reason != "" {
		p.Properties.SetReasonString(reason)
	}
	if reference != "" {
		p.Properties.SetServerReference(reference)
	}
	bt := getBatch(c.b)
	c.send(bt, p)
	bt.done()
}

// endFor ends the connection for what its client did, or for the client's going.
func (c *conn) endFor(err error) {
	if bad, ok := errors.AsType[*packet.Error](err); ok {
		c.logFailure(bad)
		c.end(bad.Code, bad.Msg)
		return
	}
	c.closeOnce.Do(func() {
		c.cause = err
		close(c.closing)
		c.closeWhenWritten()
	})
}

// endCause is the cause of the end in a few words. The connection is closing.
func (c *conn) endCause() string {
	<-c.closing
	if bad, ok := errors.AsType[*packet.Error](c.cause); ok {
		return bad.Msg
	}
	return c.cause.Error()
}

func (c *conn) logFailure(err error) {
	if !c.isClosing() {
		c.log().WithError(err).Warn("client broke the protocol")
	}
}

// log returns the logger with who the connection is, made when it is needed.
func (c *conn) log() logrus.FieldLogger {
	f := logrus.Fields{logfield.Remote: c.principal.Remote}
	if !c.principal.ID.IsZero() {
		f[logfield.SPIFFEID] = c.principal.ID.String()
	}
	if c.principal.ClientID != "" {
		f[logfield.ClientID] = c.principal.ClientID
	}
	return c.b.log.WithFields(f)
}

// quietly tells an end that nobody has to know more about.
func quietly(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errClosed)
}

// explain returns the properties that hold a reason, unless the client asked for
// none [MQTT-3.1.2-29].
func (c *conn) explain(reason string) packet.Properties {
	var props packet.Properties
	if reason != "" && c.version == packet.V5 && c.problemInfo { // [MQTT-3.1.2-29]
		props.SetReasonString(strings.ToValidUTF8(reason, "?"))
	}
	return props
}

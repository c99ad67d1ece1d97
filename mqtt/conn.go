package mqtt

import (
	"cmp"
	"crypto/tls"
	"fmt"
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

// conn is one client's network connection. Its reader is a goroutine, or an event loop
// that reads many connections.
type conn struct {
	b        *Broker
	nc       net.Conn
	loopable *socket.Conn // the socket of nc, if an event loop may have it
	out      outbox
	writers  sync.WaitGroup // writer goroutines of the outbox

	// Set before the session has the connection, then constant.
	principal      Principal
	login          login // asks [Passwords]; nil if no user name may decide, and after CONNECT
	version        packet.Version
	maxPacket      int // the client's Maximum Packet Size; 0: any
	quota          int // the most QoS 1 and 2 messages in flight to the client
	keepAlive      time.Duration
	problemInfo    bool // Request Problem Information
	will           *store.Message
	willDelay      uint32                     // Will Delay Interval, seconds
	address        netip.Addr                 // the address that the connection counts for
	method         string                     // Authentication Method; empty is none
	addressRefusal *refusal                   // the answer to CONNECT if its address has too many connections
	usage          *usage                     // of the identity
	connectTimer   *time.Timer                // ends a connection without CONNECT
	keepAliveTimer atomic.Pointer[time.Timer] // ends a silent connection
	sessionKey     store.SessionKey           // made by claimedKey

	session     atomic.Pointer[session] // nil before the session is found
	away        atomic.Bool             // a goroutine has the connection for a while, in place of its loop
	ready       atomic.Bool             // CONNACK is out: messages may follow [MQTT-3.2.0-1]
	lastHeard   atomic.Int64            // when something last came, since b.start
	paused      atomic.Bool             // the reader waits for the broker, not for the client
	deniedCount atomic.Uint64
	connectedAt time.Time

	// The end, see end.go.
	closeOnce sync.Once
	closing   chan struct{} // closed when the connection shall end
	closed    chan struct{} // closed when the session no longer has the connection
	cause     error         // of the end; set before closing is closed
	clients   *sync.WaitGroup
	stopHook  func() bool // forgets the wait for the listener's end

	// Set by joinLoop.
	descriptor *socket.Descriptor
	loop       *loop     // the reader
	sealed     *tls.Conn // nc, if it is TLS

	reading
}

// reading belongs to the reader of a connection alone: its goroutine, or its event
// loop while the connection is not away from it.
type reading struct {
	own      *session  // the connection's session; nil before CONNECT
	lifetime *lifetime // ends the connection with its credential
	*workspace
	cache             routeCache
	aliases           [][]byte      // Topic Names by Topic Alias, less one
	partial           *buffer       // the beginning of a packet that a loop has read
	partialSize       int           // the size of that packet, if known
	lastLarge         int           // the size of the last packet, if it was large
	charged           int           // bytes of the connection in the memory budget
	partialCharged    int           // of them, of the buffer of a packet that is not complete
	earlierUnanswered int           // messages of earlier connections: not in this one's Receive Maximum
	received          uint64        // PUBLISH packets that the broker's counter does not have yet
	uncounted         amount        // the packets that the rate did not count yet
	rateDelay         time.Duration // to wait before the next read, by the rate
	looped            bool          // the reader is an event loop
	unread            bool          // the loop has not read since it watches the connection
	graceful          bool          // DISCONNECT with Reason Code 0x00 came
	deniedLogged      bool          // the log has a refusal of this connection
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
		reading: reading{workspace: getWorkspace(b)},
	}
	c.chargeMemory(connectionCost(c.nc))
	c.buf = make([]byte, minReadBuffer)
	c.out = outbox{limit: b.opts.Outbox, memory: &b.memory}
	return c
}

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

// handleBuffer handles the whole packets of the buffer and flushes once the packets
// that they caused. n bytes of it are new.
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

// qosFlags are the flags of a PUBLISH that say its QoS (MQTT 5.0 §3.3.1).
const qosFlags = 0x06

// handlePackets handles the complete packets. want is the size of the incomplete one
// after them, if known.
func (c *conn) handlePackets() (used, want int, err error) {
	for {
		b := c.buf[used:c.filled]
		h, n, err := packet.ParseHeader(b)
		if err != nil || n == 0 {
			return used, 0, err
		}
		if c.own == nil && h.Type != packet.TypeConnect { // its body does not matter
			return used, 0, c.handleConnect(h, nil)
		}
		if n+h.Length > c.b.opts.PacketSize { // [MQTT-3.2.2-15]
			return used, 0, &packet.Error{Code: packet.PacketTooLarge, Statement: "MQTT-3.2.2-15", Msg: fmt.Sprintf("%s of %d bytes", h.Type, n+h.Length)}
		}
		if len(b) < n+h.Length {
			return used, n + h.Length, c.memoryAllows(n + h.Length)
		}
		c.raw = b[:n+h.Length]
		c.answerAwaited = c.answerAwaited || h.Type != packet.TypePublish || h.Flags&qosFlags != 0
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
		c.roomyReads = 0
		size = min(2*size, max(want, minReadBuffer))
	case size > maxReadBuffer && want <= maxReadBuffer && c.filled <= maxReadBuffer:
		if c.roomyReads++; c.roomyReads > maxRoomy {
			size, c.roomyReads = maxReadBuffer, 0
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
// read, and no other client notices.
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

// checkKeepAlive is called by the timer of watchKeepAlive.
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
	if c.isClosing() { // stopKeepAlive may have been just before Reset
		alarm.Stop()
	}
}

// stopKeepAlive ends the timer of a connection that is closing.
func (c *conn) stopKeepAlive() {
	if alarm := c.keepAliveTimer.Load(); alarm != nil {
		alarm.Stop()
	}
}

// log returns the logger with the client's identity, made when it is needed.
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

// explain returns the properties that hold a reason, unless the client asked for
// none [MQTT-3.1.2-29].
func (c *conn) explain(reason string) packet.Properties {
	var props packet.Properties
	if reason != "" && c.version == packet.V5 && c.problemInfo { // [MQTT-3.1.2-29]
		props.SetReasonString(strings.ToValidUTF8(reason, "?"))
	}
	return props
}

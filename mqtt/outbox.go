package mqtt

import (
	"sync"
	"sync/atomic"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
)

// outbox holds the packets that wait for one client's socket. A goroutine that
// delivers appends to it, and flushes it once at the end of its batch. Packets that the
// socket does not take at once are left to a writer goroutine, which ends when nothing
// waits.
type outbox struct {
	limit  int // bytes beyond which a PUBLISH is refused; guarded by mu
	memory *memoryBudget

	mu          sync.Mutex
	sink        socket.Sink   // nil before the client was admitted
	queue       []segment     // packets that the sink has not seen
	bytes       int           // of the queue and of the segment that the sink has
	charged     int           // the part of bytes that is in the memory budget
	sinkBusy    bool          // a goroutine uses the sink
	writerRuns  bool          // that one is a writer goroutine
	dirty       bool          // in the list of a batch that will flush
	pushRefused bool          // push had no room, since the last refill
	ending      bool          // nothing is taken any more: the connection closes once all is written
	notified    bool          // the client of a TLS connection was told of its end
	whenIdle    chan struct{} // closed when sinkBusy ends; nil unless a goroutine waits
	written     chan struct{} // capacity 1: holds a token after the backlog was written; nil until a reader waited
	aliases     aliasTable

	firstSegments [2]segment // the queue's first array
}

// segment is a piece of the queue: a buffer that small packets are copied into, or
// one large packet that its receivers share.
type segment struct {
	b      []byte
	pooled *buffer // has b, and returns to its pool; nil if b is of no pool
	shared bool    // b is a packet that is in other outboxes too
}

// buffer is a pooled byte slice.
type buffer struct {
	b           []byte
	ofLoop      bool         // an event loop reads into it, and outboxes may send from it
	moreHolders atomic.Int32 // of one of a loop: all but the first
}

const (
	fullBuffer = 64 << 10  // a buffer this full gets nothing more
	maxPooled  = 256 << 10 // the largest buffer that returns to the pool
	loopBuffer = 256 << 10 // the buffer of an event loop
)

var bufferPool = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 2048)} }}

func (g segment) freeSegment() { g.pooled.freeBuffer() }

// freeBuffer gives the buffer, if there is one, back.
func (r *buffer) freeBuffer() {
	switch {
	case r == nil:
	case r.ofLoop:
		if r.moreHolders.Add(-1) < 0 {
			r.moreHolders.Store(0)
			chunkPool.Put(r)
		}
	case cap(r.b) <= maxPooled:
		r.b = r.b[:0]
		bufferPool.Put(r)
	}
}

// chunkPool has the buffers of event loops.
var chunkPool = sync.Pool{New: func() any { return &buffer{b: make([]byte, loopBuffer), ofLoop: true} }}

// setSink gives the outbox its sink.
func (o *outbox) setSink(s socket.Sink) {
	o.mu.Lock()
	o.sink = s
	o.mu.Unlock()
}

// claimSink takes the sink while it has nothing to do. It ends with yieldSink.
func (o *outbox) claimSink() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sinkBusy || o.ending || len(o.queue) > 0 {
		return false
	}
	o.sinkBusy = true
	return true
}

// yieldSink gives the sink, or another one, back.
func (o *outbox) yieldSink(s socket.Sink) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s != nil {
		o.sink = s
	}
	o.sinkBusy = false
	o.wakeIdle()
}

// tailSegment returns the segment to append a packet to. The caller holds mu and
// calls setTail with the result.
func (o *outbox) tailSegment() *segment {
	if n := len(o.queue); n > 0 {
		if g := &o.queue[n-1]; g.pooled != nil && !g.shared && len(g.b) < fullBuffer {
			return g
		}
	}
	own := bufferPool.Get().(*buffer)
	o.queue = append(o.queue, segment{b: own.b, pooled: own})
	return &o.queue[len(o.queue)-1]
}

// setTail makes b, to which the caller has appended, the content of the segment that
// tailSegment returned.
func (o *outbox) setTail(g *segment, b []byte) {
	o.bytes += len(b) - len(g.b)
	g.b, g.pooled.b = b, b
}

// overLimit reports whether more than the limit waits.
func (o *outbox) overLimit() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.ending && o.bytes > o.limit
}

// fits reports whether size more bytes may wait. The limit may be of a time when
// memory was short: it is found out anew before something is refused. The caller
// holds mu.
func (o *outbox) fits(size, limit int) bool {
	if o.bytes == 0 || o.bytes+size <= o.limit {
		return true
	}
	o.limit = o.memory.share(limit)
	return o.bytes+size <= o.limit
}

// backlogWritten returns the channel that tells of a backlog that was written.
func (o *outbox) backlogWritten() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.written == nil {
		o.written = make(chan struct{}, 1)
	}
	return o.written
}

// markDirty notes that a batch will flush the outbox. It reports whether that is new:
// then the caller puts the connection on its batch's list, by batch.touch. The caller
// holds mu.
func (o *outbox) markDirty() bool {
	fresh := !o.dirty
	o.dirty = true
	return fresh
}

// admits reports whether push takes size bytes. The caller holds mu of the outbox.
func (c *conn) admits(size int) bool {
	if c.out.ending || !c.ready.Load() { // [MQTT-3.2.0-1]
		return false
	}
	if !c.out.fits(size, c.b.opts.Outbox) {
		c.out.pushRefused = true
		return false
	}
	return true
}

// push appends a PUBLISH for the next flush. It never blocks: past the byte
// limit it refuses, and the receiver loses or queues its own message while no other
// client waits. It refuses before CONNACK, too.
func (c *conn) push(bt *batch, f frame, id uint16, dup bool) bool {
	o := &c.out
	o.mu.Lock()
	if !c.admits(f.Size()) {
		o.mu.Unlock()
		return false
	}
	if f.shared != nil {
		if f.pooled != nil {
			f.pooled.moreHolders.Add(1)
		}
		o.queue = append(o.queue, segment{b: f.shared, pooled: f.pooled, shared: true})
		o.bytes += len(f.shared)
	} else {
		g := o.tailSegment()
		if o.aliases.limit > 0 {
			o.setTail(g, o.aliases.append(g.b, f, id, dup, c.maxPacket))
		} else {
			o.setTail(g, f.Append(g.b, id, dup))
		}
	}
	fresh := o.markDirty()
	o.mu.Unlock()
	bt.touch(c, fresh)
	bt.sent++
	bt.bytes += f.Size()
	return true
}

// send appends any other packet for the next flush. It is never refused: the
// client's own reader waits when its answers pile up.
func (c *conn) send(bt *batch, p packet.Packet) {
	if c.maxPacket > 0 && !packet.Fit(p, c.version, c.maxPacket) { // [MQTT-3.1.2-24] [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.14.2-3]
		return
	}
	o := &c.out
	o.mu.Lock()
	if o.ending {
		o.mu.Unlock()
		return
	}
	g := o.tailSegment()
	o.setTail(g, p.Append(g.b, c.version))
	fresh := o.markDirty()
	o.mu.Unlock()
	bt.touch(c, fresh)
}

// flush hands the queue to the sink, as long as the socket takes it.
func (c *conn) flush() {
	o := &c.out
	o.mu.Lock()
	o.dirty = false
	for !o.sinkBusy && len(o.queue) > 0 {
		g := o.takeSegment()
		o.mu.Unlock()
		c.b.count.bytesOut.Add(uint64(len(g.b)))
		done, err := o.sink.Try(g.b)
		o.mu.Lock()
		if err == nil && !done {
			o.writerRuns = true
			o.chargeBytes(c.b.opts.Outbox)
			lost := o.ending && !o.sink.Patient() // see closeWhenWritten
			c.writers.Go(func() { c.drainOutbox(g) })
			o.mu.Unlock()
			if lost {
				c.nc.Close()
			}
			return
		}
		o.endWrite(g, err)
	}
	if o.bytes != o.charged {
		o.chargeBytes(c.b.opts.Outbox)
	}
	if o.ending && !o.sinkBusy {
		c.closeNetwork()
		return
	}
	if o.pushRefused && !o.sinkBusy {
		c.writers.Go(c.refill) // it may read the store
	}
	o.mu.Unlock()
}

// refill has the session send the messages that push refused.
func (c *conn) refill() {
	c.out.mu.Lock()
	c.out.pushRefused = false
	c.out.mu.Unlock()
	if s := c.session.Load(); s != nil {
		s.refill()
	}
}

// chargeBytes counts the bytes that are left after a flush, and decides how many more
// this client may have waiting. The caller holds mu.
func (o *outbox) chargeBytes(limit int) {
	o.memory.charge(o.bytes - o.charged)
	o.charged = o.bytes
	o.limit = o.memory.share(limit)
}

// takeSegment hands the first segment over to the sink. The caller holds mu.
func (o *outbox) takeSegment() segment {
	g := o.queue[0]
	o.queue[0] = segment{}
	if o.queue = o.queue[1:]; len(o.queue) == 0 {
		o.queue = o.firstSegments[:0]
	}
	o.sinkBusy = true
	return g
}

// endWrite takes the sink back. After an error nothing more can be written. The
// caller holds mu.
func (o *outbox) endWrite(g segment, err error) {
	o.bytes -= len(g.b)
	g.freeSegment()
	o.sinkBusy = false
	if err != nil {
		for _, g := range o.queue {
			g.freeSegment()
		}
		o.queue, o.bytes, o.ending = nil, 0, true
	}
	o.wakeIdle()
}

// wakeIdle tells the goroutines in awaitWriters that the sink is not used. The caller
// holds mu.
func (o *outbox) wakeIdle() {
	if o.whenIdle != nil {
		close(o.whenIdle)
		o.whenIdle = nil
	}
}

// drainOutbox waits for a slow socket, together with all that gathers meanwhile, and
// then lets the session send the messages that push refused.
func (c *conn) drainOutbox(g segment) {
	o := &c.out
	for {
		err := o.sink.Drain()
		o.mu.Lock()
		o.endWrite(g, err)
		o.chargeBytes(c.b.opts.Outbox)
		if len(o.queue) == 0 {
			break
		}
		g = o.takeSegment()
		o.mu.Unlock()
		c.b.count.bytesOut.Add(uint64(len(g.b)))
		o.sink.Hold(g.b)
	}
	o.writerRuns = false
	select {
	case o.written <- struct{}{}:
	default: // no reader waited yet, or the token of an earlier drain is still there
	}
	if o.ending {
		c.closeNetwork()
		return
	}
	o.mu.Unlock()
	c.refill()
}

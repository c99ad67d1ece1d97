package mqtt

import (
	"sync"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// outbox is what waits for one client's socket. Whoever delivers appends to it;
// it is flushed once per batch by whoever filled it. Only what a socket does not
// take at once is left to a writer goroutine, which ends when nothing waits.
type outbox struct {
	limit int           // bytes beyond which messages are refused
	room  chan struct{} // capacity 1: holds a token after the backlog was written

	mu     sync.Mutex
	sink   sink    // nil before the client was admitted
	buf    *buffer // what the sink has not seen; nil when empty
	inSink int     // bytes that the sink has not finished
	busy   bool    // somebody uses the sink
	dirty  bool    // in the list of a batch that will flush
	last   bool    // nothing is taken any more: close once all is written
	idle   *sync.Cond
}

// buffer is a pooled byte slice.
type buffer struct{ b []byte }

// closeGrace is how long a connection whose sink is patient may take to write its
// rest when it ends.
const closeGrace = time.Second

// keepBuffer is the largest buffer that returns to the pool.
const keepBuffer = 128 << 10

var bufferPool = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 2048)} }}

func putBuffer(b *buffer) {
	if b != nil && cap(b.b) <= keepBuffer {
		b.b = b.b[:0]
		bufferPool.Put(b)
	}
}

// open gives the outbox its sink.
func (o *outbox) open(s sink) {
	o.mu.Lock()
	o.sink = s
	o.mu.Unlock()
}

// grab returns the buffer to append to. The caller holds mu.
func (o *outbox) grab() *buffer {
	if o.buf == nil {
		o.buf = bufferPool.Get().(*buffer)
	}
	return o.buf
}

// waiting is how many bytes wait. The caller holds mu.
func (o *outbox) waiting() int {
	if o.buf == nil {
		return o.inSink
	}
	return o.inSink + len(o.buf.b)
}

// overdue reports whether more than the limit waits.
func (o *outbox) overdue() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.last && o.waiting() > o.limit
}

// mark tells whether the caller has to put the connection on its batch's list.
// The caller holds mu.
func (o *outbox) mark() bool {
	fresh := !o.dirty
	o.dirty = true
	return fresh
}

// push appends a PUBLISH for the next flush. It never blocks: past the byte
// limit it refuses, and the receiver loses or queues its own message while nobody
// else waits.
func (c *conn) push(bt *batch, f packet.Encoded, id uint16, dup bool) bool {
	o := &c.out
	o.mu.Lock()
	if n := o.waiting(); o.last || n > 0 && n+f.Size() > o.limit {
		o.mu.Unlock()
		return false
	}
	b := o.grab()
	b.b = f.Append(b.b, id, dup)
	fresh := o.mark()
	o.mu.Unlock()
	bt.touch(c, fresh)
	bt.sent++
	return true
}

// send appends any other packet for the next flush. It is never refused: the
// client's own reader waits when its answers pile up.
func (c *conn) send(bt *batch, p packet.Packet) {
	if c.maxPacket > 0 && !packet.Fit(p, c.version, c.maxPacket) {
		return // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
	}
	o := &c.out
	o.mu.Lock()
	if o.last {
		o.mu.Unlock()
		return
	}
	b := o.grab()
	b.b = p.Append(b.b, c.version)
	fresh := o.mark()
	o.mu.Unlock()
	bt.touch(c, fresh)
}

// flush hands what waits to the sink, as long as the socket takes it.
func (c *conn) flush() {
	o := &c.out
	o.mu.Lock()
	o.dirty = false
	for !o.busy && o.buf != nil {
		b := o.take()
		o.mu.Unlock()
		c.b.count.bytesOut.Add(uint64(len(b.b)))
		done, err := o.sink.try(b.b)
		if err == nil && !done {
			c.writers.Go(func() { c.drain(b) })
			return
		}
		o.mu.Lock()
		o.written(b, err)
	}
	finished := o.last && !o.busy
	o.mu.Unlock()
	if finished {
		c.nc.Close()
	}
}

// take hands the buffer over to the sink. The caller holds mu.
func (o *outbox) take() *buffer {
	b := o.buf
	o.buf, o.busy, o.inSink = nil, true, len(b.b)
	return b
}

// written takes the sink back. After an error nothing more can be written. The
// caller holds mu.
func (o *outbox) written(b *buffer, err error) {
	putBuffer(b)
	o.busy, o.inSink = false, 0
	if err != nil {
		putBuffer(o.buf)
		o.buf, o.last = nil, true
	}
	o.idle.Broadcast()
}

// awaitWriters waits, after finish, until nobody uses the sink any more.
func (c *conn) awaitWriters() {
	o := &c.out
	o.mu.Lock()
	for o.busy || o.buf != nil && o.sink != nil {
		o.idle.Wait()
	}
	o.mu.Unlock()
	c.writers.Wait()
}

// drain waits for a slow socket, together with all that gathers meanwhile, and
// then lets the session send what it kept back.
func (c *conn) drain(b *buffer) {
	o := &c.out
	for {
		err := o.sink.drain()
		o.mu.Lock()
		o.written(b, err)
		if o.buf == nil {
			break
		}
		b = o.take()
		o.mu.Unlock()
		c.b.count.bytesOut.Add(uint64(len(b.b)))
		o.sink.hold(b.b)
	}
	last := o.last
	o.mu.Unlock()
	if last {
		c.nc.Close()
		return
	}
	select {
	case o.room <- struct{}{}:
	default: // the token of an earlier drain is still there
	}
	if s := c.session.Load(); s != nil {
		bt := getBatch(c.b)
		s.pump(bt)
		bt.done()
	}
}

// finish writes what waits and closes the connection. Nothing is taken after it
// [MQTT-3.14.4-1]. A socket that does not take the rest at once loses it: its
// client was not reading.
func (c *conn) finish() {
	o := &c.out
	o.mu.Lock()
	o.last = true
	patient := o.sink != nil && o.sink.patient()
	o.mu.Unlock()
	c.flush()
	if !patient {
		c.nc.Close()
		return
	}
	time.AfterFunc(closeGrace, func() { c.nc.Close() })
}

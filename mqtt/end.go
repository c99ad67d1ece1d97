package mqtt

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/socket"
	"github.com/hpmq/hpmq/mqtt/store"
)

// How a connection ends, in this order:
//
//  1. end, endReferring, endWithListener or endFor, in any goroutine: only the first
//     call counts. The cause is noted, closing is closed, and an MQTT 5 client is
//     sent DISCONNECT.
//  2. closeWhenWritten: the outbox takes nothing more, its packets are written, and
//     closeNetwork closes the connection under the reader.
//  3. tearDown, in the reader's goroutine or in the one that an event loop leaves the
//     connection to: the read failed, or handling a packet did. If no other end came
//     before, this is it (endFor). A connection without a session goes on with 6.
//  4. session.detach: the session is over, or waits for its client; see below.
//  5. Broker.releaseClaim: a newer connection that waits for the session gets it.
//  6. release: the writer goroutines are waited for, and memory, the address and the
//     descriptor are given back. Nothing uses the connection after that.
//
// How a session ends, in this order:
//
//  1. detach: the session has no connection any more. Messages lent to its client go
//     back to their groups, and deliveries in memory, which waited for that
//     connection, are dropped.
//     The will is published now, later, or not (scheduleWill). With a Session Expiry
//     Interval the session waits for its client from now on, in the store too
//     (suspendRecord), until endExpired.
//  2. endSession: because the interval is 0 or over, for a clean start, or by an
//     operator. Timers stop, the subscriptions go, and a will that waits is published.
//  3. persistChange: the store forgets the session, in the will's transaction.
//  4. Broker.forgetSession: the table forgets it, once the store has. Its pipeline
//     drains before that of the client's next session begins.

var errClosed = errors.New("connection ended by the broker")

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

// endWithListener ends a connection because its listener ends.
func (c *conn) endWithListener() {
	code := packet.ServerShuttingDown
	if c.b.opts.ServerReference != "" {
		code = packet.UseAnotherServer
	}
	c.endReferring(code, "the node is going down", c.b.opts.ServerReference)
}

// endFor ends the connection for an error: of its client, or of a connection that is
// gone.
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

func (c *conn) logFailure(err error) {
	if !c.isClosing() {
		c.log().WithError(err).Warn("client broke the protocol")
	}
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

func (c *conn) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// endCause is the cause of the end in a few words. The connection is closing.
func (c *conn) endCause() string {
	<-c.closing
	if bad, ok := errors.AsType[*packet.Error](c.cause); ok {
		return bad.Msg
	}
	return c.cause.Error()
}

// closeGrace is how long a connection whose sink is patient may take to write the
// packets that are left when it ends.
const closeGrace = time.Second

// closeWhenWritten writes the packets that wait and closes the connection. Nothing is
// taken after it [MQTT-3.14.4-1]. A socket that does not take all of them at once loses
// the rest: its client was not reading.
func (c *conn) closeWhenWritten() {
	o := &c.out
	o.mu.Lock()
	o.ending = true
	o.mu.Unlock()
	c.flush()
	o.mu.Lock()
	patient := o.sinkBusy && o.sink.Patient()
	flushing := o.sinkBusy && !o.writerRuns
	o.mu.Unlock()
	switch {
	case flushing && !patient:
		return // that goroutine goes on with the queue, and then closes
	case !patient:
		c.nc.Close()
		return
	}
	time.AfterFunc(closeGrace, func() { c.nc.Close() })
}

// closeNetwork closes the connection after all was written. The caller holds the
// outbox's mu, which is let go, and has seen that no goroutine uses the sink.
// closeNetwork uses it for the notice of the end: a sink that is not marked as used
// may write to a descriptor that is another client's by then.
func (c *conn) closeNetwork() {
	o := &c.out
	if s, ok := o.sink.(socket.Notifier); ok && !o.notified {
		o.notified, o.sinkBusy = true, true
		o.mu.Unlock()
		s.CloseNotify()
		o.mu.Lock()
		o.sinkBusy = false
		o.wakeIdle()
	}
	o.mu.Unlock()
	c.nc.Close()
}

// tearDown ends a connection that is read no more; err is why.
func (c *conn) tearDown(err error) {
	defer c.release()
	if c.own == nil {
		if !quietly(err) {
			c.b.count.refused.Add(1)
			c.log().WithError(err).Info("client refused")
		}
		c.endFor(errClosed)
		return
	}
	c.stopKeepAlive()
	c.endFor(err)
	c.own.detach(c, time.Now())
	c.own.pipe.run() // drops its routes
	c.b.releaseClaim(c)
	c.log().WithField(logfield.Reason, c.endCause()).Info("client disconnected")
}

// quietly reports whether an end needs no line in the log.
func quietly(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errClosed)
}

// releaseClaim ends c's claim.
func (b *Broker) releaseClaim(c *conn) {
	b.mu.Lock()
	if b.owners[c.claimedKey()] == c {
		delete(b.owners, c.claimedKey())
	}
	if c.own != nil {
		b.uncountIdentity(c.principal.ID)
	}
	b.mu.Unlock()
	close(c.closed)
}

// release gives back all that the connection took: see the list above.
func (c *conn) release() {
	if c.loop == nil {
		c.connectTimer.Stop()
		c.stopHook()
	}
	c.endWithCredential(time.Time{})
	c.awaitWriters()
	c.nc.Close()
	c.cache.drop(c.b)
	c.chargeMemory(-c.charged)
	c.b.openConnections.Add(-1)
	c.b.uncountAddress(c.address)
	if c.loop != nil {
		c.loop.removeConn(c)
		c.clients.Done()
	}
}

// awaitWriters waits, after closeWhenWritten, until no goroutine uses the sink any more.
func (c *conn) awaitWriters() {
	o := &c.out
	o.mu.Lock()
	for o.sinkBusy || len(o.queue) > 0 && o.sink != nil {
		if o.whenIdle == nil {
			o.whenIdle = make(chan struct{})
		}
		idle := o.whenIdle
		o.mu.Unlock()
		<-idle
		o.mu.Lock()
	}
	o.mu.Unlock()
	c.writers.Wait()
}

// detach takes the connection c from the session. Then the session is over, or it
// waits for its client, away since then, until it expires. [MQTT-3.1.2-23]
// [MQTT-4.1.0-2]
func (s *session) detach(c *conn, since time.Time) {
	s.recordToken <- struct{}{}
	s.mu.Lock()
	s.conn.CompareAndSwap(c, nil)
	loans := s.window.takeLoans()
	defer s.b.returnLoans(loans)
	s.chargeMemory(s.window.suspend())
	if s.ended { // by an operator, say: nothing is left to wait for
		s.mu.Unlock()
		<-s.recordToken
		return
	}
	s.dropInMemory()
	s.stateSince = since
	if c.graceful { // [MQTT-3.14.4-3] [MQTT-3.1.2-10]
		s.setWill(nil)
	}
	expiry := s.expiry.Load()
	if expiry == 0 {
		s.mu.Unlock()
		<-s.recordToken
		s.endSession(true, 0)
		return
	}
	will, willAt := s.scheduleWill(expiry)
	if epoch := s.attachments; expiry != never { // [MQTT-4.1.0-2]
		end := since.Add(time.Duration(expiry) * time.Second)
		s.armTimer(expiryTimer, time.Until(end), func() { s.endExpired(epoch) })
	}
	change := s.suspendRecord(since, willAt)
	s.mu.Unlock()
	s.persistChange(will, change, nil)
}

// suspendRecord returns the change of the store's record for a session whose
// connection is over. The caller holds mu.
func (s *session) suspendRecord(since, willAt time.Time) func(store.Tx) {
	r := s.storeRecord(since, willAt)
	unfinished := s.window.unfinished()
	return func(tx store.Tx) {
		tx.PutSession(r)
		for _, x := range unfinished { // resent with their identifiers, also after a restart [MQTT-4.4.0-1]
			tx.Inflight(s.key, x.seq, store.Sent{PacketID: x.id})
		}
	}
}

// beforeAttach is the state of a session before a connection took it.
type beforeAttach struct {
	expiry uint32
	will   *store.Message
	delay  uint32
	since  time.Time
}

// undoAttach puts the session back into the state before attach, for a client that is
// refused after it. The session waits for its client as before.
func (s *session) undoAttach(c *conn, before beforeAttach) {
	s.mu.Lock()
	s.setWill(before.will)
	s.willDelay = before.delay
	s.setExpiry(before.expiry)
	s.mu.Unlock()
	s.reviewGroups()
	s.detach(c, before.since)
}

// endExpired ends the session unless its client came back since the connection that
// attachments counted.
func (s *session) endExpired(attachments uint64) {
	if !s.b.stopped.Load() {
		if s.endSession(true, attachments) {
			s.b.count.expired.Add(1)
		}
	}
}

// endSession forgets the session and all that belongs to it, unless another connection
// than that of attachments took it; 0 is any. A will that waits does not wait any
// longer [MQTT-3.1.2-8], and is published if wantWill says so. endSession reports
// whether it ended the session. A connection that finds the session in the table
// before the store knows of the end waits for that, see attach.
func (s *session) endSession(wantWill bool, attachments uint64) bool {
	s.recordToken <- struct{}{}
	s.mu.Lock()
	if s.ended || attachments != 0 && attachments != s.attachments {
		s.mu.Unlock()
		<-s.recordToken
		return false
	}
	s.chargeMemory(-s.charged)
	s.ended = true
	s.stopTimer(expiryTimer)
	s.stopTimer(willTimer)
	s.stopTimer(retryTimer)
	s.dropInMemory()
	subs, will := s.subs, s.will
	s.subs, s.will, s.incoming = nil, nil, nil
	s.mu.Unlock()
	s.subscribing.Lock()       // no subscription is on its way any more
	for _, sub := range subs { // [MQTT-4.1.0-2]
		s.b.unsubscribe(sub)
	}
	s.subscribing.Unlock()
	if !wantWill {
		will = nil
	}
	var change func(store.Tx)
	if s.stored.Load() { // [MQTT-4.1.0-2]
		change = func(tx store.Tx) { tx.DeleteSession(s.key) }
	}
	s.persistChange(will, change, func() { s.b.forgetSession(s) })
	return true
}

// persistChange ends a change of the store's record: the store gets the change, in the
// transaction of the will if it is time for that [MQTT-3.1.2-8], then is called, and
// recordToken is given back. will, change and then may be nil.
func (s *session) persistChange(will *store.Message, change func(store.Tx), then func()) {
	through := func() {
		if then != nil {
			then()
		}
		<-s.recordToken
	}
	if will != nil && s.publishWill(will, change, func(err error) {
		if err != nil && (!isFull(err) || !s.postponeWill(will, change)) {
			s.countDrop(dropFailed)
			s.updateStore(change)
		}
		through()
	}) {
		return
	}
	s.updateStore(change)
	through()
}

// updateStore has the store make a change, without waiting for it.
func (s *session) updateStore(change func(store.Tx)) {
	if change != nil {
		s.b.opts.Store.Update(change, nil)
	}
}

// forgetSession takes an ended session out of the table. The next session of its
// client finds it in draining until its messages are through.
func (b *Broker) forgetSession(s *session) {
	b.mu.Lock()
	known := b.sessions[s.key] == s // else it never got there
	if known {
		delete(b.sessions, s.key)
		if b.sessionsOf[s.principal.ID]--; b.sessionsOf[s.principal.ID] == 0 {
			delete(b.sessionsOf, s.principal.ID)
		}
	}
	drains := known && s.pipe.waiting.Load() > 0
	if drains {
		b.draining[s.key] = s
	}
	b.mu.Unlock()
	if !drains {
		return
	}
	s.pipe.callAfter(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.draining[s.key] == s {
			delete(b.draining, s.key)
		}
	})
}

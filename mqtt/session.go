package mqtt

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// never is the Session Expiry Interval of a session that does not expire.
const never = 0xFFFFFFFF

// session is what the broker remembers of a client, connected or not. It has at
// most one connection, its owner: see [Broker.claimSession].
type session struct {
	b         *Broker
	key       store.SessionKey
	principal Principal // Remote is that of the first connection
	pipe      pipeline  // messages of the client that are not through yet

	conn     atomic.Pointer[conn] // nil while disconnected
	rights   atomic.Pointer[Rights]
	expiry   atomic.Uint32              // Session Expiry Interval, seconds
	drops    atomic.Pointer[dropCounts] // messages that the session did not get; nil is none
	reported uint64                     // of drops, by [Broker.Run] alone
	stored   atomic.Bool                // the store has a record of it

	incomingLen atomic.Int32 // len(incoming)

	// record holds a token while somebody changes what the store keeps of the
	// session: from the look at it until the store has the change, and as long as
	// the session's will is on its way. It is taken before mu, and in no callback.
	recordToken chan struct{}

	// changing is held while a subscription changes both here and where messages
	// are matched, so that the two stay the same. It is taken before mu.
	subscribing sync.Mutex

	mu            sync.Mutex // guards all below
	ended         bool       // no longer in the broker's table
	subs          map[string]*subscription
	window        window
	incoming      map[uint16]*entry // QoS 2 messages before PUBREL; nil value: PUBREC is out
	inMemory      []store.Delivery  // waiting for room, not kept by the store
	inMemoryBytes int
	readSeq       uint64   // last entry of the store's queue that was sent or dropped
	withheld      []slot   // of QoS 2, whose PUBREL has to be sent
	acked         []uint64 // entries acknowledged since the last batch
	ackedLoans    []*loan  // the same, of the queues of shared subscriptions
	reservedRoom  int      // messages on their way that have room reserved
	groups        []*group // of the shared subscriptions; replaced, never changed
	unkeptBatches int      // batches of entries whose identifiers are being kept
	queueUnread   bool     // the store's queue may hold more than was read
	pumping       bool     // one goroutine is in pump
	pumpAgain     bool     // it has to look once more
	judging       uint64   // what waits is judged again before it is sent, see [session.markJudging]; 0 is not
	will          *store.Message
	willDelay     uint32 // Will Delay Interval, seconds
	charged       int    // bytes that the broker's memory counts for all this, but volatile
	stateSince    time.Time
	attachments   uint64 // counts connections, so that a late timer sees that it is late
	timers        [3]*time.Timer
}

const (
	expiryTimer = iota
	willTimer
	retryTimer // of what the store refused, or could not read
)

func newSession(b *Broker, p Principal, key store.SessionKey) *session {
	s := &session{b: b, key: key, principal: p, stateSince: time.Now(), recordToken: make(chan struct{}, 1)}
	s.chargeMemory(sessionCost + len(key.ClientID))
	s.pipe.init(b, s)
	return s
}

// chargeMemory counts bytes that the session has in memory, until it ends. The caller holds
// mu.
func (s *session) chargeMemory(n int) {
	if !s.ended {
		s.charged += n
		s.b.memory.add(n)
	}
}

// persistent reports whether the session outlives its connection, so that the
// store has to keep what is meant for it.
func (s *session) persistent() bool { return s.expiry.Load() != 0 }

// armTimer arms one of the timers; the caller holds mu.
func (s *session) armTimer(which int, d time.Duration, f func()) {
	s.stopTimer(which)
	if !s.b.stopped.Load() {
		s.timers[which] = time.AfterFunc(d, f)
	}
}

func (s *session) stopTimer(which int) {
	if t := s.timers[which]; t != nil {
		t.Stop()
		s.timers[which] = nil
	}
}

// storeRecord returns what the store keeps of the session. The caller holds mu.
func (s *session) storeRecord(disconnected, willAt time.Time) store.Session {
	r := store.Session{Key: s.key, Expiry: s.expiry.Load(), Will: s.will, WillDelay: s.willDelay}
	if !disconnected.IsZero() {
		r.Disconnected = disconnected.UnixNano()
	}
	if !willAt.IsZero() {
		r.WillAt = willAt.UnixNano()
	}
	return r
}

// beforeAttach is what a session was before a connection took it.
type beforeAttach struct {
	expiry uint32
	will   *store.Message
	delay  uint32
	since  time.Time
}

// attach gives the session to c. What was in flight has to be sent again. It
// reports false if the session ended meanwhile; then the store knows that.
func (s *session) attach(c *conn, expiry uint32) (before beforeAttach, ok bool) {
	s.recordToken <- struct{}{}
	defer func() { <-s.recordToken }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return beforeAttach{}, false
	}
	s.attachments++
	s.stopTimer(expiryTimer)
	s.stopTimer(willTimer) // one that fires now sees the epoch [MQTT-3.1.3-9]
	before = beforeAttach{s.expiry.Load(), nil, s.willDelay, s.stateSince}
	s.setExpiry(expiry)
	before.will = s.setWill(c.will) // [MQTT-3.1.2-7]
	s.willDelay = c.willDelay
	s.stateSince = time.Now()
	s.window.quota = c.quota
	s.queueUnread = true
	s.conn.Store(c)
	return before, true
}

// undoAttach undoes attach for a client that is refused after it: the session waits as
// if that had not come.
func (s *session) undoAttach(c *conn, before beforeAttach) {
	s.mu.Lock()
	s.setWill(before.will)
	s.willDelay = before.delay
	s.setExpiry(before.expiry)
	s.mu.Unlock()
	s.reviewGroups()
	s.detach(c, before.since)
}

// setExpiry also tells the routes when that changes where messages go. The caller
// holds mu.
func (s *session) setExpiry(seconds uint32) {
	if old := s.expiry.Swap(seconds); (old == 0) != (seconds == 0) && len(s.subs) > 0 {
		s.b.Reroute()
	}
}

// detach ends c's ownership. Then the session is over, or it waits for its
// client, who is away since then, until it expires. [MQTT-3.1.2-23] [MQTT-4.1.0-2]
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

// suspendRecord returns what the store has to keep of a session whose connection is
// over. The caller holds mu.
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

// endExpired ends the session unless its client came back since the connection that
// epoch counted.
func (s *session) endExpired(epoch uint64) {
	if !s.b.stopped.Load() {
		if s.endSession(true, epoch) {
			s.b.count.expired.Add(1)
		}
	}
}

// endSession forgets the session and all that belongs to it, unless another connection
// than that of epoch took it; epoch 0 is any. The will, if there is one and it
// is wanted, does not wait any longer [MQTT-3.1.2-8]. It reports whether it did.
// Whoever finds the session in the table before the store knows of the end waits
// for that, see attach.
func (s *session) endSession(wantWill bool, epoch uint64) bool {
	s.recordToken <- struct{}{}
	s.mu.Lock()
	if s.ended || epoch != 0 && epoch != s.attachments {
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
	s.subscribing.Lock()       // none of them is on its way any more
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

// persistChange ends a change to what the store keeps: the store gets it, in the
// transaction of the will if it is time for that [MQTT-3.1.2-8], then is called,
// and record is given back. will, change and then may be nil.
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

// updateStore has the store make a change that nobody waits for.
func (s *session) updateStore(change func(store.Tx)) {
	if change != nil {
		s.b.opts.Store.Update(change, nil)
	}
}

// changeExpiry applies the Session Expiry Interval of a DISCONNECT.
func (s *session) changeExpiry(seconds uint32) error {
	if s.expiry.Load() == 0 && seconds != 0 {
		return violation("", "DISCONNECT with a session expiry after a CONNECT without one")
	}
	s.expiry.Store(s.b.capExpiry(seconds))
	s.reviewGroups()
	return nil
}

func violation(statement, msg string) error {
	return &packet.Error{Code: packet.ProtocolError, Statement: statement, Msg: msg}
}

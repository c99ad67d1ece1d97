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

// session is the broker's memory of a client, connected or not. At most one
// connection has it: see [Broker.claimSession].
type session struct {
	b         *Broker
	key       store.SessionKey
	principal Principal // Remote is that of the first connection
	pipe      pipeline  // messages of the client that wait for a function or the store

	conn     atomic.Pointer[conn] // nil while disconnected
	rights   atomic.Pointer[Rights]
	expiry   atomic.Uint32              // Session Expiry Interval, seconds
	drops    atomic.Pointer[dropCounts] // messages that the session did not get; nil is none
	reported uint64                     // the sum of drops that was logged; of [Broker.Run] alone
	stored   atomic.Bool                // the store has a record of the session

	incomingLen atomic.Int32 // len(incoming)

	// recordToken holds a token while a goroutine changes the store's record of the
	// session: from the look at it until the store has the change, and as long as
	// the session's will is on its way. It is taken before mu, and in no callback.
	recordToken chan struct{}

	// subscribing is held while a subscription changes both here and where messages
	// are matched, so that the two stay the same. It is taken before mu.
	subscribing sync.Mutex

	mu          sync.Mutex // guards all below
	ended       bool       // no longer in the broker's table, or about to leave it
	subs        map[string]*subscription
	groups      []*group          // of the shared subscriptions; replaced, never changed
	incoming    map[uint16]*entry // QoS 2 messages before PUBREL; nil value: PUBREC is out
	will        *store.Message
	willDelay   uint32    // Will Delay Interval, seconds
	charged     int       // bytes of the session in the memory budget, but for inMemory
	stateSince  time.Time // when the client connected, or went away
	attachments uint64    // connections so far: a late timer of an earlier one sees that it is late
	timers      [3]*time.Timer
	sending
}

// sending is how far a session's client has been sent the messages that wait for
// it. Guarded by session.mu. The order in which messages go out is that of
// [session.pump].
type sending struct {
	window        window           // in flight
	queueUnread   bool             // the store's queue may hold entries beyond readSeq
	readSeq       uint64           // the last entry of the store's queue that was sent or dropped
	inMemory      []store.Delivery // messages that no store keeps, waiting for room
	inMemoryBytes int
	acked         []uint64 // entries that the client is done with, and the store not told
	ackedLoans    []*loan  // the same, of the queues of shared subscriptions
	withheld      []slot   // messages of QoS 2 whose PUBREL has to be sent
	unkeptBatches int      // batches of entries whose packet identifiers the store is being told
	reservedRoom  int      // messages for which room is reserved: a function or the store has them
	pumping       bool     // one goroutine is in pump
	pumpAgain     bool     // it has to look once more
	judging       uint64   // the change of rights since which messages are judged before they are sent; 0 is none: see [session.markJudging]
}

// idle reports whether no message waits for the client.
func (d *sending) idle() bool {
	return !d.queueUnread && !d.pumpAgain && d.unkeptBatches == 0 && d.reservedRoom == 0 && len(d.inMemory) == 0
}

// mayOvertake reports whether a message may go out now: no other waits before it, and
// the client takes one more.
func (d *sending) mayOvertake() bool {
	return !d.queueUnread && d.unkeptBatches == 0 && len(d.inMemory) == 0 && d.window.quotaLeft() > 0
}

const (
	expiryTimer = iota
	willTimer
	retryTimer // after the store refused a change, or could not be read
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
		s.b.memory.charge(n)
	}
}

// persistent reports whether the session outlives its connection, so that the
// store has to keep the messages for it.
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

// storeRecord returns the store's record of the session. The caller holds mu.
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

// attach gives the session to c. The messages in flight have to be sent again. It
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
	s.stopTimer(willTimer) // one that fires now sees attachments [MQTT-3.1.3-9]
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

// setExpiry also tells the routes when that changes where messages go. The caller
// holds mu.
func (s *session) setExpiry(seconds uint32) {
	if old := s.expiry.Swap(seconds); (old == 0) != (seconds == 0) && len(s.subs) > 0 {
		s.b.Reroute()
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

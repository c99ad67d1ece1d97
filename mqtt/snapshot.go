package mqtt

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
)

// counts are the broker's running totals.
type counts struct {
	connections      atomic.Uint64
	refused          atomic.Uint64
	expired          atomic.Uint64
	received         atomic.Uint64
	sent             atomic.Uint64
	injected         atomic.Uint64
	forwarded        atomic.Uint64
	drops            dropCounts
	refusedConnect   atomic.Uint64
	refusedPublish   atomic.Uint64
	refusedSubscribe atomic.Uint64
	redispatched     atomic.Uint64
	throttled        atomic.Uint64
	bytesIn          atomic.Uint64
	bytesOut         atomic.Uint64
	deniedLogin      atomic.Uint64
	deniedConnect    atomic.Uint64
	deniedPublish    atomic.Uint64
	deniedSubscribe  atomic.Uint64
	deniedReceive    atomic.Uint64
	deniedFunction   atomic.Uint64
	filterRejected   atomic.Uint64
	filterDropped    atomic.Uint64
}

// Counters are the broker's totals since it was made.
type Counters struct {
	ConnectionsTotal   uint64
	ConnectionsRefused uint64
	Clients            int // connected now
	Sessions           int // connected or not
	SessionsExpired    uint64
	Subscriptions      int
	Shared             int               // of the subscriptions
	MessagesReceived   uint64            // PUBLISH from clients
	MessagesSent       uint64            // PUBLISH to clients
	MessagesInjected   uint64            // from other sites
	MessagesForwarded  uint64            // handed to the Forwarder
	MessagesDropped    uint64            // that a session did not get
	Drops              map[string]uint64 // the same by reason
	Redispatched       uint64            // of shared subscriptions: not acknowledged when a member's connection ended
	SharedWaiting      int               // of shared subscriptions: no member has room, or all are away
	Throttled          uint64            // times that a publisher's socket was not read because of its rate
	MemoryHeld         int64             // bytes in the memory budget
	MemoryLimit        int64             // 0: none
	MemoryRefused      map[string]uint64 // connect, publish and subscribe at the limit
	BytesReceived      uint64
	BytesSent          uint64
	DeniedLogin        uint64 // wrong, missing or unchecked credentials
	DeniedConnect      uint64
	DeniedPublish      uint64
	DeniedSubscribe    uint64
	DeniedReceive      uint64 // routes that a deny closed to a subscription
	DeniedFunction     uint64 // messages that functions emitted
	FilterRejected     uint64
	FilterDropped      uint64
	Store              store.Stats
}

// Counters returns the totals of now.
func (b *Broker) Counters() Counters {
	c := &b.count
	b.mu.Lock()
	sessions, clients := len(b.sessions), 0
	for _, u := range b.perIdentity {
		clients += u.connections
	}
	b.mu.Unlock()
	stored := b.opts.Store.Stats()
	drops, dropped := c.drops.named(stored.QueueDropped)
	shared := 0
	b.interestMu.Lock()
	for _, g := range b.groups {
		shared += g.memberCount()
	}
	b.interestMu.Unlock()
	return Counters{
		ConnectionsTotal:   c.connections.Load(),
		ConnectionsRefused: c.refused.Load(),
		Clients:            clients,
		Sessions:           sessions,
		SessionsExpired:    c.expired.Load(),
		Subscriptions:      int(b.subscriptions.Load()),
		Shared:             shared,
		MessagesReceived:   c.received.Load(),
		MessagesSent:       c.sent.Load(),
		MessagesInjected:   c.injected.Load(),
		MessagesForwarded:  c.forwarded.Load(),
		MessagesDropped:    dropped,
		Drops:              drops,
		MemoryHeld:         b.memory.total(),
		MemoryLimit:        b.memory.ceiling,
		MemoryRefused:      map[string]uint64{"connect": c.refusedConnect.Load(), "publish": c.refusedPublish.Load(), "subscribe": c.refusedSubscribe.Load()},
		Redispatched:       c.redispatched.Load(),
		SharedWaiting:      b.sharedWaiting(),
		Throttled:          c.throttled.Load(),
		BytesReceived:      c.bytesIn.Load(),
		BytesSent:          c.bytesOut.Load(),
		DeniedLogin:        c.deniedLogin.Load(),
		DeniedConnect:      c.deniedConnect.Load(),
		DeniedPublish:      c.deniedPublish.Load(),
		DeniedSubscribe:    c.deniedSubscribe.Load(),
		DeniedReceive:      c.deniedReceive.Load(),
		DeniedFunction:     c.deniedFunction.Load(),
		FilterRejected:     c.filterRejected.Load(),
		FilterDropped:      c.filterDropped.Load(),
		Store:              stored,
	}
}

// sharedWaiting counts the messages in the queues of shared subscriptions, the lent
// ones included where the store has them.
func (b *Broker) sharedWaiting() (n int) {
	for _, g := range b.allGroups() {
		n += g.inMemoryCount() + b.opts.Store.QueueStats(g.key).Messages
	}
	return n
}

// SessionInfo is one session as operators see it.
type SessionInfo struct {
	Identity      identity.ID
	ClientID      string
	Connected     bool
	Remote        string    // of the connection
	Protocol      string    // "5" or "3.1.1"; empty without a connection
	Since         time.Time // of the connection or its end
	KeepAlive     time.Duration
	Expiry        time.Duration // after the connection; negative: never
	Subscriptions []string
	Asleep        int               // of them: the policy does not grant them now
	Inflight      int               // sent, not acknowledged
	Queued        int               // waiting, in flight included for a persistent session
	Dropped       uint64            // messages that the session lost
	Drops         map[string]uint64 // the same by reason
	Denied        uint64            // of the connection
	Throttled     uint64            // how often its identity was not read because of its rate
	ThrottledBy   string            // the rule that set the rate, the last time
}

// Sessions returns all sessions, sorted by identity and client identifier.
func (b *Broker) Sessions() []SessionInfo {
	var infos []SessionInfo
	for _, s := range b.allSessions() {
		infos = append(infos, s.info())
	}
	slices.SortFunc(infos, func(x, y SessionInfo) int {
		return cmp.Or(cmp.Compare(x.Identity.String(), y.Identity.String()), cmp.Compare(x.ClientID, y.ClientID))
	})
	return infos
}

func (s *session) info() SessionInfo {
	queue := s.b.opts.Store.QueueStats(s.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i := SessionInfo{
		Identity: s.principal.ID, ClientID: s.principal.ClientID, Since: s.stateSince,
		Expiry:   time.Duration(s.expiry.Load()) * time.Second,
		Inflight: s.window.used, Queued: queue.Messages + len(s.inMemory),
	}
	i.Drops, i.Dropped = s.drops.Load().named(queue.Dropped)
	if s.expiry.Load() == never {
		i.Expiry = -1
	}
	for f, sub := range s.subs {
		if i.Subscriptions = append(i.Subscriptions, f); sub.asleep {
			i.Asleep++
		}
	}
	slices.Sort(i.Subscriptions)
	if c := s.conn.Load(); c != nil {
		i.Connected, i.Remote, i.Protocol = true, c.principal.Remote, c.version.String()
		i.KeepAlive, i.Denied = c.keepAlive, c.deniedCount.Load()
		if rate := c.usage.rate.Load(); rate != nil {
			i.Throttled, i.ThrottledBy = rate.throttling()
		}
	}
	return i
}

// principalFields are the log fields of a principal.
func principalFields(p Principal) logrus.Fields {
	return logrus.Fields{
		logfield.SPIFFEID: p.ID.String(), logfield.ClientID: p.ClientID, logfield.Remote: p.Remote,
	}
}

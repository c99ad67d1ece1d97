package mqtt

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/hlc"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// Options configures a [Broker]. Zero values are usable unless a comment says
// otherwise.
type Options struct {
	Store      store.Store        // required
	Authorizer Authorizer         // decides every PUBLISH and SUBSCRIBE; required
	Passwords  Passwords          // of clients without certificates; nil accepts none
	Renewer    Renewer            // lets clients renew their credential; nil lets none
	Outlives   Outlives           // serves clients whose credential has ended; nil serves none
	Filter     Filter             // functions; nil runs none
	Forwarder  Forwarder          // the way to other sites; nil has none
	Log        logrus.FieldLogger // connection events and denials; nil discards them
	Version    string             // told in $SYS/broker/version

	ConnectTimeout time.Duration    // from accept to CONNECT, TLS handshake included; 10 s
	SessionExpiry  time.Duration    // the longest that a session outlives its connection; 0: as long as asked
	KeepAlive      time.Duration    // the longest of an MQTT 5 client, in whole seconds; 0: as asked, none included
	PacketSize     int              // largest packet taken; 1 MiB
	ReceiveMaximum uint16           // a client's QoS 1 and 2 messages in flight; 256
	Inflight       uint16           // ours towards a client, if its Receive Maximum is not lower; 1,024
	TopicAliases   uint16           // per connection, each way; 32
	Queue          store.QueueLimit // of a session without expiry, beyond its window; 10,000 messages, 16 MiB
	Outbox         int              // bytes waiting for a slow client's socket before QoS 0 is dropped; 64 MiB

	// ServerReference names other servers to MQTT 5 clients that this one cannot
	// serve: because it goes down, or its memory is full. It is one or more HOST or
	// HOST:PORT with spaces between (MQTT 5.0 §4.11); empty names none.
	ServerReference string

	SubscriptionsPerSession int  // 10,000
	SessionsPerIdentity     int  // 10,000, connected or not
	Connections             int  // 100,000
	ConnectionsPerIdentity  int  // 10,000
	ConnectionsPerAddress   int  // 10,000; connections from this machine are not counted
	ConnectsPerAddress      int  // new connections per second; 1,000; likewise
	Publish                 Rate // of each identity; none

	// Memory is how many bytes may be held for clients and sites before new work is
	// refused: in slow clients' outboxes, in queues in memory, as retained messages and
	// as messages that wait for functions and the store. Zero is no limit.
	Memory int64
}

// Broker serves MQTT clients.
type Broker struct {
	opts            Options
	log             logrus.FieldLogger
	start           time.Time
	clock           hlc.Clock
	memory          memoryBudget
	routes          routeBudget
	count           counts
	loads           loads
	openConnections atomic.Int64  // connections, with or without CONNECT
	stopped         atomic.Bool   // no timer acts any more
	policyChanges   atomic.Uint64 // counts changes, before sessions get the rights of a new policy
	settled         settledChanges
	routeEpoch      atomic.Uint64 // counts changes of all that routes remember, but for the subscription tree

	tree *topic.Tree[subscriber, *subscription]

	interestMu    sync.Mutex     // guards the next three; Forwarder hears of interest under it
	interest      map[string]int // local subscriptions by filter
	groups        map[groupKey]*group
	storedGroups  map[groupKey]string // queues of groups that the store kept, until New returns
	subscriptions atomic.Int64

	mu          sync.Mutex // guards the next six
	sessions    map[store.SessionKey]*session
	restored    []restored // until Run begins
	sessionsOf  map[identity.ID]int
	owners      map[store.SessionKey]*conn    // see claimSession
	draining    map[store.SessionKey]*session // the client's last session that has ended, while its pipeline has entries
	perIdentity map[identity.ID]*usage
	perAddress  map[netip.Addr]int // connections, with or without CONNECT

	functionsMu sync.Mutex
	functions   map[identity.ID]Rights // of functions, by the policy in force

	notices   notices
	deniedLog *rate.Limiter
	loops     loops
	gate      *Gate
	lanes     [64]pipeline // of other sites and, first, of the node itself
}

// New returns a broker that serves no listener yet, with the sessions that the store
// kept, judged by the policy of now; their expiry and their wills wait for
// [Broker.Run]. It panics without a store or an authorizer.
func New(o Options) *Broker {
	if o.Store == nil || o.Authorizer == nil {
		panic("mqtt: Options need a Store and an Authorizer")
	}
	b := &Broker{
		opts: o.withDefaults(), start: time.Now(),
		tree:        topic.NewTree[subscriber, *subscription](),
		interest:    make(map[string]int),
		groups:      make(map[groupKey]*group),
		sessions:    make(map[store.SessionKey]*session),
		sessionsOf:  make(map[identity.ID]int),
		owners:      make(map[store.SessionKey]*conn),
		draining:    make(map[store.SessionKey]*session),
		perIdentity: make(map[identity.ID]*usage),
		perAddress:  make(map[netip.Addr]int),
		functions:   make(map[identity.ID]Rights),
		notices:     notices{subs: make(map[identity.ID]*noticeView)},
		deniedLog:   rate.NewLimiter(10, 50),
	}
	b.log, b.gate = b.opts.Log, b.NewGate()
	b.memory.ceiling, b.memory.store = o.Memory, o.Store
	b.routes.init(o.Memory)
	for i := range b.lanes {
		b.lanes[i].init(b, nil)
	}
	b.restoreAll(o.Store.Sessions())
	return b
}

func (o Options) withDefaults() Options {
	o.Log = logfield.OrSilent(o.Log)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 10*time.Second)
	o.KeepAlive = min(o.KeepAlive, math.MaxUint16*time.Second)
	o.PacketSize = min(cmp.Or(o.PacketSize, 1<<20), packet.MaxSize)
	o.ReceiveMaximum = cmp.Or(o.ReceiveMaximum, 256)
	o.Inflight = cmp.Or(o.Inflight, 1024)
	o.TopicAliases = cmp.Or(o.TopicAliases, 32)
	o.Queue.Messages = cmp.Or(o.Queue.Messages, 10_000)
	o.Queue.Bytes = cmp.Or(o.Queue.Bytes, 16<<20)
	o.Outbox = cmp.Or(o.Outbox, 64<<20)
	o.SubscriptionsPerSession = cmp.Or(o.SubscriptionsPerSession, 10_000)
	o.SessionsPerIdentity = cmp.Or(o.SessionsPerIdentity, 10_000)
	o.Connections = cmp.Or(o.Connections, 100_000)
	o.ConnectionsPerIdentity = cmp.Or(o.ConnectionsPerIdentity, 10_000)
	o.ConnectionsPerAddress = cmp.Or(o.ConnectionsPerAddress, 10_000)
	o.ConnectsPerAddress = cmp.Or(o.ConnectsPerAddress, 1_000)
	return o
}

// allSessions returns the sessions of now.
func (b *Broker) allSessions() []*session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.sessions))
}

// addSession puts a session into the table. The caller holds mu, or New has not
// returned yet.
func (b *Broker) addSession(s *session) {
	b.sessions[s.key] = s
	b.sessionsOf[s.principal.ID]++
}

// Filters returns the topic filters of all local subscriptions, as told to
// [Forwarder.Subscribed].
func (b *Broker) Filters() []string {
	b.interestMu.Lock()
	defer b.interestMu.Unlock()
	filters := make([]string, 0, len(b.interest))
	for f := range b.interest {
		if f[0] != '$' {
			filters = append(filters, f)
		}
	}
	return filters
}

// Reroute makes the broker ask [Forwarder.Wants] and [Filter.Bound] anew about topics
// that it has asked about before.
func (b *Broker) Reroute() { b.routeEpoch.Add(1) }

func isFull(err error) bool { return errors.Is(err, store.ErrFull) }

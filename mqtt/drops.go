package mqtt

import (
	"sync/atomic"

	"github.com/hpmq/hpmq/internal/logfield"
)

// dropReason says why a session did not get a message.
type dropReason byte

const (
	dropAway     dropReason = iota // its connection was just ending and nothing keeps the message
	dropSlow                       // the client takes less than it is sent
	dropQueue                      // its queue is full
	dropTooLarge                   // for the client's Maximum Packet Size
	dropExpired                    // its time was over before the client had room
	dropMemory                     // the broker's memory was full
	dropMember                     // no member of a shared subscription could take it
	dropFailed                     // of QoS 0: a function or the store failed, and no publisher waits for an answer
	dropDenied                     // it waited, and the policy of now does not let the session have it
	dropReasons
)

// dropWords name the reasons in metrics and reports.
var dropWords = [dropReasons]string{"away", "slow", "queue", "too_large", "expired", "memory", "no_member", "failed", "denied"}

// dropAdvice has a remedy for each reason.
var dropAdvice = [dropReasons]string{
	dropAway:     "a session expiry in CONNECT keeps messages over short absences",
	dropSlow:     "the client reads slower than it is sent: subscribe to less, read faster, or raise the limit outbox-bytes",
	dropQueue:    "its queue is full: bring the client back, subscribe to less, raise queue-messages and queue-bytes, or end it with hpmq kick",
	dropTooLarge: "raise the client's Maximum Packet Size, or publish less at once",
	dropExpired:  "publishers set a message expiry shorter than the client's absence or delay",
	dropMemory:   "raise the limit memory, or end what waits: hpmq clients shows for whom",
	dropMember:   "no member of the shared subscription was connected with room",
	dropDenied:   "a policy took the right away while the message waited: see hpmq why IDENTITY receive TOPIC",
	dropFailed:   "look for what the log says of the store and of functions",
}

// dropCounts are totals by reason.
type dropCounts [dropReasons]atomic.Uint64

// countDrop counts a message that the session does not get.
func (s *session) countDrop(why dropReason) {
	d := s.drops.Load()
	if d == nil {
		s.drops.CompareAndSwap(nil, new(dropCounts))
		d = s.drops.Load()
	}
	d[why].Add(1)
	s.b.countDrop(why)
}

// countDrop counts a message that some session did not get.
func (b *Broker) countDrop(why dropReason) { b.count.drops[why].Add(1) }

// named returns the counts that are not zero and their sum. queued messages were
// dropped from the store's queues.
func (d *dropCounts) named(queued uint64) (by map[string]uint64, total uint64) {
	by = make(map[string]uint64)
	for why := range dropReasons {
		n := uint64(0)
		if d != nil {
			n = d[why].Load()
		}
		if why == dropQueue {
			n += queued
		}
		if n > 0 {
			by[dropWords[why]] = n
			total += n
		}
	}
	return by, total
}

// worst is the reason that cost most.
func worst(by map[string]uint64) dropReason {
	w := dropAway
	for why := range dropReasons {
		if by[dropWords[why]] > by[dropWords[w]] {
			w = why
		}
	}
	return w
}

// maxDropLines bounds the lines of one look.
const maxDropLines = 20

// reportDrops logs the sessions that lost messages since the last look, each in
// one line with the remedy.
func (b *Broker) reportDrops() {
	more := 0
	for _, s := range b.allSessions() {
		by, total := s.drops.Load().named(b.opts.Store.QueueStats(s.key).Dropped)
		news := total - s.reported
		if news == 0 {
			continue
		}
		s.reported = total
		if more++; more > maxDropLines {
			continue
		}
		w := worst(by)
		b.log.WithFields(principalFields(s.principal)).WithField(logfield.Dropped, news).
			WithField(logfield.Reason, dropWords[w]).WithField(logfield.Hint, dropAdvice[w]).
			Warn("messages for a client were dropped")
	}
	if more > maxDropLines {
		b.log.WithField(logfield.Dropped, more-maxDropLines).Warn("messages for more clients were dropped: see hpmq clients")
	}
}

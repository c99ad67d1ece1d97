package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// restoredAttachments is session.attachments of a session whose client did not come
// back since the restart.
const restoredAttachments = 1

// restored is a session whose time does not count yet.
type restored struct {
	session *session
	kept    store.Session
}

// restoreAll takes up the sessions that the store kept over a restart.
func (b *Broker) restoreAll(all []store.Session) {
	b.storedGroups = make(map[groupKey]string)
	for _, s := range all {
		if of, id, ok := parseGroup(s.Key); ok {
			b.storedGroups[of] = id
		}
	}
	for _, s := range all {
		if s.Key.Identity != shareIdentity {
			b.restoreSession(s)
		}
	}
	for _, s := range all { // groups without members
		if of, id, ok := parseGroup(s.Key); s.Key.Identity == shareIdentity && (!ok || b.storedGroups[of] == id) {
			b.opts.Store.Update(func(tx store.Tx) { tx.DeleteSession(s.Key) }, nil)
		}
	}
	b.storedGroups = nil
}

// restoreSession takes up a session that the store kept over a restart: its
// subscriptions, the messages in flight, its will and its expiry.
func (b *Broker) restoreSession(kept store.Session) {
	id, err := identity.ParseID(kept.Key.Identity)
	if err != nil {
		b.log.WithError(err).Error("session of an unreadable identity left out")
		return
	}
	s := newSession(b, Principal{ID: id, ClientID: kept.Key.ClientID}, kept.Key)
	r := b.opts.Authorizer.Rights(s.principal)
	s.rights.Store(&r)
	s.markJudging() // the policy may be another one than when the broker ended
	s.stored.Store(true)
	s.expiry.Store(kept.Expiry)
	s.setWill(kept.Will)
	s.willDelay = kept.WillDelay
	for _, id := range kept.Received {
		s.noteIncoming(id, nil)
	}
	s.restoreWindow(kept.Disconnected == 0)
	b.addSession(s)
	for _, sub := range kept.Subscriptions {
		b.restoreSubscription(s, sub)
	}
	s.attachments = restoredAttachments
	b.restored = append(b.restored, restored{s, kept})
}

func (b *Broker) restoreSubscription(s *session, kept store.Subscription) {
	name, filter, shared, err := topic.ParseShared(kept.Filter)
	if err != nil {
		return // it was valid when it was kept
	}
	v := s.maySubscribe(kept.Filter)
	sub := &subscription{Subscription: kept, session: s, filter: filter, filtered: v.Filtered, asleep: !v.Allowed}
	b.completeSubscription(sub, name, shared)
	s.subscribe(sub)
}

// restoreWindow finds the messages whose identifiers the store knows. Messages of
// QoS 1 that a connection had when the broker was killed are not among them. They may
// have been sent, and get new identifiers, so that they are sent with DUP whenever the
// client comes back [MQTT-3.3.1-1]. Nothing was sent behind a message of QoS 2 whose
// identifier is not kept.
func (s *session) restoreWindow(connected bool) {
	var scratch [64]store.Entry
	var again []uint64
	entries := 0
	for after := uint64(0); ; {
		got, err := s.b.opts.Store.Queue(s.key, after, scratch[:0])
		if err != nil {
			s.b.log.WithError(err).Error("what was in flight to a client cannot be read from the store: it is sent after another start")
		}
		for _, e := range got {
			after = e.Seq
			entries++
			connected = connected && entries <= int(s.b.opts.Inflight) && (e.QoS < 2 || e.PacketID != 0)
			if e.PacketID != 0 {
				s.window.restore(sentSlot(e))
			} else if connected {
				again = append(again, e.Seq)
			}
		}
		if len(got) == 0 {
			break
		}
	}
	for _, seq := range again {
		if s.window.exhausted() {
			break
		}
		s.window.assign(seq, 1, sent)
		s.readSeq = seq // resendUnfinished has it, and all before
	}
	s.window.suspend()
	s.chargeMemory(s.window.bytes())
}

func sentSlot(e store.Entry) slot {
	state := sent
	if e.Released {
		state = released
	}
	return slot{seq: e.Seq, id: e.PacketID, state: state, qos: e.QoS}
}

// startTimers begins the time that restored sessions have left, and that of their
// wills: not before [Broker.Run], so that a will that is due finds its functions
// and receivers.
func (b *Broker) startTimers() {
	b.mu.Lock()
	restored := b.restored
	b.restored = nil
	b.mu.Unlock()
	for _, r := range restored {
		r.session.startTimers(r.kept)
	}
}

// startTimers counts the time that the broker was away. A session that was
// connected when the broker ended lost its connection then: its time begins now,
// and once, however often the broker ends.
func (s *session) startTimers(kept store.Session) {
	now := time.Now()
	gone := now
	if kept.Disconnected != 0 {
		gone = time.Unix(0, kept.Disconnected)
	}
	s.recordToken <- struct{}{}
	defer func() { <-s.recordToken }()
	s.mu.Lock()
	if s.ended || s.attachments != restoredAttachments {
		s.mu.Unlock()
		return // its client is back
	}
	s.stateSince = gone
	if kept.Expiry != never {
		left := time.Duration(kept.Expiry)*time.Second - now.Sub(gone)
		s.armTimer(expiryTimer, max(left, 0), func() { s.endExpired(restoredAttachments) })
	}
	willAt := time.Time{}
	if s.will != nil {
		willAt = time.Unix(0, kept.WillAt)
		if kept.WillAt == 0 {
			willAt = now.Add(time.Duration(s.willDelay) * time.Second)
		}
		s.armWill(max(willAt.Sub(now), 0))
	}
	change := s.suspendRecord(gone, willAt)
	s.mu.Unlock()
	if kept.Disconnected == 0 {
		s.b.opts.Store.Update(change, nil)
	}
}

package mqtt

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/hlc"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// RetainedInfo is one retained message as operators see it.
type RetainedInfo struct {
	Topic     string
	Size      int // bytes of payload
	QoS       byte
	Published time.Time // by the clock of the site where it was
	Expires   time.Time // zero: never
	Publisher string    // SPIFFE ID
}

// Retained yields the retained messages whose topic matches filter, which is not
// a shared one, sorted by topic. It holds nothing but their list.
func (b *Broker) Retained(filter string) iter.Seq[RetainedInfo] {
	return func(yield func(RetainedInfo) bool) {
		for _, m := range b.retained(filter) {
			i := RetainedInfo{
				Topic: m.Topic, Size: len(m.Payload), QoS: m.QoS, Published: hlc.Time(m.HLC), Publisher: m.Publisher,
			}
			if m.Expires != 0 {
				i.Expires = time.Unix(0, m.Expires)
			}
			if !yield(i) {
				return
			}
		}
	}
}

func (b *Broker) retained(filter string) []*store.Message {
	found := b.opts.Store.Retained(filter)
	slices.SortFunc(found, func(x, y *store.Message) int { return cmp.Compare(x.Topic, y.Topic) })
	return found
}

// ClearRetained removes the retained messages whose topic matches filter, here
// and at the sites that have them, in the name of by: subscribers get the empty
// message, as if a client had published it. It returns how many are gone for
// good, also when ctx ends it or the store refuses.
func (b *Broker) ClearRetained(ctx context.Context, filter string, by identity.ID) (cleared int, err error) {
	return b.clearRetained(ctx, b.retained(filter), by)
}

// ClearRetainedOf removes the retained messages that publisher published, as
// [Broker.ClearRetained] does: for an identity that was revoked. Messages that
// publisher publishes meanwhile are not seen, so its connections end before. Topics
// that begin with $ are left out.
func (b *Broker) ClearRetainedOf(ctx context.Context, publisher, by identity.ID) (cleared int, err error) {
	name := publisher.String()
	theirs := slices.DeleteFunc(b.retained("#"), func(m *store.Message) bool { return m.Publisher != name })
	return b.clearRetained(ctx, theirs, by)
}

func (b *Broker) clearRetained(ctx context.Context, found []*store.Message, by identity.ID) (cleared int, err error) {
	const atOnce = 256
	answers := make(chan error, atOnce) // done never blocks: at most as many are under way
	pending := 0
	take := func() {
		e := <-answers
		pending--
		if e == nil {
			cleared++
		} else if err == nil {
			err = e
		}
	}
	for _, m := range found {
		if err != nil || ctx.Err() != nil {
			break
		}
		if pending == atOnce {
			take()
		}
		pending++
		b.Publish(&store.Message{Topic: m.Topic, Retain: true, QoS: 1, Publisher: by.String()}, func(e error) { answers <- e })
	}
	for pending > 0 {
		take()
	}
	if err == nil {
		err = ctx.Err()
	}
	return cleared, err
}

// FilterInfo is a topic filter of subscriptions here.
type FilterInfo struct {
	Filter        string // of a shared subscription without $share and its name
	Subscriptions int
}

// Subscribed returns the filters that sessions here subscribed to and that have a
// topic in common with within, sorted.
func (b *Broker) Subscribed(within string) []FilterInfo {
	var found []FilterInfo
	b.interestMu.Lock()
	for filter, n := range b.interest {
		if topic.Overlaps(filter, within) {
			found = append(found, FilterInfo{filter, n})
		}
	}
	b.interestMu.Unlock()
	slices.SortFunc(found, func(x, y FilterInfo) int { return cmp.Compare(x.Filter, y.Filter) })
	return found
}

// Receiver is a subscription that matches a topic, and the outcome of a message for
// it.
type Receiver struct {
	Identity  identity.ID
	ClientID  string
	Filter    string // as it was subscribed to, $share and all
	QoS       byte   // granted
	Connected bool
	Gets      bool
	Why       string // it does not, or under which condition; may be empty
}

// Receivers returns the subscriptions here that match name, sleeping ones included,
// and whether a message published to it would reach them. It counts nothing.
func (b *Broker) Receivers(name string) []Receiver {
	var found []Receiver
	for _, sub := range b.tree.Match(nil, name) {
		if sub.group == nil {
			found = append(found, b.receiver(sub, name))
			continue
		}
		sub.group.mu.Lock()
		members := sub.group.members
		sub.group.mu.Unlock()
		for _, m := range members {
			r := b.receiver(m, name)
			if r.Gets && len(members) > 1 {
				r.because("one member of the group gets each message")
			}
			found = append(found, r)
		}
	}
	for _, s := range b.allSessions() {
		found = append(found, s.sleepers(name)...)
	}
	slices.SortFunc(found, func(x, y Receiver) int {
		return cmp.Or(cmp.Compare(x.Identity.String(), y.Identity.String()), cmp.Compare(x.ClientID, y.ClientID), cmp.Compare(x.Filter, y.Filter))
	})
	return found
}

// sleepers returns the session's subscriptions that match name and sleep.
func (s *session) sleepers(name string) (found []Receiver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		if sub.asleep && topic.Match(sub.filter, name) {
			found = append(found, Receiver{
				Identity: s.principal.ID, ClientID: s.principal.ClientID, Filter: sub.Filter, QoS: sub.QoS,
				Connected: s.connected(), Why: "the subscription sleeps: the policy does not grant it",
			})
		}
	}
	return found
}

func (b *Broker) receiver(sub *subscription, name string) Receiver {
	s := sub.session
	r := Receiver{
		Identity: s.principal.ID, ClientID: s.principal.ClientID, Filter: sub.Filter, QoS: sub.QoS,
		Connected: s.connected(), Gets: true,
	}
	rights := s.currentRights()
	switch {
	case rights == nil:
		r.Gets = false
		r.because("the identity has no rights")
		return r
	case sub.filtered:
		if v := rights.Receive(name); !v.Allowed {
			r.Gets = false
			r.because(v.Reason)
			return r
		}
	}
	switch {
	case r.Connected:
	case sub.QoS == 0:
		r.Gets = false
		r.because("away, and nothing keeps QoS 0")
	default:
		r.because("away: QoS 1 and 2 wait for it")
	}
	if sub.NoLocal {
		r.because("not what it published itself")
	}
	if r.Gets && b.boundDownstream(s, name) {
		r.because("a function may change or drop it")
	}
	return r
}

func (r *Receiver) because(reason string) {
	r.Why = strings.TrimPrefix(r.Why+"; "+reason, "; ")
}

// WantedElsewhere reports whether another site asked for messages of name.
func (b *Broker) WantedElsewhere(name string) bool {
	return b.opts.Forwarder != nil && !strings.HasPrefix(name, "$") && b.opts.Forwarder.Wants(name)
}

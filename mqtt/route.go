package mqtt

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// subscription is one topic filter of a session. It is replaced, never changed.
type subscription struct {
	store.Subscription
	session  *session
	filter   string   // without $share/<name>/
	shared   groupKey // of a shared subscription, else zero
	group    *group   // in the tree, in place of its members
	ids      []uint32 // the subscription identifier, if any
	filtered bool     // each topic is asked for; see [Verdict]
	asleep   bool     // the policy of now does not grant it: it is kept, and gets nothing
}

// subscriber is the key of an entry in the subscription tree: a session, or a
// group whose members share one entry.
type subscriber struct {
	session *session
	group   *group
}

// receiver is one session that gets a topic's messages.
type receiver struct {
	session    *session
	qos        byte
	rap        bool // Retain As Published
	downstream bool // a function is bound
	ids        []uint32
}

// route is the broker's knowledge of one topic for one publisher: the receivers of its
// messages and the rights to publish them. It holds while the subscription tree's
// generation and the broker's routeEpoch stay the same, so a message asks neither
// policy nor tree.
type route struct {
	topic           string
	generation      uint64
	routeEpoch      uint64
	receivers       []receiver
	groups          []*group // of shared subscriptions
	upstream        bool
	wantedElsewhere bool      // by another site
	downstream      bool      // by some receiver
	persists        bool      // the store keeps it for some receiver
	allowedSizes    [3][2]int // by QoS and RETAIN: the largest size known to be allowed, plus one

	cost  int    // bytes, about
	newer *route // of the same cache
}

// slow reports whether a message of qos has to wait for something: a function
// or the store.
func (r *route) slow(qos byte) bool {
	return r.upstream || r.wantedElsewhere || r.downstream || r.persists && qos > 0
}

// addSubscription merges a subscription into the receivers: one copy per session, at the
// highest QoS, with all identifiers. [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
func (r *route) addSubscription(sub *subscription, from *session, index map[*session]int) {
	if sub.group != nil {
		r.groups = append(r.groups, sub.group)
		return
	}
	s := sub.session
	if sub.NoLocal && s == from { // [MQTT-3.8.3-3]
		return
	}
	if sub.filtered && !s.mayReceive(r.topic) {
		return
	}
	i, known := index[s]
	if index == nil {
		i = slices.IndexFunc(r.receivers, func(x receiver) bool { return x.session == s })
		known = i >= 0
	}
	if !known {
		i = len(r.receivers)
		r.receivers = append(r.receivers, receiver{session: s})
		if index != nil {
			index[s] = i
		}
	}
	to := &r.receivers[i]
	to.qos = max(to.qos, sub.QoS) // [MQTT-3.3.4-2]
	to.rap = to.rap || sub.RetainAsPublished
	if sub.ID != 0 { // [MQTT-3.3.4-3] [MQTT-3.3.4-4]
		to.ids = append(to.ids, sub.ID)
	}
}

// matched reports whether anybody gets the messages.
func (r *route) matched() bool { return len(r.receivers)+len(r.groups) > 0 }

// bind notes whether messages to a receiver wait for a function or the store.
func (r *route) bind(b *Broker, to *receiver) {
	r.persists = r.persists || to.qos > 0 && to.session.persistent()
	to.downstream = b.boundDownstream(to.session, r.topic)
	r.downstream = r.downstream || to.downstream
}

func (b *Broker) boundDownstream(s *session, name string) bool {
	return b.opts.Filter != nil && b.opts.Filter.Bound(Downstream, s.principal, name)
}

// validTopic refuses a name that is no topic name, or has too many levels.
func validTopic(name string) error {
	if err := topic.ValidName(name); err != nil {
		return &packet.Error{Code: packet.TopicNameInvalid, Msg: "topic name " + err.Error()}
	}
	return nil
}

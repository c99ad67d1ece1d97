package trust

import (
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

// A message of another site is judged a second time where it arrives, as if its
// publisher had sent it at that other site. So a site in foreign hands can do only
// what policy lets some publisher do there. Only the other site knows whether the
// publisher is there. So policy says with session.site which publishers may roam.
//
// The other site accepted the message by the policy and the directory that it had.
// Where ours are older the message waits for them (ErrUnsettled). Where ours are
// newer, a deny holds at once. A grant that is gone still counts for messages sent
// before it went: see past.go.

const maxPublishers = 4096 // publishers with compiled rights in memory; beyond it all are compiled anew

// Foreign decides which messages other sites may send. It is safe for concurrent use.
type Foreign struct {
	ForeignOptions

	mu         sync.Mutex // guards all below
	set        *policy.Set
	since      uint64    // hybrid clock of the record of set; 0 is long ago
	past       []pastSet // newest first
	rights     map[publisherAt]*foreignRights
	generation uint64 // of rights: rights compiled in an older generation are not kept
	stamps     stamps
}

// publisherAt is a publisher at the site where it published.
type publisherAt struct{ publisher, site string }

// foreignRights are a publisher's rights at a site, now and under past policies.
type foreignRights struct {
	subject policy.Subject
	now     *policy.Session
	since   uint64              // when now came in force; 0 is long ago
	past    func() []pastRights // compiled when first needed
}

type pastRights struct {
	*pastSet

	session *policy.Session
}

// ForeignOptions are the sources of a [Foreign].
type ForeignOptions struct {
	Site     *Site // the receiving one
	Policy   func() *policy.Set
	Records  func() iter.Seq2[uint64, directory.Policy] // see [PolicyRecords]
	Compile  func(files map[string][]byte) *policy.Set  // nil for files that do not compile
	Retained func(filter string) []*store.Message
}

// NewForeign takes the policies before the one in force from the records: messages
// that waited at another site may come after a restart of this node.
func NewForeign(o ForeignOptions) *Foreign {
	return &Foreign{
		ForeignOptions: o, set: o.Policy(), past: o.pastPolicies(time.Now()),
		rights: make(map[publisherAt]*foreignRights), stamps: stamps{},
	}
}

// PolicyChanged keeps the policy that was replaced for a while.
func (r *Foreign) PolicyChanged() {
	now := time.Now()
	for {
		set := r.Policy()
		if r.install(set, r.recorded(set), now) {
			return
		}
	}
}

// recorded returns the clock of the record that brought set, or 0 when it is too old
// to matter.
func (r *Foreign) recorded(set *policy.Set) uint64 {
	hash := directory.HashFiles(set.Files())
	for clock, p := range r.Records() {
		if p.Hash == hash {
			return clock
		}
	}
	return 0
}

// install replaces the policy with set, unless a newer policy has come meanwhile.
func (r *Foreign) install(set *policy.Set, since uint64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.Policy() != set:
		return false
	case r.set == set:
		return true
	}
	past := slices.Clone(r.past) // compile may have handed out the old slice
	if r.set.Len() > 0 {         // the first set denies everything
		past = append([]pastSet{newPastSet(r.set, since, now)}, past...)
	}
	past = slices.DeleteFunc(past, func(p pastSet) bool { return !now.Before(p.until) })
	r.set, r.since, r.past = set, since, past[:min(len(past), maxPastPolicy)]
	r.forget()
	return true
}

// IdentitiesChanged drops the compiled rights of all publishers.
func (r *Foreign) IdentitiesChanged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget()
}

// forget drops the rights. The caller holds mu.
func (r *Foreign) forget() {
	r.rights = make(map[publisherAt]*foreignRights)
	r.generation++
}

// Accept returns nil, or why m, which the node sender of another site sent, is refused.
// [ErrUnsettled] is in a refusal that a newer record may change.
func (r *Foreign) Accept(sender identity.ID, m *store.Message) error {
	key := publisherAt{m.Publisher, m.Origin.Site}
	r.mu.Lock()
	stamp := r.stamps.raise(sender, m)
	x := r.rights[key]
	r.mu.Unlock()
	if x == nil {
		var err error
		if x, err = r.compile(key); err != nil {
			return fmt.Errorf("publisher: %w", err)
		}
	}
	d := publishes(x.now, m)
	if d.Allowed || r.clearsOwn(x.subject.ID, m) || x.excused(m, stamp, time.Now()) {
		return nil
	}
	err := fmt.Errorf("publisher %s at %s: %s", x.subject.ID.Short(), m.Origin.Site, d.Reason())
	if x.refusesForGood(m, d) {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrUnsettled)
}

// refusesForGood reports whether the refusal d is final. It is final when m is older
// than the policy in force: this node then knows everything that the site knew when it
// accepted m. A deny is final for messages under way as well: else each new deny would
// hold up a link.
func (x *foreignRights) refusesForGood(m *store.Message, d policy.Decision) bool {
	if d.Denied() {
		return !olderThan(x.since, m.HLC)
	}
	return m.HLC < x.since
}

// excused reports whether a past policy allowed m, and no deny of the policy in force
// forbids it.
func (x *foreignRights) excused(m *store.Message, stamp uint64, now time.Time) bool {
	published, left := !asPublish(x.now, m).Denied(), !asWill(x.now, m).Denied()
	if !published && !left {
		return false
	}
	for _, p := range x.past() {
		if p.appliesTo(stamp, now) && (published && asPublish(p.session, m).Allowed || left && asWill(p.session, m).Allowed) {
			return true
		}
	}
	return false
}

// Stays reports whether m, which was published here, is for this site alone. The user
// that runs the node may publish more here than the grants say, and the node clears
// messages of other sites. Other sites would refuse both.
func (r *Foreign) Stays(m *store.Message) bool {
	id, err := identity.ParseID(m.Publisher)
	if err != nil || !IsMachine(id) && !r.clearsForeign(id, m) {
		return false
	}
	x, err := r.rightsOf(publisherAt{m.Publisher, r.Site.Name})
	return err != nil || !publishes(x.now, m).Allowed
}

// publishes reports whether m may have been published, or left behind as a will.
func publishes(x *policy.Session, m *store.Message) policy.Decision {
	d := asPublish(x, m)
	if d.Allowed {
		return d
	}
	if w := asWill(x, m); w.Allowed {
		return w
	}
	return d
}

func asPublish(x *policy.Session, m *store.Message) policy.Decision {
	return x.Publish(m.Topic, m.QoS, m.Retain, len(m.Payload))
}

func asWill(x *policy.Session, m *store.Message) policy.Decision {
	return x.Will(m.Topic, m.QoS, m.Retain, len(m.Payload))
}

// clears reports whether m is a node's order to remove a retained message, as
// hpmq retained --clear gives it.
func clears(id identity.ID, m *store.Message) bool {
	return id.Kind == identity.Node && m.Retain && len(m.Payload) == 0
}

// clearsOwn reports whether m is a node's order to remove a message of its own
// site; it needs no grant.
func (r *Foreign) clearsOwn(id identity.ID, m *store.Message) bool {
	if !clears(id, m) {
		return false
	}
	kept := r.Retained(m.Topic) // a topic name is a filter that matches itself
	return len(kept) == 1 && kept[0].Origin.Site == m.Origin.Site
}

// clearsForeign reports whether m is our node's order to remove a message that
// other sites did not get from here.
func (r *Foreign) clearsForeign(id identity.ID, m *store.Message) bool {
	if !clears(id, m) {
		return false
	}
	kept := r.Retained(m.Topic)
	return len(kept) == 1 && (kept[0].Origin.Site != "" && kept[0].Origin.Site != r.Site.Name || r.Stays(kept[0]))
}

// rightsOf returns the rights of a publisher.
func (r *Foreign) rightsOf(key publisherAt) (*foreignRights, error) {
	r.mu.Lock()
	x := r.rights[key]
	r.mu.Unlock()
	if x != nil {
		return x, nil
	}
	return r.compile(key)
}

// compile makes the rights of a publisher and keeps them until they change.
func (r *Foreign) compile(key publisherAt) (*foreignRights, error) {
	r.mu.Lock()
	generation, set, since, past := r.generation, r.set, r.since, r.past
	r.mu.Unlock()
	sub, err := r.Site.Publisher(key.publisher, key.site)
	if err != nil {
		return nil, err
	}
	x := &foreignRights{subject: sub, now: set.Session(sub), since: since, past: sync.OnceValue(func() []pastRights {
		var all []pastRights
		for i := range past {
			all = append(all, pastRights{&past[i], past[i].set.Session(sub)})
		}
		return all
	})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rights) >= maxPublishers {
		r.rights = make(map[publisherAt]*foreignRights)
	}
	if r.generation == generation {
		r.rights[key] = x
	}
	return x, nil
}

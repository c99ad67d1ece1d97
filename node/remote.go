package node

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/mqtt/link"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

// A message of another site is judged a second time where it arrives, as a
// message that its publisher sent at that site: a site in foreign hands can do
// no more than policy lets somebody do there. Whether the publisher is there only
// that site knows, so who may roam is policy's to say, with session.site.
//
// That site acknowledged the message by the policy and the directory that it had.
// Where ours are older the message waits for them (link.ErrUnsettled). Where they
// are newer, a deny holds at once, and a grant that is gone is excused for messages
// sent before it went: see pastpolicy.go.

const maxRemote = 4096 // publishers whose rights are kept; then all are compiled anew

// remote decides what other sites may send.
type remote struct {
	domain   string
	site     string // ours
	known    func(identity.ID) (directory.Identity, bool)
	policy   func() *policy.Set
	records  func() iter.Seq2[uint64, directory.Policy] // see policyRecords
	retained func(filter string) []*store.Message

	mu         sync.Mutex // guards all below
	set        *policy.Set
	since      uint64    // hybrid clock of the record of set; 0 is long ago
	past       []pastSet // newest first
	rights     map[publisherAt]*remoteRights
	generation uint64 // of rights: what was compiled from older ones is not kept
	stamps     stamps
}

// publisherAt is a publisher at the site where it published.
type publisherAt struct{ publisher, site string }

// remoteRights are what a publisher may do at a site, and might before.
type remoteRights struct {
	subject policy.Subject
	now     *policy.Session
	since   uint64              // when now came in force; 0 is long ago
	past    func() []pastRights // compiled when first needed
}

type pastRights struct {
	*pastSet

	session *policy.Session
}

// newRemote knows the policies before the one in force from the directory: messages
// that waited at another site may come after a restart of this node.
func newRemote(n *Node) *remote {
	records := func() iter.Seq2[uint64, directory.Policy] {
		return policyRecords(n.directory, time.Now().Add(-pastPolicyTime))
	}
	return &remote{
		domain: n.id.TrustDomain, site: n.site, known: n.directory.Identity, policy: n.policy.Set,
		records: records, retained: n.messages.Retained,
		set: n.policy.Set(), past: pastPolicies(records(), n.id.TrustDomain, time.Now()),
		rights: make(map[publisherAt]*remoteRights), stamps: stamps{},
	}
}

// policyChanged keeps the policy that was replaced for a while.
func (r *remote) policyChanged() {
	now := time.Now()
	for {
		set := r.policy()
		if r.install(set, r.recorded(set), now) {
			return
		}
	}
}

// recorded returns the clock of the record that brought set, or 0 when it is too old
// to matter.
func (r *remote) recorded(set *policy.Set) uint64 {
	hash := directory.HashFiles(set.Files())
	for clock, p := range r.records() {
		if p.Hash == hash {
			return clock
		}
	}
	return 0
}

// install puts set in the place of the policy before it, unless a newer one has
// come meanwhile.
func (r *remote) install(set *policy.Set, since uint64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.policy() != set:
		return false
	case r.set == set:
		return true
	}
	past := slices.Clone(r.past) // compile may have handed out the other
	if r.set.Len() > 0 {         // the first set denies everything
		past = append([]pastSet{newPastSet(r.set, since, now)}, past...)
	}
	past = slices.DeleteFunc(past, func(p pastSet) bool { return !now.Before(p.until) })
	r.set, r.since, r.past = set, since, past[:min(len(past), maxPastPolicy)]
	r.forget()
	return true
}

// identitiesChanged makes the rights of all publishers be asked for anew.
func (r *remote) identitiesChanged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget()
}

// forget drops the rights. The caller holds mu.
func (r *remote) forget() {
	r.rights = make(map[publisherAt]*remoteRights)
	r.generation++
}

// accept implements link.Options.Accept.
func (r *remote) accept(sender identity.ID, m *store.Message) error {
	key := publisherAt{m.Publisher, m.Origin.Site}
	r.mu.Lock()
	stamp := r.stamps.raise(sender, m)
	x := r.rights[key]
	r.mu.Unlock()
	if x == nil {
		var err error
		if x, err = r.compile(key); err != nil {
			return err
		}
	}
	d := publishes(x.now, m)
	if d.Allowed || r.clearsOwn(x.subject.ID, m) || x.excused(m, stamp, time.Now()) {
		return nil
	}
	err := fmt.Errorf("publisher %s at %s: %s", x.subject.ID.Short(), m.Origin.Site, d.Reason())
	if x.settles(m, d) {
		return err
	}
	return fmt.Errorf("%w: %w", err, link.ErrUnsettled)
}

// settles reports whether the refusal d is for good: m is older than the policy in
// force, so this node knows all that the site knew when it took m. A deny refuses
// messages under way for good as well: else each new deny would hold up a link.
func (x *remoteRights) settles(m *store.Message, d policy.Decision) bool {
	if d.Denied() {
		return !olderThan(x.since, m.HLC)
	}
	return m.HLC < x.since
}

// excused reports whether a policy of the past let m be sent, and no deny of the
// one in force forbids it.
func (x *remoteRights) excused(m *store.Message, stamp uint64, now time.Time) bool {
	published, left := !asPublish(x.now, m).Denied(), !asWill(x.now, m).Denied()
	if !published && !left {
		return false
	}
	for _, p := range x.past() {
		if p.counts(stamp, now) && (published && asPublish(p.session, m).Allowed || left && asWill(p.session, m).Allowed) {
			return true
		}
	}
	return false
}

// stays implements link.Options.Stays: who runs this node may publish more here
// than the grants say, and its node clear what came from elsewhere. Other sites
// would refuse that.
func (r *remote) stays(m *store.Message) bool {
	id, err := identity.ParseID(m.Publisher)
	if err != nil || !isMachine(id) && !r.clearsForeign(id, m) {
		return false
	}
	x, err := r.of(publisherAt{m.Publisher, r.site})
	return err != nil || !publishes(x.now, m).Allowed
}

// publishes asks whether m may have been published, or been left behind.
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

// clearsOwn reports whether m is a node's order to remove what came from its own
// site; no grant is needed for that.
func (r *remote) clearsOwn(id identity.ID, m *store.Message) bool {
	if !clears(id, m) {
		return false
	}
	kept := r.retained(m.Topic) // a topic name is a filter that matches itself
	return len(kept) == 1 && kept[0].Origin.Site == m.Origin.Site
}

// clearsForeign reports whether m is our node's order to remove what other sites
// do not have from here.
func (r *remote) clearsForeign(id identity.ID, m *store.Message) bool {
	if !clears(id, m) {
		return false
	}
	kept := r.retained(m.Topic)
	return len(kept) == 1 && (kept[0].Origin.Site != "" && kept[0].Origin.Site != r.site || r.stays(kept[0]))
}

// of returns the rights of a publisher.
func (r *remote) of(key publisherAt) (*remoteRights, error) {
	r.mu.Lock()
	x := r.rights[key]
	r.mu.Unlock()
	if x != nil {
		return x, nil
	}
	return r.compile(key)
}

// compile makes the rights of a publisher and keeps them until they change.
func (r *remote) compile(key publisherAt) (*remoteRights, error) {
	r.mu.Lock()
	generation, set, since, past := r.generation, r.set, r.since, r.past
	r.mu.Unlock()
	sub, err := r.subject(key)
	if err != nil {
		return nil, err
	}
	x := &remoteRights{subject: sub, now: set.Session(sub), since: since, past: sync.OnceValue(func() []pastRights {
		var all []pastRights
		for i := range past {
			all = append(all, pastRights{&past[i], past[i].set.Session(sub)})
		}
		return all
	})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rights) >= maxRemote {
		r.rights = make(map[publisherAt]*remoteRights)
	}
	if r.generation == generation {
		r.rights[key] = x
	}
	return x, nil
}

// subject is the publisher as policy sees it at the site.
func (r *remote) subject(key publisherAt) (policy.Subject, error) {
	id, err := identity.ParseID(key.publisher)
	sub := policy.Subject{ID: id, SessionSite: key.site}
	switch {
	case err != nil:
		return sub, err
	case id.TrustDomain != r.domain:
		return sub, fmt.Errorf("publisher %s is of another trust domain", id)
	case id.Kind == identity.Function:
		return sub, errors.New("functions publish in the name of whose messages they work on")
	case isMachine(id):
		sub.Site = key.site // each site has its own
		return sub, nil
	}
	known, ok := r.known(id)
	switch {
	case !ok:
		return sub, fmt.Errorf("publisher %s is not enrolled: %w", id.Short(), link.ErrUnsettled)
	case known.State == directory.Replaced:
		return sub, fmt.Errorf("publisher %s gave up its key: %w", id.Short(), link.ErrUnsettled) // it may be enrolled again
	case known.State != directory.Active:
		return sub, fmt.Errorf("publisher %s is %s", id.Short(), known.State)
	case id.Kind == identity.Node && known.Site != key.site:
		return sub, fmt.Errorf("publisher %s is a node of %s, not of %s", id.Short(), known.Site, key.site)
	}
	sub.Labels, sub.Site = known.Labels, known.Site
	return sub, nil
}

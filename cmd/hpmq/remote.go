package main

import (
	"errors"
	"fmt"
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
// Where ours are older the message waits for them (link.ErrUnsettled); where they
// are newer, the policies before count as well, for a day.

const (
	pastPolicyTime = 24 * time.Hour
	maxPastPolicy  = 8
	maxRemote      = 4096 // publishers whose rights are kept; then all are compiled anew
)

// remote decides what other sites may send.
type remote struct {
	domain   string
	site     string // ours
	known    func(identity.ID) (directory.Identity, bool)
	policy   func() *policy.Set
	retained func(filter string) []*store.Message

	mu         sync.Mutex // guards all below
	set        *policy.Set
	past       []pastSet // newest first
	rights     map[publisherAt]*remoteRights
	generation uint64 // of rights: what was compiled from older ones is not kept
}

// pastSet is a policy that was replaced.
type pastSet struct {
	set   *policy.Set
	until time.Time // it counts
}

// publisherAt is a publisher at the site where it published.
type publisherAt struct{ publisher, site string }

// remoteRights are what a publisher may do at a site, and might before.
type remoteRights struct {
	subject policy.Subject
	now     *policy.Session
	past    func() []pastRights // compiled when first needed
}

type pastRights struct {
	*policy.Session
	until time.Time
}

func newRemote(n *node) *remote {
	return &remote{
		domain: n.id.TrustDomain, site: n.site, known: n.directory.Identity, policy: n.policy.Set, retained: n.messages.Retained,
		set: n.policy.Set(), rights: make(map[publisherAt]*remoteRights),
	}
}

// policyChanged keeps the policy that was replaced for a while.
func (r *remote) policyChanged() {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	set := r.policy() // under mu: of two changes at once the later stays
	if set == r.set {
		return
	}
	past := []pastSet{{r.set, now.Add(pastPolicyTime)}}
	for _, p := range r.past {
		if len(past) < maxPastPolicy && now.Before(p.until) {
			past = append(past, p)
		}
	}
	r.set, r.past = set, past
	r.forget()
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
func (r *remote) accept(_ identity.ID, m *store.Message) error {
	x, err := r.of(publisherAt{m.Publisher, m.Origin.Site})
	if err != nil {
		return err
	}
	d := publishes(x.now, m)
	if d.Allowed || r.clearsOwn(x.subject.ID, m) {
		return nil
	}
	now := time.Now()
	for _, p := range x.past() {
		if now.Before(p.until) && publishes(p.Session, m).Allowed {
			return nil
		}
	}
	return fmt.Errorf("publisher %s at %s: %s: %w", x.subject.ID.Short(), m.Origin.Site, d.Reason(), link.ErrUnsettled)
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
	d := x.Publish(m.Topic, m.QoS, m.Retain, len(m.Payload))
	if d.Allowed {
		return d
	}
	if w := x.Will(m.Topic, m.QoS, m.Retain, len(m.Payload)); w.Allowed {
		return w
	}
	return d
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
	x, generation, set, past := r.rights[key], r.generation, r.set, r.past
	r.mu.Unlock()
	if x != nil {
		return x, nil
	}
	sub, err := r.subject(key)
	if err != nil {
		return nil, err
	}
	x = &remoteRights{subject: sub, now: set.Session(sub), past: sync.OnceValue(func() []pastRights {
		var all []pastRights
		for _, p := range past {
			all = append(all, pastRights{p.set.Session(sub), p.until})
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
	case known.State == directory.Revoked:
		return sub, fmt.Errorf("publisher %s is revoked", id.Short())
	case id.Kind == identity.Node && known.Site != key.site:
		return sub, fmt.Errorf("publisher %s is a node of %s, not of %s", id.Short(), known.Site, key.site)
	}
	sub.Labels, sub.Site = known.Labels, known.Site
	return sub, nil
}

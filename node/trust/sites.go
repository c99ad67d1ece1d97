package trust

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

// Receivers decide by the policy in force which messages other sites receive. The
// rights of a site are compiled once per policy. It is safe for concurrent use.
type Receivers struct {
	policy func() *policy.Set

	rights    atomic.Pointer[siteRights]
	compiling sync.Mutex // one compile at a time
}

// siteRights are the rights of the sites that were asked about, under one policy.
// They never change.
type siteRights struct {
	set  *policy.Set
	site map[string]*policy.SiteRights
}

// NewReceivers returns receivers under the policy that inForce returns.
func NewReceivers(inForce func() *policy.Set) *Receivers {
	s := &Receivers{policy: inForce}
	s.rights.Store(&siteRights{set: inForce()})
	return s
}

// rightsOf returns the rights of a site.
func (s *Receivers) rightsOf(site string) *policy.SiteRights {
	set, known := s.policy(), s.rights.Load()
	if r := known.site[site]; r != nil && known.set == set {
		return r
	}
	return s.compile(site)
}

// compile adds a site. Sites are few and asked about one after the other, so the
// map is copied for each.
func (s *Receivers) compile(site string) *policy.SiteRights {
	s.compiling.Lock()
	defer s.compiling.Unlock()
	set, known := s.policy(), s.rights.Load()
	next := &siteRights{set: set, site: map[string]*policy.SiteRights{}}
	if known.set == set {
		if r := known.site[site]; r != nil {
			return r
		}
		maps.Copy(next.site, known.site)
	}
	r := set.SiteReceives(site)
	next.site[site] = r
	s.rights.Store(next)
	return r
}

// Receives reports whether a site may receive m. It does not block, and where it
// allows it does not allocate.
func (s *Receivers) Receives(site string, m *store.Message) bool {
	return s.rightsOf(site).Receive(m.Topic).Allowed
}

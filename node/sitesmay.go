package node

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/policy"
)

// sitesMay decides by the policy in force which messages other sites receive. The
// rights of a site are compiled once per policy. It is safe for concurrent use.
type sitesMay struct {
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

func newSitesMay(inForce func() *policy.Set) *sitesMay {
	s := &sitesMay{policy: inForce}
	s.rights.Store(&siteRights{set: inForce()})
	return s
}

// of returns the rights of a site.
func (s *sitesMay) of(site string) *policy.SiteRights {
	set, known := s.policy(), s.rights.Load()
	if r := known.site[site]; r != nil && known.set == set {
		return r
	}
	return s.compile(site)
}

// compile adds a site. Sites are few and asked about one after the other, so the
// map is copied for each.
func (s *sitesMay) compile(site string) *policy.SiteRights {
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

// receives reports whether a site may receive m. It does not block, and where it
// allows it does not allocate.
func (s *sitesMay) receives(site string, m *store.Message) bool {
	return s.of(site).Receive(m.Topic).Allowed
}

// knownSite returns a site as policy sees it.
func (n *Node) knownSite(name string, set *policy.Set) (policy.Subject, error) {
	known := name == n.site
	for _, rec := range n.directory.Nodes() {
		known = known || rec.Site == name
	}
	if !known {
		return policy.Subject{}, &control.Error{
			Code: control.NotFound, Err: fmt.Errorf("no site is called %q", name), Hint: "see: hpmq site list",
		}
	}
	return set.Site(name), nil
}

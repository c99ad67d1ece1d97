package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// A site is a subject too, `site:NAME`. It has no certificate of its own: its nodes
// have. Grants say which topics its nodes get from other sites.

const (
	siteKind   identity.Kind = "site"
	sitePrefix               = string(siteKind) + ":"

	// boundSites is the version of the language from which on a site receives by
	// grants alone. Before, each site receives everything.
	boundSites = 2
)

// unboundSites stands for the rule by which a site receives everything.
const unboundSites = "policy version 1, by which each site receives everything"

// The fates of messages for a site whose interest was never heard here.
const (
	QueueUnknown  = "queue"  // all that its grants let it receive waits for it
	RefuseUnknown = "refuse" // nothing is kept for it
)

// Version returns the version of the policy language that the files name: 1 when
// they name none.
func (s *Set) Version() int { return max(s.version, 1) }

// OnUnknownSite returns the fate of messages for a site with no known interest:
// [QueueUnknown], which is the default, or [RefuseUnknown].
func (s *Set) OnUnknownSite() string { return cmp.Or(s.onUnknown, QueueUnknown) }

// Site returns a site as policy sees it.
func (s *Set) Site(name string) Subject {
	return Subject{ID: identity.ID{TrustDomain: s.domain(), Kind: siteKind, Name: name}, Site: name, SessionSite: name}
}

// SiteRights decides which messages of other sites one site receives. It never
// changes and is safe for concurrent use; take a new one when the [Set] changes.
type SiteRights struct{ session *Session }

// SiteReceives compiles the rights of a site.
func (s *Set) SiteReceives(site string) *SiteRights {
	sub := s.Site(site)
	if unusable(site) != "" {
		sub = Subject{}
	}
	return &SiteRights{s.Session(sub)}
}

// Receive decides whether the site may receive a message on the topic name. It does not
// allocate when it allows.
func (r *SiteRights) Receive(name string) Decision { return r.session.siteReceive(name) }

// Covers reports that the site may receive every message that filter matches, so
// that there is no need to ask Receive. It may be false of a filter that several
// grants cover together.
func (r *SiteRights) Covers(filter string) bool {
	x := r.session
	if x.everything() {
		return true
	}
	if x.deny[receive].overlaps(filter, asked{}) >= 0 {
		return false
	}
	return x.allow[receive].covers(filter, asked{}) >= 0 || slices.ContainsFunc(x.excepting, func(e excepting) bool {
		return e.receive.covers(filter, asked{}) >= 0 && e.except.overlaps(filter, asked{}) < 0
	})
}

// Overlaps reports that the site may receive some message that filter matches. It
// may be true of a filter of which several rules together leave nothing.
func (r *SiteRights) Overlaps(filter string) bool {
	x := r.session
	if x.everything() {
		return true
	}
	if x.deny[receive].covers(filter, asked{}) >= 0 {
		return false
	}
	return x.allow[receive].overlaps(filter, asked{}) >= 0 || slices.ContainsFunc(x.excepting, func(e excepting) bool {
		return e.receive.overlaps(filter, asked{}) >= 0 && e.except.covers(filter, asked{}) < 0
	})
}

// excepting is a topics block with `except`, as it holds for a site. The exceptions
// belong to this block alone: another block may give the same topics.
type excepting struct {
	rule            int32
	receive, except tree
	left            []string // filters of except
}

func (e *excepting) match(name string) bool {
	return e.receive.match(name, asked{}) >= 0 && e.except.match(name, asked{}) < 0
}

// everything reports whether x is of a site under a policy that bounds none.
func (x *Session) everything() bool {
	return x.set.version < boundSites && x.member.ID.Kind == siteKind
}

func (x *Session) siteReceive(name string) Decision {
	d := Decision{x: x, action: receive, object: name, delivery: true}
	if x.everything() {
		d.Allowed, d.Rule = true, unboundSites
		return d
	}
	if r := x.deny[receive].match(name, asked{}); r >= 0 {
		return d.deniedBy(r)
	}
	if r := x.allow[receive].match(name, asked{}); r >= 0 {
		d.Allowed, d.Rule = true, x.set.rules[r].cite
		return d
	}
	for i := range x.excepting {
		if e := &x.excepting[i]; e.match(name) {
			d.Allowed, d.Rule = true, x.set.rules[e.rule].cite
			return d
		}
	}
	return d
}

// addExcepting indexes a topics block with exceptions. In an exception a missing
// value means any, as in a deny.
func (x *Session) addExcepting(rule int32, t *topics) {
	e := excepting{rule: rule}
	for i := range t.filters[receive] {
		if f, problem := x.expand(&t.filters[receive][i], false); problem == "" {
			e.receive.insert(f, leaf{rule: rule})
		}
	}
	e.left = x.exceptions(t)
	for _, f := range e.left {
		e.except.insert(f, leaf{rule: rule})
	}
	x.excepting = append(x.excepting, e)
}

// exceptions returns the filters of t's except.
func (x *Session) exceptions(t *topics) []string {
	var left []string
	for i := range t.except {
		f, _ := x.expand(&t.except[i], true)
		left = append(left, f)
	}
	return left
}

// leftOut names the grant that would give the site the topic name but for an exception, and
// the exception.
func (x *Session) leftOut(name string) (rule *rule, except string) {
	for i := range x.excepting {
		e := &x.excepting[i]
		if e.receive.match(name, asked{}) < 0 {
			continue
		}
		for _, f := range e.left {
			if topic.Covers(f, name) {
				return x.set.rules[e.rule], f
			}
		}
	}
	return nil, ""
}

// receives checks receive of a topics block and reads its except.
func (r *reader) receives(u *rule, t *topics, b *hclsyntax.Block) {
	attribute := b.Body.Attributes[receive.String()]
	if attribute != nil && r.set.version < boundSites {
		r.errorf(attribute.NameRange, "what sites receive is bounded from version %d of the policy on: write version = %d at the top of a file", boundSites, boundSites)
	}
	if attribute != nil && !selectsKind(&u.to, sitePrefix) {
		r.warnf(attribute.NameRange, "%s selects no site, and nothing else receives", u.cite)
	}
	except := b.Body.Attributes["except"]
	if except == nil || u.deny {
		return
	}
	t.except = r.filters(b.Body, "except", receive)
	if len(t.filters[receive]) == 0 {
		r.errorf(except.NameRange, "except leaves out of what receive gives: this block has no receive")
		return
	}
	for a := range receive {
		if len(t.filters[a]) > 0 {
			r.errorf(except.NameRange, "except is of receive alone: give %s a topics block of its own", a)
		}
	}
}

// sites reads the sites block.
func (r *reader) sites(b *hclsyntax.Block) {
	if len(b.Labels) > 0 {
		r.errorf(b.LabelRanges[0], "sites takes no name")
	}
	if first, twice := r.defined["sites"]; twice {
		r.errorf(b.DefRange(), "sites is already defined at %s:%d", first.Filename, first.Start.Line)
		return
	}
	r.defined["sites"] = b.DefRange()
	r.known(b.Body, "sites", []string{"on_unknown"}, nil)
	r.set.onUnknown = r.oneOf(b.Body, "on_unknown", QueueUnknown, RefuseUnknown)
}

// siteNamed reads site:NAME of a test.
func (r *reader) siteNamed(name string, f map[string]literal, at hcl.Range) Subject {
	if unusable(name) != "" || !nameGlob.MatchString(name) || strings.Contains(name, "*") {
		r.errorf(at, "site %q: want the name of a site", name)
	}
	for key, l := range f {
		if key != "id" {
			r.errorf(l.at, "a site has no %s but its name", key)
		}
	}
	return r.set.Site(name)
}

// lintSites warns of policies under which sites receive more, or less, than the
// writer will think.
func (s *Set) lintSites(r *report) {
	for _, u := range s.rules {
		if u.onlySites() && u.moreThanReceives() {
			r.warnf(u.at, "%s: a site only receives, the rest has no effect", u.cite)
		}
	}
	switch {
	case r.errors > 0: // errors are told alone
		return
	case s.version < boundSites:
		r.add(SeverityWarning, s.versionAt, UnboundSites, "")
		return
	}
	if !slices.ContainsFunc(s.rules, func(u *rule) bool {
		return !u.deny && slices.ContainsFunc(u.topics, func(t topics) bool { return len(t.filters[receive]) > 0 })
	}) {
		r.add(SeverityWarning, s.versionAt, fmt.Sprintf("no grant has receive: sites get nothing from one another, from version %d on", boundSites), "")
	}
}

func (u *rule) onlySites() bool {
	return !slices.ContainsFunc(u.to.text, func(t string) bool { return !strings.HasPrefix(t, sitePrefix) })
}

// moreThanReceives reports whether the rule holds something that is not for sites.
func (u *rule) moreThanReceives() bool {
	return len(u.network) > 0 || u.function != nil || u.limits != nil || u.certificate != nil || slices.ContainsFunc(u.topics, func(t topics) bool {
		return slices.ContainsFunc(t.filters[:receive], func(f []template) bool { return len(f) > 0 })
	})
}

// UnboundSites is the warning about a policy of version 1.
const UnboundSites = "this policy is of version 1: each site receives every message of the others. " +
	"Write version = 2 and grants to sites; docs/policy.md has them under \"Sites\""

package policy

import (
	"slices"

	"github.com/hpmq/hpmq/mqtt/topic"
	"github.com/hpmq/hpmq/policy/slice"
)

// lint warns of rules that are legal but hardly meant.
func (s *Set) lint(r *report) {
	for _, g := range s.groups {
		if !g.used {
			r.warnf(g.at, "group %q is never used", g.name)
		}
	}
	s.lintSites(r)
	s.lintShadowed(r)
}

// LintReserved warns of each grant of topics that no policy can give. reserved says
// why the policy is not asked about a filter for publish, subscribe, will or retain,
// or "" if it is.
func (s *Set) LintReserved(reserved func(action, filter string) string) Diagnostics {
	r := &report{files: s.files}
	for _, g := range s.rules {
		if g.deny {
			continue
		}
		for i := range g.topics {
			for a := range receive {
				for _, t := range g.topics[i].filters[a] {
					if why := reserved(a.String(), t.text); why != "" {
						r.warnf(g.at, "grant %q %s %q, which can never hold: %s", g.name, a.verb(), t.text, why)
					}
				}
			}
		}
	}
	return r.sorted()
}

// maxComparisons bounds the search for shadowed grants, which compares every
// grant with every deny.
const maxComparisons = 20_000_000

// lintShadowed reports grants of which a deny takes everything.
func (s *Set) lintShadowed(r *report) {
	var denies []*rule
	for _, d := range s.rules {
		if d.deny && d.when == nil && d.except.empty() {
			denies = append(denies, d)
		}
	}
	if len(denies)*len(s.rules) > maxComparisons {
		return
	}
	for _, g := range s.rules {
		if g.deny {
			continue
		}
		for _, d := range denies {
			if d.to.includes(&g.to) && d.takes(g) {
				r.warnf(g.at, "grant %q has no effect: %s covers all of it", g.name, d.cite)
				break
			}
		}
	}
}

// takes reports whether d denies every filter, port and capability of g, and g
// limits nothing.
func (d *rule) takes(g *rule) bool {
	if g.limits != nil || g.certificate != nil {
		return false
	}
	for i := range g.topics {
		for a := range actions {
			if slices.ContainsFunc(g.topics[i].filters[a], func(t template) bool { return !d.takesFilter(a, &t) }) {
				return false
			}
		}
	}
	for _, n := range g.network {
		if slices.ContainsFunc(n.ports, func(p slice.PortRange) bool { return !d.takesPort(n, p) }) {
			return false
		}
	}
	if g.function != nil {
		return !slices.ContainsFunc(g.function.capabilities, func(c string) bool {
			return d.function == nil || !slices.Contains(d.function.capabilities, c)
		})
	}
	return true
}

// takesFilter compares templates by their text: the same ${} has the same value
// on both sides, and a wildcard takes any.
func (d *rule) takesFilter(a action, t *template) bool {
	share, filter := topic.CutShare(t.text)
	if share != "" {
		return false
	}
	for i := range d.topics {
		for _, f := range d.topics[i].filters[a] {
			if !d.topics[i].functions && topic.Covers(f.text, filter) {
				return true
			}
		}
	}
	return false
}

func (d *rule) takesPort(n *network, p slice.PortRange) bool {
	return slices.ContainsFunc(d.network, func(o *network) bool {
		return o.dst.includes(&n.dst) && slices.ContainsFunc(o.ports, func(q slice.PortRange) bool { return q.Network == p.Network && q.First <= p.First && p.Last <= q.Last })
	})
}

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// Explanation says how the policy decides one question and why. Its JSON form
// is stable.
type Explanation struct {
	Subject  string   `json:"subject"` // kind:name
	Action   string   `json:"action"`
	Object   string   `json:"object"`
	Allowed  bool     `json:"allowed"`
	Filtered bool     `json:"filtered,omitempty"` // the subscription is granted, but a deny removes part of it
	Rule     string   `json:"rule,omitempty"`     // the grant or deny that decided
	File     string   `json:"file,omitempty"`     // of that rule
	Line     int      `json:"line,omitempty"`
	Reason   string   `json:"reason"`
	Limits   []Limit  `json:"limits,omitempty"`    // on the publishes that are allowed
	Groups   []string `json:"groups"`              // of the subject
	Nearest  []Near   `json:"nearest,omitempty"`   // the subject's grants that come close
	NotGiven []Near   `json:"not_given,omitempty"` // grants that name the subject, but need a value that it lacks
	Others   []Near   `json:"others,omitempty"`    // grants to other identities that would allow it
}

// Near is a rule that bears on a question without having decided it.
type Near struct {
	Rule    string `json:"rule"`
	Right   string `json:"right"`             // "publishes site/home/pump-7/#", "device:* tcp/22"
	To      string `json:"to,omitempty"`      // the identities that the rule concerns
	Why     string `json:"why,omitempty"`     // why it is not given
	Overlap bool   `json:"overlap,omitempty"` // it overlaps the question
	weight  int
}

// maxNear bounds each list of an explanation.
const maxNear = 3

// Explain answers action on object for sub and says why. action is publish,
// subscribe, will, retain, receive or connect; the object of connect is
// "device:pump-7 tcp/8080" or "pump-7:8080". lookup finds the other side of a
// connect by name; nil knows no labels. A malformed question is an error.
func (s *Set) Explain(sub Subject, action, object string, lookup func(identity.ID) (Subject, bool)) (Explanation, error) {
	q, err := s.newQuestion(action, object)
	if err != nil {
		return Explanation{}, err
	}
	find := func(id identity.ID) Subject {
		if lookup != nil {
			if found, ok := lookup(id); ok {
				return found
			}
		}
		return Subject{ID: id}
	}
	if action == "connect" {
		sub.SessionSite = "" // as Connect takes it
	}
	x := s.Session(sub)
	d := s.decide(x, q, find)
	e := Explanation{
		Subject: sub.ID.Short(), Action: action, Object: object, Allowed: d.Allowed, Filtered: d.Filtered,
		Rule: d.Rule, Reason: d.Reason(), Groups: s.groupList(&x.member),
	}
	if r := s.cited(d.Rule); r != nil {
		e.File, e.Line = r.at.Filename, r.at.Start.Line
	}
	if d.Allowed && (action == "publish" || action == "retain") {
		e.Limits = x.Limits().List()
	}
	if d.Allowed || d.Rule != "" {
		return e, nil // the rule says it all
	}
	if action == "connect" {
		target, ok := s.member(find(q.target))
		if ok {
			s.explainFlow(&e, x, &target, q)
		}
		return e, nil
	}
	s.explainTopic(&e, x, actionOf(action, d), object)
	return e, nil
}

// actionOf is the right that a question is about; for a refused retained
// publish, the one that was missing.
func actionOf(word string, d Decision) action {
	if word == "retain" || word == "receive" {
		return d.action
	}
	if i := slices.Index(actionNames[:], word); i >= 0 {
		return action(i)
	}
	return subscribe
}

func (s *Set) cited(cite string) *rule {
	if cite == "" {
		return nil
	}
	i := slices.IndexFunc(s.rules, func(r *rule) bool { return r.cite == cite })
	if i < 0 {
		return nil
	}
	return s.rules[i]
}

func (s *Set) explainTopic(e *Explanation, x *Session, a action, object string) {
	_, object = topic.CutShare(object)
	x.each(func(f rightFilter) {
		if f.rule.deny || f.action != a {
			return
		}
		n := Near{Rule: f.rule.cite, Right: a.verb() + " " + f.filter, Why: f.problem}
		if len(f.except) > 0 {
			n.Right += " except " + strings.Join(f.except, ", ")
		}
		if f.problem != "" {
			e.NotGiven = append(e.NotGiven, n)
			return
		}
		_, filter := topic.CutShare(f.filter)
		n.Overlap = topic.Overlaps(filter, object)
		n.weight = topic.Common(filter, object)
		if n.Overlap {
			n.weight += topic.MaxLevels
		}
		e.Nearest = append(e.Nearest, n)
	})
	mine := s.rulesFor(&x.member)
	for i, r := range s.rules {
		if len(e.Others) == maxNear {
			break
		}
		if _, selected := slices.BinarySearch(mine, int32(i)); !selected && !r.deny {
			if f := r.wouldGrant(x, a, object); f != "" {
				e.Others = append(e.Others, Near{Rule: r.cite, Right: a.verb() + " " + f, To: r.to.String()})
			}
		}
	}
	e.trim()
}

// wouldGrant returns the filter by which r would allow the question if it were
// given to sub, or "".
func (r *rule) wouldGrant(x *Session, a action, object string) string {
	for i := range r.topics {
		if r.topics[i].functions || slices.ContainsFunc(x.exceptions(&r.topics[i]), func(f string) bool { return topic.Covers(f, object) }) {
			continue
		}
		for k := range r.topics[i].filters[a] {
			f, problem := r.topics[i].filters[a][k].expand(&x.member.Subject)
			if problem == "" && !strings.HasPrefix(f, "$share/") && topic.Covers(f, object) {
				return f
			}
		}
	}
	return ""
}

func (s *Set) explainFlow(e *Explanation, x *Session, target *member, q question) {
	p, err := parsePorts(q.port)
	if err != nil {
		return
	}
	mine := s.rulesFor(&x.member)
	for i, r := range s.rules {
		if r.deny || len(r.network) == 0 {
			continue
		}
		reaches, includes := r.reaches(target, p.Network, p.First)
		n := Near{Rule: r.cite, Right: "reaches " + r.network[0].String(), Overlap: reaches}
		_, selected := slices.BinarySearch(mine, int32(i))
		switch {
		case selected:
			if applies, problem := r.applies(&x.member); !applies {
				if !reaches {
					continue
				}
				n.Why = "`when` " + cmp.Or(problem, "does not hold")
				e.NotGiven = append(e.NotGiven, n)
				continue
			}
			if reaches {
				n.weight = 1
			}
			e.Nearest = append(e.Nearest, n)
		case reaches && includes && len(e.Others) < maxNear:
			n.To = r.to.String()
			e.Others = append(e.Others, n)
		}
	}
	e.trim()
}

func (e *Explanation) trim() {
	slices.SortStableFunc(e.Nearest, func(a, b Near) int { return b.weight - a.weight })
	e.Nearest = e.Nearest[:min(len(e.Nearest), maxNear)]
	e.NotGiven = e.NotGiven[:min(len(e.NotGiven), maxNear)]
}

// site reports whether the explanation is about a site.
func (e *Explanation) site() bool { return strings.HasPrefix(e.Subject, sitePrefix) }

// String returns the explanation for people, one fact a line.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s %s %s\n  %s\n", verdict(e.Allowed), clip(e.Subject, 100), e.Action, clip(e.Object, 300), e.Reason)
	if e.Filtered {
		b.WriteString("  a deny covers part of it: those messages are not delivered\n")
	}
	for _, l := range e.Limits {
		fmt.Fprintf(&b, "  limit: %s = %d, set by %s\n", l.Name, l.N, l.Rule)
	}
	if e.Allowed || e.Rule != "" {
		return b.String()
	}
	groups := strings.Join(e.Groups, ", ")
	fmt.Fprintf(&b, "  groups: %s\n", cmp.Or(groups, "none"))
	for _, n := range e.Nearest {
		how := "nearest"
		switch {
		case strings.Contains(e.Reason, n.Rule+" "+n.Right) && !n.Overlap:
			continue // said already
		case n.Overlap && e.Action == "connect":
			how = "reaches it, on other ports"
		case n.Overlap && e.site():
			how = "leaves it out"
		case n.Overlap:
			how = "overlaps, but does not cover"
		}
		fmt.Fprintf(&b, "  %s: %s %s\n", how, n.Rule, n.Right)
	}
	for _, n := range e.NotGiven {
		fmt.Fprintf(&b, "  not given: %s %s: %s\n", n.Rule, n.Right, n.Why)
	}
	for _, n := range e.Others {
		fmt.Fprintf(&b, "  others have it: %s %s (to %s)\n", n.Rule, n.Right, n.To)
	}
	return b.String()
}

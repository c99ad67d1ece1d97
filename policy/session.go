package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// Session holds the rights of one identity to topics: the filters of its grants and
// denies, expanded and indexed. It never changes and is safe for concurrent use; take a
// new one when the [Set], the labels or the site change.
type Session struct {
	set    *Set
	member member
	rules  []int32 // that apply, ascending
	limits *Limits // nil for most
	allow  [actions]tree
	deny   *[actions]tree // noDenies for most

	excepting []excepting // of a site
}

var noDenies [actions]tree

// Session compiles the rights of sub. An identity of another trust domain, and
// the zero identity, has none.
func (s *Set) Session(sub Subject) *Session {
	x := &Session{set: s, deny: &noDenies}
	m, ok := s.member(sub)
	x.member = m
	if !ok {
		return x
	}
	x.rules = slices.DeleteFunc(s.rulesFor(&m), func(i int32) bool {
		applies, problem := s.rules[i].applies(&m)
		if l := s.rules[i].limits; l != nil && (applies || problem != "") {
			x.limits = x.limits.lower(l)
		}
		return !applies
	})
	for _, i := range x.rules {
		r := s.rules[i]
		for b := range r.topics {
			x.add(i, r.deny, &r.topics[b])
		}
	}
	return x
}

// Is reports whether x has the rights of sub in s, so that there is no need to
// compile them again.
func (x *Session) Is(s *Set, sub Subject) bool {
	return x.set == s && x.member.ID == sub.ID && x.member.Site == sub.Site && x.member.SessionSite == sub.SessionSite && maps.Equal(x.member.Labels, sub.Labels)
}

// add indexes the filters of one topics block. It walks in the same order as
// [Session.each], which explains.
func (x *Session) add(rule int32, deny bool, t *topics) {
	if t.functions && x.member.ID.Kind != "function" {
		return
	}
	trees := &x.allow
	if deny {
		if x.deny == &noDenies {
			x.deny = new([actions]tree)
		}
		trees = x.deny
	}
	if len(t.except) > 0 {
		if x.has(receive) {
			x.addExcepting(rule, t)
		}
		return
	}
	for a := range actions {
		if !x.has(a) {
			continue
		}
		for i := range t.filters[a] {
			f, problem := x.expand(&t.filters[a][i], deny)
			if problem != "" {
				continue
			}
			share, filter := topic.CutShare(f)
			trees[a].insert(filter, leaf{rule: rule, share: share, maxQoS: t.maxQoS, maxSize: t.maxSize})
		}
	}
}

// has reports whether rights of this kind are for the session's identity: a site
// receives, and does nothing else.
func (x *Session) has(a action) bool { return (a == receive) == (x.member.ID.Kind == siteKind) }

func (x *Session) expand(t *template, deny bool) (filter, problem string) {
	filter, problem = t.expand(&x.member.Subject)
	if problem != "" && deny {
		return t.widen(&x.member.Subject), ""
	}
	return filter, problem
}

// Subject returns the subject that the session was compiled for.
func (x *Session) Subject() Subject { return x.member.Subject }

// Publish decides a PUBLISH to name, which must be a valid topic name. With
// the retain flag it needs a retain grant as well.
func (x *Session) Publish(name string, qos byte, retained bool, size int) Decision {
	return x.send(publish, name, qos, retained, size)
}

// Will decides a will: at CONNECT, and again when it fires. A message that may not be
// published may not be left behind either.
func (x *Session) Will(name string, qos byte, retained bool, size int) Decision {
	d := x.send(will, name, qos, retained, size)
	if d.rule == nil {
		if r := x.deny[publish].match(name, anyPublish); r >= 0 {
			return d.deniedBy(r)
		}
	}
	return d
}

// anyPublish asks a deny, which knows no bounds.
var anyPublish = asked{}

// send looks for denies first, so that [Decision.Denied] tells of them where no
// grant is wanted.
func (x *Session) send(a action, name string, qos byte, retained bool, size int) Decision {
	d := Decision{x: x, action: a, object: name, qos: qos, size: size}
	if r := x.deny[a].match(name, anyPublish); r >= 0 {
		return d.deniedBy(r)
	}
	if retained {
		if r := x.deny[retain].match(name, anyPublish); r >= 0 {
			return d.deniedBy(r)
		}
	}
	granted := x.allow[a].match(name, asked{qos: qos, size: size})
	if granted < 0 {
		return d
	}
	if retained && x.allow[retain].match(name, asked{qos: qos, size: size}) < 0 {
		d.action = retain
		return d
	}
	d.Allowed, d.Rule = true, x.set.rules[granted].cite
	return d
}

// Subscribe decides a SUBSCRIBE to filter, which must be a valid topic filter,
// $share/group/filter among them.
func (x *Session) Subscribe(filter string) Decision {
	d := Decision{x: x, action: subscribe, object: filter}
	share, inner, _, err := topic.ParseShared(filter)
	if err != nil {
		return d
	}
	if r := x.deny[subscribe].covers(inner, asked{share: share}); r >= 0 {
		return d.deniedBy(r)
	}
	granted := x.allow[subscribe].covers(inner, asked{share: share})
	if granted < 0 {
		return d
	}
	if r := x.deny[subscribe].overlaps(inner, asked{share: share}); r >= 0 {
		d.Filtered = true
		// Delivery does not know the group, so a deny of a shared subscription
		// that touches this one refuses it.
		if share != "" && x.deny[subscribe].overlaps(inner, asked{}) < 0 {
			return d.deniedBy(r)
		}
	}
	d.Allowed, d.Rule = true, x.set.rules[granted].cite
	return d
}

// Receive decides the delivery of a message on the topic name to a subscription of the
// session. Only subscriptions with [Decision.Filtered] set need to ask.
func (x *Session) Receive(name string) Decision {
	if x.member.ID.Kind == siteKind {
		return x.siteReceive(name)
	}
	d := Decision{x: x, action: subscribe, object: name, delivery: true}
	if r := x.deny[subscribe].match(name, asked{}); r >= 0 {
		return d.deniedBy(r)
	}
	if r := x.allow[subscribe].match(name, asked{share: anyShare}); r >= 0 {
		d.Allowed, d.Rule = true, x.set.rules[r].cite
	}
	return d
}

// FunctionRights are the rights that policy gives a function besides its topics.
type FunctionRights struct {
	Capabilities []string      // sorted; granted and not denied
	Memory       int64         // bytes; 0: the default
	Timeout      time.Duration // per message; 0: the default
	Rules        []string      // that gave it
}

// Function returns the rights of a session of a function. Where several grants give a
// bound, the widest counts.
func (x *Session) Function() FunctionRights {
	var f FunctionRights
	var taken []string
	for _, i := range x.rules {
		r := x.set.rules[i]
		switch {
		case r.function == nil || x.member.ID.Kind != "function":
		case r.deny:
			taken = append(taken, r.function.capabilities...)
		default:
			f.Rules = append(f.Rules, r.cite)
			f.Capabilities = append(f.Capabilities, r.function.capabilities...)
			f.Memory = max(f.Memory, r.function.memory)
			f.Timeout = max(f.Timeout, r.function.timeout)
		}
	}
	f.Capabilities = slices.DeleteFunc(f.Capabilities, func(c string) bool { return slices.Contains(taken, c) })
	slices.Sort(f.Capabilities)
	f.Capabilities = slices.Compact(f.Capabilities)
	return f
}

// rightFilter is one filter of one rule as it holds, or does not, for a session.
type rightFilter struct {
	rule    *rule
	action  action
	filter  string // expanded; as written when problem is set
	except  []string
	problem string // why it is not given
	maxQoS  byte
	maxSize int64
}

// each calls f with the filters of the rules that select the session's identity,
// including filters that are not given. It serves explanations only.
func (x *Session) each(f func(rightFilter)) {
	if x.member.ID.IsZero() {
		return
	}
	for _, i := range x.set.rulesFor(&x.member) {
		r := x.set.rules[i]
		applies, problem := r.applies(&x.member)
		if !applies && problem == "" {
			problem = "`when` does not hold"
		} else if problem != "" {
			problem = "`when` " + problem
		}
		for b := range r.topics {
			t := &r.topics[b]
			if t.functions && x.member.ID.Kind != "function" {
				continue
			}
			for a := range actions {
				if !x.has(a) {
					continue
				}
				for k := range t.filters[a] {
					rf := rightFilter{rule: r, action: a, problem: problem, except: x.exceptions(t), maxQoS: t.maxQoS, maxSize: t.maxSize}
					var missing string
					if rf.filter, missing = x.expand(&t.filters[a][k], r.deny); missing != "" {
						rf.filter = t.filters[a][k].text
						if rf.problem == "" {
							rf.problem = missing
						}
					}
					if applies && r.deny {
						rf.problem = ""
					}
					f(rf)
				}
			}
		}
	}
}

// NotGiven says which filters the rules name this identity for, but do not give
// it, and why: for a log line when it connects.
func (x *Session) NotGiven() []string {
	var out []string
	x.each(func(f rightFilter) {
		if f.problem != "" && !f.rule.deny {
			out = append(out, clip(fmt.Sprintf("%s %s %s: %s", f.rule.cite, f.action.verb(), f.filter, f.problem), maxReason))
		}
	})
	return out
}

package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// Decision answers one question. It refers to the question's topic or filter,
// so Reason must be called before that memory is used again.
type Decision struct {
	Allowed bool
	// Filtered is set on an allowed subscription that a deny overlaps: each
	// delivery must be asked of Receive.
	Filtered bool
	// Rule is the grant or deny that decided, such as `grant "sensor"
	// main.hcl:14`. It is empty when no grant was found; [Decision.Nearest]
	// then names the one that came closest.
	Rule string

	x           *Session
	object      string
	reason      string // set where it does not wait to be asked for
	size        int
	rule        *rule // the deny
	nearestRule *rule // of a flow
	action      action
	qos         byte
	delivery    bool
}

// Denied reports whether a deny decided, and not the want of a grant.
func (d Decision) Denied() bool { return d.rule != nil }

func (d Decision) deniedBy(rule int32) Decision {
	d.rule = d.x.set.rules[rule]
	d.Allowed, d.Filtered, d.Rule = false, false, d.rule.cite
	return d
}

// maxReason bounds a reason: it travels in an MQTT reason string to clients
// with small buffers.
const maxReason = 200

// Reason says in one short sentence why, for people: at most 200 bytes of
// printable UTF-8.
func (d Decision) Reason() string {
	switch {
	case d.Allowed:
		return clip("granted by "+d.Rule, maxReason)
	case d.rule != nil:
		return clip(d.rule.refusal(), maxReason)
	case d.reason != "":
		return d.reason
	case d.x == nil:
		return "no policy"
	}
	return d.noGrant()
}

// refusal names a deny and its reason.
func (r *rule) refusal() string {
	if r.reason == "" {
		return "denied by " + r.cite
	}
	return r.cite + ": " + r.reason
}

// Nearest returns the grant with the filter that came closest to a refused question, or
// "" when the identity has no such grant at all.
func (d Decision) Nearest() string {
	if d.nearestRule != nil {
		return d.nearestRule.cite
	}
	if n, _ := d.nearest(); n != nil {
		return n.rule.cite
	}
	return ""
}

// noGrant explains a refusal that no deny made.
func (d Decision) noGrant() string {
	asked := d.action.String()
	if d.delivery {
		asked = "receive"
	}
	head := "no grant for " + asked + " " + clip(d.object, 60)
	near, refused := d.nearest()
	var tail string
	switch {
	case near == nil && refused == nil:
		tail = d.x.unknown()
	case near == nil || refused != nil && topic.Common(refused.filter, d.object) > topic.Common(near.filter, d.object):
		tail = fmt.Sprintf("%s is not given: %s", refused.rule.cite, refused.problem)
	case d.exceeds(near) != "":
		return clip(d.exceeds(near)+" of "+near.rule.cite, maxReason)
	case d.action == receive:
		tail = fmt.Sprintf("nearest: %s %s %s", near.rule.cite, near.action.verb(), near.filter)
		if rule, except := d.x.leftOut(d.object); rule != nil {
			tail = fmt.Sprintf("%s leaves out %s", rule.cite, except)
		}
	default:
		tail = fmt.Sprintf("nearest: %s %s %s", near.rule.cite, near.action.verb(), near.filter)
	}
	return clip(head+"; "+tail, maxReason)
}

// unknown says why an identity has no grant of a kind at all.
func (x *Session) unknown() string {
	name := x.member.name
	switch {
	case x.member.ID.IsZero():
		return "no identity"
	case x.set.trustDomain != "" && x.member.ID.TrustDomain != x.set.trustDomain:
		return "trust domain " + clip(x.member.ID.TrustDomain, 60) + " is not ours"
	case len(x.member.groups) == 0 && !slices.ContainsFunc(x.rules, func(i int32) bool { return !x.set.rules[i].deny }):
		return name + " is in no group and no grant names it"
	case len(x.member.groups) == 0:
		return "no grant of that kind names " + name
	}
	return fmt.Sprintf("no grant of that kind for %s (groups: %s)", name, strings.Join(x.set.groupList(&x.member), ", "))
}

// exceeds says which bound the question breaks though filter matches, or "".
func (d Decision) exceeds(f *rightFilter) string {
	if d.action == subscribe || !topic.Covers(f.filter, d.object) {
		return ""
	}
	name := clip(d.object, 60)
	if d.qos > f.maxQoS {
		return fmt.Sprintf("%s %s with QoS %d is above max_qos %d", d.action, name, d.qos, f.maxQoS)
	}
	if f.maxSize > 0 && int64(d.size) > f.maxSize {
		return fmt.Sprintf("%s %s with %d bytes is above max_size %d", d.action, name, d.size, f.maxSize)
	}
	return ""
}

// nearest returns the granted filter that runs along the question longest, and likewise
// the longest of the filters that are not given.
func (d Decision) nearest() (given, refused *rightFilter) {
	if d.x == nil {
		return nil, nil
	}
	_, object := topic.CutShare(d.object)
	d.x.each(func(f rightFilter) {
		if f.rule.deny || f.action != d.action {
			return
		}
		best := &given
		if f.problem != "" {
			best = &refused
		}
		_, filter := topic.CutShare(f.filter)
		if *best == nil || topic.Common(filter, object) > topic.Common((*best).filter, object) {
			*best = &f
		}
	})
	return given, refused
}

// clip returns s without control characters and cut in its middle to at most n
// bytes.
func clip(s string, n int) string {
	s = strings.ReplaceAll(printable(strings.ToValidUTF8(s, "?")), "\n", "?")
	if len(s) <= n {
		return s
	}
	const gap = "…"
	head, tail := (n-len(gap))*2/3, len(s)-(n-len(gap))/3
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	for tail < len(s) && !utf8.RuneStart(s[tail]) {
		tail++
	}
	return s[:head] + gap + s[tail:]
}

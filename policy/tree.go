package policy

import "github.com/hpmq/hpmq/mqtt/topic"

// tree holds the filters of rules and finds the rules that answer a question.
type tree struct{ filters topic.Filters[leaf] }

// leaf is the effect of a rule on one filter.
type leaf struct {
	share   string // group of a $share filter, + for any; "" for an ordinary filter
	maxSize int64  // 0: no bound
	rule    int32  // index into Set.rules
	maxQoS  byte
}

// asked is the rest of a question, besides its topic or filter. The zero value asks
// with QoS 0, size 0, for an ordinary subscription.
type asked struct {
	qos   byte
	size  int
	share string // group of the asked shared subscription, or anyShare
}

// anyShare, no legal group name, accepts the leaves of every group.
const anyShare = "#"

func (l *leaf) admits(q asked) bool {
	if q.qos > l.maxQoS || l.maxSize > 0 && int64(q.size) > l.maxSize {
		return false
	}
	return l.share == "" || l.share == q.share || q.share == anyShare || l.share == "+" && q.share != ""
}

func (t *tree) insert(filter string, l leaf) { t.filters.Add(filter, l) }

// match returns a rule with a filter that matches name and admits q, or -1.
func (t *tree) match(name string, q asked) int32 {
	if t.filters.Len() == 0 { // most denies
		return -1
	}
	rule := int32(-1)
	t.filters.Match(name, func(l *leaf) bool { return !l.answers(q, &rule) })
	return rule
}

// covers returns a rule with one filter that matches all that filter matches,
// or -1.
func (t *tree) covers(filter string, q asked) int32 {
	rule := int32(-1)
	t.filters.Covering(filter, func(l *leaf) bool { return !l.answers(q, &rule) })
	return rule
}

// overlaps returns a rule with a filter that matches at least one topic that
// filter matches too, or -1.
func (t *tree) overlaps(filter string, q asked) int32 {
	rule := int32(-1)
	t.filters.Overlapping(filter, func(l *leaf) bool { return !l.answers(q, &rule) })
	return rule
}

// answers sets rule to that of l if l admits q.
func (l *leaf) answers(q asked, rule *int32) bool {
	if !l.admits(q) {
		return false
	}
	*rule = l.rule
	return true
}

package policy

import "strings"

// tree holds filters and finds those that match a topic, cover a filter or
// overlap one. The zero tree is empty. It is built once and then only read.
//
// Nodes live in one slice and name each other by index: a session's trees cost
// a handful of allocations, and a question none.
type tree struct {
	nodes  []node
	leaves []leaf
}

type node struct {
	level    string
	child    int32            // first literal child; 0 none, as the root is nobody's child
	sibling  int32            // next literal child of the same parent
	plus     int32            // child for +
	exact    int32            // filters that end here: 1 + index into leaves, 0 none
	hash     int32            // filters that go on with #
	children int32            // how many literal children
	index    map[string]int32 // literal children by level, once a list is too long
}

// leaf is the end of one filter.
type leaf struct {
	next    int32  // next filter with the same spelling: 1 + index
	rule    int32  // index into Set.rules
	share   string // group of a $share filter, + for any; "" for an ordinary filter
	maxSize int64  // 0: no bound
	maxQoS  byte
}

// asked is what a question brings besides its topic or filter. The zero value
// asks with QoS 0, size 0, for an ordinary subscription.
type asked struct {
	qos   byte
	size  int
	share string // group of the asked shared subscription, or anyShare
}

// anyShare, no legal group name, accepts the leaves of every group.
const anyShare = "#"

const longList = 8

func (l *leaf) admits(q asked) bool {
	if q.qos > l.maxQoS || l.maxSize > 0 && int64(q.size) > l.maxSize {
		return false
	}
	return l.share == "" || l.share == q.share || q.share == anyShare || l.share == "+" && q.share != ""
}

func (t *tree) insert(filter string, l leaf) {
	rest, at := normal(filter), int32(0)
	if t.nodes == nil { // often of one filter: each session has its trees
		t.nodes = append(make([]node, 0, 2+strings.Count(rest, "/")), node{})
	}
	for more := true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == "#" {
			t.nodes[at].hash = t.addLeaf(l, t.nodes[at].hash)
			return
		}
		at = t.step(at, level)
	}
	t.nodes[at].exact = t.addLeaf(l, t.nodes[at].exact)
}

func (t *tree) addLeaf(l leaf, next int32) int32 {
	l.next = next
	t.leaves = append(t.leaves, l)
	return int32(len(t.leaves))
}

// step returns the child of at for level and makes it if need be.
func (t *tree) step(at int32, level string) int32 {
	made := int32(len(t.nodes))
	parent := &t.nodes[at]
	if level == "+" {
		if parent.plus == 0 {
			parent.plus = made
			t.nodes = append(t.nodes, node{level: level})
			return made
		}
		return parent.plus
	}
	if c := t.find(parent, level); c != 0 {
		return c
	}
	sibling := parent.child
	parent.child = made
	parent.children++
	if parent.index != nil {
		parent.index[level] = made
	} else if parent.children > longList {
		parent.index = map[string]int32{level: made}
		for c := sibling; c != 0; c = t.nodes[c].sibling {
			parent.index[t.nodes[c].level] = c
		}
	}
	t.nodes = append(t.nodes, node{level: level, sibling: sibling})
	return made
}

func (t *tree) find(parent *node, level string) int32 {
	if parent.index != nil {
		return parent.index[level]
	}
	for c := parent.child; c != 0; c = t.nodes[c].sibling {
		if t.nodes[c].level == level {
			return c
		}
	}
	return 0
}

// pick returns the rule of the first leaf of a chain that admits q, or -1.
func (t *tree) pick(head int32, q asked) int32 {
	for head != 0 {
		l := &t.leaves[head-1]
		if l.admits(q) {
			return l.rule
		}
		head = l.next
	}
	return -1
}

// match returns a rule whose filter matches topic and admits q, or -1.
func (t *tree) match(topic string, q asked) int32 {
	if t.nodes == nil {
		return -1
	}
	return t.matchAt(0, topic, true, strings.HasPrefix(topic, "$"), q)
}

// matchAt decides the levels of rest below node at. dollar is set at the root
// when the topic begins with $, which no leading wildcard matches.
func (t *tree) matchAt(at int32, rest string, more, dollar bool, q asked) int32 {
	n := &t.nodes[at]
	if n.hash != 0 && !dollar {
		if r := t.pick(n.hash, q); r >= 0 {
			return r
		}
	}
	if !more {
		return t.pick(n.exact, q)
	}
	level, rest, more := strings.Cut(rest, "/")
	if c := t.find(n, level); c != 0 {
		if r := t.matchAt(c, rest, more, false, q); r >= 0 {
			return r
		}
	}
	if n.plus != 0 && !dollar {
		return t.matchAt(n.plus, rest, more, false, q)
	}
	return -1
}

// covers returns a rule with one filter that matches all that filter matches,
// or -1.
func (t *tree) covers(filter string, q asked) int32 {
	if t.nodes == nil {
		return -1
	}
	return t.coversAt(0, normal(filter), true, strings.HasPrefix(filter, "$"), q)
}

func (t *tree) coversAt(at int32, rest string, more, dollar bool, q asked) int32 {
	n := &t.nodes[at]
	if n.hash != 0 && !dollar {
		if r := t.pick(n.hash, q); r >= 0 {
			return r
		}
	}
	if !more {
		return t.pick(n.exact, q)
	}
	level, rest, more := strings.Cut(rest, "/")
	switch level {
	case "#":
		return -1 // only # covers #
	case "+":
	default:
		if c := t.find(n, level); c != 0 {
			if r := t.coversAt(c, rest, more, false, q); r >= 0 {
				return r
			}
		}
	}
	if n.plus != 0 && !dollar {
		return t.coversAt(n.plus, rest, more, false, q)
	}
	return -1
}

// overlaps returns a rule with a filter that matches at least one topic that
// filter matches too, or -1.
func (t *tree) overlaps(filter string, q asked) int32 {
	if t.nodes == nil {
		return -1
	}
	return t.overlapsAt(0, normal(filter), true, strings.HasPrefix(filter, "$"), q)
}

func (t *tree) overlapsAt(at int32, rest string, more, dollar bool, q asked) int32 {
	n := &t.nodes[at]
	if !dollar {
		if r := t.pick(n.hash, q); r >= 0 {
			return r
		}
	}
	if !more {
		return t.pick(n.exact, q)
	}
	level, rest, more := strings.Cut(rest, "/")
	if level == "#" {
		return t.below(at, q)
	}
	if level != "+" {
		if c := t.find(n, level); c != 0 {
			if r := t.overlapsAt(c, rest, more, false, q); r >= 0 {
				return r
			}
		}
	} else {
		for c := n.child; c != 0; c = t.nodes[c].sibling {
			if at == 0 && strings.HasPrefix(t.nodes[c].level, "$") {
				continue
			}
			if r := t.overlapsAt(c, rest, more, false, q); r >= 0 {
				return r
			}
		}
	}
	if n.plus != 0 && !dollar {
		return t.overlapsAt(n.plus, rest, more, false, q)
	}
	return -1
}

// below returns a rule with a filter that ends at or under node at, or -1.
// Asked with #, the root leaves out what begins with $.
func (t *tree) below(at int32, q asked) int32 {
	n := &t.nodes[at]
	if r := t.pick(n.exact, q); r >= 0 {
		return r
	}
	if r := t.pick(n.hash, q); r >= 0 {
		return r
	}
	for c := n.child; c != 0; c = t.nodes[c].sibling {
		if at == 0 && strings.HasPrefix(t.nodes[c].level, "$") {
			continue
		}
		if r := t.below(c, q); r >= 0 {
			return r
		}
	}
	if n.plus != 0 {
		return t.below(n.plus, q)
	}
	return -1
}

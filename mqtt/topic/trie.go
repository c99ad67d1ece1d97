package topic

import "strings"

// trie is the levels of filters, or of names, as a tree: the common part of [Tree],
// [Filters] and [Names]. At a node end at most two filters: the path to the node, and
// that path with # after it. The trie holds a number for each, and 0 for none; the
// owner of the trie gives the number a meaning. The zero trie is empty.
//
// Nodes are in a slab and refer to each other by index. So a trie of few filters costs
// few allocations, and a question costs none. The literal children of a node are a
// list; the children of a node with many are in a hash table besides, one table for the
// whole trie. A question goes no deeper than the filters in the trie.
type trie struct {
	nodes slab[node]
	edges map[edge]int32 // children of the nodes that have more than longList
}

// edge is the way from a node to its child of a literal level.
type edge struct {
	parent int32
	level  string
}

// node is a prefix of a filter.
type node struct {
	level         string
	parent        int32
	child         int32 // first literal child; 0 means none: the root is no child
	before, after int32 // the neighbours in the parent's list of literal children
	plus          int32 // child of the level +
	children      int32 // the number of literal children
	exact         int32 // of the filter that ends here
	open          int32 // of the filter that goes on with #
}

// longList is the length up to which a list of children is searched.
const longList = 8

// end returns where the number of a filter is that ends at n, with or without #.
func (n *node) end(open bool) *int32 {
	if open {
		return &n.open
	}
	return &n.exact
}

func (n *node) empty() bool {
	return n.plus == 0 && n.child == 0 && n.exact == 0 && n.open == 0
}

// child returns the child of n, the node at, for a literal level, or 0.
func (t *trie) child(at int32, n *node, level string) int32 {
	if n.children > longList {
		return t.edges[edge{at, level}]
	}
	for c := n.child; c != 0; {
		child := t.nodes.at(c)
		if child.level == level {
			return c
		}
		c = child.after
	}
	return 0
}

// step returns the child of at for a level of a filter, or 0.
func (t *trie) step(at int32, level string) int32 {
	n := t.nodes.at(at)
	if level == "+" {
		return n.plus
	}
	return t.child(at, n, level)
}

// find returns the node where filter ends and whether # follows. ok is false when
// the trie has no such node.
func (t *trie) find(filter string) (at int32, open, ok bool) {
	if len(t.nodes.first) == 0 {
		return 0, false, false
	}
	for more := true; more; {
		if filter == "#" {
			return at, true, true
		}
		var level string
		level, filter, more = strings.Cut(filter, "/")
		if at = t.step(at, level); at == 0 {
			return 0, false, false
		}
	}
	return at, false, true
}

// reach is find that makes the nodes that are missing. With clone they do not keep
// filter alive.
func (t *trie) reach(filter string, clone bool) (at int32, open bool) {
	if len(t.nodes.first) == 0 {
		t.nodes.first = append(make([]node, 0, 2+strings.Count(filter, "/")), node{})
	}
	for more := true; more; {
		if filter == "#" {
			return at, true
		}
		var level string
		level, filter, more = strings.Cut(filter, "/")
		next := t.step(at, level)
		if next == 0 {
			if clone {
				level = strings.Clone(level)
			}
			next = t.grow(at, level)
		}
		at = next
	}
	return at, false
}

// grow makes the child of at for level.
func (t *trie) grow(at int32, level string) int32 {
	made := t.nodes.add()
	parent, n := t.nodes.at(at), t.nodes.at(made)
	n.level, n.parent = level, at
	if level == "+" {
		parent.plus = made
		return made
	}
	n.after = parent.child
	if n.after != 0 {
		t.nodes.at(n.after).before = made
	}
	parent.child = made
	parent.children++
	switch {
	case parent.children == longList+1:
		if t.edges == nil {
			t.edges = make(map[edge]int32)
		}
		for c := parent.child; c != 0; c = t.nodes.at(c).after {
			t.edges[edge{at, t.nodes.at(c).level}] = c
		}
	case parent.children > longList:
		t.edges[edge{at, level}] = made
	}
	return made
}

// prune removes the node at and its ancestors as far as nothing is left in them.
func (t *trie) prune(at int32) {
	for n := t.nodes.at(at); at != 0 && n.empty(); n = t.nodes.at(at) {
		parent := n.parent
		t.unlink(at)
		t.nodes.remove(at)
		at = parent
	}
}

// compact copies the nodes into as little memory as they need. Each number becomes the
// result of renumber for it.
func (t *trie) compact(renumber func(int32) int32) {
	var small trie
	small.reach("#", false)
	small.graft(0, t, 0, renumber)
	*t = small
}

// unlink takes the node at away from its parent.
func (t *trie) unlink(at int32) {
	n := t.nodes.at(at)
	parent := t.nodes.at(n.parent)
	if parent.plus == at {
		parent.plus = 0
		return
	}
	if n.before != 0 {
		t.nodes.at(n.before).after = n.after
	} else {
		parent.child = n.after
	}
	if n.after != 0 {
		t.nodes.at(n.after).before = n.before
	}
	if parent.children > longList {
		delete(t.edges, edge{n.parent, n.level})
	}
	if parent.children--; parent.children != longList {
		return
	}
	for c := parent.child; c != 0; c = t.nodes.at(c).after {
		delete(t.edges, edge{n.parent, t.nodes.at(c).level})
	}
}

// graft copies the filters that end at and below the node theirs of from to the node
// at.
func (t *trie) graft(at int32, from *trie, theirs int32, renumber func(int32) int32) {
	n := from.nodes.at(theirs)
	for _, open := range []bool{false, true} {
		if end := *n.end(open); end != 0 {
			*t.nodes.at(at).end(open) = renumber(end)
		}
	}
	for c := n.child; c != 0; c = from.nodes.at(c).after {
		t.graft(t.grow(at, from.nodes.at(c).level), from, c, renumber)
	}
	if n.plus != 0 {
		t.graft(t.grow(at, "+"), from, n.plus, renumber)
	}
}

// The questions call visit with the number of each filter that answers them, until
// visit returns false; the walks below them return false then.

// covering visits the filters that match all that filter matches. A name is a
// filter that matches itself alone, so of a name it visits the filters that match
// it.
func (t *trie) covering(filter string, visit func(int32) bool) {
	if len(t.nodes.first) > 0 {
		t.coveringAt(0, filter, true, strings.HasPrefix(filter, "$"), visit)
	}
}

// coveringAt decides the levels of rest below the node at. dollar is set at the
// root for a filter that begins with $, which no wildcard there covers
// [MQTT-4.7.2-1].
func (t *trie) coveringAt(at int32, rest string, more, dollar bool, visit func(int32) bool) bool {
	for {
		n := t.nodes.at(at)
		if n.open != 0 && !dollar && !visit(n.open) { // a/# matches a too
			return false
		}
		if !more {
			return n.exact == 0 || visit(n.exact)
		}
		var level string
		level, rest, more = strings.Cut(rest, "/")
		next := int32(0)
		switch level {
		case "#":
			return true // only # covers #
		case "+":
		default:
			next = t.child(at, n, level)
		}
		if n.plus != 0 && !dollar {
			if next != 0 && !t.coveringAt(next, rest, more, false, visit) {
				return false
			}
			next = n.plus
		}
		if next == 0 {
			return true
		}
		at, dollar = next, false
	}
}

// overlapping visits the filters that match at least one name that filter matches.
func (t *trie) overlapping(filter string, visit func(int32) bool) {
	if len(t.nodes.first) > 0 {
		t.overlappingAt(0, filter, true, strings.HasPrefix(filter, "$"), visit)
	}
}

func (t *trie) overlappingAt(at int32, rest string, more, dollar bool, visit func(int32) bool) bool {
	n := t.nodes.at(at)
	if rest == "#" && more {
		return t.below(at, at == 0, visit)
	}
	if n.open != 0 && !dollar && !visit(n.open) {
		return false
	}
	if !more {
		return n.exact == 0 || visit(n.exact)
	}
	level, rest, more := strings.Cut(rest, "/")
	if level != "+" {
		if c := t.child(at, n, level); c != 0 && !t.overlappingAt(c, rest, more, false, visit) {
			return false
		}
	} else {
		for c := n.child; c != 0; c = t.nodes.at(c).after {
			if at == 0 && strings.HasPrefix(t.nodes.at(c).level, "$") { // [MQTT-4.7.2-1]
				continue
			}
			if !t.overlappingAt(c, rest, more, false, visit) {
				return false
			}
		}
	}
	return n.plus == 0 || dollar || t.overlappingAt(n.plus, rest, more, false, visit)
}

// below visits all filters that end at and below the node at; with hide, without
// children with a level that begins with $.
func (t *trie) below(at int32, hide bool, visit func(int32) bool) bool {
	n := t.nodes.at(at)
	if n.open != 0 && !visit(n.open) || n.exact != 0 && !visit(n.exact) {
		return false
	}
	for c := n.child; c != 0; c = t.nodes.at(c).after {
		if hide && strings.HasPrefix(t.nodes.at(c).level, "$") { // [MQTT-4.7.2-1]
			continue
		}
		if !t.below(c, false, visit) {
			return false
		}
	}
	return n.plus == 0 || t.below(n.plus, false, visit)
}

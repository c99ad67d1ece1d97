package store

import "strings"

// RetainedTree is a level of the tree of retained topics, and its root is the
// tree. It is the mirror of a subscription tree: here the names are kept and a
// filter asks. The zero RetainedTree is empty. It does no locking.
type RetainedTree struct {
	children map[string]*RetainedTree
	message  *Message
}

// Put keeps m at its topic and returns the message that it replaces, if any.
func (n *RetainedTree) Put(m *Message) *Message {
	for level := range strings.SplitSeq(m.Topic, "/") {
		child := n.children[level]
		if child == nil {
			child = &RetainedTree{}
			if n.children == nil {
				n.children = make(map[string]*RetainedTree)
			}
			n.children[level] = child
		}
		n = child
	}
	old := n.message
	n.message = m
	return old
}

// Get returns the message retained at topic, or nil.
func (n *RetainedTree) Get(topic string) *Message {
	for level := range strings.SplitSeq(topic, "/") {
		if n = n.children[level]; n == nil {
			return nil
		}
	}
	return n.message
}

// Remove takes the message at topic out, prunes the branch that it leaves empty,
// and returns the message, if any. The path is kept in a list instead of the
// call stack: a topic may have tens of thousands of levels.
func (n *RetainedTree) Remove(topic string) *Message {
	type step struct {
		node  *RetainedTree
		level string
	}
	var path []step
	for level := range strings.SplitSeq(topic, "/") {
		child := n.children[level]
		if child == nil {
			return nil
		}
		path = append(path, step{n, level})
		n = child
	}
	old := n.message
	n.message = nil
	for i := len(path) - 1; i >= 0 && n.message == nil && len(n.children) == 0; i-- {
		n = path[i].node
		delete(n.children, path[i].level)
	}
	return old
}

// Match appends to dst the messages whose topics match filter.
func (n *RetainedTree) Match(filter string, dst []*Message) []*Message {
	return n.matchLevel(filter, true, dst)
}

// matchLevel descends as deep as the kept topics reach, whatever the filter is.
func (n *RetainedTree) matchLevel(filter string, root bool, dst []*Message) []*Message {
	level, rest, more := strings.Cut(filter, "/")
	switch level {
	case "#":
		return n.all(root, dst)
	case "+":
		for name, child := range n.children {
			if root && strings.HasPrefix(name, "$") { // [MQTT-4.7.2-1]
				continue
			}
			dst = child.rest(rest, more, dst)
		}
	default:
		if child := n.children[level]; child != nil {
			dst = child.rest(rest, more, dst)
		}
	}
	return dst
}

// rest matches what follows a level of the filter. "a/#" matches "a" itself.
func (n *RetainedTree) rest(filter string, more bool, dst []*Message) []*Message {
	if more {
		return n.matchLevel(filter, false, dst)
	}
	if n.message != nil {
		dst = append(dst, n.message)
	}
	return dst
}

// All appends to dst every message of the tree.
func (n *RetainedTree) All(dst []*Message) []*Message { return n.all(false, dst) }

// all appends every message of the branch.
func (n *RetainedTree) all(root bool, dst []*Message) []*Message {
	if n.message != nil {
		dst = append(dst, n.message)
	}
	for name, child := range n.children {
		if root && strings.HasPrefix(name, "$") { // [MQTT-4.7.2-1]
			continue
		}
		dst = child.all(false, dst)
	}
	return dst
}

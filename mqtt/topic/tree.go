package topic

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// Tree holds subscriptions: under a Topic Filter, one value per key, the
// subscriber's. Its methods may be called from any goroutine; Match does not
// allocate and readers do not wait for each other.
//
// All nodes are in one hash table, found by their parent and level, so a node
// costs the same whether it has one child or a million.
type Tree[K comparable, V any] struct {
	generation atomic.Uint64

	mu    sync.RWMutex // guards all below
	root  node[K, V]
	edges map[edge[K, V]]*node[K, V]
	peak  int // the most edges since the table was made
	count int
}

// edge is the way from a node to its child of a literal level.
type edge[K comparable, V any] struct {
	parent *node[K, V]
	level  string
}

// node is a filter's prefix. It exists while an entry is at or below it.
type node[K comparable, V any] struct {
	parent   *node[K, V]
	level    string
	plus     *node[K, V] // the child of the level +
	literals int         // the number of other children
	exact    entries[K, V]
	open     entries[K, V] // of the filter that goes on with #
}

// NewTree returns an empty tree.
func NewTree[K comparable, V any]() *Tree[K, V] {
	return &Tree[K, V]{edges: make(map[edge[K, V]]*node[K, V])}
}

// Generation returns a number that changes with every change of the tree. What
// Match returned after the number was read is right as long as the number
// stays.
func (t *Tree[K, V]) Generation() uint64 { return t.generation.Load() }

// Len returns how many entries the tree holds.
func (t *Tree[K, V]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.count
}

// Add puts value under filter and key, in place of the one that was there. It
// returns how many keys filter has now and whether key was one of them before.
// The filter is valid and not a shared one: see [ValidFilter] and [ParseShared].
func (t *Tree[K, V]) Add(filter string, key K, value V) (keys int, replaced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, open := t.reach(filter)
	list := n.list(open)
	replaced = list.put(key, value)
	if !replaced {
		t.count++
	}
	t.generation.Add(1)
	return len(list.all), replaced
}

// Remove takes away what is under filter and key. It returns how many keys
// filter has left and whether key was one of them.
func (t *Tree[K, V]) Remove(filter string, key K) (keys int, removed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, open := t.find(filter)
	if n == nil {
		return 0, false
	}
	list := n.list(open)
	if removed = list.remove(key); removed {
		t.count--
		keys = len(list.all)
		t.prune(n)
		t.generation.Add(1)
		return keys, true
	}
	return len(list.all), false
}

// Get returns the value under filter and key.
func (t *Tree[K, V]) Get(filter string, key K) (value V, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, open := t.find(filter)
	if n == nil {
		return value, false
	}
	return n.list(open).get(key)
}

// Match appends to dst the value of every entry whose filter matches name, in
// no particular order, and returns it. A subscriber is there once for each of
// its filters that match.
func (t *Tree[K, V]) Match(dst []V, name string) []V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if strings.HasPrefix(name, "$") { // [MQTT-4.7.2-1]
		level, rest, more := strings.Cut(name, "/")
		if child := t.edges[edge[K, V]{&t.root, level}]; child != nil {
			dst = t.match(dst, child, rest, more)
		}
		return dst
	}
	return t.match(dst, &t.root, name, true)
}

// match appends the entries at and below n that match the levels of name that
// remain; without more, none does.
func (t *Tree[K, V]) match(dst []V, n *node[K, V], name string, more bool) []V {
	dst = n.open.appendTo(dst)
	if !more {
		return n.exact.appendTo(dst)
	}
	level, rest, more := strings.Cut(name, "/")
	if n.plus != nil {
		dst = t.match(dst, n.plus, rest, more)
	}
	if n.literals > 0 {
		if child := t.edges[edge[K, V]{n, level}]; child != nil {
			dst = t.match(dst, child, rest, more)
		}
	}
	return dst
}

// list returns the entries of the filter that ends at n, with or without #.
func (n *node[K, V]) list(open bool) *entries[K, V] {
	if open {
		return &n.open
	}
	return &n.exact
}

// find returns the node where filter ends, or nil, and whether # follows.
func (t *Tree[K, V]) find(filter string) (n *node[K, V], open bool) {
	n = &t.root
	for more := true; more && n != nil; {
		if filter == "#" {
			return n, true
		}
		var level string
		level, filter, more = strings.Cut(filter, "/")
		n = t.child(n, level)
	}
	return n, false
}

func (t *Tree[K, V]) child(n *node[K, V], level string) *node[K, V] {
	if level == "+" {
		return n.plus
	}
	return t.edges[edge[K, V]{n, level}]
}

// reach is find that makes the nodes that are missing.
func (t *Tree[K, V]) reach(filter string) (n *node[K, V], open bool) {
	n = &t.root
	for more := true; more; {
		if filter == "#" {
			return n, true
		}
		var level string
		level, filter, more = strings.Cut(filter, "/")
		child := t.child(n, level)
		if child == nil {
			child = t.grow(n, level)
		}
		n = child
	}
	return n, false
}

// grow makes a child. It copies level, which would keep the whole filter alive.
func (t *Tree[K, V]) grow(n *node[K, V], level string) *node[K, V] {
	child := &node[K, V]{parent: n, level: strings.Clone(level)}
	if level == "+" {
		n.plus = child
		return child
	}
	n.literals++
	t.edges[edge[K, V]{n, child.level}] = child
	t.peak = max(t.peak, len(t.edges))
	return child
}

// prune removes n and its ancestors as far as nothing is left in them.
func (t *Tree[K, V]) prune(n *node[K, V]) {
	for n != &t.root && n.empty() {
		parent := n.parent
		if n.level == "+" {
			parent.plus = nil
		} else {
			parent.literals--
			delete(t.edges, edge[K, V]{parent, n.level})
		}
		n = parent
	}
	t.shrink()
}

func (n *node[K, V]) empty() bool {
	return n.plus == nil && n.literals == 0 && len(n.exact.all) == 0 && len(n.open.all) == 0
}

// shrink makes a new table when the old one is nearly empty, since a map keeps
// its memory. It copies at most a seventh of what was removed to get there.
func (t *Tree[K, V]) shrink() {
	if t.peak < 1024 || len(t.edges) > t.peak/8 {
		return
	}
	small := make(map[edge[K, V]]*node[K, V], len(t.edges))
	maps.Copy(small, t.edges)
	t.edges, t.peak = small, len(small)
}

package topic

import (
	"sync"
	"sync/atomic"
)

// Tree holds subscriptions: under a Topic Filter, one value per key, the
// subscriber's. Its methods may be called from any goroutine; Match does not
// allocate and readers do not wait for each other.
//
// A node of it costs the same whether it has one child or a million.
type Tree[K comparable, V any] struct {
	generation atomic.Uint64

	mu     sync.RWMutex // guards all below
	levels trie
	lists  slab[entries[K, V]] // by the numbers of levels
	count  int
}

// NewTree returns an empty tree.
func NewTree[K comparable, V any]() *Tree[K, V] { return &Tree[K, V]{} }

// Generation returns a number that changes with every change of the tree. A result of
// Match that was computed after the number was read is right as long as the number
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
	at, open := t.levels.reach(filter, true)
	end := t.levels.nodes.at(at).end(open)
	if *end == 0 {
		*end = t.lists.add()
	}
	list := t.lists.at(*end)
	replaced = list.put(key, value)
	if !replaced {
		t.count++
	}
	t.generation.Add(1)
	return len(list.all), replaced
}

// Remove removes the entry under filter and key. It returns how many keys filter has
// left and whether key was one of them.
func (t *Tree[K, V]) Remove(filter string, key K) (keys int, removed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, open, ok := t.levels.find(filter)
	if !ok {
		return 0, false
	}
	end := t.levels.nodes.at(at).end(open)
	if *end == 0 {
		return 0, false
	}
	list := t.lists.at(*end)
	if !list.remove(key) {
		return len(list.all), false
	}
	t.count--
	t.generation.Add(1)
	if keys = len(list.all); keys == 0 {
		t.lists.remove(*end)
		*end = 0
		t.levels.prune(at)
		t.shrink()
	}
	return keys, true
}

// shrink gives memory back when the tree was much larger than it is.
func (t *Tree[K, V]) shrink() {
	if !t.levels.nodes.sparse() {
		return
	}
	var small slab[entries[K, V]]
	t.levels.compact(func(end int32) int32 { return move(&small, &t.lists, end) })
	t.lists = small
}

// Get returns the value under filter and key.
func (t *Tree[K, V]) Get(filter string, key K) (value V, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	at, open, ok := t.levels.find(filter)
	if !ok {
		return value, false
	}
	end := *t.levels.nodes.at(at).end(open)
	if end == 0 {
		return value, false
	}
	return t.lists.at(end).get(key)
}

// Match appends to dst the value of every entry with a filter that matches name, in no
// particular order, and returns it. A subscriber is there once for each of its filters
// that match.
func (t *Tree[K, V]) Match(dst []V, name string) []V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.levels.covering(name, func(end int32) bool {
		dst = t.lists.at(end).appendTo(dst)
		return true
	})
	return dst
}

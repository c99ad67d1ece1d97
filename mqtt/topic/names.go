package topic

// Names holds one value for each of many names and is asked with a filter: the
// mirror of [Tree]. The zero Names is empty. It does no locking and keeps the
// strings of its names alive.
type Names[V any] struct {
	levels trie
	values slab[*V] // by the numbers of levels
}

// Put keeps value under name, which is valid, and returns the one that it replaces,
// or nil. The value is not nil.
func (n *Names[V]) Put(name string, value *V) (old *V) {
	at, _ := n.levels.reach(name, false)
	end := n.levels.nodes.at(at).end(false)
	if *end == 0 {
		*end = n.values.add()
	}
	v := n.values.at(*end)
	old, *v = *v, value
	return old
}

// Get returns the value of name, or nil.
func (n *Names[V]) Get(name string) *V {
	at, _, ok := n.levels.find(name)
	if !ok {
		return nil
	}
	end := n.levels.nodes.at(at).exact
	if end == 0 {
		return nil
	}
	return *n.values.at(end)
}

// Remove takes name out and returns its value, or nil.
func (n *Names[V]) Remove(name string) *V {
	at, _, ok := n.levels.find(name)
	if !ok {
		return nil
	}
	end := &n.levels.nodes.at(at).exact
	if *end == 0 {
		return nil
	}
	old := *n.values.at(*end)
	n.values.remove(*end)
	*end = 0
	n.levels.prune(at)
	if n.levels.nodes.sparse() {
		var small slab[*V]
		n.levels.compact(func(end int32) int32 { return move(&small, &n.values, end) })
		n.values = small
	}
	return old
}

// Len returns how many names there are.
func (n *Names[V]) Len() int { return n.values.used() }

// Match appends to dst the values of the names that filter matches, in no particular
// order, and returns it.
func (n *Names[V]) Match(filter string, dst []*V) []*V {
	n.levels.overlapping(filter, func(end int32) bool {
		dst = append(dst, *n.values.at(end))
		return true
	})
	return dst
}

// All appends to dst all values and returns it.
func (n *Names[V]) All(dst []*V) []*V {
	if n.Len() == 0 {
		return dst
	}
	n.levels.below(0, false, func(end int32) bool {
		dst = append(dst, *n.values.at(end))
		return true
	})
	return dst
}

package topic

// indexFrom is the length from which a list of entries has an index; a shorter
// one is searched.
const indexFrom = 16

// entries is the list of one filter's subscribers.
type entries[K comparable, V any] struct {
	all   []entry[K, V]
	index map[K]int // position in all; nil while the list is short
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func (e *entries[K, V]) appendTo(dst []V) []V {
	for i := range e.all {
		dst = append(dst, e.all[i].value)
	}
	return dst
}

// position returns where key is, or -1.
func (e *entries[K, V]) position(key K) int {
	if e.index != nil {
		if i, ok := e.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range e.all {
		if e.all[i].key == key {
			return i
		}
	}
	return -1
}

func (e *entries[K, V]) get(key K) (value V, ok bool) {
	i := e.position(key)
	if i < 0 {
		return value, false
	}
	return e.all[i].value, true
}

// put sets key's value and reports whether it had one.
func (e *entries[K, V]) put(key K, value V) (replaced bool) {
	if i := e.position(key); i >= 0 {
		e.all[i].value = value
		return true
	}
	e.all = append(e.all, entry[K, V]{key, value})
	switch {
	case e.index != nil:
		e.index[key] = len(e.all) - 1
	case len(e.all) >= indexFrom:
		e.reindex()
	}
	return false
}

// reindex makes the index of a list that is long enough for one.
func (e *entries[K, V]) reindex() {
	e.index = nil
	if len(e.all) < indexFrom {
		return
	}
	e.index = make(map[K]int, len(e.all))
	for i := range e.all {
		e.index[e.all[i].key] = i
	}
}

// remove takes key out; the last entry takes its place.
func (e *entries[K, V]) remove(key K) bool {
	i := e.position(key)
	if i < 0 {
		return false
	}
	last := len(e.all) - 1
	if i != last {
		e.all[i] = e.all[last]
		if e.index != nil {
			e.index[e.all[i].key] = i
		}
	}
	e.all[last] = entry[K, V]{} // the array must not keep the subscriber alive
	e.all = e.all[:last]
	delete(e.index, key)
	if last == 0 || last < cap(e.all)/4 { // give memory back
		e.all = append([]entry[K, V](nil), e.all...)
		e.reindex()
	}
	return true
}

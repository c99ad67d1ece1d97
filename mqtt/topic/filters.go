package topic

// Filters is a list of values, each under a filter, that is built once and then
// only read. A value is in it once for each time it was added. The zero Filters is
// empty. It does no locking and keeps the strings of its filters alive.
type Filters[V any] struct {
	levels trie
	values []filterValue[V]
}

// filterValue is a value and the one before it under the same filter: 1 + its
// index, 0 for none.
type filterValue[V any] struct {
	value V
	next  int32
}

// Add puts value under filter, which is valid and not a shared one.
func (f *Filters[V]) Add(filter string, value V) {
	at, open := f.levels.reach(canonical(filter), false)
	end := f.levels.nodes.at(at).end(open)
	f.values = append(f.values, filterValue[V]{value, *end})
	*end = int32(len(f.values))
}

// Len returns how many values there are.
func (f *Filters[V]) Len() int { return len(f.values) }

// Match calls visit with the values of the filters that match name, in no particular
// order, until visit returns false.
func (f *Filters[V]) Match(name string, visit func(*V) bool) {
	f.levels.covering(name, func(end int32) bool { return f.visit(end, visit) })
}

// Covering is Match for the values of filters that each match every name that filter
// matches: see [Covers].
func (f *Filters[V]) Covering(filter string, visit func(*V) bool) {
	f.levels.covering(canonical(filter), func(end int32) bool { return f.visit(end, visit) })
}

// Overlapping is Match for the values of filters that match a name that filter matches
// too: see [Overlaps].
func (f *Filters[V]) Overlapping(filter string, visit func(*V) bool) {
	f.levels.overlapping(canonical(filter), func(end int32) bool { return f.visit(end, visit) })
}

func (f *Filters[V]) visit(end int32, visit func(*V) bool) bool {
	for end != 0 {
		v := &f.values[end-1]
		if !visit(&v.value) {
			return false
		}
		end = v.next
	}
	return true
}

// canonical returns one spelling for the filters that match the same names. A name
// has at least one level, and a single one is not empty [MQTT-4.7.3-1]: so +/# is #
// and /# is /+/#.
func canonical(filter string) string {
	switch filter {
	case "+/#":
		return "#"
	case "/#":
		return "/+/#"
	}
	return filter
}

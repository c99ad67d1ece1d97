package topic

const (
	// pageLen is the number of values in a page of a slab.
	pageLen = 1 << 14

	// sparseFrom is the size from which a nearly empty slab gives memory back.
	sparseFrom = 1024
)

// slab holds values by their index. It grows by pages, so that adding to a large
// slab does not copy it. The first value, of index 0, is there from the first add on
// and is never removed: where an index is written down, 0 may stand for none.
type slab[T any] struct {
	first []T      // the first page, as long as it needs to be
	rest  *rest[T] // nil while the first page is enough and nothing was removed
}

type rest[T any] struct {
	pages [][]T
	free  []int32 // indexes that were removed
}

func (s *slab[T]) at(i int32) *T {
	if i < pageLen {
		return &s.first[i]
	}
	n := uint32(i - pageLen)
	return &s.rest.pages[n/pageLen][n%pageLen]
}

// size returns how many values s has room for without growing.
func (s *slab[T]) size() int {
	n := len(s.first)
	if s.rest != nil && len(s.rest.pages) > 0 {
		last := len(s.rest.pages) - 1
		n += last*pageLen + len(s.rest.pages[last])
	}
	return n
}

// used returns how many values s holds, without the one of index 0.
func (s *slab[T]) used() int {
	switch {
	case len(s.first) == 0:
		return 0
	case s.rest == nil:
		return len(s.first) - 1
	}
	return s.size() - len(s.rest.free) - 1
}

// add returns the index of a zero value that was not used.
func (s *slab[T]) add() int32 {
	var zero T
	if s.rest != nil && len(s.rest.free) > 0 {
		last := len(s.rest.free) - 1
		i := s.rest.free[last]
		s.rest.free = s.rest.free[:last]
		return i
	}
	if len(s.first) < pageLen {
		if len(s.first) == 0 {
			s.first = append(s.first, zero)
		}
		s.first = append(s.first, zero)
		return int32(len(s.first) - 1)
	}
	if s.rest == nil {
		s.rest = &rest[T]{}
	}
	i := int32(s.size())
	if i%pageLen == 0 {
		s.rest.pages = append(s.rest.pages, make([]T, 0, pageLen))
	}
	page := &s.rest.pages[len(s.rest.pages)-1]
	*page = append(*page, zero)
	return i
}

// remove frees the index i. The value there becomes zero.
func (s *slab[T]) remove(i int32) {
	var zero T
	*s.at(i) = zero
	if s.rest == nil {
		s.rest = &rest[T]{}
	}
	s.rest.free = append(s.rest.free, i)
}

// sparse reports whether s is large and nearly empty: it should be copied, to give
// memory back. The copy is at most a seventh of the elements that were removed to get
// there.
func (s *slab[T]) sparse() bool {
	return s.rest != nil && s.size() >= sparseFrom && s.used() <= s.size()/8
}

// move copies the value of index i to another slab and returns its index there.
func move[T any](to, from *slab[T], i int32) int32 {
	moved := to.add()
	*to.at(moved) = *from.at(i)
	return moved
}

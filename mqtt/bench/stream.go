package bench

// stream follows the sequence numbers of one publisher at one subscriber.
type stream struct {
	next uint64   // one above the highest seen
	seen []uint64 // a ring of bits: which of the last numbers below next came
}

type verdict int

const (
	inOrder   verdict = iota // above all before it, perhaps after a gap
	reordered                // below one that came before it
	repeated                 // came before, or is too old to tell
)

// newStream tells late from repeated for the last 4 × window numbers at least.
func newStream(window int) *stream {
	words := 16
	for words*64 < 4*window {
		words *= 2
	}
	return &stream{seen: make([]uint64, words)}
}

// take judges the arrival of seq. advance is by how much it is above the highest
// before it: 1 if nothing is missing in between.
func (s *stream) take(seq uint64) (v verdict, advance uint64) {
	span := uint64(len(s.seen)) * 64
	word, bit := &s.seen[seq%span/64], uint64(1)<<(seq%64)
	if seq < s.next {
		if s.next-seq >= span || *word&bit != 0 {
			return repeated, 0
		}
		*word |= bit
		return reordered, 0
	}
	for gap, n := s.next, uint64(0); gap < seq && n < span; gap, n = gap+1, n+1 {
		s.seen[gap%span/64] &^= 1 << (gap % 64)
	}
	*word |= bit
	advance = seq + 1 - s.next
	s.next = seq + 1
	return inOrder, advance
}

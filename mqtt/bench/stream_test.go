package bench

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestStream(t *testing.T) {
	s := newStream(10)
	for _, step := range []struct {
		seq     uint64
		want    verdict
		advance uint64
	}{
		{0, inOrder, 1},
		{1, inOrder, 1},
		{1, repeated, 0},
		{4, inOrder, 3}, // 2 and 3 are missing
		{3, reordered, 0},
		{3, repeated, 0},
		{2, reordered, 0},
		{5000, inOrder, 4996}, // further than it can remember
		{4990, reordered, 0},
		{4, repeated, 0}, // too old to tell
	} {
		if got, advance := s.take(step.seq); got != step.want || advance != step.advance {
			t.Fatalf("take(%d) = %v, %d, want %v, %d", step.seq, got, advance, step.want, step.advance)
		}
	}
}

// Within the numbers that it remembers, a stream is a set and a maximum.
func TestStreamModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, seen, next := newStream(1), map[uint64]bool{}, uint64(0)
		span := uint64(len(s.seen)) * 64
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			low := next - min(next, span-1)
			seq := rapid.Uint64Range(low, next+100).Draw(t, "seq")
			want := inOrder
			switch {
			case seen[seq]:
				want = repeated
			case seq < next:
				want = reordered
			}
			seen[seq], next = true, max(next, seq+1)
			if got, _ := s.take(seq); got != want {
				t.Fatalf("take(%d) = %v, want %v", seq, got, want)
			}
		}
	})
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := new(histogram)
		d := time.Duration(rapid.Int64Range(0, 1<<62).Draw(t, "d"))
		h.add(d)
		if got := h.at(.5); got > d || float64(got) < 0.96*float64(d) {
			t.Fatalf("%d is told as %d", d, got)
		}
	})
	h := new(histogram)
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	for share, want := range map[float64]float64{.5: 500, .9: 900, .99: 990} {
		if got := float64(h.at(share)) / 1e3; got < 0.96*want || got > 1.01*want {
			t.Errorf("at(%v) = %v µs, want about %v", share, got, want)
		}
	}
}

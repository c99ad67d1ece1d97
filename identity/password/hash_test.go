package password

import (
	"fmt"
	"testing"
)

func BenchmarkHash(b *testing.B) {
	for _, c := range []cost{{19 << 10, 2, 1}, {32 << 10, 3, 1}, {64 << 10, 3, 1}, {64 << 10, 3, 4}} {
		b.Run(fmt.Sprintf("m=%d/t=%d/p=%d", c.memory, c.passes, c.lanes), func(b *testing.B) {
			h := newHash([]byte("correct horse"), c)
			b.ReportAllocs()
			for b.Loop() {
				h.matches([]byte("wrong horse"))
			}
		})
	}
}

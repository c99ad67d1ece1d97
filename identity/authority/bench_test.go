package authority

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
)

func BenchmarkNew(b *testing.B) {
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			l := &lab{path: b.TempDir(), time: time.Now()}
			l.start(b)
			l.dir.Close()
		}
	})
	b.Run("again", func(b *testing.B) {
		l := newLab(b)
		for b.Loop() {
			l.restart(b)
		}
	})
}

func BenchmarkEnrol(b *testing.B) {
	l := newLab(b)
	var reqs []*identity.EnrolRequest
	for i := range 2000 {
		name := fmt.Sprint("pump-", i)
		reqs = append(reqs, request(b, l.ticket(b, identity.Device, name), csrFor(b, newDeviceKey(b), device(name))))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := l.Enrol(b.Context(), reqs[i%len(reqs)]); err != nil {
			b.Fatal(err)
		}
		if i++; i == len(reqs) {
			b.Log("requests ran out: the rest were repeated ones")
		}
	}
}

func BenchmarkRenew(b *testing.B) {
	l := newLab(b)
	s := l.enrol(b, "pump-7")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.pass(10 * time.Minute) // or it would be too often
		answer, err := l.Renew(context.WithoutCancel(b.Context()), renewalOf(b, s, s.Key, fmt.Sprintf("request-%016d", i)))
		if err != nil {
			b.Fatal(err)
		}
		s = svid(b, answer, s.Key)
	}
}

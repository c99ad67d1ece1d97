package directory

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
)

func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			d := newWriter(b)
			b.ReportAllocs()
			b.SetParallelism(callers)
			var n atomic.Uint64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					if _, err := d.Put(someIdentity(fmt.Sprint("pump-", i), i)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkApply(b *testing.B) {
	w := newWriter(b)
	var batch []Payload
	for i := range 500 {
		batch = append(batch, someIdentity(fmt.Sprint("pump-", i), 1))
	}
	mustPut(b, w, batch...)
	body, n, err := w.batch(1, 500)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r := newReplica(b)
		b.StartTimer()
		if _, err := r.acceptRecords(body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	w := openDir(b, path, Options{Signer: rootKey})
	for i := range 20 {
		var batch []Payload
		for j := range 500 {
			batch = append(batch, someIdentity(fmt.Sprint("pump-", i, "-", j), 1))
		}
		mustPut(b, w, batch...)
	}
	for b.Loop() {
		d, err := Open(path, publicKey(rootKey), Options{})
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
	}
	b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkRevoked(b *testing.B) {
	w := newWriter(b)
	mustPut(b, w, Revocation{ID: device("pump-7"), Generation: 2})
	b.ReportAllocs()
	for b.Loop() {
		if !w.Revoked(device("pump-7"), 1) {
			b.Fatal("not revoked")
		}
	}
}

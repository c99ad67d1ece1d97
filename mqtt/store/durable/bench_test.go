package durable

import (
	"fmt"
	"sync"
	"testing"

	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/store/storetest"
)

func benchKey(i int) store.SessionKey {
	return store.SessionKey{Identity: "spiffe://lab.test/device/bench", ClientID: fmt.Sprint(i)}
}

func benchMessage(size int) *store.Message {
	return &store.Message{
		Topic: "site/a/line/7/temperature", Payload: make([]byte, size), QoS: 1,
		Publisher: "spiffe://lab.test/device/bench", ClientID: "bench", HLC: 1,
	}
}

// BenchmarkEnqueue is one publisher per goroutine, each waiting for its
// acknowledgement, to one session each.
func BenchmarkEnqueue(b *testing.B) {
	for _, publishers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("publishers=%d/size=100", publishers), func(b *testing.B) {
			s := start(b, b.TempDir()+"/s", Options{Limits: store.Limits{Queue: store.QueueLimit{Messages: 1 << 30, Bytes: 1 << 40}}})
			for i := range publishers {
				if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: benchKey(i)}) }); err != nil {
					b.Fatal(err)
				}
			}
			m := benchMessage(100)
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for p := range publishers {
				n := b.N / publishers
				if p < b.N%publishers {
					n++
				}
				all.Go(func() {
					k := benchKey(p)
					kept := make(chan error, 1)
					add := func(tx store.Tx) { tx.Enqueue(k, store.Delivery{Message: m, QoS: 1}) }
					done := func(err error) { kept <- err }
					for range n {
						s.Update(add, done)
						if err := <-kept; err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkFanOut is one message to a hundred sessions that are away.
func BenchmarkFanOut(b *testing.B) {
	for _, size := range []int{100, 4096} {
		b.Run(fmt.Sprintf("sessions=100/size=%d", size), func(b *testing.B) {
			s := start(b, b.TempDir()+"/s", Options{Limits: store.Limits{Queue: store.QueueLimit{Messages: 1 << 30, Bytes: 1 << 40}}})
			for i := range 100 {
				if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: benchKey(i)}) }); err != nil {
					b.Fatal(err)
				}
			}
			m := benchMessage(size)
			var all sync.WaitGroup
			room := make(chan struct{}, 64)
			for b.Loop() {
				room <- struct{}{}
				all.Add(1)
				s.Update(func(tx store.Tx) {
					for i := range 100 {
						tx.Enqueue(benchKey(i), store.Delivery{Message: m, QoS: 1})
					}
				}, func(err error) {
					if err != nil {
						b.Error(err)
					}
					<-room
					all.Done()
				})
			}
			all.Wait()
			b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkDrain reads a queue from the disk and confirms it, 64 entries at a
// time.
func BenchmarkDrain(b *testing.B) {
	s := start(b, b.TempDir()+"/s", Options{Cache: 1, Limits: store.Limits{Queue: store.QueueLimit{Messages: 1 << 30, Bytes: 1 << 40}}})
	fillQueue(b, s, b.N)
	b.ResetTimer()
	scratch := make([]store.Entry, 0, 64)
	for after, n := uint64(0), 0; n < b.N; {
		got, _ := s.Queue(benchKey(0), after, scratch[:0])
		after = got[len(got)-1].Seq
		n += len(got)
		s.Update(func(tx store.Tx) {
			for _, e := range got {
				tx.Dequeue(benchKey(0), e.Seq)
			}
		}, nil)
	}
	if err := storetest.Do(s, func(store.Tx) {}); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkOpen opens a store with 100,000 queued messages.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir() + "/s"
	o := Options{Limits: store.Limits{Queue: store.QueueLimit{Messages: 1 << 30, Bytes: 1 << 40}}}
	s := start(b, dir, o)
	fillQueue(b, s, 100_000)
	s.stop()
	for b.Loop() {
		s, err := Open(dir, o)
		if err != nil {
			b.Fatal(err)
		}
		if got := s.Stats().Queued; got != 100_000 {
			b.Fatal(got)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func fillQueue(b *testing.B, s *running, n int) {
	b.Helper()
	if err := storetest.Do(s, func(tx store.Tx) { tx.PutSession(store.Session{Key: benchKey(0)}) }); err != nil {
		b.Fatal(err)
	}
	m := benchMessage(100)
	for n > 0 {
		piece := min(n, 1000)
		n -= piece
		if err := storetest.Do(s, func(tx store.Tx) {
			for range piece {
				tx.Enqueue(benchKey(0), store.Delivery{Message: m, QoS: 1})
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
}

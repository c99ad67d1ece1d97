package overlay

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

func BenchmarkHandshake(b *testing.B) {
	ca := testca.New(b, "lab.test")
	paris, lyon := start(b, ca, "paris"), start(b, ca, "lyon")
	for b.Loop() {
		if _, err := lyon.Dial(b.Context(), paris.Addr().String(), paris.ID()); err != nil {
			b.Fatal(err)
		}
		lyon.Disconnect(paris.ID(), "")
	}
}

func BenchmarkStream(b *testing.B) {
	ca := testca.New(b, "lab.test")
	paris := prepare(b, ca.Issue(b, ca.ID(b, identity.Node, "paris")))
	paris.Handle("sink/1", func(_ context.Context, s *Stream) {
		if _, err := io.Copy(io.Discard, s); err != nil {
			b.Error(err)
		}
	})
	run(b, paris)
	lyon := start(b, ca, "lyon")
	dial(b, lyon, paris)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	s, err := lyon.Open(b.Context(), paris.ID(), "sink/1")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadAll(s); err != nil { // until the other end has it all
		b.Fatal(err)
	}
}

func BenchmarkOpenEcho(b *testing.B) {
	server, client := pair(b)
	for b.Loop() {
		s, err := client.Open(b.Context(), server.ID(), "echo/1")
		if err != nil {
			b.Fatal(err)
		}
		if err := echo(s); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// TestIdleConnectionIsCheap holds what a connection costs when nothing happens
// on it: quic-go's two goroutines and our two at each end, for streams and for
// datagrams.
func TestIdleConnectionIsCheap(t *testing.T) {
	ca := testca.New(t, "lab.test")
	calm := func(o *Options) {
		o.MaxConns = 64
		o.replacedInterval = time.Hour // to ask on a replaced connection starts a sender there
	}
	paris, lyon := start(t, ca, "paris", calm), start(t, ca, "lyon", calm)
	dial(t, lyon, paris)
	until(t, paris, "connected", func() bool { return paris.Connected(lyon.ID()) })
	const more = 32
	before := runtime.NumGoroutine()
	for range more {
		dial(t, lyon, paris)
	}
	until(t, paris, "all", func() bool { return len(paris.conns(lyon.ID())) == 1+more })
	ends := float64(2 * more)
	per := func() float64 { return float64(runtime.NumGoroutine()-before) / ends }
	for waiting := time.Now(); per() > 4.5 && time.Since(waiting) < limit; {
		runtime.Gosched() // goroutines of the handshakes are still ending
	}
	if got := per(); got > 4.5 {
		t.Errorf("%.1f goroutines per end of an idle connection", got)
	}
}

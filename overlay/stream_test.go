package overlay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/testca"
)

// pair returns two connected nodes; the first speaks echo/1 (until the end of
// what it reads), hold/1 (reads nothing) and denied/1 (to nobody).
func pair(t testing.TB, edit ...func(*Options)) (server, client *Node) {
	t.Helper()
	ca := testca.New(t, "lab.test")
	edit = append(edit, func(o *Options) { o.Authorizer = allow{} })
	server = prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")), edit...)
	server.Handle("echo/1", func(_ context.Context, s *Stream) {
		if _, err := io.Copy(s, s); err != nil {
			s.Reset()
		}
	})
	server.Handle("hold/1", func(ctx context.Context, _ *Stream) { <-ctx.Done() })
	server.Handle("denied/1", func(context.Context, *Stream) { t.Error("a denied protocol was served") })
	run(t, server)
	client = start(t, ca, "lyon")
	dial(t, client, server)
	return server, client
}

type allow struct{}

func (allow) Allow(peer identity.ID, protocol string) error {
	if protocol == "denied/1" {
		return errors.New("no grant for " + peer.Short())
	}
	return nil
}

func TestStream(t *testing.T) {
	server, client := pair(t)
	s := open(t, client, server, "echo/1")
	if s.PeerID() != server.ID() || s.Protocol() != "echo/1" || s.RemoteAddr().String() != server.Addr().String() {
		t.Errorf("stream with %v, protocol %q, at %v", s.PeerID(), s.Protocol(), s.RemoteAddr())
	}
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := s.Write(sent); err != nil {
			t.Error(err)
		}
		if err := s.CloseWrite(); err != nil { // half closed: the echo still comes back
			t.Error(err)
		}
	})
	got, err := io.ReadAll(s)
	writer.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("echo of %d bytes: %d bytes, %v", len(sent), len(got), err)
	}
}

func TestStreamRefused(t *testing.T) {
	server, client := pair(t, func(o *Options) { o.MaxStreamsPerPeer = 1 })
	for _, tt := range []struct {
		protocol string
		want     error
	}{
		{"unheard-of/9", ErrUnknownProtocol},
		{"denied/1", ErrDenied},
	} {
		s := open(t, client, server, tt.protocol)
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
			t.Errorf("Read of %s: %v, want %v", tt.protocol, err, tt.want)
		}
		if _, err := s.Write(make([]byte, 1)); !errors.Is(err, tt.want) {
			t.Errorf("Write of %s: %v, want %v", tt.protocol, err, tt.want)
		}
	}
	first := open(t, client, server, "echo/1")
	if _, err := first.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, client, server, "echo/1").Read(make([]byte, 1)); !errors.Is(err, ErrBusy) {
		t.Errorf("stream over the limit: %v, want %v", err, ErrBusy)
	}
	if got := server.Counters().StreamsRefused; got != 3 {
		t.Errorf("%d streams refused, want 3", got)
	}
	for _, name := range []string{"", strings.Repeat("x", maxProtocol+1)} {
		if _, err := client.Open(timeout(t), server.ID(), name); err == nil {
			t.Errorf("Open of %q succeeded", name)
		}
	}
}

func TestOpenWaitsForCredit(t *testing.T) {
	server, client := pair(t, func(o *Options) { o.MaxStreams = 2 })
	open(t, client, server, "hold/1")
	second := open(t, client, server, "echo/1")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Open(ctx, server.ID(), "echo/1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open over the connection's limit: %v", err)
	}
	second.Close()
	open(t, client, server, "echo/1")
}

func TestManyStreams(t *testing.T) {
	server, client := pair(t)
	var streams sync.WaitGroup
	for i := range 300 { // more than may be open at once
		streams.Go(func() {
			s, err := client.Open(timeout(t), server.ID(), "echo/1")
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			sent := bytes.Repeat([]byte{byte(i)}, 1000)
			if _, err := s.Write(sent); err != nil {
				t.Error(err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	streams.Wait()
	if client.Peers()[0].Streams != 0 {
		t.Errorf("%d streams left", client.Peers()[0].Streams)
	}
}

// TestStalledReader fills streams that the peer never reads; another stream of
// the same connection must not notice.
func TestStalledReader(t *testing.T) {
	server, client := pair(t)
	var stalled sync.WaitGroup
	for range 60 {
		s := open(t, client, server, "hold/1")
		stalled.Go(func() {
			if err := s.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
				t.Error(err)
			}
			if n, err := s.Write(make([]byte, 4*streamWindow)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a peer that does not read took %d bytes, %v", n, err)
			}
		})
	}
	stalled.Wait()
	s := open(t, client, server, "echo/1")
	sent := make([]byte, 1<<20)
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := s.Write(sent); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.ReadFull(s, make([]byte, len(sent))); err != nil {
		t.Error(err)
	}
	writer.Wait()
}

func TestDeadlines(t *testing.T) {
	server, client := pair(t)
	s := open(t, client, server, "echo/1")
	if err := s.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(make([]byte, 1))
	if ne := net.Error(nil); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("Read: %v, want a timeout", err)
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := echo(s); err != nil {
		t.Errorf("after the deadline was lifted: %v", err)
	}
}

func TestClose(t *testing.T) {
	server, client := pair(t)
	s := open(t, client, server, "echo/1")
	s.Close()
	s.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := s.Write(make([]byte, 1)); err == nil {
		t.Error("Write after Close succeeded")
	}
	receive(t, s.Done(), "Done")

	// A Close must end a Write that waits for the peer, and the peer must not
	// take what it got for everything.
	s = open(t, client, server, "hold/1")
	failed := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 4*streamWindow))
		failed <- err
	}()
	for s.writing.TryLock() { // until Write has it
		s.writing.Unlock()
	}
	s.Close()
	if err := receive(t, failed, "the end of Write"); err == nil {
		t.Error("a Write that Close cut short succeeded")
	}
}

func TestResetIsNoEnd(t *testing.T) {
	ca := testca.New(t, "lab.test")
	server := prepare(t, ca.Issue(t, ca.ID(t, identity.Node, "paris")))
	server.Handle("half/1", func(_ context.Context, s *Stream) {
		if _, err := s.Write([]byte("half")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(s, make([]byte, 4)); err != nil {
			t.Error(err)
		}
		s.Reset()
	})
	run(t, server)
	client := start(t, ca, "lyon")
	dial(t, client, server)
	s := open(t, client, server, "half/1")
	b := make([]byte, 4)
	if _, err := io.ReadFull(s, b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(b); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read of a reset stream: %v", err)
	}
}

// TestMalformedHeader speaks QUIC beneath the protocol's header.
func TestMalformedHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, time.Millisecond)
		defer b.stop()
		ordinary := b.open(t, 0)
		c := b.lyon.newest(b.paris.ID())
		for name, bytes := range map[string][]byte{
			"empty name":  {0},
			"long name":   append([]byte{maxProtocol + 1}, make([]byte, maxProtocol+1)...),
			"cut short":   {5, 'a'}, // and then silence
			"binary name": {2, 0xff, 0},
		} {
			qs, err := c.qc.OpenStreamSync(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := qs.Write(bytes); err != nil {
				t.Fatal(err)
			}
			if err := qs.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := qs.Read(make([]byte, 1)); err == nil || errors.Is(cause(err), os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v, want a reset", name, err)
			}
		}
		if err := echo(ordinary); err != nil {
			t.Errorf("the connection suffered: %v", err)
		}
	})
}

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add([]byte{255, 'a'})
	f.Add(header("hpmq-gossip/1"))
	f.Add(append(header(strings.Repeat("x", maxProtocol)), "payload"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		name, err := readHeader(r)
		if err != nil {
			return
		}
		if len(name) == 0 || len(name) > maxProtocol {
			t.Fatalf("name of %d bytes", len(name))
		}
		if got := header(name); !bytes.HasPrefix(b, got) || r.Len() != len(b)-len(got) {
			t.Fatalf("read %q from %x, which encodes as %x", name, b, got)
		}
	})
}

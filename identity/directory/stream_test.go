package directory

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitFor returns when d holds count records.
func waitFor(t testing.TB, d *Directory, count uint64) {
	t.Helper()
	for {
		p := d.progress()
		if p.tip.Count >= count {
			return
		}
		select {
		case <-p.changed:
		case <-t.Context().Done():
			t.Fatal("test over")
		}
	}
}

// connectRunning is connect with a writer that also signs heads.
func connectRunning(t testing.TB, w, r *Directory) (stop func() (serve, follow error)) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	end := connect(t, w, r)
	return func() (error, error) {
		cancel()
		running.Wait()
		return end()
	}
}

// connect lets r follow w over a pipe until stop is called, which returns what
// Serve and Follow returned.
func connect(t testing.TB, w, r *Directory) (stop func() (serve, follow error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a, b := net.Pipe()
	var both sync.WaitGroup
	var serve, follow error
	both.Go(func() { serve = w.Serve(ctx, node("r"), a) })
	both.Go(func() { follow = r.Follow(ctx, node("w"), b) })
	return func() (error, error) {
		cancel()
		both.Wait()
		return serve, follow
	}
}

// mustSignHead has the writer sign a head.
func mustSignHead(t testing.TB, w *Directory) {
	t.Helper()
	if err := w.signHead(); err != nil {
		t.Fatal(err)
	}
}

// replicate brings r up to w's tip and newest head.
func replicate(t testing.TB, w, r *Directory) {
	t.Helper()
	if w.Writable() && w.Head().Point != w.Tip() {
		mustSignHead(t, w)
	}
	stop := connect(t, w, r)
	for head := w.Head(); ; {
		p := r.progress()
		if p.tip == w.Tip() && p.head.UnixMilli >= head.UnixMilli {
			break
		}
		<-p.changed
	}
	if serve, follow := stop(); serve != nil || follow != nil {
		t.Fatalf("serve: %v, follow: %v", serve, follow)
	}
}

func TestFollow(t *testing.T) {
	w, r := newWriter(t), newReplica(t)
	mustPut(t, w, everyKind()...)
	mustSignHead(t, w)
	stop := connect(t, w, r)
	waitFor(t, r, w.Tip().Count)
	mustPut(t, w, somePolicy(2)) // pushed
	waitFor(t, r, w.Tip().Count)
	if serve, follow := stop(); serve != nil || follow != nil {
		t.Errorf("serve: %v, follow: %v", serve, follow)
	}
	if diff := diffContent(r, w); diff != "" {
		t.Error(diff)
	}
	if err := w.Follow(t.Context(), node("r"), nopStream{}); err == nil {
		t.Error("the writer followed")
	}
}

type nopStream struct{ io.ReadWriter }

func (nopStream) Close() error { return nil }

// TestFollowThroughReplica has a second replica fed by the first.
func TestFollowThroughReplica(t *testing.T) {
	w, middle, r := newWriter(t), newReplica(t), newReplica(t)
	stopLast := connect(t, middle, r)
	stopFirst := connectRunning(t, w, middle)
	for i := range 20 {
		mustPut(t, w, someIdentity(fmt.Sprint("pump-", i), 1))
	}
	if err := w.signHead(); err != nil {
		t.Fatal(err)
	}
	for r.Head().UnixMilli == 0 || r.Tip() != w.Tip() {
		<-r.progress().changed
	}
	for _, stop := range []func() (error, error){stopFirst, stopLast} {
		if serve, follow := stop(); serve != nil || follow != nil {
			t.Errorf("serve: %v, follow: %v", serve, follow)
		}
	}
	if diff := diffContent(r, w); diff != "" {
		t.Error(diff)
	}
	// One that is ahead of the node that it follows goes on when that has caught up.
	mustPut(t, w, somePolicy(1))
	replicate(t, w, r)
	stopLast = connect(t, middle, r)
	replicate(t, w, middle)
	mustPut(t, w, somePolicy(2))
	replicate(t, w, middle)
	waitFor(t, r, 22)
	if serve, follow := stopLast(); serve != nil || follow != nil {
		t.Errorf("serve: %v, follow: %v", serve, follow)
	}
}

// cutStream ends after n bytes were read.
type cutStream struct {
	net.Conn

	n int
}

func (c *cutStream) Read(b []byte) (int, error) {
	if c.n == 0 {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(b[:min(len(b), c.n)])
	c.n -= n
	return n, err
}

func TestCutAnywhereAndResume(t *testing.T) {
	w := newWriter(t)
	mustPut(t, w, everyKind()...)
	mustPut(t, w, somePolicy(2))
	if err := w.signHead(); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n += 1 + n/300 { // each byte of the first records, then most
		r := newReplica(t)
		a, b := net.Pipe()
		var server sync.WaitGroup
		server.Go(func() {
			if err := w.Serve(t.Context(), node("r"), a); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("cut after %d: serve: %v", n, err)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		server.Go(func() { // all arrived: n was beyond the end
			for r.Head().UnixMilli == 0 {
				select {
				case <-r.progress().changed:
				case <-ctx.Done():
					return
				}
			}
			cancel()
		})
		err := r.Follow(ctx, node("w"), &cutStream{b, n})
		cancel()
		server.Wait()
		replicate(t, w, r)
		if diff := diffContent(r, w); diff != "" {
			t.Fatalf("cut after %d: %s", n, diff)
		}
		r.Close()
		if err == nil {
			return
		}
	}
}

func TestHeadIsVerified(t *testing.T) {
	w, r := newWriter(t), newReplica(t)
	mustPut(t, w, somePolicy(1))
	replicate(t, w, r)
	good := r.Head()
	later := func(change func(*Head), key []byte) []byte {
		h := good
		h.UnixMilli += 1000
		change(&h)
		msg, err := h.signed()
		if err != nil {
			t.Fatal(err)
		}
		h.Signature = ed25519.Sign(key, msg)
		b, err := encoding.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tt := range map[string]struct {
		body   []byte
		silent bool // not an error: perhaps of a signer whose record is missing here
	}{
		"strange signer":    {later(func(h *Head) { h.Signer = keyID(publicKey(testKey(2))) }, testKey(2)), true},
		"wrong signature":   {later(func(*Head) {}, testKey(2)), false},
		"beyond the log":    {later(func(h *Head) { h.Point.Count = 9 }, rootKey), true},
		"contradicting log": {later(func(h *Head) { h.Point.Hash[0]++ }, rootKey), false},
		"old":               {later(func(h *Head) { h.UnixMilli = 1 }, rootKey), true},
		"not CBOR":          {[]byte{0xff}, false},
		"too large":         {make([]byte, maxHead+1), false},
	} {
		s := r.sources.add(node("w"))
		if err := r.handleFrame(s, frameHead, tt.body); (err == nil) != tt.silent {
			t.Errorf("%s: %v", name, err)
		}
		r.sources.remove(s)
		if diff := cmp.Diff(r.Head(), good); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestServeRefusesStrangeHello(t *testing.T) {
	w := newWriter(t)
	for name, hello := range map[string][]byte{
		"other message": {byte(frameHead), 0, 0, 0, 0},
		"long unknown":  {99, 0xff, 0xff, 0xff, 0xff},
		"too long":      {byte(frameHello), 0xff, 0xff, 0xff, 0xff},
		"not CBOR":      {byte(frameHello), 1, 0, 0, 0, 0xff},
	} {
		a, b := net.Pipe()
		var server sync.WaitGroup
		server.Go(func() {
			if err := w.Serve(t.Context(), node("r"), a); err == nil {
				t.Errorf("%s: served", name)
			}
		})
		if _, err := b.Write(hello); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		server.Wait()
		b.Close()
	}

	// After the hello only reports and fetches have a meaning.
	a, b := net.Pipe()
	var server sync.WaitGroup
	server.Go(func() {
		_, strange := errors.AsType[*protocolError](w.Serve(t.Context(), node("r"), a))
		if !strange {
			t.Error("a follower that sends records was served")
		}
	})
	if err := writeValue(b, frameHello, Report{}); err != nil {
		t.Fatal(err)
	}
	if err := writeMessage(b, frameRecords, nil); err != nil {
		t.Fatal(err)
	}
	server.Wait()
	b.Close()
}

func TestFollowerLeaves(t *testing.T) {
	w := newWriter(t)
	a, b := net.Pipe()
	var server sync.WaitGroup
	server.Go(func() {
		if err := w.Serve(t.Context(), node("r"), a); err != nil {
			t.Errorf("follower left: %v", err)
		}
	})
	if err := writeValue(b, frameHello, Report{}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	server.Wait()
}

func TestHeadsArePushedEveryMinute(t *testing.T) {
	wpath, rpath := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "log")
	synctest.Test(t, func(t *testing.T) {
		w, r := openDir(t, wpath, Options{Signer: rootKey}), openDir(t, rpath, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, d := range []*Directory{w, r} {
			running.Go(func() {
				if err := d.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		stop := connect(t, w, r)
		for range 3 {
			synctest.Wait()
			if got := r.Stale(); got != 0 {
				t.Errorf("stale %v just after a head", got)
			}
			<-time.After(HeadInterval - time.Second)
			if got := r.Stale(); got != HeadInterval-time.Second {
				t.Errorf("stale %v just before the next head", got)
			}
			<-time.After(time.Second)
		}
		cancel()
		if serve, follow := stop(); serve != nil || follow != nil {
			t.Errorf("serve: %v, follow: %v", serve, follow)
		}
		running.Wait()
	})
}

func TestConcurrentPutAndFollow(t *testing.T) {
	w := newWriter(t)
	replicas := []*Directory{newReplica(t), newReplica(t), newReplica(t)}
	var stops []func() (error, error)
	for _, r := range replicas {
		stops = append(stops, connectRunning(t, w, r))
	}
	const writers, each = 8, 40
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for j := range uint64(each) {
				if _, err := w.Put(someIdentity(fmt.Sprint("pump-", i), j+1)); err != nil {
					t.Error(err)
				}
				w.Revoked(device("pump-1"), 1)
				for p := range w.Identities() {
					p.Labels["role"] = "changed by a caller"
				}
			}
		})
	}
	all.Wait()
	for i, r := range replicas {
		waitFor(t, r, writers*each)
		if serve, follow := stops[i](); serve != nil || follow != nil {
			t.Errorf("serve: %v, follow: %v", serve, follow)
		}
		if diff := diffContent(r, w); diff != "" {
			t.Error(diff)
		}
	}
	if got, _ := w.Identity(device("pump-1")); got.Labels["role"] != "sensor" {
		t.Error("a caller changed the directory")
	}
}

// TestReplicaEqualsWriter runs random histories of puts, restarts and cut
// replications and compares the two in the end.
func TestReplicaEqualsWriter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		w := openDir(t, filepath.Join(dir, "w"), Options{Signer: rootKey})
		r := openDir(t, filepath.Join(dir, "r"), Options{})
		generations, policy := map[string]uint64{}, uint64(0)
		rt.Repeat(map[string]func(*rapid.T){
			"identity": func(rt *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
				generations[name]++
				p := someIdentity(name, generations[name])
				p.State = rapid.SampledFrom([]State{Active, Revoked, Replaced}).Draw(rt, "state")
				mustPut(t, w, p)
			},
			"revocation and policy": func(rt *rapid.T) {
				policy++
				mustPut(t, w, Revocation{ID: device("a"), Generation: rapid.Uint64Range(0, 9).Draw(rt, "generation")}, somePolicy(policy))
			},
			"refused": func(rt *rapid.T) {
				if _, err := w.Put(somePolicy(policy)); err == nil && policy > 0 {
					rt.Error("accepted")
				}
			},
			"cut replication": func(rt *rapid.T) {
				mustSignHead(t, w)
				a, b := net.Pipe()
				var server sync.WaitGroup
				server.Go(func() { w.Serve(t.Context(), node("r"), a) }) //nolint:errcheck // it is cut
				cut := &cutStream{b, rapid.IntRange(0, 200).Draw(rt, "bytes")}
				ctx, cancel := context.WithCancel(t.Context())
				if len(w.spans) == len(r.spans) { // nothing would come
					cancel()
				}
				if err := r.Follow(ctx, node("w"), cut); err == nil && ctx.Err() == nil {
					rt.Error("a cut stream ended without an error")
				}
				cancel()
				server.Wait()
			},
			"restart": func(*rapid.T) {
				r.Close()
				r = openDir(t, filepath.Join(dir, "r"), Options{})
			},
			"": func(rt *rapid.T) {
				if got, most := r.Tip().Count, w.Tip().Count; got > most {
					rt.Errorf("the replica has %d of %d records", got, most)
				}
			},
		})
		replicate(t, w, r)
		if diff := diffContent(r, w); diff != "" {
			rt.Error(diff)
		}
	})
}

// TestUnknownMessageIsSkipped leaves room for what later versions say.
func TestUnknownMessageIsSkipped(t *testing.T) {
	var stream bytes.Buffer
	for _, typ := range []frameType{99, frameHead, 100} {
		if err := writeMessage(&stream, typ, []byte("body")); err != nil {
			t.Fatal(err)
		}
	}
	if typ, body, err := readMessage(&stream); typ != frameHead || string(body) != "body" || err != nil {
		t.Errorf("type %d, %q, %v; want the head", typ, body, err)
	}
	if _, _, err := readMessage(&stream); !errors.Is(err, io.EOF) {
		t.Errorf("%v at the end", err)
	}
}

package access

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

func TestSpliceHalfClose(t *testing.T) {
	a, nearA := pair(t)
	b, nearB := pair(t)
	done := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { done <- Splice(t.Context(), nearA, nearB) })
	if _, err := a.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	closeWrite(a)
	if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
		t.Fatalf("read %q, %v", got, err)
	}
	// The other half is still open.
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	closeWrite(b)
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Errorf("splice: %v", err)
	}
}

// An end that breaks must not look like an orderly end at the other.
func TestSpliceAbort(t *testing.T) {
	a, nearA := pair(t)
	b, nearB := pair(t)
	done := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { done <- Splice(t.Context(), nearA, nearB) })
	abort(a)
	if _, err := b.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the other end read %v", err)
	}
	if err := <-done; err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("splice: %v, want what broke it", err)
	}
}

func TestSpliceContext(t *testing.T) {
	_, nearA := pair(t)
	_, nearB := pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("not granted any more")
	done := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { done <- Splice(ctx, nearA, nearB) })
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Errorf("splice: %v, want %v", err, stop)
	}
}

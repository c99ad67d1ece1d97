package port

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hpmq/hpmq/internal/memnet"
)

// TestSlowRequest has a client that never sends the rest of its request.
func TestSlowRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := memnet.Listen()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- ServeHTTP(ctx, l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		}()
		conn, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		limit := time.AfterFunc(time.Hour, func() { conn.Close() })
		_, _ = io.ReadAll(conn)
		limit.Stop()
		if took := time.Since(began); took > time.Minute {
			t.Errorf("held for %v", took)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

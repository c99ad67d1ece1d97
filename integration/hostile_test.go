package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHostileConnections: a normal client is served within a second on each
// listener while thousands of others say nothing, too little, too slowly or the
// wrong thing, and none of those stays for long.
func TestHostileConnections(t *testing.T) {
	need(t, "netns", "ip")
	h := newNetwork(t).addHost("paris")
	h.up(t)
	h.enrol(t, h, "pump-7")
	conf := h.clientTLS(t)
	const (
		clientHello = "\x16\x03\x01\x02\x00\x01"
		http        = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
		connect     = "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c"
		huge        = "\x30\xff\xff\xff\x7f\x00\x01a" // a PUBLISH of 268,435,455 bytes
	)
	var crowd []net.Conn
	for _, kind := range []struct {
		addr, says string
		count      int
	}{
		{"127.0.0.1:1883", "", 1000},
		{h.address + ":8883", clientHello, 1000},
		{h.address + ":9001", clientHello, 1000},
		{h.address + ":9001", "", 500},
		{"127.0.0.1:9001", "GET /mqtt HTTP/1.1\r\nHost: localhost\r\n", 500},
		{"127.0.0.1:1883", clientHello, 100},
		{"127.0.0.1:1883", http, 100},
		{h.address + ":8883", http, 100},
		{h.address + ":9001", http, 100}, // from another address than loopback
		{"127.0.0.1:1883", "\x10\xff\xff\xff\x7f\x00\x04MQTT", 100},
		{"127.0.0.1:1883", connect + huge, 100},
	} {
		for range kind.count {
			conn := h.mustDial(t, kind.addr)
			if _, err := io.WriteString(conn, kind.says); err != nil && !hungUp(err) {
				t.Fatalf("%s: %v", kind.addr, err)
			}
			crowd = append(crowd, conn)
		}
	}
	began := time.Now()
	slow := h.drip(t, connect+strings.Repeat(connect, 3))

	dials := map[string]func(context.Context, *tls.Config) (net.Conn, error){
		"plain":     func(ctx context.Context, _ *tls.Config) (net.Conn, error) { return h.dialTCP(ctx, "127.0.0.1:1883") },
		"tls":       h.dialTLS,
		"websocket": h.dialWebSocket,
		"quic":      h.dialQUIC,
	}
	var waits promptness
	for round := 0; round < 5 || time.Since(began) < 8*time.Second; round++ {
		for name, dial := range dials {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err := publishOver(ctx, dial, conf, "site/home/pump-7/raw")
			cancel()
			if err != nil {
				t.Errorf("%s: a normal client was served in %s: %v", name, time.Since(start), err)
			}
			waits.add(time.Since(start))
		}
	}
	waits.check(t)
	for _, conn := range crowd {
		closed(t, conn)
	}
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("the last one was closed after %s, want about 10 s", took)
	}
	slow()
	t.Logf("%d clients served beside %d", len(waits.waits), len(crowd))
}

// drip writes a byte a second over plain TCP and over TLS's port, until the other
// end hangs up; the function that it returns waits for that.
func (h *host) drip(t *testing.T, text string) (wait func()) {
	t.Helper()
	began := time.Now()
	var drips sync.WaitGroup
	for _, addr := range []string{"127.0.0.1:1883", h.address + ":8883", "127.0.0.1:9001"} {
		conn := h.mustDial(t, addr)
		drips.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for _, b := range []byte(text) {
				if _, err := conn.Write([]byte{b}); err != nil {
					break
				}
				<-tick.C
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("%s: one byte a second was listened to for %s", addr, took)
			}
		})
	}
	return drips.Wait
}

// hungUp tells that the other end was quicker.
func hungUp(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

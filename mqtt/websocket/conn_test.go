package websocket

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestBytesHaveNoBorders(t *testing.T) { // [MQTT-6.0.0-2]
	ws, nc := start(t, Options{}, false).pair(t)
	packets := "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00" + "\xc0\x00" + "\xe0\x00"
	for _, part := range []string{packets[:1], packets[1:5], "", packets[5:]} {
		send(t, ws, part)
	}
	got := make([]byte, len(packets))
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != packets {
		t.Fatalf("%q, %v", got, err)
	}
	// One frame, and so one message, per Write.
	for _, answer := range []string{"\x20\x02\x00\x00", "\xd0\x00", strings.Repeat("x", 300_000)} {
		if n, err := nc.Write([]byte(answer)); n != len(answer) || err != nil {
			t.Fatal(n, err)
		}
		kind, message, err := ws.Read(timeout(t))
		if kind != websocket.MessageBinary || string(message) != answer || err != nil {
			t.Fatalf("%v, %d bytes, %v", kind, len(message), err)
		}
	}
	if n, err := nc.Write(nil); n != 0 || err != nil {
		t.Errorf("empty Write: %d, %v", n, err)
	}
	if n, err := nc.Read(nil); n != 0 || err != nil {
		t.Errorf("empty Read: %d, %v", n, err)
	}
}

func TestEchoUnderTLS(t *testing.T) {
	ws, nc := start(t, Options{}, true).pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(nc, nc)
		nc.Close()
	}()
	peer := websocket.NetConn(timeout(t), ws, websocket.MessageBinary)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() { _, _ = peer.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
		t.Fatal("echo differs", err)
	}
	peer.Close()
	<-done
}

func TestEndOfStream(t *testing.T) {
	for name, leave := range map[string]func(*websocket.Conn){
		"normal closure": func(ws *websocket.Conn) { _ = ws.Close(websocket.StatusNormalClosure, "") },
		"going away":     func(ws *websocket.Conn) { _ = ws.Close(websocket.StatusGoingAway, "tab closed") },
		"no handshake":   func(ws *websocket.Conn) { _ = ws.CloseNow() },
	} {
		t.Run(name, func(t *testing.T) {
			ws, nc := start(t, Options{}, false).pair(t)
			send(t, ws, "last")
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				leave(ws)
			}()
			got, err := io.ReadAll(nc)
			if string(got) != "last" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("again: %v", err)
			}
			<-gone
		})
	}
}

func TestCloseTellsTheClient(t *testing.T) {
	ws, nc := start(t, Options{}, false).pair(t)
	if _, err := nc.Write([]byte("\xe0\x00")); err != nil {
		t.Fatal(err)
	}
	reading := make(chan error, 1)
	go func() {
		_, err := nc.Read(make([]byte, 1))
		reading <- err
	}()
	if err := nc.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read under way: %v", err)
	}
	if _, message, err := ws.Read(timeout(t)); string(message) != "\xe0\x00" || err != nil {
		t.Errorf("%q, %v", message, err)
	}
	if got := status(t, ws); got != websocket.StatusNormalClosure {
		t.Errorf("status %v", got)
	}
	if _, err := nc.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := nc.SetReadDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetReadDeadline: %v", err)
	}
	if err := nc.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}

// A client that takes nothing holds up neither Close nor a Write that has a
// deadline, with TLS below or without.
func TestStuckClient(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			s := start(t, Options{}, secure)
			for _, deadline := range []time.Duration{50 * time.Millisecond, 0} {
				_, nc := s.pair(t)
				writing := make(chan error, 1)
				if err := nc.SetWriteDeadline(time.Now().Add(limit + deadline)); err != nil {
					t.Fatal(err)
				}
				if deadline > 0 {
					if err := nc.SetWriteDeadline(time.Now().Add(deadline)); err != nil {
						t.Fatal(err)
					}
				}
				started := make(chan struct{})
				go func() {
					close(started)
					_, err := nc.Write(make([]byte, 64<<20))
					writing <- err
				}()
				<-started
				if deadline > 0 {
					err := <-writing
					var timedOut net.Error
					if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timedOut) || !timedOut.Timeout() {
						t.Errorf("Write: %v", err)
					}
				}
				begin := time.Now()
				nc.Close()
				if took := time.Since(begin); took > limit {
					t.Errorf("Close took %v", took)
				}
				if deadline == 0 {
					if err := <-writing; !errors.Is(err, net.ErrClosed) {
						t.Errorf("Write under way: %v", err)
					}
				}
			}
		})
	}
}

func TestReadDeadline(t *testing.T) {
	ws, nc := start(t, Options{}, false).pair(t)
	if err := nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := nc.Read(make([]byte, 1))
	var timedOut net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timedOut) || !timedOut.Timeout() {
		t.Fatalf("Read: %v", err)
	}
	// Writing goes on: the deadline was for reading alone.
	if _, err := nc.Write([]byte("\xd0\x00")); err != nil {
		t.Error(err)
	}
	if _, _, err := ws.Read(timeout(t)); err != nil {
		t.Error(err)
	}
	if err := nc.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after it: %v", err)
	}
}

func TestPingIsAnswered(t *testing.T) {
	ws, nc := start(t, Options{}, false).pair(t)
	go func() { _, _ = nc.Read(make([]byte, 1)) }()
	ws.CloseRead(t.Context())
	if err := ws.Ping(timeout(t)); err != nil {
		t.Error(err)
	}
}

func TestTextIsRefused(t *testing.T) { // [MQTT-6.0.0-1]
	ws, nc := start(t, Options{}, false).pair(t)
	if err := ws.Write(timeout(t), websocket.MessageText, []byte("\x10\x00")); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		_, err := nc.Read(make([]byte, 8))
		refused <- err
	}()
	if got := status(t, ws); got != websocket.StatusUnsupportedData {
		t.Errorf("status %v", got)
	}
	if err := <-refused; !errors.Is(err, errText) {
		t.Errorf("Read: %v", err)
	}
}

func TestMessageSize(t *testing.T) {
	ws, nc := start(t, Options{MessageSize: 1000}, false).pair(t)
	send(t, ws, strings.Repeat("x", 1000))
	if _, err := io.ReadFull(nc, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	send(t, ws, strings.Repeat("x", 100_000))
	refused := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, nc)
		refused <- err
	}()
	if got := status(t, ws); got != websocket.StatusMessageTooBig {
		t.Errorf("status %v", got)
	}
	if err := <-refused; !errors.Is(err, websocket.ErrMessageTooBig) {
		t.Errorf("Read: %v", err)
	}
}

// frame makes a client's frame, masked with zeros.
func frame(b0 byte, payload string) string {
	head := []byte{b0, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		head = binary.BigEndian.AppendUint16([]byte{b0, 0x80 | 126}, uint16(len(payload)))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// TestHostileFrames sends raw bytes after the handshake. None may yield data
// that was not in a whole frame's payload, nor hold the reader.
func TestHostileFrames(t *testing.T) {
	const binaryFrame, continued, last = 0x82, 0x02, 0x80
	for _, tt := range []struct {
		name, bytes, want string
		eof               bool // not a complaint but the end
	}{
		{"fragments", frame(continued, "ab") + frame(0x00, "") + frame(0x89, "ping") + frame(last, "cd"), "abcd", true},
		{"many empty messages", strings.Repeat(frame(binaryFrame, ""), 1000) + frame(binaryFrame, "x"), "x", true},
		{"unmasked", "\x82\x02hi", "", false},
		{"reserved bit", frame(0xc2, "hi"), "", false},
		{"reserved opcode", frame(0x83, "hi"), "", false},
		{"continuation of nothing", frame(last, "hi"), "", false},
		{"message within a message", frame(continued, "hi") + frame(binaryFrame, "ho"), "hi", false},
		{"long ping", frame(0x89, strings.Repeat("x", 126)), "", false},
		{"fragmented ping", frame(0x09, "x"), "", false},
		{"bad close code", frame(0x88, "\x00\x01"), "", false},
		{"close without code", frame(0x88, ""), "", true},
		{"length 2^63", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00x", "", false},
		{"text in fragments", frame(0x01, "hi") + frame(last, ""), "", false},
		{"half a header", "\x82", "", true},
		{"half a payload", frame(binaryFrame, "full") + "\x82\x84\x01\x02\x03\x04hi", "full", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Options{}, false)
			raw, err := new(net.Dialer).DialContext(timeout(t), "tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			// The first frames come with the handshake, into the HTTP server's buffer.
			fmt.Fprintf(raw, "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n%s", tt.bytes)
			if err := raw.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			nc := s.accept(t)
			got, err := io.ReadAll(nc)
			if string(got) != tt.want {
				t.Errorf("read %q, want %q", got, tt.want)
			}
			if (err == nil) != tt.eof {
				t.Errorf("error %v", err)
			}
			nc.Close()
			if line, _ := bufio.NewReader(raw).ReadString('\n'); !strings.Contains(line, "101") {
				t.Errorf("answer %q", line)
			}
		})
	}
}

func BenchmarkEcho(b *testing.B) {
	ws, nc := start(b, Options{}, false).pair(b)
	if err := nc.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	go func() { _, _ = io.Copy(nc, nc) }()
	peer := websocket.NetConn(b.Context(), ws, websocket.MessageBinary)
	defer peer.Close()
	message := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := peer.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(peer, message); err != nil {
			b.Fatal(err)
		}
	}
}

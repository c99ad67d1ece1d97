package proxyproto

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const (
	v4    = signature + "\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\x12\x67\x22\xb3"
	local = signature + "\x20\x00\x00\x00"
)

var v6 = signature + "\x21\x21\x00\x24" + "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + strings.Repeat("\x00", 16) + "\x12\x67\x22\xb3"

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		want         string // "" for none
		err          error
	}{
		{"IPv4", v4, "192.0.2.7:4711", nil},
		{"IPv6", v6, "[2001:db8::1]:4711", nil},
		{"IPv4 inside IPv6", signature + "\x21\x21\x00\x24" + strings.Repeat("\x00", 10) + "\xff\xff\xc0\x00\x02\x07" + strings.Repeat("\x00", 16) + "\x12\x67\x22\xb3", "192.0.2.7:4711", nil},
		{"with extensions", signature + "\x21\x11\x00\x11\xc0\x00\x02\x07\x0a\x00\x00\x01\x12\x67\x22\xb3\x04\x00\x02ab", "192.0.2.7:4711", nil},
		{"the proxy itself", local, "", nil},
		{"the proxy itself, with addresses", signature + "\x20\x11\x00\x0c" + strings.Repeat("x", 12), "", nil},
		{"of an unknown kind", signature + "\x21\x00\x00\x00", "", nil},
		{"version 1", "PROXY TCP4 192.0.2.7 10.0.0.1 4711 8883\r\n", "", ErrMalformed},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("r", 32), "", ErrMalformed},
		{"another version", strings.Replace(v4, "\x21", "\x31", 1), "", ErrMalformed},
		{"another command", strings.Replace(v4, "\x21", "\x22", 1), "", ErrMalformed},
		{"datagrams", strings.Replace(v4, "\x11", "\x12", 1), "", ErrMalformed},
		{"unix", strings.Replace(v4, "\x11", "\x31", 1), "", ErrMalformed},
		{"short addresses", signature + "\x21\x21\x00\x0c" + strings.Repeat("x", 12), "", ErrMalformed},
		{"long", signature + "\x21\x11\xff\xff" + strings.Repeat("x", 65535), "", ErrMalformed},
		{"cut in the signature", v4[:7], "", io.ErrUnexpectedEOF},
		{"cut in the addresses", v4[:20], "", io.ErrUnexpectedEOF},
		{"nothing", "", "", io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReader(tt.header + "rest")
			if tt.err != nil {
				r = strings.NewReader(tt.header)
			}
			got, err := Read(iotest.OneByteReader(r))
			want, _ := netip.ParseAddrPort(tt.want)
			if !errors.Is(err, tt.err) || got != want {
				t.Fatalf("%v, %v; want %v, %v", got, err, want, tt.err)
			}
			if rest, _ := io.ReadAll(r); tt.err == nil && string(rest) != "rest" {
				t.Errorf("%q is left", rest)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for header, want := range map[string]string{v4: "192.0.2.7:4711", local: "proxy", "GET / HTTP/1.1\r\n\r\n": ""} {
		proxy, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		if _, err := proxy.Write([]byte(header + "hello")); err != nil {
			t.Fatal(err)
		}
		raw, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c, err := Accept(raw.(*net.TCPConn))
		if want == "" {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%q: %v", header, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if want == "proxy" {
			want = proxy.LocalAddr().String()
		}
		hello := make([]byte, 5)
		if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "hello" || c.RemoteAddr().String() != want {
			t.Errorf("%q from %v, %v; want %s", hello, c.RemoteAddr(), err, want)
		}
	}
	// A silent proxy is waited for as long as the deadline says.
	proxy, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := Accept(raw.(*net.TCPConn)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("silence: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(v4))
	f.Add([]byte(v6))
	f.Add([]byte(local))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		client, err := Read(r)
		if err != nil && client != (netip.AddrPort{}) {
			t.Fatalf("%v with %v", client, err)
		}
		if used := len(b) - r.Len(); used > fixedLen+maxLen {
			t.Fatalf("took %d bytes", used)
		}
	})
}

package quic

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"
)

func TestEcho(t *testing.T) {
	l := start(t, Options{})
	qc, qs, nc := connect(t, l)
	if nc.RemoteAddr().Network() != "udp" || nc.LocalAddr().String() != l.Addr().String() {
		t.Errorf("addresses %v, %v", nc.RemoteAddr(), nc.LocalAddr())
	}
	state := nc.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
	if state.NegotiatedProtocol != ALPN || len(state.PeerCertificates) != 1 {
		t.Errorf("state %+v", state)
	}
	if _, ok := nc.(syscall.Conn); ok { // the broker writes to a socket directly where it finds one
		t.Error("shows its socket")
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		_, _ = io.Copy(nc, nc) // to the client's FIN
		nc.Close()
	})
	work.Go(func() {
		_, _ = qs.Write(want)
		qs.Close()
	})
	got, err := io.ReadAll(qs)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	_ = qc.CloseWithError(0, "")
}

// Data that was written before Close arrives, then the connection ends with code 0,
// whether the client ends it or not.
func TestCloseDelivers(t *testing.T) {
	qc, qs, nc := connect(t, start(t, Options{}))
	last := bytes.Repeat([]byte("\xe0\x00"), 50_000)
	if _, err := nc.Write(last); err != nil {
		t.Fatal(err)
	}
	if err := nc.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(qs)
	if err != nil || !bytes.Equal(got, last) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if code, remote := ended(t, qc); code != codeClosed || !remote {
		t.Errorf("code %v, remote %v", code, remote)
	}
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := nc.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := nc.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}

func TestEndOfStream(t *testing.T) {
	for name, leave := range map[string]func(*quicgo.Conn, *quicgo.Stream){
		"stream":     func(_ *quicgo.Conn, qs *quicgo.Stream) { qs.Close() },
		"connection": func(qc *quicgo.Conn, _ *quicgo.Stream) { _ = qc.CloseWithError(0, "") },
	} {
		t.Run(name, func(t *testing.T) {
			qc, qs, nc := connect(t, start(t, Options{}))
			leave(qc, qs)
			if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("Read: %v", err)
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		_, qs, nc := connect(t, start(t, Options{}))
		qs.CancelWrite(7)
		var reset *quicgo.StreamError
		if _, err := nc.Read(make([]byte, 1)); !errors.As(err, &reset) {
			t.Errorf("Read: %v", err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	_, qs, nc := connect(t, start(t, Options{}))
	soon := func() time.Time { return time.Now().Add(20 * time.Millisecond) }
	check := func(what string, err error) {
		t.Helper()
		var timedOut net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timedOut) || !timedOut.Timeout() {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := nc.SetReadDeadline(soon()); err != nil {
		t.Fatal(err)
	}
	_, err := nc.Read(make([]byte, 1))
	check("Read", err)
	if err := nc.SetWriteDeadline(soon()); err != nil {
		t.Fatal(err)
	}
	_, err = nc.Write(make([]byte, 64<<20)) // the client does not read it
	check("Write", err)
	// They break nothing.
	if err := nc.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := qs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Errorf("Read after its deadline: %v", err)
	}
}

// Close waits no longer than the client takes to acknowledge.
func TestCloseIsQuick(t *testing.T) {
	l := start(t, Options{})
	var took time.Duration
	for range 20 { // the machine may be busy
		_, _, nc := connect(t, l)
		begin := time.Now()
		if err := nc.Close(); err != nil {
			t.Fatal(err)
		}
		if took = time.Since(begin); took < linger/2 {
			return
		}
	}
	t.Errorf("Close took %v", took)
}

// A client that takes nothing holds up no Close.
func TestCloseDuringWrite(t *testing.T) {
	qc, _, nc := connect(t, start(t, Options{}))
	writing := make(chan error, 1)
	if err := nc.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	full := make([]byte, 64<<20)
	go func() {
		_, err := nc.Write(full)
		writing <- err
	}()
	for nc.(*conn).writing.TryLock() { // until it is under way
		nc.(*conn).writing.Unlock()
	}
	nc.Close()
	if err := <-writing; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if code, remote := ended(t, qc); code != codeClosed || !remote {
		t.Errorf("code %v, remote %v", code, remote)
	}
}

// Not even a client that lets us send without end has us keep more than maxAhead
// for it.
func TestTryWriteKeepsLittle(t *testing.T) {
	l := start(t, Options{})
	qc, err := quicgo.DialAddr(timeout(t), l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}}, &quicgo.Config{
		InitialStreamReceiveWindow: 64 << 20, MaxStreamReceiveWindow: 64 << 20,
		InitialConnectionReceiveWindow: 64 << 20, MaxConnectionReceiveWindow: 64 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = qc.CloseWithError(0, "") }()
	qs := open(t, qc, "hello")
	c := accept(t, l).(*conn)
	var want bytes.Buffer
	for round := range 3 {
		for i := 0; ; i++ {
			part := fmt.Appendf(nil, "%4d", 1000*round+i)
			part = append(part, make([]byte, 1000)...)
			want.Write(part)
			done, err := c.TryWrite(part)
			if err != nil {
				t.Fatal(err)
			}
			if done {
				continue
			}
			if i != maxAhead/len(part) {
				t.Errorf("%d parts were taken", i)
			}
			if _, err := c.Write(part); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	c.Close()
	got, err := io.ReadAll(qs)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes of %d, %v", len(got), want.Len(), err)
	}
	if _, err := c.TryWrite([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("TryWrite after Close: %v", err)
	}
}

// TryWrite stops where the client's window does.
func TestTryWriteWouldBlock(t *testing.T) {
	l := start(t, Options{})
	qc, err := quicgo.DialAddr(timeout(t), l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}}, &quicgo.Config{
		InitialStreamReceiveWindow: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = qc.CloseWithError(0, "") }()
	qs := open(t, qc, "hello")
	c := accept(t, l).(*conn)
	for _, want := range []bool{true, false} {
		if done, err := c.TryWrite(make([]byte, 600)); done != want || err != nil {
			t.Fatalf("done %v, %v", done, err)
		}
	}
	if done, err := c.TryWrite(make([]byte, 400)); !done || err != nil {
		t.Fatalf("what fits: %v, %v", done, err)
	}
	if _, err := io.ReadFull(qs, make([]byte, 1000)); err != nil {
		t.Error(err)
	}
}

func TestOneStreamOnly(t *testing.T) {
	qc, qs, nc := connect(t, start(t, Options{}))
	if _, err := qc.OpenStream(); err == nil {
		t.Error("a second stream opens")
	}
	if _, err := qc.OpenUniStream(); err == nil {
		t.Error("a unidirectional stream opens")
	}
	// Nor does one take the place of the first.
	qs.Close()
	if _, err := io.ReadAll(nc); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if _, err := io.ReadAll(qs); err != nil {
		t.Fatal(err)
	}
	if _, err := qc.OpenStreamSync(timeout(t)); err == nil {
		t.Error("another stream opens after the first")
	}
	if code, remote := ended(t, qc); code != codeClosed || !remote {
		t.Errorf("code %v, remote %v", code, remote)
	}
}

func TestNoStreamInTime(t *testing.T) {
	l := start(t, Options{StreamTimeout: 50 * time.Millisecond, Waiting: 4})
	for range 9 { // the places of the first are free again
		qc := dial(t, l)
		// Opened alone is not seen: something must be written.
		_, _ = qc.OpenStream() // fails on a machine so busy that the time is over
		if code, remote := ended(t, qc); code != codeStream || !remote {
			t.Errorf("code %v, remote %v", code, remote)
		}
	}
}

func TestALPN(t *testing.T) {
	l := start(t, Options{})
	if _, err := client(t, l, "h3"); err == nil {
		t.Error("h3 connects")
	}
	// A configuration per client may negotiate anything.
	l, err := Listen("127.0.0.1:0", &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"h3"}}, nil
		},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	qc, err := client(t, l, "h3")
	if err != nil {
		t.Fatal(err)
	}
	if code, remote := ended(t, qc); code != codeALPN || !remote {
		t.Errorf("code %v, remote %v", code, remote)
	}
}

// Silent clients fill the places. No other client gets in until they are gone, and no
// accepted connection is disturbed.
func TestCrowd(t *testing.T) {
	l := start(t, Options{Waiting: 3})
	_, qs, nc := connect(t, l)
	var silent []*quicgo.Conn
	for range 3 {
		silent = append(silent, dial(t, l))
	}
	if _, err := client(t, l, ALPN); err == nil {
		t.Error("a fourth waits")
	}
	if _, err := nc.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := qs.Read(make([]byte, 1)); err != nil {
		t.Errorf("accepted client: %v", err)
	}
	_ = silent[0].CloseWithError(0, "")
	for deadline := time.Now().Add(limit); ; { // its place is free once the packet came
		qc, err := client(t, l, ALPN)
		if err == nil {
			open(t, qc, "x")
			accept(t, l)
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Of the clients that have to prove their address, some are not admitted.
func TestAdmits(t *testing.T) {
	asked := make(chan net.Addr, 10)
	l := start(t, Options{Waiting: 8, Admits: func(remote net.Addr) bool {
		asked <- remote
		return false
	}})
	for range 3 {
		dial(t, l)
	}
	if n := len(asked); n != 0 {
		t.Errorf("asked %d times about addresses that may be others'", n)
	}
	if _, err := client(t, l, ALPN); err == nil {
		t.Error("connected")
	}
	if got := <-asked; !strings.HasPrefix(got.String(), "127.0.0.1:") {
		t.Errorf("asked about %v", got)
	}
}

// Silent clients do not hold up Accept.
func TestSilentClientsDelayNobody(t *testing.T) {
	l := start(t, Options{})
	for range 20 {
		dial(t, l)
	}
	begin := time.Now()
	connect(t, l)
	if took := time.Since(begin); took > limit/2 {
		t.Errorf("took %v", took)
	}
}

func TestGarbage(t *testing.T) {
	l := start(t, Options{})
	raw, err := new(net.Dialer).DialContext(timeout(t), "udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, b := range [][]byte{{}, {0}, {0x40}, bytes.Repeat([]byte{0xff}, 1200), bytes.Repeat([]byte{0x40}, 1400), append([]byte{0xc0, 0, 0, 0, 1}, make([]byte, 1200)...), []byte("GET / HTTP/1.1\r\n\r\n")} {
		if _, err := raw.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	connect(t, l)
}

// A client that vanished is noticed, and one that is merely quiet stays.
func TestIdleTimeout(t *testing.T) {
	l := start(t, Options{IdleTimeout: 300 * time.Millisecond})
	_, qs, nc := connect(t, l)
	quiet := time.NewTimer(900 * time.Millisecond)
	<-quiet.C
	if _, err := qs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Fatalf("a quiet client: %v", err)
	}

	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quicgo.Transport{Conn: udp}
	qc, err := transport.Dial(timeout(t), l.Addr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	open(t, qc, "hello")
	nc = accept(t, l)
	if _, err := io.ReadFull(nc, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	udp.Close() // the client is gone without a word
	if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	transport.Close()
}

func TestCloseOfListener(t *testing.T) {
	l := start(t, Options{})
	accepting := make(chan error, 1)
	_, qs, nc := connect(t, l)
	forgotten, _, _ := connect(t, l)
	silent := dial(t, l)
	go func() {
		_, err := l.Accept()
		accepting <- err
	}()
	done := make(chan error, 1)
	go func() { done <- l.Close() }()
	if err := <-accepting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	// An owner still says goodbye.
	if _, err := nc.Write([]byte("\xe0\x00")); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if got, err := io.ReadAll(qs); string(got) != "\xe0\x00" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if code, remote := ended(t, forgotten); code != codeClosed || !remote {
		t.Errorf("code %v, remote %v", code, remote)
	}
	select { // by one code or another: our end may not have finished the handshake
	case <-silent.Context().Done():
	case <-time.After(limit):
		t.Error("a silent client stays")
	}
	if err := <-done; err != nil {
		t.Errorf("Close: %v", err)
	}
	again, err := Listen(l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{certificate(t)}}, Options{})
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	again.Close()
}

func TestListenErrors(t *testing.T) {
	l := start(t, Options{})
	if _, err := Listen(l.Addr().String(), new(tls.Config), Options{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port in use: %v", err)
	}
	if _, err := Listen("127.0.0.1:none", new(tls.Config), Options{}); err == nil {
		t.Error("no port")
	}
}

func TestPassingErrors(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.ENETUNREACH: true, syscall.ENOBUFS: true, syscall.EMSGSIZE: false, syscall.EIO: false, net.ErrClosed: false,
	} {
		if got := passing(&net.OpError{Op: "write", Err: fmt.Errorf("sendmsg: %w", err)}); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if passing(nil) {
		t.Error("success")
	}
}

// Dial returns the client's end of the connection that Accept returns.
func TestDial(t *testing.T) {
	l := start(t, Options{})
	conf := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate(t)}}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(nc, nc)
		nc.Close()
	})
	c, err := Dial(timeout(t), l.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

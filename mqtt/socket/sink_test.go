package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two ends of a TCP connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b.(*net.TCPConn), a.(*net.TCPConn)
}

// deadlined is a socket that keeps the last deadline for writing.
type deadlined struct {
	*net.TCPConn
	last time.Time
}

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.last = t
	return d.TCPConn.SetWriteDeadline(t)
}

// A deadline that stays after a slow moment would end the connection at the next
// flush that comes a minute later.
func TestDrainLeavesNoDeadline(t *testing.T) {
	near, _ := pair(t)
	d := &deadlined{TCPConn: near}
	s := newRawSink(d)
	s.Hold([]byte("rest"))
	if err := s.Drain(); err != nil {
		t.Fatal(err)
	}
	if !d.last.IsZero() {
		t.Errorf("deadline %v", time.Until(d.last))
	}
}

// TestUnaskedRecordsAreBounded has TLS write for itself while the sink has nothing to
// send, as it does when the peer asks for new keys.
func TestUnaskedRecordsAreBounded(t *testing.T) {
	near, _ := pair(t)
	c, ok := Quick(near).(*Conn)
	if !ok {
		t.Fatal("no quick connection")
	}
	c.gatherRecords()
	record := make([]byte, 27)
	var err error
	for range 1000 {
		if _, err = c.Write(record); err != nil {
			break
		}
	}
	if !errors.Is(err, errUnasked) || len(c.buf) > maxUnasked+len(record) {
		t.Errorf("%d bytes, then %v", len(c.buf), err)
	}
	c.setSealing(true)
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Errorf("what the sink sends is refused: %v", err)
	}
}

// TestRestIsDrained writes more than a socket takes: Try keeps the rest without
// waiting, and Drain writes it as the peer reads.
func TestRestIsDrained(t *testing.T) {
	near, far := pair(t)
	sent := bytes.Repeat([]byte("0123456789"), 2<<20)
	s := NewSink(Quick(near))
	done, err := s.Try(sent)
	if done || err != nil {
		t.Fatalf("20 MiB went at once: %v", err)
	}
	got := make(chan []byte)
	defer func() {
		if b := <-got; !bytes.Equal(b, sent) {
			t.Errorf("the peer got %d bytes of %d", len(b), len(sent))
		}
	}()
	read(t, far, len(sent), got)
	if err := s.Drain(); err != nil {
		t.Error(err)
	}
}

// read sends n bytes of nc to got.
func read(t *testing.T, nc net.Conn, n int, got chan<- []byte) {
	t.Helper()
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, n)
		n, err := io.ReadFull(nc, b)
		if err != nil {
			t.Error(err)
		}
		got <- b[:n]
	})
	t.Cleanup(reader.Wait)
}

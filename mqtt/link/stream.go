package link

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// stream is a connection on which either end must be heard from: each read and
// each piece written has [deadAfter] of time. One goroutine reads, one writes.
type stream struct {
	conn  net.Conn
	r     *bufio.Reader
	limit int // of a packet from the other end
}

const (
	batchSize  = 64 << 10 // bytes gathered for one write
	pieceSize  = 16 << 10 // written under one deadline, so that slow is told from dead
	headerSize = 5
)

func newStream(conn net.Conn, limit int) *stream {
	s := &stream{conn: conn, limit: limit}
	s.r = bufio.NewReaderSize(reading{conn}, batchSize)
	return s
}

// reading gives each read of a connection its time.
type reading struct{ conn net.Conn }

// Read implements [io.Reader].
func (r reading) Read(b []byte) (int, error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(deadAfter)); err != nil {
		return 0, err
	}
	return r.conn.Read(b)
}

// next reads a packet. The caller owns the body. Memory grows with the bytes that
// arrive, not with the length that the header claims.
func (s *stream) next() (packet.Header, []byte, error) {
	h, n, err := s.header()
	if err != nil {
		return h, nil, err
	}
	if n+h.Length > s.limit {
		return h, nil, &packet.Error{
			Code: packet.PacketTooLarge, Statement: "MQTT-3.2.2-15",
			Msg: fmt.Sprintf("%s of %d bytes exceeds %d", h.Type, n+h.Length, s.limit),
		}
	}
	if h.Length <= batchSize {
		body := make([]byte, h.Length)
		_, err := io.ReadFull(s.r, body)
		return h, body, err
	}
	var body bytes.Buffer
	_, err = io.CopyN(&body, s.r, int64(h.Length))
	return h, body.Bytes(), err
}

func (s *stream) header() (packet.Header, int, error) {
	for size := 1; size <= headerSize; size++ {
		b, err := s.r.Peek(size)
		if err != nil {
			return packet.Header{}, 0, err
		}
		h, n, err := packet.ParseHeader(b)
		if err != nil {
			return h, 0, err
		}
		if n > 0 {
			_, err = s.r.Discard(n)
			return h, n, err
		}
	}
	return packet.Header{}, 0, &packet.Error{Code: packet.MalformedPacket, Msg: "header without an end"}
}

// pending reports whether the next packet has begun to arrive.
func (s *stream) pending() bool { return s.r.Buffered() > 0 }

func (s *stream) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), pieceSize)
		if err := s.conn.SetWriteDeadline(time.Now().Add(deadAfter)); err != nil {
			return err
		}
		if _, err := s.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// closeWith closes the stream as soon as ctx is done, since only that ends a read or
// write. The returned function removes this tie to ctx.
func (s *stream) closeWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { s.conn.Close() })
}

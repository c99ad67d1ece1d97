package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// maxProtocol is the longest protocol name.
const maxProtocol = 64

// Why a stream was reset, as the other end sees it.
const (
	codeClosed  quic.StreamErrorCode = 0 // the reader needs no more
	codeAborted quic.StreamErrorCode = 1 // the stream ends before its data is complete
	codeUnknown quic.StreamErrorCode = 2
	codeDenied  quic.StreamErrorCode = 3
	codeBusy    quic.StreamErrorCode = 4
	codeHeader  quic.StreamErrorCode = 5 // malformed or late header
)

// A Stream is one conversation of a protocol with a peer. It is a net.Conn;
// unlike TCP's, its Close tells the peer whether everything was written: a
// Close during a Write resets the stream.
type Stream struct {
	qs       *quic.Stream
	conn     *conn
	protocol string

	writing sync.Mutex // held by Write and CloseWrite
	closing sync.Once
	done    chan struct{}
}

var _ net.Conn = (*Stream)(nil)

func newStream(c *conn, qs *quic.Stream, protocol string) *Stream {
	c.streams.Add(1)
	return &Stream{qs: qs, conn: c, protocol: protocol, done: make(chan struct{})}
}

// PeerID returns the identity of the other end.
func (s *Stream) PeerID() identity.ID { return s.conn.peer }

// Protocol returns the name that the stream was opened with.
func (s *Stream) Protocol() string { return s.protocol }

// LocalAddr returns our UDP address.
func (s *Stream) LocalAddr() net.Addr { return s.conn.qc.LocalAddr() }

// RemoteAddr returns the peer's UDP address.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.qc.RemoteAddr() }

// Done returns a channel that is closed when this end closes the stream.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Read reads the peer's bytes; io.EOF means that the peer ended its half.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.qs.Read(b)
	return n, s.explain(err)
}

// Write writes to the peer. It blocks while the peer does not read.
func (s *Stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.qs.Write(b)
	return n, s.explain(err)
}

// CloseWrite ends our half after the written bytes; the peer reads io.EOF.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.explain(s.qs.Close())
}

// Close ends both halves. Bytes already written are still delivered; a Write in
// progress fails and the peer learns that it was cut short.
func (s *Stream) Close() error {
	s.closing.Do(func() {
		s.qs.CancelRead(codeClosed)
		if s.writing.TryLock() {
			_ = s.qs.Close() // fails only for a stream that was reset already
			s.writing.Unlock()
		} else {
			s.qs.CancelWrite(codeAborted)
		}
		s.finish()
	})
	return nil
}

// Reset ends both halves at once. Bytes already written may be lost, and the peer
// learns that the stream was reset.
func (s *Stream) Reset() { s.reset(codeAborted) }

func (s *Stream) reset(code quic.StreamErrorCode) {
	s.closing.Do(func() {
		s.qs.CancelRead(code)
		s.qs.CancelWrite(code)
		s.finish()
	})
}

func (s *Stream) finish() {
	close(s.done)
	s.conn.streams.Add(-1)
}

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error { return s.qs.SetDeadline(t) }

// SetReadDeadline bounds present and future calls of Read.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.qs.SetReadDeadline(t) }

// SetWriteDeadline bounds present and future calls of Write.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.qs.SetWriteDeadline(t) }

// explain turns QUIC's errors into the errors on which callers branch.
func (s *Stream) explain(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // Read must return io.EOF itself
		return err
	}
	return fmt.Errorf("%s stream with %s: %w", s.protocol, s.conn.peer.Short(), cause(err))
}

func cause(err error) error {
	var reset *quic.StreamError
	var app *quic.ApplicationError
	var transport *quic.TransportError
	var idle *quic.IdleTimeoutError
	var forgotten *quic.StatelessResetError
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded): // which is a timeout, but the caller's own
		return err
	case errors.As(err, &reset):
		return resetCause(reset)
	case errors.As(err, &app), errors.As(err, &transport), errors.As(err, &idle), errors.As(err, &forgotten):
		return fmt.Errorf("%w: %s", ErrDisconnected, endReason(err))
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded
	}
	return err
}

func resetCause(reset *quic.StreamError) error {
	if !reset.Remote {
		return net.ErrClosed
	}
	switch reset.ErrorCode {
	case codeClosed:
		return io.ErrClosedPipe
	case codeUnknown:
		return ErrUnknownProtocol
	case codeDenied:
		return ErrDenied
	case codeBusy:
		return ErrBusy
	}
	return fmt.Errorf("reset by the peer with code %d", reset.ErrorCode)
}

// open opens a stream and announces it, so that the peer sees it even before
// the protocol has something to say.
func (c *conn) open(ctx context.Context, protocol string) (*Stream, error) {
	qs, err := c.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, cause(err)
	}
	s := newStream(c, qs, protocol)
	stop := context.AfterFunc(ctx, s.Reset) // a header can wait for a full connection window
	_, err = s.Write(header(protocol))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Reset()
		return nil, err
	}
	return s, nil
}

func header(protocol string) []byte {
	return append([]byte{byte(len(protocol))}, protocol...)
}

// readHeader reads the protocol's name of a stream that a peer opened.
func readHeader(r io.Reader) (string, error) {
	var buf [1 + maxProtocol]byte
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return "", fmt.Errorf("stream header: %w", err)
	}
	size := int(buf[0])
	if size == 0 || size > maxProtocol {
		return "", fmt.Errorf("stream header: protocol name of %d bytes", size)
	}
	if _, err := io.ReadFull(r, buf[1:1+size]); err != nil {
		return "", fmt.Errorf("stream header: %w", err)
	}
	return string(buf[1 : 1+size]), nil
}

// accept serves one stream that the peer opened.
func (c *conn) accept(ctx context.Context, qs *quic.Stream) {
	s := newStream(c, qs, "")
	if !c.node.reserveStream(c) {
		c.refuse(s, codeBusy, ErrBusy)
		return
	}
	h, code, err := c.handler(s)
	if err != nil {
		c.node.releaseStream(c) // before the peer hears of it and opens the next
		c.refuse(s, code, err)
		return
	}
	c.node.counters.streamsAccepted.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.Close()
	defer c.node.releaseStream(c)
	h(ctx, s)
}

// handler reads the header of s and returns the handler of its protocol.
func (c *conn) handler(s *Stream) (Handler, quic.StreamErrorCode, error) {
	if err := s.SetReadDeadline(time.Now().Add(c.node.opts.HandshakeTimeout)); err != nil {
		return nil, codeHeader, err
	}
	protocol, err := readHeader(s)
	if err != nil {
		return nil, codeHeader, err
	}
	s.protocol = protocol
	h := c.node.handlers[protocol]
	if h == nil {
		return nil, codeUnknown, fmt.Errorf("unknown protocol %q", protocol)
	}
	if a := c.node.opts.Authorizer; a != nil {
		if err := a.Allow(c.peer, protocol); err != nil {
			return nil, codeDenied, fmt.Errorf("%s: %w", protocol, err)
		}
	}
	return h, 0, s.SetReadDeadline(time.Time{})
}

// refuse resets a stream. The first one on a connection is worth a warning, the
// rest are counted.
func (c *conn) refuse(s *Stream, code quic.StreamErrorCode, err error) {
	ended := c.ended() // and the stream with it
	if !ended {
		c.node.counters.streamsRefused.Add(1) // before the peer hears of it
	}
	s.reset(code)
	if ended {
		return
	}
	entry := c.entry().WithField(logfield.Reason, err.Error())
	if c.warned.CompareAndSwap(false, true) {
		entry.Warn("overlay stream refused")
	} else {
		entry.Debug("overlay stream refused")
	}
}

// reserveStream counts a stream against its peer's limit over all connections.
func (n *Node) reserveStream(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	total := c.accepted
	for _, other := range n.peers[c.peer] {
		if other != c {
			total += other.accepted
		}
	}
	if total >= n.opts.MaxStreamsPerPeer {
		return false
	}
	c.accepted++
	return true
}

func (n *Node) releaseStream(c *conn) {
	n.mu.Lock()
	c.accepted--
	n.mu.Unlock()
}

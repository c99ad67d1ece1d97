package quic

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
)

// ALPN is the application protocol that a client must ask for.
const ALPN = "mqtt"

// Why a connection ended, as the client sees it.
const (
	codeClosed quicgo.ApplicationErrorCode = 0
	codeStream quicgo.ApplicationErrorCode = 1 // no stream in time
	codeALPN   quicgo.ApplicationErrorCode = 2
)

// window bounds the bytes that a client can make the listener keep, out of order or
// unread.
const (
	firstWindow = 128 << 10
	window      = 1 << 20
)

// Options configures a [Listener]. Zero values are usable.
type Options struct {
	Log logrus.FieldLogger // clients that opened no stream; nil discards them

	// StreamTimeout is how long a client may take, once the handshake is over,
	// to open its stream by writing to it. Zero means 10 s.
	StreamTimeout time.Duration

	// IdleTimeout ends the connection of a client that does not even acknowledge. A
	// third of it is the period of our keep-alive packets: quiet clients stay, and so
	// does the mapping of a NAT on the way. Zero means 60 s.
	IdleTimeout time.Duration

	// Waiting bounds the connections that began a handshake and were not yet
	// accepted. From a quarter of it on, clients have to prove their address
	// first. Zero means 512.
	Waiting int

	// Admits reports whether a client that proved its address may go on to the
	// handshake. It is not asked about an unproven address, which may belong to another
	// client. Nil admits all.
	Admits func(remote net.Addr) bool
}

func (o *Options) setDefaults() {
	o.StreamTimeout = cmp.Or(o.StreamTimeout, 10*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.Waiting = cmp.Or(o.Waiting, 512)
	if o.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		o.Log = silent
	}
}

func (o *Options) config() *quicgo.Config {
	return &quicgo.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 o.IdleTimeout,
		KeepAlivePeriod:                o.IdleTimeout / 3,
		InitialStreamReceiveWindow:     firstWindow,
		MaxStreamReceiveWindow:         window,
		InitialConnectionReceiveWindow: firstWindow,
		MaxConnectionReceiveWindow:     window,
		MaxIncomingStreams:             1,
		MaxIncomingUniStreams:          -1,
		RequireStreamCreditRelease:     true, // never: the first stream is the only one
	}
}

// A Listener owns a UDP port and the QUIC connections on it. Each that it hands
// out is a [net.Conn] which also has a method ConnectionState like that of a
// [crypto/tls.Conn].
type Listener struct {
	opts      Options
	transport *quicgo.Transport
	inner     *quicgo.Listener

	conns   chan *conn      // never closed; a sender gives up with stopped
	stopped <-chan struct{} // closed when Accept shall return err
	stop    func()
	work    sync.WaitGroup // run and every connection
	waiting atomic.Int64   // connections between their first packet and Accept

	ending sync.Once
	err    error // set before stopped is closed
	close  func() error
}

var _ net.Listener = (*Listener)(nil)

// Listen opens the UDP port addr and takes connections there until Close.
func Listen(addr string, tlsConf *tls.Config, opts Options) (*Listener, error) {
	opts.setDefaults()
	local, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("address for MQTT over QUIC: %w", err)
	}
	udp, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, err
	}
	// A listener's life ends by Close, as in package net.
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // see above
	l := &Listener{opts: opts, conns: make(chan *conn), stopped: ctx.Done(), stop: stop}
	l.close = sync.OnceValue(l.shut)
	l.transport = &quicgo.Transport{Conn: socket{udp}, ConnContext: l.arrive, VerifySourceAddress: l.crowded}
	tlsConf = tlsConf.Clone()
	tlsConf.NextProtos = []string{ALPN}
	if l.inner, err = l.transport.Listen(tlsConf, opts.config()); err != nil {
		stop()
		udp.Close()
		return nil, fmt.Errorf("listen for MQTT over QUIC on %s: %w", udp.LocalAddr(), err)
	}
	l.work.Go(func() { l.run(ctx) })
	return l, nil
}

// Accept waits for the next client with an open stream.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.stopped:
		return nil, &net.OpError{Op: "accept", Net: "quic", Addr: l.Addr(), Err: l.err}
	}
}

// Addr returns the UDP address that the listener has.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close ends Accept and gives back the port. The connections share the port: accepted
// ones get a moment to be closed by their owners, and are closed then. When Close
// returns nothing of the listener is left.
func (l *Listener) Close() error { return l.close() }

func (l *Listener) shut() error {
	l.end(net.ErrClosed)
	l.inner.Close()
	l.work.Wait()
	return errors.Join(l.transport.Close(), l.transport.Conn.Close())
}

// end makes Accept return err.
func (l *Listener) end(err error) {
	l.ending.Do(func() {
		l.err = err
		l.stop()
	})
}

// run sees each connection through in its own goroutine.
func (l *Listener) run(ctx context.Context) {
	for {
		// Not with ctx: the queued connections must be taken out and closed.
		qc, err := l.inner.Accept(context.WithoutCancel(ctx))
		if err != nil {
			l.end(err)
			return
		}
		l.work.Go(func() { l.serve(ctx, qc) })
	}
}

func (l *Listener) serve(ctx context.Context, qc *quicgo.Conn) {
	if p := qc.ConnectionState().TLS.NegotiatedProtocol; p != ALPN {
		l.refuse(qc, codeALPN, fmt.Errorf("ALPN %q, want %q", p, ALPN))
		return
	}
	open, cancel := context.WithTimeout(ctx, l.opts.StreamTimeout)
	defer cancel()
	qs, err := qc.AcceptStream(open)
	cancel()
	if err != nil {
		l.refuse(qc, codeStream, err)
		return
	}
	c := newConn(qc, qs)
	select {
	case l.conns <- c:
		depart(qc)
		c.attend(ctx)
	case <-ctx.Done():
		qc.CloseWithError(codeClosed, "going down") //nolint:errcheck // always nil
	case <-qc.Context().Done():
	}
}

func (l *Listener) refuse(qc *quicgo.Conn, code quicgo.ApplicationErrorCode, why error) {
	qc.CloseWithError(code, "MQTT wants a bidirectional stream, ALPN "+ALPN) //nolint:errcheck // always nil
	l.opts.Log.WithField(logfield.Remote, qc.RemoteAddr().String()).WithError(why).Info("QUIC client opened no stream")
}

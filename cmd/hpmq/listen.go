package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/internal/logfield"
)

// alpnMux shares one TLS port between MQTT (no ALPN, or "mqtt") and the
// enrolment API ("http/1.1"). Each handshake runs in its own goroutine under a
// deadline, so that a silent client holds up nobody.
type alpnMux struct {
	inner     net.Listener
	conf      *tls.Config
	log       logrus.FieldLogger
	mqtt, api *handedListener
}

const (
	handshakeTimeout = 10 * time.Second
	// maxHandshakes bounds the connections that are still in their handshake.
	maxHandshakes = 512
)

func newALPNMux(inner net.Listener, conf *tls.Config, log logrus.FieldLogger) *alpnMux {
	return &alpnMux{
		inner: inner, conf: conf, log: log,
		mqtt: newHandedListener(inner.Addr()), api: newHandedListener(inner.Addr()),
	}
}

// Run accepts connections until ctx is done; then both halves are closed.
func (m *alpnMux) Run(ctx context.Context) error {
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	defer m.mqtt.Close()
	defer m.api.Close()
	stop := context.AfterFunc(ctx, func() { m.inner.Close() })
	defer stop()
	slots := make(chan struct{}, maxHandshakes)
	for {
		conn, err := m.inner.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if retry, wait := acceptAgain(ctx, err); retry {
				m.log.WithError(err).Warn("accept: waiting")
				wait()
				continue
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		handshakes.Go(func() {
			defer func() { <-slots }()
			m.handshake(ctx, conn)
		})
	}
}

// acceptAgain tells whether an accept error passes, as running out of file
// descriptors does, and how to wait before the next try.
func acceptAgain(ctx context.Context, err error) (retry bool, wait func()) {
	if errors.Is(err, net.ErrClosed) {
		return false, nil
	}
	return true, func() {
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *alpnMux) handshake(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, m.conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		m.log.WithField(logfield.Remote, raw.RemoteAddr().String()).WithError(err).Info("TLS handshake refused")
		raw.Close()
		return
	}
	to := m.mqtt
	if conn.ConnectionState().NegotiatedProtocol == "http/1.1" {
		to = m.api
	}
	if !to.hand(ctx, conn) {
		conn.Close()
	}
}

// handedListener is a net.Listener whose connections somebody else accepted.
type handedListener struct {
	addr   net.Addr
	conns  chan net.Conn // never closed; hand gives up with closed
	closed chan struct{}
	once   sync.Once
}

func newHandedListener(addr net.Addr) *handedListener {
	return &handedListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *handedListener) hand(ctx context.Context, conn net.Conn) bool {
	select {
	case l.conns <- conn:
		return true
	case <-l.closed:
	case <-ctx.Done():
	}
	return false
}

// Accept waits for the next connection.
func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *handedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is the address of the shared port.
func (l *handedListener) Addr() net.Addr { return l.addr }

package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/proxyproto"
	"github.com/hpmq/hpmq/mqtt/socket"
)

// Port is a TCP port that other machines reach. It finds out what a connection
// carries, then hands the connection to its server. Each connection has a goroutine
// and a deadline meanwhile, so that a silent client holds up no other.
type Port struct {
	inner net.Listener
	conf  *tls.Config
	log   logrus.FieldLogger

	proxies   []netip.Prefix
	plainHTTP bool
	admits    func(remote, local net.Addr) bool

	mqtt, http *handedListener // mqtt is nil where all connections go to http

	waiting    *waitingRoom
	refusalLog *rate.Limiter // bounds the log lines on refused connections
}

const (
	handshakeTimeout = 10 * time.Second
	// maxHandshakes bounds the connections of a port that have not shown their protocol
	// yet.
	maxHandshakes = 512
)

// Options say which connections a [Port] takes.
type Options struct {
	Log logrus.FieldLogger
	// MQTT hands connections over TLS with no ALPN, or "mqtt", to [Port.MQTT].
	// Without it they go to [Port.HTTP] as all other connections do.
	MQTT bool
	// PlainHTTP hands connections without TLS to [Port.HTTP], from this machine only.
	PlainHTTP bool
	// Proxies are the addresses whose PROXY header is required and believed.
	Proxies []netip.Prefix
	// Admits is asked before a handshake costs anything; nil admits all.
	Admits func(remote, local net.Addr) bool
}

// New returns a port that takes the connections of inner.
func New(inner net.Listener, conf *tls.Config, o Options) *Port {
	p := &Port{
		inner: inner, conf: conf, log: o.Log, proxies: o.Proxies, plainHTTP: o.PlainHTTP, admits: o.Admits,
		http: newHandedListener(inner.Addr()), waiting: newWaitingRoom(maxHandshakes), refusalLog: rate.NewLimiter(10, 50),
	}
	if o.MQTT {
		p.mqtt = newHandedListener(inner.Addr())
	}
	return p
}

// HTTP listens for the connections that speak HTTP. They come while Run runs.
func (p *Port) HTTP() net.Listener { return p.http }

// MQTT listens for the connections that speak MQTT; see [Options].
func (p *Port) MQTT() net.Listener { return p.mqtt }

// Run accepts connections until ctx is done. After that MQTT and HTTP get none.
func (p *Port) Run(ctx context.Context) error {
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	defer p.http.Close()
	if p.mqtt != nil {
		defer p.mqtt.Close()
	}
	stop := context.AfterFunc(ctx, func() { p.inner.Close() })
	defer stop()
	for {
		conn, err := p.inner.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if retry, wait := acceptAgain(ctx, err); retry {
				p.log.WithError(err).Warn("accept: waiting")
				wait()
				continue
			}
			return err
		}
		p.waiting.enter(conn)
		handshakes.Go(func() {
			defer p.waiting.leave(conn)
			p.serve(ctx, conn)
		})
	}
}

// acceptAgain reports whether an accept error is temporary, as running out of file
// descriptors is; wait pauses before the next try.
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

var (
	errNotTLS  = errors.New("neither TLS nor from this machine")
	errTooMany = errors.New("too many new connections from this address")
)

// serve hands raw on, or closes it.
func (p *Port) serve(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = raw.SetReadDeadline(time.Unix(1, 0)) })() // ends a pending read of raw
	conn, err := p.unwrap(raw)
	if err == nil {
		err = p.sort(ctx, conn)
	}
	if err == nil {
		return
	}
	raw.Close()
	if p.refusalLog.Allow() {
		p.log.WithField(logfield.Remote, conn.RemoteAddr().String()).WithError(err).Info("connection refused")
	}
}

// sort finds out the protocol of conn and hands conn to its server.
func (p *Port) sort(ctx context.Context, conn net.Conn) error {
	if p.admits != nil && !p.admits(conn.RemoteAddr(), conn.LocalAddr()) {
		return errTooMany
	}
	if p.plainHTTP {
		first := make([]byte, 1)
		if _, err := conn.Read(first); err != nil {
			return fmt.Errorf("first byte: %w", err)
		}
		read := &begunConn{Conn: conn, begin: first}
		if first[0] != tlsHandshake {
			if !local(conn) {
				return errNotTLS
			}
			return p.http.hand(ctx, read)
		}
		conn = read
	}
	secure := tls.Server(socket.Quick(conn), p.conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", p.clientRefusal(err, time.Now()))
	}
	if p.mqtt == nil || secure.ConnectionState().NegotiatedProtocol == "http/1.1" {
		return p.http.hand(ctx, secure)
	}
	return p.mqtt.hand(ctx, secure)
}

// clientRefusal explains the alert of a client that does not accept this node's
// certificate: unless its CA file is wrong, a clock is, or the certificate has ended.
func (p *Port) clientRefusal(err error, now time.Time) error {
	alert, ok := errors.AsType[*net.OpError](err)
	if !ok || alert.Op != "remote error" || !strings.HasSuffix(alert.Err.Error(), "certificate") {
		return err
	}
	own, ownErr := p.conf.GetCertificate(nil)
	if ownErr != nil || own.Leaf == nil {
		return err
	}
	end := own.Leaf.NotAfter.UTC().Format(time.RFC3339)
	if now.After(own.Leaf.NotAfter) {
		return fmt.Errorf("%w: this node's certificate ended at %s", err, end)
	}
	return fmt.Errorf("%w: the client does not accept this node's certificate, issued at %s and good until %s; unless its CA file is wrong, its clock is",
		err, identity.Issued(own.Leaf).UTC().Format(time.RFC3339), end)
}

// tlsHandshake is the first byte of TLS. No HTTP request begins with it.
const tlsHandshake = 22

// unwrap reads the header that a proxy has to send. With an error it returns raw.
func (p *Port) unwrap(raw net.Conn) (net.Conn, error) {
	tcp, ok := raw.(*net.TCPConn)
	if !ok || !slices.ContainsFunc(p.proxies, func(net netip.Prefix) bool { return net.Contains(address(raw)) }) {
		return raw, nil
	}
	conn, err := proxyproto.Accept(tcp)
	if err != nil {
		return raw, err
	}
	return conn, nil
}

// local reports whether a program of this machine is at the other end. A connection
// through a proxy is never local, also when the proxy says so.
func local(conn net.Conn) bool {
	_, proxied := conn.(*proxyproto.Conn)
	return !proxied && address(conn).IsLoopback()
}

// address is that of the other end of conn, or the zero Addr.
func address(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// begunConn is a connection with its first bytes already read.
type begunConn struct {
	net.Conn
	begin []byte // of the reader alone
}

// Read implements [net.Conn].
func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.begin) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.begin)
	c.begin = c.begin[n:]
	return n, nil
}

// SyscallConn implements [syscall.Conn]: the broker writes to the socket. Writing is
// not affected by the bytes that were read already.
func (c *begunConn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

// handedListener is a net.Listener for connections that the port has accepted.
type handedListener struct {
	addr   net.Addr
	conns  chan net.Conn // never closed; hand gives up with closed
	closed chan struct{}
	once   sync.Once
}

func newHandedListener(addr net.Addr) *handedListener {
	return &handedListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *handedListener) hand(ctx context.Context, conn net.Conn) error {
	select {
	case l.conns <- conn:
		return nil
	case <-l.closed:
		return net.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("nobody took the connection: %w", ctx.Err())
	}
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

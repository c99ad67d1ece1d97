package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/wake"
)

// sweepInterval is how often live connections are looked over for expired
// certificates (a timer does not see a clock that was set) and idle duplicates.
const sweepInterval = 10 * time.Second

// A Node is one end of the overlay: a UDP socket, the live connections on it and
// the handlers of the protocols it speaks.
type Node struct {
	opts      Options
	log       logrus.FieldLogger
	sock      *socket
	transport *quic.Transport
	counters  counters
	denials   *rate.Limiter // of log lines that strangers can cause
	knocks    *rate.Limiter // of looks at the connections, likewise

	handshakes atomic.Int64 // connections between their first packet and serveAccepted

	handlers  map[string]Handler       // written before Run
	datagrams map[byte]DatagramHandler // written before Run
	running   chan struct{}            // closed by Run once it serves
	stopped   chan struct{}            // closed by Run when nothing may start any more
	work      sync.WaitGroup           // everything Run waits for

	mu      sync.Mutex // guards the fields below, and work.Go against Run's end
	closed  bool
	peers   map[identity.ID][]*conn // oldest first, never empty
	changed wake.Broadcast          // peers changed
}

// New opens the UDP socket of a node. It starts nothing: [Node.Run] does.
func New(opts Options) (*Node, error) {
	return newNode(opts, listen)
}

func newNode(opts Options, listen func(addr string, c *counters) (*socket, error)) (*Node, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		opts:      opts,
		log:       opts.Log,
		denials:   rate.NewLimiter(1, 10),
		knocks:    rate.NewLimiter(10, 10),
		handlers:  make(map[string]Handler),
		datagrams: make(map[byte]DatagramHandler),
		running:   make(chan struct{}),
		stopped:   make(chan struct{}),
		peers:     make(map[identity.ID][]*conn),
	}
	var err error
	if n.sock, err = listen(opts.Listen, &n.counters); err != nil {
		return nil, err
	}
	n.sock.knocked = n.knocked
	n.transport = &quic.Transport{
		Conn: n.sock, StatelessResetKey: (*quic.StatelessResetKey)(n.opts.ResetKey),
		ConnContext: n.beginHandshake, VerifySourceAddress: n.crowded,
	}
	return n, nil
}

// Close releases the socket of a node that was never run.
func (n *Node) Close() error { return n.sock.Close() }

// ID returns the identity that this node presents.
func (n *Node) ID() identity.ID { return n.opts.Source.SVID().ID }

// Addr returns the UDP address that the node listens on.
func (n *Node) Addr() netip.AddrPort {
	return plainAddr(n.sock.LocalAddr())
}

// Handle registers h for streams of protocol, a name of 1 to 64 bytes. It must
// be called before [Node.Run].
func (n *Node) Handle(protocol string, h Handler) {
	if len(protocol) == 0 || len(protocol) > maxProtocol {
		panic(fmt.Sprintf("overlay: protocol name %q", protocol))
	}
	n.handlers[protocol] = h
}

// Run accepts connections, unless the node dials only, until ctx is done, which
// is not an error. When it returns the socket is closed and no connection, stream
// handler or goroutine of the node is left. A node runs once.
func (n *Node) Run(ctx context.Context) error {
	defer n.sock.Close()
	listener, err := n.listener()
	if err != nil {
		return fmt.Errorf("overlay: listen on %s: %w", n.Addr(), err)
	}
	ctx, cancel := context.WithCancel(ctx)
	close(n.running)
	n.work.Go(func() { n.sweep(ctx) })
	n.work.Go(func() { n.endReplaced(ctx) })
	for {
		var qc *quic.Conn
		if qc, err = listener.Accept(ctx); err != nil {
			break
		}
		n.work.Go(func() { n.serveAccepted(qc) })
	}
	stopping := ctx.Err() != nil
	cancel()
	n.stop()
	listener.Close()
	n.work.Wait()
	n.transport.Close()
	if stopping {
		return nil
	}
	return fmt.Errorf("overlay: accept on %s: %w", n.Addr(), err)
}

// acceptor is where connections of peers come from.
type acceptor interface {
	Accept(context.Context) (*quic.Conn, error)
	Close() error
}

func (n *Node) listener() (acceptor, error) {
	if n.opts.DialOnly {
		return noAcceptor{}, nil
	}
	return n.transport.Listen(n.serverConfig(), n.opts.quicConfig(-1))
}

// noAcceptor accepts no connection. A QUIC transport that does not listen drops the
// packets that belong to no connection of ours.
type noAcceptor struct{}

func (noAcceptor) Accept(ctx context.Context) (*quic.Conn, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (noAcceptor) Close() error { return nil }

// stop ends every connection and lets none begin.
func (n *Node) stop() {
	close(n.stopped)
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	for _, c := range n.allConns() {
		c.close(codeStopping, "shutting down")
	}
}

// Open opens a stream of protocol to peer on the newest live connection. Whether
// the peer takes it shows at the first Read or Write.
func (n *Node) Open(ctx context.Context, peer identity.ID, protocol string) (*Stream, error) {
	if len(protocol) == 0 || len(protocol) > maxProtocol {
		return nil, fmt.Errorf("open a stream to %s: protocol name %q", peer.Short(), protocol)
	}
	err := ErrNotConnected
	for _, c := range n.conns(peer) {
		s, openErr := c.open(ctx, protocol)
		if openErr == nil {
			n.counters.streamsOpened.Add(1)
			return s, nil
		}
		err = openErr
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("open %s to %s: %w", protocol, peer.Short(), err)
}

// Disconnect ends every connection to peer and all that runs on them. The peer
// is told the reason, and is not [Node.Connected] when Disconnect returns. It may
// connect again unless it is refused then.
func (n *Node) Disconnect(peer identity.ID, reason string) {
	for _, c := range n.conns(peer) {
		c.close(codeDisconnected, reason)
	}
}

// Recheck asks [Options.Revoked] and [Options.Accept] again about every live
// connection and ends the connections that would be refused now. Call it when the
// answer may have changed.
func (n *Node) Recheck() {
	for _, c := range n.allConns() {
		if err := n.verify(c); err != nil {
			c.deny(err)
		}
	}
}

// sweep ends connections that a timer or a peer failed to end.
func (n *Node) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, c := range n.allConns() {
				c.closeExpired(now)
			}
			for _, c := range n.duplicates(now) {
				c.close(codeSuperseded, "superseded by a newer connection")
			}
		}
	}
}

// Errors that callers branch on.
var (
	ErrNotConnected    = errors.New("no connection")
	ErrStopped         = errors.New("overlay stopped")
	ErrUnknownProtocol = errors.New("the peer does not speak this protocol")
	ErrDenied          = errors.New("denied by the peer")
	ErrBusy            = errors.New("the peer has too many streams open")
	ErrDisconnected    = errors.New("connection ended")
)

package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/hpmq/hpmq/identity"
)

// Dial makes one attempt to connect to expect at a UDP host:port and returns the
// identity that answered. The zero identity accepts any peer that
// [Options.Accept] allows. Dial waits for [Node.Run] to have started, and takes at
// most [Options.HandshakeTimeout] after that.
func (n *Node) Dial(ctx context.Context, addr string, expect identity.ID) (identity.ID, error) {
	return n.attempt(ctx, ctx, addr, expect)
}

// attempt is Dial with a second context, wanted, that may end sooner than ctx. The
// end of wanted stops the attempt only before the handshake is done. Later it must
// not: two nodes that dial each other would each drop its own connection in favour of
// the other's, and both connections would be gone.
func (n *Node) attempt(ctx, wanted context.Context, addr string, expect identity.ID) (identity.ID, error) {
	if expect == n.ID() {
		return identity.ID{}, fmt.Errorf("dial %s: that is this node", expect.Short())
	}
	select {
	case <-n.running:
	case <-n.stopped:
		return identity.ID{}, ErrStopped
	case <-wanted.Done():
		return identity.ID{}, context.Cause(wanted)
	}
	if n.isStopped() {
		return identity.ID{}, ErrStopped
	}
	ctx, cancel := context.WithTimeout(ctx, n.opts.HandshakeTimeout)
	defer cancel()
	resolving, enough := context.WithCancel(ctx)
	defer enough()
	defer context.AfterFunc(wanted, enough)()
	tos, err := n.resolve(resolving, addr)
	if err != nil {
		return identity.ID{}, fmt.Errorf("dial %s: %w", addr, err)
	}
	for i, to := range tos {
		var c *conn
		if c, err = n.dialWithin(ctx, wanted, len(tos)-i, to, expect); err != nil {
			continue
		}
		if !n.start(c) {
			c.close(codeStopping, "shutting down")
			return identity.ID{}, ErrStopped
		}
		return c.peer, nil
	}
	return identity.ID{}, fmt.Errorf("dial %s: %w", addr, err)
}

// dialWithin divides the time that ctx leaves into equal shares and dials for one of
// them. So a dead address of a host does not use up the time of the next.
func (n *Node) dialWithin(ctx, wanted context.Context, shares int, to *net.UDPAddr, expect identity.ID) (*conn, error) {
	if deadline, ok := ctx.Deadline(); ok && shares > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(shares))
		defer cancel()
	}
	return n.dial(ctx, wanted, to, expect)
}

// start serves a connection that was admitted, unless the node stops.
func (n *Node) start(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.counters.dialled.Add(1)
	n.work.Go(c.serve)
	return true
}

// dial connects, waits to be welcomed and makes the connection live.
func (n *Node) dial(ctx, wanted context.Context, to *net.UDPAddr, expect identity.ID) (*conn, error) {
	handshake, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(wanted, cancel)()
	cfg := identity.ClientConfig(n.opts.Source, []string{ALPN}, expect, identity.ServeEnded(n.opts.ServeEnded))
	qc, err := n.transport.Dial(handshake, to, cfg, n.opts.quicConfig(1))
	if err != nil {
		return nil, n.sock.explain(to, n.handshakeError(err))
	}
	c, err := n.newConn(qc, true)
	if err != nil {
		_ = qc.CloseWithError(codeRefused, err.Error()) // never fails
		return nil, err
	}
	if err := awaitWelcome(ctx, qc); err != nil {
		c.close(codeProtocol, "no welcome")
		return nil, fmt.Errorf("refused by %s: %w", c.peer.Short(), n.handshakeError(err))
	}
	if expect.IsZero() {
		err = n.opts.Accept(c.peer)
	}
	if err == nil {
		err = n.admit(c)
	}
	if err != nil {
		c.close(codeRefused, err.Error())
		return nil, err
	}
	return c, nil
}

// errNoAnswer is a dial that was not answered, whichever timer saw it first.
var errNoAnswer = errors.New("no answer")

// handshakeError describes a failed handshake in the same words each time, so that it
// is logged once. In TLS 1.3 a dialer hears of the verdict on its certificate
// after its own handshake.
func (n *Node) handshakeError(err error) error {
	var idle *quic.IdleTimeoutError
	var slow *quic.HandshakeTimeoutError
	var transport *quic.TransportError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &idle), errors.As(err, &slow):
		return errNoAnswer
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode.IsCryptoError():
		leaf := n.opts.Source.SVID().Leaf()
		return fmt.Errorf("it does not accept our certificate, issued at %s and good until %s: it is refused there, or a clock is wrong, here or there: %w",
			identity.Issued(leaf).UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), err)
	}
	return err
}

func awaitWelcome(ctx context.Context, qc *quic.Conn) error {
	s, err := qc.AcceptUniStream(ctx)
	if err != nil {
		return welcomeError(err)
	}
	stop := context.AfterFunc(ctx, func() { s.CancelRead(codeClosed) })
	defer stop()
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return welcomeError(err)
	}
	if b[0] != welcome {
		return fmt.Errorf("it speaks version %d of the overlay, we speak %d", b[0], welcome)
	}
	s.CancelRead(codeClosed)
	return nil
}

// welcomeError puts the peer's refusal first: it is the reason. That QUIC carried it
// is not.
func welcomeError(err error) error {
	if app := (*quic.ApplicationError)(nil); errors.As(err, &app) && app.Remote {
		return errors.New(app.ErrorMessage)
	}
	return err
}

// maxHostAddrs bounds how many addresses of one host are tried.
const maxHostAddrs = 4

// resolve finds the addresses of a host that our socket can send to.
func (n *Node) resolve(ctx context.Context, addr string) ([]*net.UDPAddr, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	network := "ip6"
	switch local := n.Addr().Addr(); {
	case local == netip.IPv6Unspecified():
		network = "ip" // both families
	case local.Is4():
		network = "ip4"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	var addrs []*net.UDPAddr
	for _, ip := range ips[:min(len(ips), maxHostAddrs)] {
		addrs = append(addrs, &net.UDPAddr{IP: ip.Unmap().AsSlice(), Port: port, Zone: ip.Zone()})
	}
	return addrs, nil
}

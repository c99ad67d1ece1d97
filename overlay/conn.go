package overlay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// welcome is the byte that tells a dialer that it was accepted. It is also the
// version of the protocol on the connection.
const welcome = 1

// Why a connection was closed, as the other end sees it.
const (
	codeStopping     quic.ApplicationErrorCode = 0
	codeRefused      quic.ApplicationErrorCode = 1 // not accepted, revoked, or ourselves
	codeDisconnected quic.ApplicationErrorCode = 2 // by Node.Disconnect
	codeExpired      quic.ApplicationErrorCode = 3
	codeSuperseded   quic.ApplicationErrorCode = 4
	codeProtocol     quic.ApplicationErrorCode = 5 // no or a wrong welcome
	codeLost         quic.ApplicationErrorCode = 6 // silent while a newer connection works
)

// conn is one live connection. Its fields are set before it is shared.
type conn struct {
	node     *Node
	qc       *quic.Conn
	peer     identity.ID
	leaf     *x509.Certificate
	notAfter time.Time // the earliest end of the peer's certificates; the peer minds ours
	dialled  bool
	since    time.Time

	answers   atomic.Uint64 // to our pings
	streams   atomic.Int64  // open, from either end
	accepted  int           // open, from the peer; guarded by node.mu
	warned    atomic.Bool   // a refused stream was logged
	datagrams chan []byte   // drained by sendDatagrams; full means the path is congested
	sending   bool          // sendDatagrams runs; guarded by node.mu
}

// newConn names the peer of an established QUIC connection.
func (n *Node) newConn(qc *quic.Conn, dialled bool) (*conn, error) {
	state := qc.ConnectionState().TLS
	if len(state.PeerCertificates) == 0 {
		return nil, errors.New("no certificate")
	}
	peer, err := identity.PeerID(state, n.opts.Source.Bundle())
	if err != nil {
		return nil, err
	}
	c := &conn{
		node: n, qc: qc, peer: peer, leaf: state.PeerCertificates[0], dialled: dialled, since: time.Now(),
		notAfter: state.PeerCertificates[0].NotAfter, datagrams: make(chan []byte, datagramQueue),
	}
	for _, cert := range state.PeerCertificates[1:] {
		if cert.NotAfter.Before(c.notAfter) {
			c.notAfter = cert.NotAfter
		}
	}
	return c, nil
}

// verify gives the reason why c may not exist. A peer that was dialled by name is
// wanted: Options.Accept is not asked about it.
func (n *Node) verify(c *conn) error {
	if c.peer == n.ID() {
		return errors.New("connection to ourselves")
	}
	if n.opts.Revoked(c.leaf) {
		return fmt.Errorf("certificate of %s is revoked", c.peer.Short())
	}
	if c.dialled {
		return nil
	}
	return n.opts.Accept(c.peer)
}

// admit makes c live. It verifies twice: a revocation that comes between the
// first look and the list would otherwise find no connection to end.
func (n *Node) admit(c *conn) error {
	if err := n.verify(c); err != nil {
		return err
	}
	if err := n.add(c); err != nil {
		return err
	}
	if err := n.verify(c); err != nil {
		n.remove(c)
		return err
	}
	return nil
}

// serverConfig is the TLS configuration for incoming connections. It also counts and
// reports strangers.
func (n *Node) serverConfig() *tls.Config {
	cfg := identity.ServerConfig(n.opts.Source, []string{ALPN}, tls.RequireAnyClientCert, identity.ServeEnded(n.opts.ServeEnded))
	cfg.SessionTicketsDisabled = true // every connection proves its certificate
	verifyPeer := cfg.VerifyConnection
	outer := cfg.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		remote := hello.Conn.RemoteAddr()
		inner := cfg.Clone()
		inner.VerifyConnection = func(state tls.ConnectionState) error {
			err := verifyPeer(state)
			if err != nil {
				n.refused(remote, "", err)
			}
			return err
		}
		return inner, nil
	}
	return outer
}

// refused counts and reports a peer that was turned away. Strangers can cause
// it at will, so the lines are limited to one a second.
func (n *Node) refused(remote net.Addr, peer string, err error) {
	n.counters.refused.Add(1)
	if !n.denials.Allow() {
		return
	}
	fields := logrus.Fields{logfield.Remote: remote.String(), logfield.Reason: err.Error()}
	if peer != "" {
		fields[logfield.Peer] = peer
	}
	n.log.WithFields(fields).Warn("overlay connection refused")
}

// serveAccepted judges a connection that a peer made, welcomes it and serves it
// to its end.
func (n *Node) serveAccepted(qc *quic.Conn) {
	endHandshake(qc)
	c, err := n.newConn(qc, false)
	if err != nil {
		n.refused(qc.RemoteAddr(), "", err)
		_ = qc.CloseWithError(codeRefused, err.Error()) // never fails
		return
	}
	if err := n.admit(c); err != nil {
		c.deny(err)
		return
	}
	n.counters.accepted.Add(1)
	if s, err := qc.OpenUniStream(); err == nil {
		if _, err := s.Write([]byte{welcome}); err == nil {
			s.Close()
		}
	}
	c.serve()
}

// deny ends c because its peer is not accepted, or no longer.
func (c *conn) deny(err error) {
	if errors.Is(err, ErrStopped) {
		c.close(codeStopping, "shutting down")
		return
	}
	c.node.refused(c.qc.RemoteAddr(), c.peer.String(), err)
	c.close(codeRefused, err.Error())
}

func (c *conn) close(code quic.ApplicationErrorCode, reason string) {
	_ = c.qc.CloseWithError(code, reason) // never fails
}

// closeExpired ends c if its peer's certificate has ended by now, unless the peer
// is served all the same. Then [Node.sweep] asks again.
func (c *conn) closeExpired(now time.Time) {
	if now.Before(c.notAfter) || c.node.opts.ServeEnded != nil && c.node.opts.ServeEnded(c.leaf) {
		return
	}
	c.close(codeExpired, "certificate expired")
}

func (c *conn) ended() bool { return c.qc.Context().Err() != nil }

func (c *conn) remote() netip.AddrPort {
	return plainAddr(c.qc.RemoteAddr())
}

// plainAddr writes an IPv4 address as such also when it came in on a socket for
// both families.
func plainAddr(a net.Addr) netip.AddrPort {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := udp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (c *conn) entry() *logrus.Entry {
	return c.node.log.WithFields(logrus.Fields{
		logfield.Peer: c.peer.String(), logfield.Remote: c.qc.RemoteAddr().String(),
	})
}

// serve runs a live connection: its end at its certificates' end, its datagrams
// and the streams that the peer opens. It returns when all of them have ended.
func (c *conn) serve() {
	ctx := c.qc.Context()
	expiry := time.AfterFunc(time.Until(c.notAfter), func() { c.closeExpired(time.Now()) })
	c.entry().Info("overlay connection up")
	c.node.work.Go(func() { c.receiveDatagrams(ctx) })
	for {
		qs, err := c.qc.AcceptStream(ctx)
		if err != nil {
			break
		}
		c.node.work.Go(func() { c.accept(ctx, qs) })
	}
	c.close(codeStopping, "") // a connection that failed is closed already
	expiry.Stop()
	c.node.remove(c)
	if forgotten := (*quic.StatelessResetError)(nil); errors.As(context.Cause(ctx), &forgotten) {
		for _, other := range c.node.conns(c.peer) {
			other.ping() // the peer began anew: it has lost its earlier connections too
		}
	}
	c.entry().WithField(logfield.Reason, endReason(context.Cause(ctx))).Info("overlay connection down")
}

// endReason puts the end of a connection in words.
func endReason(err error) string {
	if app := (*quic.ApplicationError)(nil); errors.As(err, &app) {
		reason := app.ErrorMessage
		if reason == "" {
			reason = fmt.Sprintf("code %d", app.ErrorCode)
		}
		if app.Remote {
			return "by the peer: " + reason
		}
		return reason
	}
	if err == nil {
		return "closed"
	}
	return err.Error()
}

package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/socket"
)

// Admission decides the identity that a connection acts for; an error refuses it. It
// is called in the client's goroutine, before CONNECT is read and under its deadline.
// The handshake of a [crypto/tls.Conn] is done by then.
type Admission func(nc net.Conn) (Principal, error)

// Serve accepts clients on l until parent is done. When it returns, l is closed and
// no goroutine of its clients is left.
func (b *Broker) Serve(parent context.Context, l net.Listener, admit Admission) error {
	ctx, cancel := context.WithCancel(parent)
	var clients sync.WaitGroup
	b.loops.addUser()
	defer b.loops.removeUser()
	defer clients.Wait()
	defer b.loops.endClients(&clients)
	defer cancel() // runs first: ends the clients of goroutines; endClients ends the loops' next, and Wait sees them out
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for {
		nc, err := l.Accept()
		switch {
		case parent.Err() != nil: // l may be closed before ctx is done
			if nc != nil {
				nc.Close()
			}
			return nil
		case err != nil && !b.passingError(ctx, err):
			return fmt.Errorf("accept MQTT client on %s: %w", l.Addr(), err)
		case err != nil:
			continue
		case int(b.openConnections.Add(1)) > b.opts.Connections:
			b.openConnections.Add(-1)
			b.count.refused.Add(1)
			nc.Close()
			continue
		}
		clients.Go(func() { b.serveConn(ctx, &clients, nc, admit) })
	}
}

// passingError reports whether an accept error is of the moment, such as running out
// of descriptors, and then waits a little.
func (b *Broker) passingError(ctx context.Context, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	if _, ok := errors.AsType[net.Error](err); !ok {
		return false
	}
	b.log.WithError(err).Error("cannot accept MQTT clients, trying again")
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
	return true
}

// serveConn sees one client through, from its handshake to its end or until an
// event loop reads on.
func (b *Broker) serveConn(ctx context.Context, clients *sync.WaitGroup, nc net.Conn, admit Admission) {
	address := addressOf(nc.RemoteAddr(), nc.LocalAddr())
	unwelcome, ok := b.countAddress(address)
	if !ok {
		b.count.refused.Add(1)
		b.openConnections.Add(-1)
		nc.Close()
		return
	}
	c := newConn(b, nc)
	c.clients, c.address, c.addressRefusal = clients, address, unwelcome
	b.count.connections.Add(1)
	c.stopHook = context.AfterFunc(ctx, c.endWithListener)
	c.connectTimer = time.AfterFunc(b.opts.ConnectTimeout, func() { c.nc.Close() })
	if err := c.admit(ctx, nc, admit); err != nil {
		b.count.refused.Add(1)
		b.log.WithField(logfield.Remote, remoteAddress(nc)).WithError(err).Info("client not admitted")
		c.release()
		return
	}
	c.out.setSink(socket.NewSink(c.nc))
	if err := c.read(); !errors.Is(err, errJoined) {
		c.tearDown(err)
	}
}

// admit decides the connection's principal.
func (c *conn) admit(ctx context.Context, nc net.Conn, admit Admission) error {
	if tc, ok := nc.(*tls.Conn); ok {
		handshake, cancel := context.WithTimeout(ctx, c.b.opts.ConnectTimeout)
		defer cancel()
		if err := tc.HandshakeContext(handshake); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
	}
	p, err := admit(nc)
	if err != nil {
		return err
	}
	if p.Remote == "" {
		p.Remote = remoteAddress(nc)
	}
	c.principal = p
	c.prepareLogin(ctx)
	return nil
}

func remoteAddress(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

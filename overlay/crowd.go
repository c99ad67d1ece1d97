package overlay

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// maxHandshakes bounds the connections that began a handshake and have not proved
// an identity yet. Each costs memory and a signature for 5 s, and strangers can
// begin them at will, from forged addresses too. Beyond a quarter of the bound a
// dialer has to prove its address first, which needs no memory here.
const maxHandshakes = 512

var errCrowded = errors.New("too many handshakes")

// handshakeKey is the key of a function in a connection's context: it gives back the
// connection's place.
type handshakeKey struct{}

// beginHandshake takes a place for a connection that a peer begins. The place is given
// back when the connection is accepted or over.
func (n *Node) beginHandshake(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if n.handshakes.Add(1) > maxHandshakes {
		n.handshakes.Add(-1)
		return nil, errCrowded
	}
	leave := sync.OnceFunc(func() { n.handshakes.Add(-1) })
	context.AfterFunc(ctx, leave)
	return context.WithValue(ctx, handshakeKey{}, leave), nil
}

// endHandshake gives back the place of a connection when its handshake is done.
func endHandshake(qc *quic.Conn) {
	if leave, ok := qc.Context().Value(handshakeKey{}).(func()); ok {
		leave()
	}
}

// crowded reports whether a dialer must prove its address first.
func (n *Node) crowded(net.Addr) bool { return n.handshakes.Load() > maxHandshakes/4 }

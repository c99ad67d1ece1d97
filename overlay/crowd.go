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
// begin them at will, from forged addresses too: beyond a quarter of it whoever
// dials has to prove its address first, which keeps nothing here.
const maxHandshakes = 512

var errCrowded = errors.New("too many handshakes")

// settledKey finds, in a connection's context, what gives its place back.
type settledKey struct{}

// arrive takes a place for a connection that a peer begins, which it gives back
// when it is accepted or over.
func (n *Node) arrive(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if n.handshakes.Add(1) > maxHandshakes {
		n.handshakes.Add(-1)
		return nil, errCrowded
	}
	leave := sync.OnceFunc(func() { n.handshakes.Add(-1) })
	context.AfterFunc(ctx, leave)
	return context.WithValue(ctx, settledKey{}, leave), nil
}

// settled gives back the place of a connection whose handshake is done.
func settled(qc *quic.Conn) {
	if leave, ok := qc.Context().Value(settledKey{}).(func()); ok {
		leave()
	}
}

// crowded reports whether whoever dials must prove its address first.
func (n *Node) crowded(net.Addr) bool { return n.handshakes.Load() > maxHandshakes/4 }

package quic

import (
	"context"
	"errors"
	"net"
	"sync"

	quicgo "github.com/quic-go/quic-go"
)

var (
	errCrowded   = errors.New("too many connections wait")
	errUnwelcome = errors.New("not admitted")
)

// departKey finds, in a connection's context, the function that gives its place back.
type departKey struct{}

// arrive takes a place among the waiting for a new connection, which ends with
// it if not before.
func (l *Listener) arrive(ctx context.Context, client *quicgo.ClientInfo) (context.Context, error) {
	if client.AddrVerified && l.opts.Admits != nil && !l.opts.Admits(client.RemoteAddr) {
		return nil, errUnwelcome
	}
	if l.waiting.Add(1) > int64(l.opts.Waiting) {
		l.waiting.Add(-1)
		return nil, errCrowded
	}
	leave := sync.OnceFunc(func() { l.waiting.Add(-1) })
	context.AfterFunc(ctx, leave)
	return context.WithValue(ctx, departKey{}, leave), nil
}

// depart gives back the place of a connection that was accepted.
func depart(qc *quicgo.Conn) {
	if leave, ok := qc.Context().Value(departKey{}).(func()); ok {
		leave()
	}
}

// crowded reports whether a client must prove its address before anything is
// kept for it.
func (l *Listener) crowded(net.Addr) bool { return l.waiting.Load() > int64(l.opts.Waiting/4) }

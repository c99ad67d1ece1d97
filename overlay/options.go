package overlay

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// ALPN is the protocol that overlay connections negotiate in TLS.
const ALPN = "hpmq/1"

// packetSize is every QUIC packet's size limit. It fits the smallest path that
// IPv6 allows (1280 bytes) without fragments. It stays fixed: finding a larger
// one needs the don't-fragment bit on a socket that WireGuard shares.
const packetSize = 1232

// Flow control; the package comment says how the three fit together.
const (
	streamWindow    = 256 << 10 // of a stream without a reader
	streamWindowMax = 1 << 20   // of a stream with a reader that keeps up
	connWindow      = 32 << 20
)

// An Authorizer says which peer may open a stream of which protocol. It is asked by
// the receiving end, once per stream, and must be quick.
type Authorizer interface {
	Allow(peer identity.ID, protocol string) error
}

// A Handler serves one accepted stream. ctx ends with the stream's connection
// and with [Node.Run]; the stream is closed when the handler returns.
type Handler func(ctx context.Context, s *Stream)

// Options configures a [Node]. Zero values are usable unless a comment says
// otherwise.
type Options struct {
	Source identity.Source    // our certificate and the trusted roots; required
	Listen string             // UDP host:port; required, port 0 takes a free one
	Log    logrus.FieldLogger // nil discards

	// Revoked reports whether a peer's certificate was revoked. It is asked when
	// a connection is made and again by [Node.Recheck]. Nil means no revocations.
	Revoked func(leaf *x509.Certificate) bool

	// ServeEnded reports whether a peer is served although its certificate, genuine
	// in all else, has ended. It is asked when a connection is made, and every ten
	// seconds of one whose certificate has ended. Nil serves none.
	ServeEnded func(leaf *x509.Certificate) bool

	// DialOnly leaves peers that dial us unanswered: every connection is one that we made.
	DialOnly bool

	// Accept says whether an identity of the trust domain may connect to us.
	// Nil accepts nodes only.
	Accept func(peer identity.ID) error

	// Authorizer decides which protocols a connected peer may open. Nil allows
	// every protocol that has a handler.
	Authorizer Authorizer

	// ResetKey lets a node that was killed and runs again tell its peers at once
	// that their connections are gone. Without it, they find out only by silence.
	// It is a secret and the same in every run. Nil sends no resets.
	ResetKey *[32]byte

	KeepAlive        time.Duration // between packets on a silent connection; default 15 s
	IdleTimeout      time.Duration // without an answer until a connection is given up; default 30 s
	HandshakeTimeout time.Duration // of one dial, and of a stream's header; default 5 s

	MaxConns          int // live connections per identity, beyond it the oldest ends; default 4
	MaxStreams        int // concurrent streams a peer may open per connection; default 128
	MaxStreamsPerPeer int // the same over all connections of an identity; default 256

	replacedInterval time.Duration // between looks at connections that were replaced; default watchInterval
}

func (o *Options) setDefaults() error {
	if o.Source == nil || o.Source.SVID() == nil || o.Source.Bundle() == nil {
		return errors.New("overlay: no certificate to connect with")
	}
	if o.Listen == "" {
		return errors.New("overlay: no UDP address to listen on")
	}
	o.replacedInterval = cmp.Or(o.replacedInterval, watchInterval)
	o.Log = logfield.OrSilent(o.Log)
	if o.Revoked == nil {
		o.Revoked = func(*x509.Certificate) bool { return false }
	}
	if o.Accept == nil {
		o.Accept = nodesOnly
	}
	setDefault(&o.KeepAlive, 15*time.Second)
	setDefault(&o.IdleTimeout, 30*time.Second)
	setDefault(&o.HandshakeTimeout, 5*time.Second)
	setDefault(&o.MaxConns, 4)
	setDefault(&o.MaxStreams, 128)
	setDefault(&o.MaxStreamsPerPeer, 256)
	return nil
}

func setDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func nodesOnly(peer identity.ID) error {
	if peer.Kind != identity.Node {
		return fmt.Errorf("%s is not a node", peer.Short())
	}
	return nil
}

// quicConfig returns the QUIC parameters of either side. uniStreams is the number of
// streams that the peer may open: one for the side that waits to be welcomed.
func (o *Options) quicConfig(uniStreams int64) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           o.HandshakeTimeout,
		MaxIdleTimeout:                 o.IdleTimeout,
		KeepAlivePeriod:                o.KeepAlive,
		InitialPacketSize:              packetSize,
		DisablePathMTUDiscovery:        true,
		EnableDatagrams:                true,
		MaxIncomingStreams:             int64(o.MaxStreams),
		MaxIncomingUniStreams:          uniStreams,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindowMax,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connWindow,
	}
}

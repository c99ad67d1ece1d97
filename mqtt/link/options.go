package link

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/store"
)

// Protocol is the name of the protocol on the mesh.
const Protocol = "hpmq-link/1"

// The clock of a stream. They add up to a link that is back within three seconds
// of its path.
const (
	retryInterval    = 500 * time.Millisecond // between attempts to open
	handshakeTimeout = 2 * time.Second        // from opening to CONNACK
	pingInterval     = 2 * time.Second
	deadAfter        = 5 * time.Second // without a byte read, or without progress of a write
)

// A message that a site refuses for want of news is offered again every doubtInterval,
// until the site has refused for doubtTime. That is longer than a replica takes to
// notice that the node it learns from is cut off. For doubtPause after that the site
// refuses at once.
const (
	doubtInterval = 2 * time.Second
	doubtTime     = 40 * time.Second
	doubtPause    = 10 * time.Minute
)

// ErrUnsettled is wrapped by an answer of [Options.Accept] that newer records
// may change: the sending site may have had them when it took the message.
var ErrUnsettled = errors.New("not yet known here")

// Limits on the memory that a peer can make this site use.
const (
	maxInterest     = 100_000   // filters of a site; beyond this it gets everything
	maxInterestSize = 32 << 20  // bytes of these filters, as filterSize counts; beyond this it gets everything
	maxControl      = 1 << 20   // bytes of our answers that a peer does not read
	maxPendingBytes = 16 << 20  // of messages taken in and not yet kept; then the stream is not read
	stampAllowance  = 256 << 10 // room for this package's properties in a client's packet
)

// Broker is the part of mqtt.Broker that the links need. See its methods of the same
// names.
type Broker interface {
	Inject(m *store.Message, replayed bool, tx func(store.Tx), done func(error))
	Filters() []string
	Reroute()
}

// Dialer opens streams to the links of other nodes. It proves their identities.
type Dialer interface {
	Open(ctx context.Context, peer identity.ID) (net.Conn, error)
}

// Peer is a node of another site.
type Peer struct {
	ID        identity.ID
	Site      string
	Connected bool // the mesh has a connection to it
}

// Options configures [Links]. Fields are required unless a comment says
// otherwise.
type Options struct {
	Site   string
	Store  store.Store
	Dialer Dialer

	// Stays reports that a message which was published here is for this site alone:
	// it goes to no other, also not as a retained one. Nil lets all of them go. It
	// does not block.
	Stays func(m *store.Message) bool

	// Receives reports whether a site may receive m. It is asked when m is put into the
	// site's log, and again when it is sent; it does not block. Nil lets every site
	// receive everything.
	Receives func(site string, m *store.Message) bool
	// RefusesUnknown reports whether an acknowledged message is refused to its
	// publisher while a site that may receive it has never told its interest.
	// Otherwise, or if it is nil, the message is kept for that site.
	RefusesUnknown func() bool

	// Peers returns the nodes of all sites; the nodes of this site are ignored.
	Peers func() []Peer
	// Changed returns a channel that is closed when the result of Peers changes or a
	// node becomes reachable or unreachable. An unreachable peer is tried again then,
	// and every half second.
	Changed func() <-chan struct{}

	// Accept is asked about each message of a peer; its Origin.Site is the site of the
	// peer. An error refuses the message for good, unless it wraps [ErrUnsettled]: then
	// Accept is asked again. Accept must not block. Nil accepts all.
	Accept func(peer identity.ID, m *store.Message) error

	PacketSize     int                // the broker's limit for a client's packet; 1 MiB
	ReceiveMaximum uint16             // messages that a peer may have in flight towards us; 8,192
	QoS0           store.QueueLimit   // of QoS 0 messages that wait for a peer's stream; 4,096 messages, 4 MiB
	Log            logrus.FieldLogger // links that come and go; nil discards
}

func (o *Options) setDefaults() {
	if o.PacketSize == 0 {
		o.PacketSize = 1 << 20
	}
	if o.ReceiveMaximum == 0 {
		o.ReceiveMaximum = 8192
	}
	if o.QoS0.Messages == 0 {
		o.QoS0.Messages = 4096
	}
	if o.QoS0.Bytes == 0 {
		o.QoS0.Bytes = 4 << 20
	}
	o.Log = logfield.OrSilent(o.Log)
}

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

// What nodes say to each other about the directory, one protocol a question.
const (
	protocolDirectory = "hpmq-directory/2" // records and heads, from a node that has them
	protocolEnrol     = "hpmq-enrol/1"     // enrolments, renewals and node addresses, to a CA
)

const (
	roleCA          = "ca"
	retryInterval   = time.Second
	exchangeTimeout = 10 * time.Second
)

// serveDirectory answers one replica until it goes away.
func (n *Node) serveDirectory(ctx context.Context, s *overlay.Stream) {
	defer s.Close()
	if err := n.directory.Serve(ctx, s.PeerID(), s); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		n.log.WithField(logfield.Peer, s.PeerID().String()).WithError(err).Debug("replica went away")
	}
}

// directoryMesh is the mesh as the directory sees it.
type directoryMesh struct{ *Node }

// Sources implements directory.Mesh.
func (m directoryMesh) Sources() ([]identity.ID, <-chan struct{}) {
	changed := m.overlay.Changed()
	return m.connectedNodes(), changed
}

// Open implements directory.Mesh.
func (m directoryMesh) Open(ctx context.Context, id identity.ID) (io.ReadWriteCloser, error) {
	s, err := m.overlay.Open(ctx, id, protocolDirectory)
	if err != nil {
		return nil, err // not s: a nil *Stream is not a nil io.ReadWriteCloser
	}
	return s, nil
}

// replicate keeps this node's copy of the directory up to date.
func (n *Node) replicate(ctx context.Context) error {
	return n.directory.Replicate(ctx, directoryMesh{n})
}

// connectedNodes are the nodes that this one is connected to, CAs first.
func (n *Node) connectedNodes() []identity.ID {
	var cas, others []identity.ID
	for _, p := range n.overlay.Peers() {
		switch {
		case p.ID.Kind != identity.Node:
		case n.isCA(p.ID):
			cas = append(cas, p.ID)
		default:
			others = append(others, p.ID)
		}
	}
	return append(cas, others...)
}

// isCA reports whether id issues certificates. Before the first record has
// arrived nobody is known to, and everybody may be asked.
func (n *Node) isCA(id identity.ID) bool {
	rec, ok := n.directory.Node(id)
	return ok && slices.Contains(rec.Roles, roleCA)
}

// addresses is what the directory shall say about this node.
func (n *Node) addresses() directory.Node {
	rec := directory.Node{
		ID: n.id, Site: n.site,
		Mesh: []string{n.cfg.advertised(portOverlay)},
		API:  []string{n.cfg.advertised(portTLS)},
		MQTT: []string{n.cfg.advertised(portTLS)},
	}
	if n.authority != nil {
		rec.Roles = []string{roleCA}
	}
	return rec
}

// announceAddresses tells a CA where this node is reached; once is enough.
func (n *Node) announceAddresses(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := n.overlay.Changed()
		err := n.relay.Announce(ctx, n.addresses())
		if err == nil {
			return nil
		}
		n.log.WithError(err).Debug("addresses not announced yet")
		sleep(ctx, retryInterval, changed)
	}
	return nil
}

// askCA opens a stream to an authority, for enrolments and renewals that came
// to this node and for its own.
func (n *Node) askCA(ctx context.Context) (io.ReadWriteCloser, error) {
	s, err := n.openToCA(ctx, protocolEnrol)
	if err != nil {
		return nil, err // not s: a nil *Stream is not a nil io.ReadWriteCloser
	}
	return s, nil
}

// openToCA opens a stream of protocol to a node that is a CA.
func (n *Node) openToCA(ctx context.Context, protocol string) (*overlay.Stream, error) {
	err := errors.New("not connected to a node that is a CA")
	for _, peer := range n.connectedNodes() {
		if known := len(n.directory.Nodes()) > 0; known && !n.isCA(peer) {
			continue
		}
		var s *overlay.Stream
		if s, err = n.overlay.Open(ctx, peer, protocol); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// serveCA answers the requests that other nodes pass on.
func (n *Node) serveCA(ctx context.Context, s *overlay.Stream) {
	if err := n.authority.ServeStream(ctx, s.PeerID(), s); err != nil && ctx.Err() == nil {
		n.log.WithField(logfield.Peer, s.PeerID().String()).WithError(err).Warn("request over the mesh refused")
	}
}

// keepPeers stays connected to every node of the directory.
func (n *Node) keepPeers(ctx context.Context) error {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	kept := map[identity.ID]bool{n.id: true}
	for r, err := range n.directory.Watch(ctx, 0) {
		if err != nil {
			return err
		}
		if r.Kind != directory.KindNode {
			continue
		}
		payload, err := r.Decode()
		if err != nil {
			return err
		}
		if rec, ok := payload.(directory.Node); ok && !kept[rec.ID] {
			kept[rec.ID] = true
			keeping.Go(func() { n.keepPeer(ctx, rec.ID) })
		}
	}
	return nil
}

func (n *Node) keepPeer(ctx context.Context, id identity.ID) {
	err := n.overlay.Keep(ctx, overlay.Target{ID: id, Addrs: func() []string {
		rec, _ := n.directory.Node(id)
		if known, ok := n.directory.Identity(id); ok && known.State != directory.Active {
			return nil // revoked: nobody to dial until it is enrolled again
		}
		return rec.Mesh
	}})
	if err != nil {
		n.log.WithField(logfield.Peer, id.String()).WithError(err).Error("mesh: gave up a peer")
	}
}

// Without a new head for quietTime the addresses of the site ticket are dialled
// again, at first after quietPause, then half as often each time down to once in
// quietPauseMax: the nodes that the directory knows may all have moved.
const (
	quietTime     = 2 * directory.HeadInterval
	quietPause    = 2 * time.Second
	quietPauseMax = time.Minute
)

// quiet reports whether the writer of the directory was not heard for too long.
func (n *Node) quiet() bool { return n.directory.Stale() > quietTime }

// dialBootstrap connects to the nodes that answer at the addresses of the site
// ticket, until the first records have arrived, and whenever the writer is not
// heard. keepPeers dials the addresses that the directory knows.
func (n *Node) dialBootstrap(ctx context.Context) error {
	pause := quietPause
	for ctx.Err() == nil {
		changed := n.overlay.Changed()
		switch {
		case !n.quiet():
			pause = quietPause
			sleep(ctx, quietTime/4, nil)
		case len(n.directory.Nodes()) > 0:
			n.tryBootstrap(ctx, n.log.Debug)
			sleep(ctx, pause, nil)
			pause = min(2*pause, quietPauseMax)
		case len(n.connectedNodes()) == 0:
			n.tryBootstrap(ctx, n.log.Warn)
			sleep(ctx, retryInterval, changed)
		default: // the first records are on their way
			sleep(ctx, retryInterval, changed)
		}
	}
	return nil
}

// tryBootstrap dials each address of the site ticket once.
func (n *Node) tryBootstrap(ctx context.Context, log func(...any)) {
	for _, addr := range n.bootstrap {
		if _, err := n.overlay.Dial(ctx, addr, identity.ID{}); err != nil && ctx.Err() == nil {
			log(fmt.Sprintf("cannot reach the mesh port of the inviting node at %s yet: %v", addr, err))
		}
	}
}

// sleep returns after d, when woken is closed, or when ctx is done.
func sleep(ctx context.Context, d time.Duration, woken <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-woken:
	case <-t.C:
	}
}

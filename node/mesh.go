package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

// The protocols with which nodes ask each other about the directory, one for each
// question.
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
func (m *mesh) serveDirectory(ctx context.Context, s *overlay.Stream) {
	defer s.Close()
	if err := m.directory.Serve(ctx, s.PeerID(), s); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		m.log.WithField(logfield.Peer, s.PeerID().String()).WithError(err).Debug("replica went away")
	}
}

// mesh is this node's connections to other nodes: it keeps them up, and finds a
// node that answers a question. It is also the mesh of the directory.
type mesh struct {
	id        identity.ID
	overlay   *overlay.Node
	directory *directory.Directory
	bootstrap []string // addresses to begin with
	log       logrus.FieldLogger
}

// Sources implements directory.Mesh.
func (m *mesh) Sources() ([]identity.ID, <-chan struct{}) {
	changed := m.overlay.Changed()
	return m.connectedNodes(), changed
}

// Open implements directory.Mesh.
func (m *mesh) Open(ctx context.Context, id identity.ID) (io.ReadWriteCloser, error) {
	s, err := m.overlay.Open(ctx, id, protocolDirectory)
	if err != nil {
		return nil, err // not s: a nil *Stream is not a nil io.ReadWriteCloser
	}
	return s, nil
}

// replicate keeps this node's copy of the directory up to date.
func (m *mesh) replicate(ctx context.Context) error {
	return m.directory.Replicate(ctx, m)
}

// connectedNodes are the nodes that this one is connected to, CAs first.
func (m *mesh) connectedNodes() []identity.ID {
	var cas, others []identity.ID
	for _, p := range m.overlay.Peers() {
		switch {
		case p.ID.Kind != identity.Node:
		case m.isCA(p.ID):
			cas = append(cas, p.ID)
		default:
			others = append(others, p.ID)
		}
	}
	return append(cas, others...)
}

// isCA reports whether id issues certificates. Before the first record has arrived
// no node is known to be a CA, and any node may be asked.
func (m *mesh) isCA(id identity.ID) bool {
	rec, ok := m.directory.Node(id)
	return ok && slices.Contains(rec.Roles, roleCA)
}

// askCA opens a stream to an authority, for enrolments and renewals that came
// to this node and for its own.
func (m *mesh) askCA(ctx context.Context) (io.ReadWriteCloser, error) {
	s, err := m.openToCA(ctx, protocolEnrol)
	if err != nil {
		return nil, err // not s: a nil *Stream is not a nil io.ReadWriteCloser
	}
	return s, nil
}

// openToCA opens a stream of protocol to a node that is a CA.
func (m *mesh) openToCA(ctx context.Context, protocol string) (*overlay.Stream, error) {
	err := errors.New("not connected to a node that is a CA")
	for _, peer := range m.connectedNodes() {
		if known := len(m.directory.Nodes()) > 0; known && !m.isCA(peer) {
			continue
		}
		var s *overlay.Stream
		if s, err = m.overlay.Open(ctx, peer, protocol); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// keepPeers stays connected to every node of the directory.
func (m *mesh) keepPeers(ctx context.Context) error {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	kept := map[identity.ID]bool{m.id: true}
	for r, err := range m.directory.Watch(ctx, 0) {
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
			keeping.Go(func() { m.keepPeer(ctx, rec.ID) })
		}
	}
	return nil
}

func (m *mesh) keepPeer(ctx context.Context, id identity.ID) {
	err := m.overlay.Keep(ctx, overlay.Target{ID: id, Addrs: func() []string {
		rec, _ := m.directory.Node(id)
		if known, ok := m.directory.Identity(id); ok && known.State != directory.Active {
			return nil // revoked: not dialled until it is enrolled again
		}
		return rec.Mesh
	}})
	if err != nil {
		m.log.WithField(logfield.Peer, id.String()).WithError(err).Error("mesh: gave up a peer")
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
func (m *mesh) quiet() bool { return m.directory.Stale() > quietTime }

// dialBootstrap connects to the nodes that answer at the addresses of the site
// ticket, until the first records have arrived, and whenever the writer is not
// heard. keepPeers dials the addresses that the directory knows.
func (m *mesh) dialBootstrap(ctx context.Context) error {
	pause := quietPause
	for ctx.Err() == nil {
		changed := m.overlay.Changed()
		switch {
		case !m.quiet():
			pause = quietPause
			sleep(ctx, quietTime/4, nil)
		case len(m.directory.Nodes()) > 0:
			m.tryBootstrap(ctx, m.log.Debug)
			sleep(ctx, pause, nil)
			pause = min(2*pause, quietPauseMax)
		case len(m.connectedNodes()) == 0:
			m.tryBootstrap(ctx, m.log.Warn)
			sleep(ctx, retryInterval, changed)
		default: // the first records are on their way
			sleep(ctx, retryInterval, changed)
		}
	}
	return nil
}

// tryBootstrap dials each address of the site ticket once.
func (m *mesh) tryBootstrap(ctx context.Context, log func(...any)) {
	for _, addr := range m.bootstrap {
		if _, err := m.overlay.Dial(ctx, addr, identity.ID{}); err != nil && ctx.Err() == nil {
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

// relayChanges calls changed whenever a connection came or went.
func (m *mesh) relayChanges(ctx context.Context, changed func()) error {
	for {
		next := m.overlay.Changed()
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}

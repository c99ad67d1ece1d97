package main

import (
	"context"
	"errors"
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
	protocolDirectory = "hpmq-directory/1" // records, from a node that has them
	protocolEnrol     = "hpmq-enrol/1"     // enrolments, renewals and node addresses, to a CA
)

const (
	roleCA          = "ca"
	retryInterval   = time.Second
	exchangeTimeout = 10 * time.Second
)

// serveDirectory answers one replica until it goes away.
func (n *node) serveDirectory(ctx context.Context, s *overlay.Stream) {
	defer s.Close()
	if err := n.directory.Serve(ctx, s); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		n.log.WithField(logfield.Peer, s.PeerID().String()).WithError(err).Debug("replica went away")
	}
}

// followDirectory keeps this node's replica up to date, from a CA while one is
// reachable, else from any node.
func (n *node) followDirectory(ctx context.Context) error {
	told := map[identity.ID]string{} // what was logged last about each source
	for ctx.Err() == nil {
		changed := n.overlay.Changed()
		for _, source := range n.directorySources() {
			err := n.followOnce(ctx, source)
			if err == nil || ctx.Err() != nil || told[source] == err.Error() {
				continue
			}
			told[source] = err.Error()
			log := n.log.WithField(logfield.Peer, source.String()).WithError(err)
			if _, diverged := errors.AsType[*directory.DivergedError](err); diverged {
				log.Error("directory: this node and another hold different histories; one of them was restored from an old copy")
				continue
			}
			log.Info("directory: lost the source, trying again")
		}
		wait(ctx, changed)
	}
	return nil
}

// wait returns when changed is closed, it is time to try again, or ctx is done.
func wait(ctx context.Context, changed <-chan struct{}) {
	t := time.NewTimer(retryInterval)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}

func (n *node) followOnce(ctx context.Context, source identity.ID) error {
	s, err := n.overlay.Open(ctx, source, protocolDirectory)
	if err != nil {
		return err
	}
	defer s.Close()
	return n.directory.Follow(ctx, s)
}

// directorySources are the connected nodes, CAs first.
func (n *node) directorySources() []identity.ID {
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
func (n *node) isCA(id identity.ID) bool {
	rec, ok := n.directory.Node(id)
	return ok && slices.Contains(rec.Roles, roleCA)
}

// addresses is what the directory shall say about this node.
func (n *node) addresses() directory.Node {
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
func (n *node) announceAddresses(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := n.overlay.Changed()
		err := n.relay.Announce(ctx, n.addresses())
		if err == nil {
			return nil
		}
		n.log.WithError(err).Debug("addresses not announced yet")
		wait(ctx, changed)
	}
	return nil
}

// askCA opens a stream to an authority, for enrolments and renewals that came
// to this node and for its own.
func (n *node) askCA(ctx context.Context) (io.ReadWriteCloser, error) {
	err := errors.New("not connected to a node that is a CA")
	for _, peer := range n.directorySources() {
		if known := len(n.directory.Nodes()) > 0; known && !n.isCA(peer) {
			continue
		}
		var s *overlay.Stream
		if s, err = n.overlay.Open(ctx, peer, protocolEnrol); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// serveCA answers the requests that other nodes pass on.
func (n *node) serveCA(ctx context.Context, s *overlay.Stream) {
	if err := n.authority.ServeStream(ctx, s.PeerID(), s); err != nil && ctx.Err() == nil {
		n.log.WithField(logfield.Peer, s.PeerID().String()).WithError(err).Warn("request over the mesh refused")
	}
}

// keepPeers stays connected to every node of the directory, and to the
// addresses of the site ticket until the first records have arrived.
func (n *node) keepPeers(ctx context.Context) error {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	if len(n.bootstrap) > 0 {
		keeping.Go(func() { n.dialBootstrap(ctx) })
	}
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

func (n *node) keepPeer(ctx context.Context, id identity.ID) {
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

// dialBootstrap connects to whoever answers at the addresses that came with the
// certificate, until the directory knows a node besides this one.
func (n *node) dialBootstrap(ctx context.Context) {
	for ctx.Err() == nil && len(n.directory.Nodes()) == 0 {
		changed := n.overlay.Changed()
		if len(n.directorySources()) == 0 {
			for _, addr := range n.bootstrap {
				if _, err := n.overlay.Dial(ctx, addr, identity.ID{}); err == nil {
					break
				} else if ctx.Err() == nil {
					n.log.WithField(logfield.Remote, addr).WithError(err).Warn("cannot reach the inviting node's mesh port yet")
				}
			}
		}
		wait(ctx, changed)
	}
}

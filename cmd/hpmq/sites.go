package main

import (
	"context"
	"fmt"
	"net"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/mqtt/link"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/overlay"
)

// linkDialer opens links over the mesh.
type linkDialer struct{ overlay *overlay.Node }

// Open implements link.Dialer.
func (d linkDialer) Open(ctx context.Context, peer identity.ID) (net.Conn, error) {
	s, err := d.overlay.Open(ctx, peer, link.Protocol)
	if err != nil {
		return nil, err // not s: a nil *Stream is not a nil net.Conn
	}
	return s, nil
}

// serveLink answers a link that another site opened.
func (n *node) serveLink(ctx context.Context, s *overlay.Stream) {
	n.links.Handle(ctx, s.PeerID(), s)
}

// linkPeers are the nodes that may carry a site's messages.
func (n *node) linkPeers() []link.Peer {
	var peers []link.Peer
	for _, rec := range n.directory.Nodes() {
		if n.knownNode(rec.ID) {
			peers = append(peers, link.Peer{ID: rec.ID, Site: rec.Site})
		}
	}
	return peers
}

// acceptRemote decides about a message of another site. Policy has judged it
// there, by a version that may be newer than ours; what we know better is only
// that somebody is revoked.
func (n *node) acceptRemote(_ identity.ID, m *store.Message) error {
	id, err := identity.ParseID(m.Publisher)
	if err != nil {
		return err
	}
	if id.TrustDomain != n.id.TrustDomain {
		return fmt.Errorf("publisher %s is of another trust domain", id)
	}
	if p, ok := n.directory.Identity(id); ok && p.State == directory.Revoked {
		return fmt.Errorf("publisher %s is revoked", id.Short())
	}
	return nil
}

// relayMeshChanges tells those who wait for sites that a connection came or
// went.
func (n *node) relayMeshChanges(ctx context.Context) error {
	for {
		changed := n.overlay.Changed()
		n.changes.sites.fire()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

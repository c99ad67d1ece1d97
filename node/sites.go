package node

import (
	"context"
	"net"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt/link"
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
func (n *Node) serveLink(ctx context.Context, s *overlay.Stream) {
	n.links.Handle(ctx, s.PeerID(), s)
}

// linkPeers are the nodes that may carry a site's messages.
func (n *Node) linkPeers() []link.Peer {
	connected := make(map[identity.ID]bool)
	for _, p := range n.overlay.Peers() {
		connected[p.ID] = true
	}
	var peers []link.Peer
	for _, rec := range n.directory.Nodes() {
		if n.trust.KnownNode(rec.ID) {
			peers = append(peers, link.Peer{ID: rec.ID, Site: rec.Site, Connected: connected[rec.ID]})
		}
	}
	return peers
}

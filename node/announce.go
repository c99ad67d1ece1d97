package node

import (
	"context"

	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

// addresses returns this node's record for the directory.
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

// serveCA answers the requests that other nodes pass on.
func (n *Node) serveCA(ctx context.Context, s *overlay.Stream) {
	if err := n.authority.ServeStream(ctx, s.PeerID(), s); err != nil && ctx.Err() == nil {
		n.log.WithField(logfield.Peer, s.PeerID().String()).WithError(err).Warn("request over the mesh refused")
	}
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

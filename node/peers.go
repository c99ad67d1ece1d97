package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// acceptPeer decides who may connect to the mesh port: nodes, and the agents of
// devices. What they may say there, protocols decides.
func (n *Node) acceptPeer(id identity.ID) error {
	switch id.Kind {
	case identity.Node:
		// A node that has just joined is in no replica yet; its certificate is
		// enough to be told the rest.
		return nil
	case identity.Device:
		if _, err := n.trust.Subject(id); err != nil {
			return fmt.Errorf("%s is not enrolled, or not any more", id.Short())
		}
		return nil
	case identity.User, identity.Service, identity.Function:
	}
	return errors.New("only nodes and devices connect to the mesh")
}

// knownNode vouches for a node to gossip.
func (n *Node) knownNode(id identity.ID) bool {
	known, ok := n.directory.Identity(id)
	return ok && known.State == directory.Active && id.Kind == identity.Node
}

// protocols lets nodes speak everything and everybody else nothing: agents only
// answer.
type protocols struct{}

// Allow implements overlay.Authorizer.
func (protocols) Allow(peer identity.ID, protocol string) error {
	if peer.Kind != identity.Node {
		return fmt.Errorf("%s may not open %s here", peer.Short(), protocol)
	}
	return nil
}

// agents are the devices that are connected to this node's mesh port.
func (n *Node) agents() map[identity.ID]time.Time {
	connected := map[identity.ID]time.Time{}
	for _, p := range n.overlay.Peers() {
		if p.ID.Kind == identity.Device {
			connected[p.ID] = p.Since
		}
	}
	return connected
}

// sessionsOf counts the MQTT sessions of each identity.
func (n *Node) sessionsOf() map[identity.ID]int {
	count := map[identity.ID]int{}
	for _, s := range n.broker.Sessions() {
		if s.Connected {
			count[s.Identity]++
		}
	}
	return count
}

package node

import (
	"errors"
	"fmt"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt"
)

// acceptPeer decides which identities may connect to the mesh port: nodes, and the
// agents of devices. Which protocols they may open there, protocols decides.
func (n *Node) acceptPeer(id identity.ID) error {
	switch id.Kind {
	case identity.Node:
		// A node that has just joined is in no replica yet. Its certificate is enough
		// to fetch the directory.
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

// protocols lets nodes open every protocol and other peers none: agents only
// answer.
type protocols struct{}

// Allow implements overlay.Authorizer.
func (protocols) Allow(peer identity.ID, protocol string) error {
	if peer.Kind != identity.Node {
		return fmt.Errorf("%s may not open %s here", peer.Short(), protocol)
	}
	return nil
}

// sessionsOf counts the MQTT sessions of each identity.
func sessionsOf(b *mqtt.Broker) map[identity.ID]int {
	count := map[identity.ID]int{}
	for _, s := range b.Sessions() {
		if s.Connected {
			count[s.Identity]++
		}
	}
	return count
}

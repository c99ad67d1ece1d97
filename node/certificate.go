package node

import (
	"time"

	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy"
)

// certificate returns what policy says about the certificates of p. The node's own
// first one is issued before there is a policy, with the default lifetime.
func (n *Node) certificate(p directory.Identity) policy.Certificate {
	if n.policy == nil {
		return policy.Certificate{}
	}
	return n.policy.Set().Certificate(policy.Subject{ID: p.ID, Labels: p.Labels, Site: p.Site})
}

func (n *Node) lifetime(p directory.Identity) (lifetime, grace time.Duration) {
	c := n.certificate(p)
	return c.Lifetime, c.Grace
}

func (n *Node) maxStale(p directory.Identity) time.Duration { return n.certificate(p).MaxStale }

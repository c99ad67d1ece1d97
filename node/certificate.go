package node

import (
	"time"

	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/policy"
)

// certificates answers from the policy what it says about certificates: lifetime, grace
// and max_stale. set returns the policy in force. It returns nil before there is a
// policy: the node's own first certificate is issued then, with the defaults.
type certificates struct{ set func() *policy.Set }

func (c certificates) of(p directory.Identity) policy.Certificate {
	set := c.set()
	if set == nil {
		return policy.Certificate{}
	}
	return set.Certificate(policy.Subject{ID: p.ID, Labels: p.Labels, Site: p.Site})
}

func (c certificates) lifetime(p directory.Identity) (lifetime, grace time.Duration) {
	of := c.of(p)
	return of.Lifetime, of.Grace
}

func (c certificates) maxStale(p directory.Identity) time.Duration { return c.of(p).MaxStale }

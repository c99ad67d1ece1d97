package node

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/authority"
)

// How the certificates of this data directory are renewed.

// renew keeps two certificates fresh: this node's, and that of the operator who
// logged in here.
func (n *Node) renew(ctx context.Context) error {
	send := n.renewal()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		r := &identity.Renewer{Store: n.store, Send: send, Names: n.names, CRL: n.crl, Log: n.log}
		if !n.certified() { // the node's address has changed, or a renewal is overdue
			if err := r.Renew(ctx); err != nil && ctx.Err() == nil {
				n.log.WithError(err).Warn("this node's certificate does not name all of its addresses yet")
			}
		}
		return r.Run(ctx)
	})
	g.Go(func() error { return n.renewUser(ctx, send) })
	return g.Wait()
}

// renewUser renews the operator that hpmq login put there, also when the login comes
// while the node runs.
func (n *Node) renewUser(ctx context.Context, send identity.Renewal) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		if err := n.user.Reload(); err == nil && dueNow(n.user) {
			if err := n.renewOperator(ctx, send); err != nil && ctx.Err() == nil {
				n.log.WithError(err).Warn("the operator's certificate was not renewed; hpmq login makes a new one")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// dueNow reports whether a store has a certificate that is due for renewal.
func dueNow(s *identity.Store) bool {
	return s.SVID() != nil && identity.Due(s.SVID(), time.Now())
}

func (n *Node) renewOperator(ctx context.Context, send identity.Renewal) error {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	if n.authority != nil { // after a night's sleep there is nothing left to renew
		if err := n.issueAdmin(ctx); err != nil {
			return err
		}
	}
	if !dueNow(n.user) || !time.Now().Before(n.user.SVID().NotAfter()) {
		return nil // renewed just now, or over: then only hpmq login helps
	}
	r := &identity.Renewer{Store: n.user, Send: send, CRL: n.crl, Log: n.log}
	return r.Renew(ctx)
}

// renewal is this node's way to a CA. The mesh is the nearest, but it refuses a node
// with a certificate that has ended. HTTPS does not refuse it, neither at a CA nor at
// a node that reaches a CA.
func (n *Node) renewal() identity.Renewal {
	if n.authority != nil {
		return n.authority.Renew
	}
	return identity.FirstRenewal(n.relay.Renew, identity.HTTPRenewal(n.store, n.renewalAddrs, nil))
}

// crl is this node's way to the revocation lists.
func (n *Node) crl() []identity.CRLSource {
	if n.authority != nil {
		return []identity.CRLSource{n.authority.CRL}
	}
	return append([]identity.CRLSource{n.relay.CRL}, identity.HTTPCRL(n.store, n.renewalAddrs(), nil)...)
}

// maxRenewalAddrs bounds how many addresses one renewal tries.
const maxRenewalAddrs = 32

// renewalAddrs are the addresses where this node may renew. First come the
// directory's: CAs, nodes of its site, other nodes. Then come the addresses in the
// last answer and in the site ticket.
func (n *Node) renewalAddrs() []string {
	addrs := authority.AddressesOf(authority.Nearest(n.directory, n.id, n.site), maxRenewalAddrs).API
	if e, err := n.store.Enrolment(); err == nil && e != nil {
		addrs = append(addrs, e.Known().API...)
	}
	own := n.addresses().API
	seen := map[string]bool{}
	addrs = slices.DeleteFunc(addrs, func(addr string) bool {
		known := seen[addr] || slices.Contains(own, addr)
		seen[addr] = true
		return known
	})
	return addrs[:min(len(addrs), maxRenewalAddrs)]
}

package node

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/link"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/overlay/gossip"
	"github.com/hpmq/hpmq/policy"
)

// Status reports what the node is, what it serves and which peers it sees.
func (n *Node) Status() *control.Status {
	head := n.directory.Head()
	s := &control.Status{
		Node: n.id.Name, ID: n.id.String(), Site: n.site, TrustDomain: n.id.TrustDomain, Version: n.cfg.Version,
		PID: os.Getpid(), Started: n.started, Certificate: n.store.SVID().NotAfter(), CA: n.authority != nil,
		Listeners: n.listeners(), Broker: brokerCounters(n.broker), Functions: n.functions.list(),
		Directory: control.DirectoryStatus{Records: n.directory.Tip().Count, Signed: head.Time(), Writer: n.directory.Writable()},
		Nodes:     n.nodeRecords(), Peers: peersOf(n.overlay, n.gossip), Links: linksOf(n.links, n.nodeRecords()), Warnings: []string{},
	}
	s.Policy = n.policyStatus()
	for _, text := range []string{n.quietWarning(), n.agentRules.warning()} {
		if text != "" {
			s.Warnings = append(s.Warnings, text)
		}
	}
	if ahead := time.Until(head.Time()); ahead > clockSkew {
		s.Warnings = append(s.Warnings, fmt.Sprintf("this machine's clock is %s behind the directory's writer: set it", ahead.Round(time.Second)))
	}
	if n.policy.Set().Version() == 1 {
		s.Warnings = append(s.Warnings, policy.UnboundSites)
	}
	if text := certificateWarning(n.store.SVID(), time.Now()); text != "" {
		s.Warnings = append(s.Warnings, text)
	}
	return s
}

// clockSkew is how far two clocks may be apart before status warns.
const clockSkew = 5 * time.Minute

// quietWarning says since when the writer is not heard and what follows from it, ""
// when it is heard.
func (n *Node) quietWarning() string {
	if !n.mesh.quiet() {
		return ""
	}
	const then = "; policy and revocations may be older here than they are elsewhere"
	if n.directory.Head().UnixMilli == 0 {
		return "the directory's writer has not been heard of yet" + then
	}
	stale := n.directory.Stale()
	text := fmt.Sprintf("the directory's writer was last heard of %s ago", stale.Round(time.Second)) + then
	switch left := n.cfg.OfflineMax - stale; {
	case n.cfg.OfflineMax == 0:
	case left > 0:
		text += fmt.Sprintf("; certificates that ended since are served for %s more (--offline-max)", left.Round(time.Second))
	default:
		text += "; certificates that ended since are not served any more (--offline-max)"
	}
	return text
}

// certificateWarning says what happens to a node with a certificate that was not
// renewed in time, "" when there is no danger. Nodes and agents follow the offline
// rule; stock clients go by their own clocks.
func certificateWarning(svid *identity.SVID, now time.Time) string {
	end := svid.NotAfter()
	life := end.Sub(identity.Issued(svid.Leaf()))
	switch at := end.UTC().Format(time.RFC3339); {
	case now.After(end):
		return "this node's certificate ended at " + at + ": stock clients refuse it; it is renewed as soon as a CA can be reached"
	case now.After(end.Add(-life / 4)):
		return "this node's certificate ends at " + at + ", and from then on stock clients refuse it: no CA could be reached to renew it"
	case now.After(identity.RenewAt(svid).Add(life / 20)):
		return "this node's certificate should have been renewed at " + identity.RenewAt(svid).UTC().Format(time.RFC3339) +
			", and ends at " + at + ": is a CA node reachable?"
	}
	return ""
}

func (n *Node) policyStatus() control.PolicyStatus {
	set := n.policy.Set()
	p := control.PolicyStatus{Version: n.policyVersion(), Grants: set.Len(), Tests: len(set.RunTests())}
	if since := n.policySince.Load(); since != nil {
		p.Since = *since
	}
	if text := n.policyError.Load(); text != nil {
		p.Error = *text
	}
	return p
}

func brokerCounters(b *mqtt.Broker) map[string]int64 {
	c := b.Counters()
	return map[string]int64{
		"clients": int64(c.Clients), "sessions": int64(c.Sessions), "subscriptions": int64(c.Subscriptions),
		"retained": int64(c.Store.Retained), "queued": int64(c.Store.Queued),
		"received": int64(c.MessagesReceived), "sent": int64(c.MessagesSent), "dropped": int64(c.MessagesDropped),
		"injected": int64(c.MessagesInjected), "forwarded": int64(c.MessagesForwarded),
		"denied":          int64(c.DeniedLogin + c.DeniedConnect + c.DeniedPublish + c.DeniedSubscribe + c.DeniedReceive + c.DeniedFunction),
		"denied_login":    int64(c.DeniedLogin),
		"denied_publish":  int64(c.DeniedPublish),
		"filter_dropped":  int64(c.FilterDropped),
		"filter_rejected": int64(c.FilterRejected),
	}
}

func peersOf(o *overlay.Node, g *gossip.Gossip) []control.Peer {
	members := map[identity.ID]gossip.Member{}
	for _, m := range g.Members() {
		members[m.ID] = m
	}
	out := []control.Peer{}
	for _, p := range o.Peers() {
		m := members[p.ID]
		out = append(out, control.Peer{
			ID: p.ID.String(), Remote: p.Remote.String(), Since: p.Since, RTT: p.RTT.Seconds(),
			Gossip: string(m.Status), Site: m.Site, Streams: p.Streams,
		})
	}
	slices.SortFunc(out, func(a, b control.Peer) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

func linksOf(links *link.Links, records []control.NodeRecords) []control.Link {
	out := []control.Link{}
	nodes := map[string][]control.NodeRecords{}
	for _, r := range records {
		nodes[r.Site] = append(nodes[r.Site], r)
	}
	for _, l := range links.Stats() {
		state := "up"
		if !l.Up {
			state = "down: " + l.Reason
		}
		out = append(out, control.Link{
			Site: l.Site, Peer: l.Peer.Name, State: state, Since: l.Since, Heard: l.Heard, Interest: l.Interest, Queued: l.Queued,
			Sent: l.Sent, Received: l.Received, Dropped: l.Dropped, Missing: l.Missing, Withheld: l.Withheld,
			Nodes: append([]control.NodeRecords{}, nodes[l.Site]...),
		})
	}
	return out
}

// secondNode warns of an invitation to a site that has a node.
func (n *api) secondNode(site string) string {
	name := ""
	if site == n.site {
		name = n.id.Name
	}
	for _, rec := range n.otherNodes() {
		if rec.Site == site {
			name = rec.ID.Name
		}
	}
	if name == "" {
		return ""
	}
	return fmt.Sprintf("site %s has a node, %s: two nodes of one site exchange no messages yet, and other sites send "+
		"to one of them only; if that node is gone for good, revoke it: hpmq device revoke node:%s",
		site, name, name)
}

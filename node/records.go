package node

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/node/control"
)

// A change is recorded at the node that holds the directory's writer first. This
// file tells which other nodes have it, and lets commands wait for them.

// otherNodes are the active nodes of the fabric but this one, by site and name.
func (n *Node) otherNodes() []directory.Node {
	var all []directory.Node
	for _, rec := range n.directory.Nodes() {
		if rec.ID != n.id && n.trust.KnownNode(rec.ID) {
			all = append(all, rec)
		}
	}
	slices.SortFunc(all, func(a, b directory.Node) int {
		return cmp.Or(strings.Compare(a.Site, b.Site), strings.Compare(a.ID.Name, b.ID.Name))
	})
	return all
}

// control.NodeRecords lists how far the other nodes are, as far as they told this one.
func (n *Node) nodeRecords() []control.NodeRecords {
	reports := n.directory.Replicas()
	all := []control.NodeRecords{}
	for _, rec := range n.otherNodes() {
		r := reports[rec.ID]
		all = append(all, control.NodeRecords{
			Site: rec.Site, Node: rec.ID.Name, Connected: n.overlay.Connected(rec.ID),
			Records: r.Point.Count, Policy: r.Policy, Heard: r.Heard,
		})
	}
	return all
}

// awaitRecorded answers once all other nodes have the records that q asks about,
// or its time is over.
func (n *api) awaitRecorded(r *http.Request, q control.AwaitRequest) (*control.Recorded, error) {
	wait := time.Duration(q.Wait * float64(time.Second))
	if wait < 0 || wait > control.MaxAwait {
		return nil, control.Invalidf("cannot wait %s for other nodes: 0 to %s", wait, control.MaxAwait)
	}
	var ids []identity.ID
	for _, rec := range n.otherNodes() {
		if rec.ID.String() != q.Except {
			ids = append(ids, rec.ID)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	n.directory.AwaitReplicas(ctx, q.Records, ids)
	a := &control.Recorded{Records: q.Records, HeldBy: []control.NodeRecords{}, Missing: []control.NodeRecords{}}
	for _, rec := range n.nodeRecords() {
		switch {
		case rec.Records >= q.Records:
			a.HeldBy = append(a.HeldBy, rec)
		case slices.ContainsFunc(ids, func(id identity.ID) bool { return id.Name == rec.Node }):
			a.Missing = append(a.Missing, rec)
		}
	}
	return a, nil
}

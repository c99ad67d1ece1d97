package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
)

// A change is recorded at the node that holds the directory's writer first. This
// file tells which other nodes have it, and lets commands wait for them.

// maxAwait bounds how long the control API waits for other nodes.
const maxAwait = 4 * time.Minute

// awaitWait is how long a command waits for other nodes if --wait says nothing,
// and awaitQuiet after how long it says so on a terminal.
const (
	awaitWait  = 10 * time.Second
	awaitQuiet = time.Second
)

type awaitRequest struct {
	Records uint64  `json:"records"`      // that a node shall hold
	Wait    float64 `json:"wait_seconds"` // for the nodes that lack them; 0 is not at all
	Except  string  `json:"except"`       // identity not to wait for
}

// nodeRecords is what another node last said of its copy of the directory.
type nodeRecords struct {
	Site      string    `json:"site"`
	Node      string    `json:"node"`
	Connected bool      `json:"connected"`
	Records   uint64    `json:"records"` // 0 when it has not been heard since this node started
	Policy    uint64    `json:"policy"`  // version in force there; 0 likewise
	Heard     time.Time `json:"heard,omitzero"`
}

// recordedReply says where a change is known. Other commands embed it.
type recordedReply struct {
	Records uint64        `json:"records"` // in the directory, the change among them
	HeldBy  []nodeRecords `json:"held_by"`
	Missing []nodeRecords `json:"missing"` // nodes that are not known to have the change
}

// otherNodes are the active nodes of the fabric but this one, by site and name.
func (n *node) otherNodes() []directory.Node {
	var all []directory.Node
	for _, rec := range n.directory.Nodes() {
		if rec.ID != n.id && n.knownNode(rec.ID) {
			all = append(all, rec)
		}
	}
	slices.SortFunc(all, func(a, b directory.Node) int {
		return cmp.Or(strings.Compare(a.Site, b.Site), strings.Compare(a.ID.Name, b.ID.Name))
	})
	return all
}

// nodeRecords lists how far the other nodes are, as far as they told this one.
func (n *node) nodeRecords() []nodeRecords {
	reports := n.directory.Replicas()
	all := []nodeRecords{}
	for _, rec := range n.otherNodes() {
		r := reports[rec.ID]
		all = append(all, nodeRecords{
			Site: rec.Site, Node: rec.ID.Name, Connected: n.overlay.Connected(rec.ID),
			Records: r.Point.Count, Policy: r.Policy, Heard: r.Heard,
		})
	}
	return all
}

// awaitRecorded answers once all other nodes have the records that q asks about,
// or its time is over.
func (n *node) awaitRecorded(r *http.Request, q awaitRequest) (*recordedReply, error) {
	wait := time.Duration(q.Wait * float64(time.Second))
	if wait < 0 || wait > maxAwait {
		return nil, usagef("cannot wait %s for other nodes: 0 to %s", wait, maxAwait)
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
	a := &recordedReply{Records: q.Records, HeldBy: []nodeRecords{}, Missing: []nodeRecords{}}
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

// addWaitFlag gives a command that records something its --wait.
func addWaitFlag(cmd *cobra.Command) {
	cmd.Flags().Duration("wait", awaitWait, "how long to wait until the other nodes have the record; 0 does not wait")
}

// awaitNodes waits as --wait says. The change is recorded by then, so a failure
// to ask is no failure of the command.
func (c *control) awaitNodes(cmd *cobra.Command, records uint64, except string) (recordedReply, error) {
	wait, err := cmd.Flags().GetDuration("wait")
	if err != nil {
		return recordedReply{}, err
	}
	var a recordedReply
	ask := func(wait time.Duration) error {
		return c.post(cmd.Context(), "/v1/records/await", awaitRequest{Records: records, Wait: wait.Seconds(), Except: except}, &a)
	}
	if err := ask(min(wait, awaitQuiet)); err != nil || len(a.Missing) == 0 || wait <= awaitQuiet {
		return a, err
	}
	if terminal(cmd.ErrOrStderr()) {
		fmt.Fprintf(cmd.ErrOrStderr(), "recorded; waiting for %s (Ctrl-C does not undo it)\n", nodeNames(a.Missing))
	}
	err = ask(wait - awaitQuiet)
	return a, err
}

// checkWait refuses a --wait that no node grants, before anything is recorded.
func checkWait(cmd *cobra.Command) error {
	wait, err := cmd.Flags().GetDuration("wait")
	if err == nil && (wait < 0 || wait > maxAwait) {
		err = usagef("--wait %s: want 0 to %s", wait, maxAwait)
	}
	return err
}

// print says where the change is known, and claims no more than the nodes said.
func (a *recordedReply) print(w io.Writer) {
	if len(a.HeldBy)+len(a.Missing) == 0 {
		return // there is no other node
	}
	if len(a.HeldBy) > 0 {
		fmt.Fprintf(w, "known at %s\n", nodeNames(a.HeldBy))
	}
	for _, m := range a.Missing {
		fmt.Fprintf(w, "not known yet at %s (%s): %s\n", m.Site, m.Node, m.state(a.Records, time.Now()))
	}
	if len(a.Missing) > 0 {
		fmt.Fprintf(w, "a node that lacks the record goes on as before until it is connected\n")
	}
}

func nodeNames(all []nodeRecords) string {
	var names []string
	for _, r := range all {
		names = append(names, fmt.Sprintf("%s (%s)", r.Site, r.Node))
	}
	return strings.Join(names, ", ")
}

// state says how far a node is beside the records that there are here.
func (r *nodeRecords) state(records uint64, now time.Time) string {
	if r.Heard.IsZero() {
		return "not heard of since this node started"
	}
	s := fmt.Sprintf("%d of %d records, policy version %d", r.Records, records, r.Policy)
	if r.Records > records {
		s = fmt.Sprintf("%d records, more than here, policy version %d", r.Records, r.Policy)
	}
	if !r.Connected {
		s += ", not connected, last heard of " + ago(r.Heard, now)
	}
	return s
}

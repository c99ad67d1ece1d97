package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

// A change is recorded at the node that holds the directory's writer first. The
// commands that make one wait for the other nodes and tell which of them have it.

// awaitWait is how long a command waits for other nodes if --wait says nothing,
// and awaitQuiet after how long it says so on a terminal.
const (
	awaitWait  = 10 * time.Second
	awaitQuiet = time.Second
)

// addWaitFlag gives a command that records something its --wait.
func addWaitFlag(cmd *cobra.Command) {
	cmd.Flags().Duration("wait", awaitWait, "how long to wait until the other nodes have the record; 0 does not wait")
}

// awaitNodes waits as --wait says. The change is recorded by then, so a failure
// to ask is no failure of the command.
func awaitNodes(cmd *cobra.Command, records uint64, except string) (control.Recorded, error) {
	wait, err := cmd.Flags().GetDuration("wait")
	if err != nil {
		return control.Recorded{}, err
	}
	await := func(wait time.Duration) (*control.Recorded, error) {
		return askNode(cmd, control.AwaitRecords, control.AwaitRequest{Records: records, Wait: wait.Seconds(), Except: except})
	}
	a, err := await(min(wait, awaitQuiet))
	if err != nil {
		return control.Recorded{}, err
	}
	if len(a.Missing) == 0 || wait <= awaitQuiet {
		return *a, nil
	}
	if terminal(cmd.ErrOrStderr()) {
		fmt.Fprintf(cmd.ErrOrStderr(), "recorded; waiting for %s (Ctrl-C does not undo it)\n", nodeNames(a.Missing))
	}
	if a, err = await(wait - awaitQuiet); err != nil {
		return control.Recorded{}, err
	}
	return *a, nil
}

// checkWait refuses a --wait that no node grants, before anything is recorded.
func checkWait(cmd *cobra.Command) error {
	wait, err := cmd.Flags().GetDuration("wait")
	if err == nil && (wait < 0 || wait > control.MaxAwait) {
		err = control.Invalidf("--wait %s: want 0 to %s", wait, control.MaxAwait)
	}
	return err
}

// printRecorded says where the change is known, and claims no more than the nodes said.
func printRecorded(w io.Writer, a *control.Recorded) {
	if len(a.HeldBy)+len(a.Missing) == 0 {
		return // there is no other node
	}
	if len(a.HeldBy) > 0 {
		fmt.Fprintf(w, "known at %s\n", nodeNames(a.HeldBy))
	}
	for _, m := range a.Missing {
		fmt.Fprintf(w, "not known yet at %s (%s): %s\n", m.Site, m.Node, recordsText(m, a.Records, time.Now()))
	}
	if len(a.Missing) > 0 {
		fmt.Fprintf(w, "a node that lacks the record goes on as before until it is connected\n")
	}
}

func nodeNames(all []control.NodeRecords) string {
	var names []string
	for _, r := range all {
		names = append(names, fmt.Sprintf("%s (%s)", r.Site, r.Node))
	}
	return strings.Join(names, ", ")
}

// recordsText says how far a node is beside the records that there are here.
func recordsText(r control.NodeRecords, records uint64, now time.Time) string {
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

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

func newStatusCommand() *cobra.Command {
	status := &cobra.Command{
		Use:     "status",
		Short:   "Show what this node is, serves and sees",
		Example: "  hpmq status\n  hpmq status -o json",
		Args:    cobra.NoArgs,
	}
	addOutputFlag(status)
	status.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := askNode(cmd, control.GetStatus, control.None{})
		if err != nil {
			return err
		}
		return printAnswer(cmd, s, func(w io.Writer) { printStatus(w, s, time.Now()) })
	}
	return status
}

func printStatus(w io.Writer, s *control.Status, now time.Time) {
	role := "node"
	if s.CA {
		role = "node, certificate authority"
	}
	fmt.Fprintf(w, "%s  site %s  %s  (%s, up %s)\n", s.Node, s.Site, s.ID, role, strings.TrimSuffix(ago(s.Started, now), " ago"))
	printListeners(w, s.Listeners)
	b := s.Broker
	fmt.Fprintf(w, "  mqtt       %d clients, %d sessions, %d subscriptions, %d retained; %d in, %d out, %d dropped, %d denied\n",
		b["clients"], b["sessions"], b["subscriptions"], b["retained"], b["received"], b["sent"], b["dropped"], b["denied"])
	fmt.Fprintf(w, "  policy     version %d, %d grants, %d tests pass\n", s.Policy.Version, s.Policy.Grants, s.Policy.Tests)
	writer := "replica"
	if s.Directory.Writer {
		writer = "writer"
	}
	signed := "not signed yet"
	if s.Directory.Signed.Unix() > 0 {
		signed = "signed " + ago(s.Directory.Signed, now)
	}
	fmt.Fprintf(w, "  directory  %d records, head %s (%s)\n", s.Directory.Records, signed, writer)
	if ends := ago(s.Certificate, now); now.After(s.Certificate) {
		fmt.Fprintf(w, "  identity   certificate expired %s\n", ends)
	} else {
		fmt.Fprintf(w, "  identity   certificate expires in %s\n", ends)
	}
	for _, r := range s.Nodes {
		fmt.Fprintf(w, "  node       %s (%s) %s\n", r.Site, r.Node, recordsText(r, s.Directory.Records, now))
	}
	for _, l := range s.Links {
		fmt.Fprintf(w, "  link       %s (%s) %s: %d filters wanted there, %d queued, %d sent, %d received, %d dropped\n",
			l.Site, l.Peer, l.State, l.Interest, l.Queued, l.Sent, l.Received, l.Dropped)
	}
	for _, f := range s.Functions {
		fmt.Fprintf(w, "  function   %s %.12s: %d calls, %d errors, bound by %s\n",
			f.Name, f.SHA256, f.Calls, f.Errors, strings.Join(f.Bindings, ", "))
	}
	if s.Policy.Error != "" {
		fmt.Fprintf(w, "warning: the newest policy files are not in force: %s\n", s.Policy.Error)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
}

func printListeners(w io.Writer, listeners []control.Listener) {
	for _, l := range listeners {
		fmt.Fprintf(w, "  %-10s %-22s %s\n", l.Name, l.Address, l.Note)
	}
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node"
	"github.com/hpmq/hpmq/node/control"
)

func newSiteCommand() *cobra.Command {
	site := &cobra.Command{Use: "site", Short: "Bring other places into the fabric"}
	site.AddCommand(newSiteInviteCommand(), newSiteListCommand(), newSiteRemoveCommand())
	return site
}

func newSiteInviteCommand() *cobra.Command {
	invite := &cobra.Command{
		Use:   "invite SITE",
		Short: "Print a one-time ticket with which a node joins as SITE",
		Example: `  hpmq site invite lyon
  # then, on the machine at lyon:
  hpmq up --site lyon --join hpmq1.…`,
		Args: cobra.ExactArgs(1),
	}
	addTicketFlags(invite, 24*time.Hour)
	name := invite.Flags().String("name", "", "the node's `name` (default: SITE and four random letters)")
	invite.RunE = func(cmd *cobra.Command, args []string) error {
		if *name == "" {
			*name = node.NewName(args[0])
		}
		return mintTicket(cmd, control.TicketRequest{Kind: string(identity.Node), Name: *name, Site: args[0]},
			"on the machine at "+args[0]+": hpmq up --site "+args[0]+" --join TICKET")
	}
	return invite
}

func newSiteListCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List sites, their nodes and the links to them", Args: cobra.NoArgs}
	addOutputFlag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := askNode(cmd, control.GetStatus, control.None{})
		if err != nil {
			return err
		}
		return printEntries(cmd, s.Links, func(w io.Writer) {
			here := s.Directory.Records
			rows := [][]string{{s.Site, s.Node, "this node", "-", "-", fmt.Sprint(here), fmt.Sprint(s.Policy.Version)}}
			for _, r := range s.Nodes {
				if r.Site == s.Site {
					rows = append(rows, append([]string{r.Site, r.Node, "none: a node of this site", "-", "-"}, recordColumns(r)...))
				}
			}
			for _, l := range s.Links {
				rows = append(rows, linkRows(l)...)
			}
			printTable(w, []string{"SITE", "NODE", "LINK", "QUEUED", "DROPPED", "RECORDS", "POLICY"}, rows)
		})
	}
	return list
}

func newSiteRemoveCommand() *cobra.Command {
	remove := &cobra.Command{
		Use:   "remove SITE",
		Short: "End a site: its nodes, and what waits for it at the other sites",
		Long: `End a site for good: its nodes are revoked, and the other sites forget what waits
for it. Devices and people who have their home there stay enrolled. A node that
joins as this site later begins with nothing.`,
		Example: "  hpmq site remove lyon",
		Args:    cobra.ExactArgs(1),
	}
	addOutputFlag(remove)
	addWaitFlag(remove)
	remove.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(cmd); err != nil {
			return err
		}
		a, err := askNode(cmd, control.RemoveSite, control.None{}, args[0])
		if err != nil {
			return err
		}
		if a.Recorded, err = awaitNodes(cmd, a.Records, ""); err != nil {
			return err
		}
		return printAnswer(cmd, a, func(w io.Writer) {
			fmt.Fprintf(w, "removed site %s and its nodes: %s\n", a.Site, cmp.Or(strings.Join(a.Nodes, ", "), "none was left"))
			printRecorded(w, &a.Recorded)
			if a.Left > 0 {
				fmt.Fprintf(w, "%d identities have their home there and stay; see: hpmq device list\n", a.Left)
			}
		})
	}
	return remove
}

// linkRows shows a site: the node that carries the link, and then its other nodes.
func linkRows(l control.Link) [][]string {
	first := []string{l.Site, l.Peer, l.State, fmt.Sprint(l.Queued), fmt.Sprint(l.Dropped), "-", "-"}
	rows := [][]string{first}
	for _, r := range l.Nodes {
		if r.Node == l.Peer {
			copy(first[5:], recordColumns(r))
			continue
		}
		state := "not connected"
		if r.Connected {
			state = "connected; the link is at " + l.Peer
		}
		rows = append(rows, append([]string{l.Site, r.Node, state, "-", "-"}, recordColumns(r)...))
	}
	return rows
}

// recordColumns are the records and the policy version that a node said it has.
func recordColumns(r control.NodeRecords) []string {
	if r.Heard.IsZero() {
		return []string{"not heard", "-"}
	}
	return []string{fmt.Sprint(r.Records), fmt.Sprint(r.Policy)}
}

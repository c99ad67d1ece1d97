package main

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
)

func newSiteCommand() *cobra.Command {
	site := &cobra.Command{Use: "site", Short: "Bring other places into the fabric"}
	site.AddCommand(newSiteInviteCommand(), newSiteListCommand())
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
			*name = nodeName(args[0])
		}
		return mintTicket(cmd, ticketRequest{Kind: string(identity.Node), Name: *name, Site: args[0]},
			"on the machine at "+args[0]+": hpmq up --site "+args[0]+" --join TICKET")
	}
	return invite
}

// nodeName makes a name for a new node at site: names are never reused, so a
// node that is set up again gets another one.
func nodeName(site string) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return site + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:])[:4])
}

func newSiteListCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List sites, their nodes and the links to them", Args: cobra.NoArgs}
	addOutputFlag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dialControl(cmd)
		if err != nil {
			return err
		}
		var s statusReply
		if err := c.get(cmd.Context(), "/v1/status", &s); err != nil {
			return err
		}
		return printAnswer(cmd, s.Links, func(w io.Writer) {
			rows := [][]string{{s.Site, s.Node, "this node", "-", "-"}}
			for _, l := range s.Links {
				rows = append(rows, []string{l.Site, l.Peer, l.State, fmt.Sprint(l.Queued), fmt.Sprint(l.Dropped)})
			}
			printTable(w, []string{"SITE", "NODE", "LINK", "QUEUED", "DROPPED"}, rows)
		})
	}
	return list
}

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/node/control"
)

func newEnrollCommand() *cobra.Command {
	enroll := &cobra.Command{Use: "enroll", Short: "Bring devices into the fabric"}
	ticket := &cobra.Command{
		Use:   "ticket --name NAME [--role ROLE]",
		Short: "Print a one-time ticket; hpmq-enroll on the device turns it into a certificate",
		Example: `  hpmq enroll ticket --name pump-7 --role sensor
  hpmq enroll ticket --name plc-3 --label model=s7 --site lyon --ttl 1h -o json`,
		Args: cobra.NoArgs,
	}
	name := ticket.Flags().String("name", "", "the device's `name`, for ever (required)")
	role := ticket.Flags().String("role", "", "short for --label role=`ROLE`")
	addTicketFlags(ticket, 24*time.Hour)
	ticket.RunE = func(cmd *cobra.Command, _ []string) error {
		if *name == "" {
			return control.Invalidf("which device? add --name pump-7")
		}
		labels, err := labelFlags(cmd)
		if err != nil {
			return err
		}
		if *role != "" {
			labels["role"] = *role
		}
		return mintTicket(cmd, control.TicketRequest{Kind: string(identity.Device), Name: *name, Labels: labels},
			"on the device: hpmq-enroll --out "+*name+" TICKET")
	}
	enroll.AddCommand(ticket, newVoidCommand())
	return enroll
}

func newVoidCommand() *cobra.Command {
	void := &cobra.Command{
		Use:   "void NAME|TICKET",
		Short: "Make the unused tickets for a name void",
		Long: `Make the unused tickets for a name void: every one that was made so far, for
devices, people or nodes. A ticket stands for its name. Tickets that are made
afterwards are good, and whoever enrolled already stays; for that there is
hpmq device revoke.`,
		Example: `  hpmq enroll void pump-7
  hpmq enroll void user:anna
  hpmq enroll void hpmq1.…`,
		Args: cobra.ExactArgs(1),
	}
	addOutputFlag(void)
	addWaitFlag(void)
	void.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(cmd); err != nil {
			return err
		}
		name := args[0]
		switch t, err := identity.ParseTicket(name); {
		case err == nil:
			name = t.Identity().String()
		case !errors.Is(err, identity.ErrNotTicket):
			return control.Fail(control.Invalid, "paste the whole ticket, or give its name", err)
		}
		a, err := askNode(cmd, control.VoidTickets, control.None{}, name)
		if err != nil {
			return err
		}
		if a.Recorded, err = awaitNodes(cmd, a.Records, ""); err != nil {
			return err
		}
		return printAnswer(cmd, a, func(w io.Writer) {
			printRecorded(w, &a.Recorded)
			fmt.Fprintf(w, "the tickets for %s that were made until now are void\n", a.ID)
			if a.Enrolled {
				fmt.Fprintf(w, "somebody is enrolled as that; to end it: hpmq device revoke %s\n", a.ID)
			}
		})
	}
	return void
}

func addTicketFlags(cmd *cobra.Command, ttl time.Duration) {
	addOutputFlag(cmd)
	cmd.Flags().StringArray("label", nil, "directory label `KEY=VALUE`, may be repeated")
	cmd.Flags().String("site", "", "home `site` (default: this node's)")
	cmd.Flags().Duration("ttl", ttl, "how long the ticket may be used")
}

func labelFlags(cmd *cobra.Command) (map[string]string, error) {
	pairs, err := cmd.Flags().GetStringArray("label")
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, control.Invalidf("label %q: want KEY=VALUE", pair)
		}
		labels[key] = value
	}
	return labels, nil
}

// mintTicket asks the node for a ticket and prints it alone on stdout, so that the
// output can be piped. The advice on its use goes to stderr.
func mintTicket(cmd *cobra.Command, q control.TicketRequest, next string) error {
	if site, err := cmd.Flags().GetString("site"); err == nil && q.Site == "" {
		q.Site = site
	}
	ttl, err := cmd.Flags().GetDuration("ttl")
	if err != nil {
		return err
	}
	if ttl <= 0 {
		return control.Invalidf("--ttl %s: want a positive duration such as 24h", ttl)
	}
	q.TTL = ttl.Seconds()
	a, err := askNode(cmd, control.MintTicket, q)
	if err != nil {
		return err
	}
	return printAnswer(cmd, a, func(w io.Writer) {
		fmt.Fprintln(w, a.Ticket)
		fmt.Fprintf(cmd.ErrOrStderr(), "for %s at site %s, good until %s\n%s\n",
			a.ID, a.Site, a.NotAfter.Local().Format("2006-01-02 15:04"), next)
		if a.Warning != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", a.Warning)
		}
	})
}

func newUserCommand() *cobra.Command {
	user := &cobra.Command{Use: "user", Short: "Bring people into the fabric"}
	add := &cobra.Command{
		Use:     "add NAME",
		Short:   "Print a one-time ticket for a person; hpmq login turns it into an 8 h identity",
		Example: "  hpmq user add anna --label team=night",
		Args:    cobra.ExactArgs(1),
	}
	addTicketFlags(add, time.Hour)
	add.RunE = func(cmd *cobra.Command, args []string) error {
		labels, err := labelFlags(cmd)
		if err != nil {
			return err
		}
		return mintTicket(cmd, control.TicketRequest{Kind: string(identity.User), Name: args[0], Labels: labels},
			"on "+args[0]+"'s machine: hpmq login TICKET")
	}
	user.AddCommand(add)
	return user
}

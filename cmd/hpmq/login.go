package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/node"
	"github.com/hpmq/hpmq/node/control"
)

func newLoginCommand() *cobra.Command {
	login := &cobra.Command{
		Use:   "login TICKET",
		Short: "Make this machine's operator identity from a user ticket",
		Long: `Make this machine's operator identity from a user ticket.
The key is made here and stays here, in user/ of the node's data directory.
hpmq forward proves who you are with it. It lives for 8 hours at a time; the
node that runs in the same data directory renews it, if it does so in time.`,
		Example: "  hpmq login hpmq1.… --data ~/lyon",
		Args:    cobra.ExactArgs(1),
	}
	login.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := findDataDir(cmd)
		if err != nil {
			return err
		}
		ticket, err := identity.ParseTicket(args[0])
		if err != nil {
			return control.Fail(control.Invalid, "paste the whole line that hpmq user add printed", err)
		}
		if ticket.Kind != identity.User {
			return control.Invalidf("this ticket is for a %s; hpmq login takes one from hpmq user add", ticket.Kind)
		}
		err = enrolInto(cmd.Context(), ticket, node.UserDir(dir), func(stage string) {
			fmt.Fprintln(cmd.ErrOrStderr(), stage)
		})
		if err != nil {
			return control.FailEnrolment(err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "logged in as user:%s\n", ticket.Name)
		return nil
	}
	return login
}

// enrolInto makes the ticket's identity the one in dir. Another that is there
// stays until the new one is complete; then it is moved aside, to where its own
// next ticket finds its key again.
func enrolInto(ctx context.Context, t *identity.Ticket, dir string, progress func(string)) error {
	store, err := identity.OpenStore(dir)
	if err != nil {
		return err
	}
	beside := func(id identity.ID) string { return dir + "." + id.Name }
	fresh := beside(t.Identity())
	_, err = os.Stat(fresh)
	kept := err == nil // from before, or by a crash
	held := store.SVID()
	move := held == nil && kept || held != nil && held.ID != t.Identity()
	if move {
		if store, err = identity.OpenStore(fresh); err != nil {
			return err
		}
	}
	if _, err := identity.Enrol(ctx, t, store, identity.EnrolOptions{Progress: progress}); err != nil || !move {
		return err
	}
	if held != nil {
		aside := beside(held.ID)
		if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)); err != nil {
			return err
		}
	}
	// A dir that is still there holds no identity.
	if err := errors.Join(os.RemoveAll(dir), os.Rename(fresh, dir)); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

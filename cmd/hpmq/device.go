package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

func newDeviceCommand() *cobra.Command {
	device := &cobra.Command{Use: "device", Short: "List, revoke and replace identities"}
	device.AddCommand(newDeviceListCommand(), newDeviceRevokeCommand(), newDeviceReplaceCommand())
	return device
}

func newDeviceListCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List every identity of the fabric", Args: cobra.NoArgs}
	addOutputFlag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		now := time.Now()
		columns := []string{"IDENTITY", "SITE", "LABELS", "STATE", "EXPIRES", "HERE"}
		return printList(cmd, control.ListIdentities, control.None{}, columns, func(id control.Identity) []string {
			return []string{id.ID, id.Site, labelText(id.Labels), id.State, ago(id.NotAfter, now), presence(id)}
		})
	}
	return list
}

func labelText(labels map[string]string) string {
	if len(labels) == 0 {
		return "-"
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, key+"="+labels[key])
	}
	return strings.Join(parts, ",")
}

func presence(id control.Identity) string {
	var here []string
	if id.Sessions > 0 {
		here = append(here, fmt.Sprintf("mqtt×%d", id.Sessions))
	}
	if id.Agent {
		here = append(here, "agent")
	}
	if len(here) == 0 {
		return "-"
	}
	return strings.Join(here, " ")
}

func newDeviceRevokeCommand() *cobra.Command {
	revoke := &cobra.Command{
		Use:   "revoke NAME",
		Short: "End an identity everywhere: sessions, forwards, renewal",
		Long: `End an identity everywhere: sessions, forwards, renewal.
The revocation is on disk when the command prints it. Then the command waits for
the other nodes to say that they have it, and lists those that have not: they go
on as before until they are connected again. The exit code is 0 either way.`,
		Example: `  hpmq device revoke pump-7
  hpmq device revoke user:anna --reason "left the company"
  hpmq device revoke pump-7 --reason stolen --clear-retained
  hpmq device revoke pump-7 --wait 1m      # a site is about to come back`,
		Args: cobra.ExactArgs(1),
	}
	addOutputFlag(revoke)
	addWaitFlag(revoke)
	reason := revoke.Flags().String("reason", "", "`why`, for the record")
	clearRetained := revoke.Flags().Bool("clear-retained", false, "clear the retained messages that it published, at every site")
	revoke.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(cmd); err != nil {
			return err
		}
		a, err := askNode(cmd, control.Revoke, control.RevokeRequest{Reason: *reason, ClearRetained: *clearRetained}, args[0])
		if err != nil {
			return err
		}
		if a.Recorded, err = awaitNodes(cmd, a.Records, a.ID); err != nil {
			return err
		}
		return printAnswer(cmd, a, func(w io.Writer) {
			fmt.Fprintf(w, "revoked %s (generation %d and older)\n", a.ID, a.Generation)
			if strings.Contains(a.ID, "/node/") && time.Now().Before(a.NotAfter) {
				fmt.Fprintf(w, "clients that only check certificates (mosquitto, paho, hpmq-enroll) trust its certificate until %s;\n"+
					"those that check a revocation list too (curl --crlfile) refuse it once they have the next crl.pem, which hpmq-enroll renew fetches;\n"+
					"nodes and agents (hpmq-lite) refuse it once they hear of this, an agent within 10 minutes of reaching another node\n",
					a.NotAfter.UTC().Format(time.RFC3339))
			}
			printRecorded(w, &a.Recorded)
			if len(a.Missing) > 0 && !a.NotAfter.IsZero() {
				fmt.Fprintf(w, "its certificate ends at %s\n", a.NotAfter.UTC().Format(time.RFC3339))
			}
		})
	}
	return revoke
}

func newDeviceReplaceCommand() *cobra.Command {
	replace := &cobra.Command{
		Use:   "replace NAME",
		Short: "Let a revoked or lost name be enrolled again with a new key",
		Long: `Let a revoked or lost name be enrolled again with a new key.
Whatever holds the old key is revoked. Then make a ticket for the same name.`,
		Args: cobra.ExactArgs(1),
	}
	addOutputFlag(replace)
	addWaitFlag(replace)
	replace.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(cmd); err != nil {
			return err
		}
		a, err := askNode(cmd, control.Replace, control.None{}, args[0])
		if err != nil {
			return err
		}
		if a.Recorded, err = awaitNodes(cmd, a.Records, a.ID); err != nil {
			return err
		}
		return printAnswer(cmd, a, func(w io.Writer) {
			printRecorded(w, &a.Recorded)
			fmt.Fprintf(w, "%s may be enrolled again: hpmq enroll ticket --name %s\n", a.ID, args[0])
		})
	}
	return replace
}

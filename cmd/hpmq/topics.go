package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

func newRetainedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retained [FILTER]",
		Short: "List this node's retained messages, or clear them",
		Long: `List this node's retained messages: payload size, age, what is left of their
lifetime, topic.

--clear removes those that a filter matches, at the other sites too; subscribers
see the empty message, as if a client had published it.`,
		Example: `  hpmq retained
  hpmq retained 'site/home/+/status'
  hpmq retained --clear 'site/home/pump-7/#'
  hpmq retained -o json | jq -r 'select(.size > 100000).topic'`,
		Args: cobra.MaximumNArgs(1),
	}
	addOutputFlag(cmd)
	doomed := cmd.Flags().String("clear", "", "remove the retained messages that `FILTER` matches")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("clear") {
			if len(args) > 0 {
				return control.Invalidf("either list or clear: --clear FILTER stands alone")
			}
			return clearRetained(cmd, *doomed)
		}
		now := time.Now()
		columns := []string{"SIZE", "AGE", "EXPIRES", "TOPIC"}
		return printList(cmd, control.ListRetained, filterOf(args), columns, func(r control.Retained) []string {
			expires := "never"
			if r.Expires != nil {
				expires = "in " + ago(*r.Expires, now)
			}
			return []string{fmt.Sprint(r.Size), ago(r.Published, now), expires, plainText(r.Topic)}
		})
	}
	return cmd
}

// filterOf is the filter on a command line, by default everything.
func filterOf(args []string) control.FilterRequest {
	if len(args) == 0 {
		return control.FilterRequest{Filter: "#"}
	}
	return control.FilterRequest{Filter: args[0]}
}

func clearRetained(cmd *cobra.Command, filter string) error {
	a, err := askNode(cmd, control.ClearRetained, control.FilterRequest{Filter: filter})
	if err != nil {
		return err
	}
	return printAnswer(cmd, a, func(w io.Writer) { fmt.Fprintf(w, "cleared %d retained messages\n", a.Cleared) })
}

func newTopicsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topics [FILTER]",
		Short: "List what this node's clients subscribed to, and who would get a topic",
		Long: `List the topic filters that clients of this node subscribed to, with the number
of subscriptions; with FILTER only those that have a topic in common with it.

--match says of each subscription that matches a topic whether a message would
reach it, and why not: a denial, a client that is away, a group that shares.`,
		Example: `  hpmq topics
  hpmq topics 'site/home/#'
  hpmq topics --match site/home/pump-7/status
  hpmq why pump-7 subscribe 'site/home/#'        whether it might`,
		Args: cobra.MaximumNArgs(1),
	}
	addOutputFlag(cmd)
	match := cmd.Flags().String("match", "", "say who would get a message published to `TOPIC`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("match") {
			if len(args) > 0 {
				return control.Invalidf("either list or match: --match TOPIC stands alone")
			}
			return printReceivers(cmd, *match)
		}
		columns := []string{"SUBSCRIPTIONS", "FILTER"}
		return printList(cmd, control.ListFilters, filterOf(args), columns, func(f control.Filter) []string {
			return []string{fmt.Sprint(f.Subscriptions), plainText(f.Filter)}
		})
	}
	return cmd
}

func printReceivers(cmd *cobra.Command, name string) error {
	a, err := askNode(cmd, control.FindReceivers, control.TopicRequest{Topic: name})
	if err != nil {
		return err
	}
	return printAnswer(cmd, a, func(w io.Writer) {
		rows := make([][]string, 0, len(a.Receivers))
		for _, r := range a.Receivers {
			gets := "no"
			if r.Gets {
				gets = "yes"
			}
			rows = append(rows, []string{r.ID, plainText(r.ClientID), plainText(r.Filter), fmt.Sprint(r.QoS), gets, r.Why})
		}
		printTable(w, []string{"IDENTITY", "CLIENT ID", "FILTER", "QOS", "GETS IT", "WHY"}, rows)
		if a.Elsewhere {
			fmt.Fprintln(w, "Other sites asked for it too: hpmq topics --match there says who.")
		}
	})
}

package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// filterRequest asks for what matches a topic filter.
type filterRequest struct {
	Filter string `json:"filter"`
}

func (q filterRequest) check() error {
	if err := topic.ValidFilter(q.Filter); err != nil {
		return usagef("filter %q %v", q.Filter, err)
	}
	if _, _, shared, _ := topic.ParseShared(q.Filter); shared {
		return usagef("filter %q: leave out $share and the group", q.Filter)
	}
	return nil
}

type topicRequest struct {
	Topic string `json:"topic"`
}

// retainedReply is one line of hpmq retained.
type retainedReply struct {
	Topic     string     `json:"topic"`
	Size      int        `json:"size"` // bytes of payload
	QoS       byte       `json:"qos"`
	Published time.Time  `json:"published"`
	Expires   *time.Time `json:"expires,omitempty"`
	Publisher string     `json:"publisher"`
}

type clearedReply struct {
	Cleared int `json:"cleared"`
}

// filterReply is one line of hpmq topics.
type filterReply struct {
	Filter        string `json:"filter"`
	Subscriptions int    `json:"subscriptions"`
}

// receiversReply is the answer of hpmq topics --match.
type receiversReply struct {
	Topic     string          `json:"topic"`
	Elsewhere bool            `json:"elsewhere"` // another site asked for it
	Receivers []receiverReply `json:"receivers"`
}

type receiverReply struct {
	ID        string `json:"id"`
	ClientID  string `json:"client_id"`
	Filter    string `json:"filter"`
	QoS       byte   `json:"qos"`
	Connected bool   `json:"connected"`
	Gets      bool   `json:"gets"`
	Why       string `json:"why,omitempty"`
}

func newRetainedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retained [FILTER]",
		Short: "List this node's retained messages, or clear them",
		Long: `List this node's retained messages: payload size, age, what is left of their
lifetime, topic. -o json prints one object per line.

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
				return usagef("either list or clear: --clear FILTER stands alone")
			}
			return clearRetained(cmd, *doomed)
		}
		now := time.Now()
		return printLines(cmd, "/v1/retained", filterRequest{filterOf(args)},
			fmt.Sprintf("%10s  %-12s  %-10s  %s", "SIZE", "AGE", "EXPIRES", "TOPIC"),
			func(w io.Writer, r retainedReply) {
				expires := "never"
				if r.Expires != nil {
					expires = "in " + ago(*r.Expires, now)
				}
				fmt.Fprintf(w, "%10d  %-12s  %-10s  %s\n", r.Size, ago(r.Published, now), expires, plainText(r.Topic))
			})
	}
	return cmd
}

// filterOf is the filter on a command line, by default everything.
func filterOf(args []string) string {
	if len(args) == 0 {
		return "#"
	}
	return args[0]
}

func clearRetained(cmd *cobra.Command, filter string) error {
	c, err := dialControl(cmd)
	if err != nil {
		return err
	}
	var a clearedReply
	if err := c.post(cmd.Context(), "/v1/retained/clear", filterRequest{filter}, &a); err != nil {
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
-o json prints one object per line.

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
				return usagef("either list or match: --match TOPIC stands alone")
			}
			return printReceivers(cmd, *match)
		}
		return printLines(cmd, "/v1/filters", filterRequest{filterOf(args)},
			fmt.Sprintf("%13s  %s", "SUBSCRIPTIONS", "FILTER"),
			func(w io.Writer, r filterReply) { fmt.Fprintf(w, "%13d  %s\n", r.Subscriptions, plainText(r.Filter)) })
	}
	return cmd
}

func printReceivers(cmd *cobra.Command, name string) error {
	c, err := dialControl(cmd)
	if err != nil {
		return err
	}
	var a receiversReply
	if err := c.post(cmd.Context(), "/v1/receivers", topicRequest{name}, &a); err != nil {
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

// The node's side.

func (n *node) retained(q filterRequest) (iter.Seq[retainedReply], error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	return func(yield func(retainedReply) bool) {
		for m := range n.broker.Retained(q.Filter) {
			r := retainedReply{Topic: m.Topic, Size: m.Size, QoS: m.QoS, Published: m.Published, Publisher: m.Publisher}
			if !m.Expires.IsZero() {
				r.Expires = &m.Expires
			}
			if !yield(r) {
				return
			}
		}
	}, nil
}

func (n *node) clearRetained(r *http.Request, q filterRequest) (*clearedReply, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	// What takes longer than a request may is still done to its end.
	cleared, err := n.broker.ClearRetained(context.WithoutCancel(r.Context()), q.Filter, n.id)
	if err != nil {
		return nil, fmt.Errorf("cleared %d, then: %w", cleared, err)
	}
	return &clearedReply{cleared}, nil
}

func (n *node) filters(q filterRequest) (iter.Seq[filterReply], error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	return func(yield func(filterReply) bool) {
		for _, f := range n.broker.Subscribed(q.Filter) {
			if !yield(filterReply{f.Filter, f.Subscriptions}) {
				return
			}
		}
	}, nil
}

func (n *node) receivers(q topicRequest) (*receiversReply, error) {
	if err := topic.ValidName(q.Topic); err != nil {
		return nil, usagef("topic %q %v", q.Topic, err)
	}
	a := &receiversReply{Topic: q.Topic, Elsewhere: n.broker.WantedElsewhere(q.Topic), Receivers: []receiverReply{}}
	for _, r := range n.broker.Receivers(q.Topic) {
		a.Receivers = append(a.Receivers, receiverReply{
			ID: r.Identity.String(), ClientID: r.ClientID, Filter: r.Filter, QoS: r.QoS,
			Connected: r.Connected, Gets: r.Gets, Why: r.Why,
		})
	}
	return a, nil
}

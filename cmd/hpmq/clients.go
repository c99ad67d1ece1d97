package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/node/control"
)

func newClientsCommand() *cobra.Command {
	clients := &cobra.Command{
		Use:   "clients",
		Short: "List this node's MQTT sessions: who, from where, what waits, what was lost",
		Args:  cobra.NoArgs,
	}
	addOutputFlag(clients)
	clients.RunE = func(cmd *cobra.Command, _ []string) error {
		now := time.Now()
		return printList(cmd, control.ListSessions, control.None{}, clientColumns, func(s control.Session) []string { return clientRow(s, now) })
	}
	return clients
}

var clientColumns = []string{"IDENTITY", "CLIENT ID", "STATE", "SUBS", "WAITING", "DROPPED", "DENIED", "THROTTLED"}

func clientRow(s control.Session, now time.Time) []string {
	state := "away since " + ago(s.Since, now)
	if s.Connected {
		state = "MQTT " + s.Protocol + " from " + s.Remote
	}
	return []string{
		s.ID, plainText(s.ClientID), state, subscribed(s), fmt.Sprint(s.Queued + s.Inflight),
		dropped(s), fmt.Sprint(s.Denied), throttled(s),
	}
}

func newKickCommand() *cobra.Command {
	kick := &cobra.Command{
		Use:   "kick WHO",
		Short: "End an identity's MQTT connections on this node; it may come back",
		Long: `End an identity's MQTT connections on this node; it may come back, and find its
session as it was. With --session that ends too: its subscriptions, and what
waits for it. To keep it out everywhere: hpmq device revoke WHO.`,
		Example: `  hpmq kick pump-7
  hpmq kick pump-7 --client-id old --session        # one that nobody will come back to
  hpmq kick service:dashboard --to lyon.example.org:8883`,
		Args: cobra.ExactArgs(1),
	}
	var q control.KickRequest
	kick.Flags().StringVar(&q.ClientID, "client-id", "", "only the connection of this client `identifier`")
	kick.Flags().BoolVar(&q.Session, "session", false, "end its sessions too, also those that are away")
	kick.Flags().StringVar(&q.ServerReference, "to", "", "tell MQTT 5 clients to use another `server`, as HOST:PORT")
	addOutputFlag(kick)
	kick.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := askNode(cmd, control.Kick, q, args[0])
		if err != nil {
			return err
		}
		return printAnswer(cmd, a, func(w io.Writer) {
			fmt.Fprintf(w, "ended %d connections of %s", a.Connections, a.ID)
			if q.Session {
				fmt.Fprintf(w, " and %d sessions", a.Sessions)
			}
			fmt.Fprintln(w)
		})
	}
	return kick
}

// subscribed tells how many subscriptions a session has, and how many of them sleep:
// 3 (asleep 1).
func subscribed(s control.Session) string {
	if s.Asleep == 0 {
		return fmt.Sprint(len(s.Subscriptions))
	}
	return fmt.Sprintf("%d (asleep %d)", len(s.Subscriptions), s.Asleep)
}

// dropped tells how many messages a session lost and why: 12 (slow 10, expired 2).
func dropped(s control.Session) string {
	if len(s.Drops) == 0 {
		return fmt.Sprint(s.Dropped)
	}
	reasons := slices.SortedFunc(maps.Keys(s.Drops), func(x, y string) int {
		return cmp.Or(cmp.Compare(s.Drops[y], s.Drops[x]), cmp.Compare(x, y))
	})
	for i, r := range reasons {
		reasons[i] = fmt.Sprint(r, " ", s.Drops[r])
	}
	return fmt.Sprintf("%d (%s)", s.Dropped, strings.Join(reasons, ", "))
}

// throttled tells how often a session's identity had to wait and for which rule.
func throttled(s control.Session) string {
	if s.Throttled == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", s.Throttled, s.ThrottledBy)
}

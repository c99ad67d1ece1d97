package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/packet"
)

// clientReply is one MQTT session of a node.
type clientReply struct {
	ID            string            `json:"id"`
	ClientID      string            `json:"client_id"`
	Connected     bool              `json:"connected"`
	Remote        string            `json:"remote"`
	Protocol      string            `json:"protocol"`
	Since         time.Time         `json:"since"` // of the connection, or of its end
	Subscriptions []string          `json:"subscriptions"`
	Asleep        int               `json:"asleep"` // of subscriptions: the policy does not grant them now
	Inflight      int               `json:"inflight"`
	Queued        int               `json:"queued"`
	Dropped       uint64            `json:"dropped"`
	Drops         map[string]uint64 `json:"drops"` // of dropped, by reason
	Denied        uint64            `json:"denied"`
	Throttled     uint64            `json:"throttled"`              // how often the identity was not read because of its rate
	ThrottledBy   string            `json:"throttled_by,omitempty"` // the rule that set the rate
}

type kickRequest struct {
	ClientID        string `json:"client_id"`        // empty is all
	Session         bool   `json:"session"`          // ends that too
	ServerReference string `json:"server_reference"` // for MQTT 5 clients
}

type kickReply struct {
	ID          string `json:"id"`
	Connections int    `json:"connections"`
	Sessions    int    `json:"sessions"`
}

func newClientsCommand() *cobra.Command {
	clients := &cobra.Command{
		Use:   "clients",
		Short: "List this node's MQTT sessions: who, from where, what waits, what was lost",
		Args:  cobra.NoArgs,
	}
	addOutputFlag(clients)
	clients.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dialControl(cmd)
		if err != nil {
			return err
		}
		var all []clientReply
		if err := c.get(cmd.Context(), "/v1/clients", &all); err != nil {
			return err
		}
		return printAnswer(cmd, all, func(w io.Writer) { printClients(w, all, time.Now()) })
	}
	return clients
}

func printClients(w io.Writer, all []clientReply, now time.Time) {
	rows := make([][]string, 0, len(all))
	for _, s := range all {
		state := "away since " + ago(s.Since, now)
		if s.Connected {
			state = "MQTT " + s.Protocol + " from " + s.Remote
		}
		rows = append(rows, []string{
			s.ID, plainText(s.ClientID), state, subscribed(s), fmt.Sprint(s.Queued + s.Inflight),
			dropped(s), fmt.Sprint(s.Denied), throttled(s),
		})
	}
	printTable(w, []string{"IDENTITY", "CLIENT ID", "STATE", "SUBS", "WAITING", "DROPPED", "DENIED", "THROTTLED"}, rows)
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
	var ask kickRequest
	kick.Flags().StringVar(&ask.ClientID, "client-id", "", "only the connection of this client `identifier`")
	kick.Flags().BoolVar(&ask.Session, "session", false, "end its sessions too, also those that are away")
	kick.Flags().StringVar(&ask.ServerReference, "to", "", "tell MQTT 5 clients to use another `server`, as HOST:PORT")
	addOutputFlag(kick)
	kick.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkReference("--to", ask.ServerReference); err != nil {
			return err
		}
		c, err := dialControl(cmd)
		if err != nil {
			return err
		}
		var a kickReply
		if err := c.post(cmd.Context(), "/v1/identities/"+url.PathEscape(args[0])+"/kick", ask, &a); err != nil {
			return err
		}
		return printAnswer(cmd, a, func(w io.Writer) {
			fmt.Fprintf(w, "ended %d connections of %s", a.Connections, a.ID)
			if ask.Session {
				fmt.Fprintf(w, " and %d sessions", a.Sessions)
			}
			fmt.Fprintln(w)
		})
	}
	return kick
}

// subscribed tells how many subscriptions a session has, and how many of them sleep:
// 3 (asleep 1).
func subscribed(s clientReply) string {
	if s.Asleep == 0 {
		return fmt.Sprint(len(s.Subscriptions))
	}
	return fmt.Sprintf("%d (asleep %d)", len(s.Subscriptions), s.Asleep)
}

// dropped tells how many messages a session lost and why: 12 (slow 10, expired 2).
func dropped(s clientReply) string {
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
func throttled(s clientReply) string {
	if s.Throttled == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", s.Throttled, s.ThrottledBy)
}

func (n *node) clients() []clientReply {
	out := []clientReply{}
	for _, s := range n.broker.Sessions() {
		if s.Subscriptions == nil {
			s.Subscriptions = []string{}
		}
		out = append(out, clientReply{
			ID: s.Identity.String(), ClientID: s.ClientID, Connected: s.Connected, Remote: s.Remote, Protocol: s.Protocol,
			Since: s.Since, Subscriptions: s.Subscriptions, Asleep: s.Asleep, Inflight: s.Inflight, Queued: s.Queued,
			Dropped: s.Dropped, Drops: s.Drops, Denied: s.Denied,
			Throttled: s.Throttled, ThrottledBy: s.ThrottledBy,
		})
	}
	return out
}

func (n *node) kick(r *http.Request, ask kickRequest) (*kickReply, error) {
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	removal := mqtt.Removal{
		ClientID: ask.ClientID, Code: packet.AdministrativeAction, Reason: "ended by the operator",
		ServerReference: ask.ServerReference, EndSessions: ask.Session,
	}
	if ask.ServerReference != "" {
		removal.Code, removal.Reason = packet.UseAnotherServer, "the operator moves you to another server"
	}
	ended := n.broker.Disconnect(id, removal)
	if ended == (mqtt.Removed{}) {
		what := "connection to"
		if ask.Session {
			what = "session on"
		}
		return nil, &failure{
			code: exitNotFound, err: fmt.Errorf("%s has no %s this node", strings.TrimSpace(id.Short()+" "+ask.ClientID), what), hint: "see: hpmq clients",
		}
	}
	return &kickReply{ID: id.String(), Connections: ended.Connections, Sessions: ended.Sessions}, nil
}

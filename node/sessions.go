package node

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/topic"
	"github.com/hpmq/hpmq/node/control"
)

// This file answers the control API's questions about the broker.

func (n *api) clients() []control.Session {
	out := []control.Session{}
	for _, s := range n.broker.Sessions() {
		if s.Subscriptions == nil {
			s.Subscriptions = []string{}
		}
		out = append(out, control.Session{
			ID: s.Identity.String(), ClientID: s.ClientID, Connected: s.Connected, Remote: s.Remote, Protocol: s.Protocol,
			Since: s.Since, Subscriptions: s.Subscriptions, Asleep: s.Asleep, Inflight: s.Inflight, Queued: s.Queued,
			Dropped: s.Dropped, Drops: s.Drops, Denied: s.Denied,
			Throttled: s.Throttled, ThrottledBy: s.ThrottledBy,
		})
	}
	return out
}

func (n *api) kick(r *http.Request, ask control.KickRequest) (*control.Kicked, error) {
	id, err := n.pathID(r)
	if err != nil {
		return nil, err
	}
	if err := checkReference("server reference", ask.ServerReference); err != nil {
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
		return nil, &control.Error{
			Code: control.NotFound, Err: fmt.Errorf("%s has no %s this node", strings.TrimSpace(id.Short()+" "+ask.ClientID), what), Hint: "see: hpmq clients",
		}
	}
	return &control.Kicked{ID: id.String(), Connections: ended.Connections, Sessions: ended.Sessions}, nil
}

// checkFilter refuses a topic filter that is none, or is one of a shared
// subscription.
func checkFilter(filter string) error {
	if err := topic.ValidFilter(filter); err != nil {
		return control.Invalidf("filter %q %v", filter, err)
	}
	if _, _, shared, _ := topic.ParseShared(filter); shared {
		return control.Invalidf("filter %q: leave out $share and the group", filter)
	}
	return nil
}

func (n *api) retained(q control.FilterRequest) (iter.Seq[control.Retained], error) {
	if err := checkFilter(q.Filter); err != nil {
		return nil, err
	}
	return func(yield func(control.Retained) bool) {
		for m := range n.broker.Retained(q.Filter) {
			r := control.Retained{Topic: m.Topic, Size: m.Size, QoS: m.QoS, Published: m.Published, Publisher: m.Publisher}
			if !m.Expires.IsZero() {
				r.Expires = &m.Expires
			}
			if !yield(r) {
				return
			}
		}
	}, nil
}

func (n *api) clearRetained(r *http.Request, q control.FilterRequest) (*control.Cleared, error) {
	if err := checkFilter(q.Filter); err != nil {
		return nil, err
	}
	// Clearing may outlast the request's timeout. It still runs to its end.
	cleared, err := n.broker.ClearRetained(context.WithoutCancel(r.Context()), q.Filter, n.id)
	if err != nil {
		return nil, fmt.Errorf("cleared %d, then: %w", cleared, err)
	}
	return &control.Cleared{Cleared: cleared}, nil
}

func (n *api) filters(q control.FilterRequest) (iter.Seq[control.Filter], error) {
	if err := checkFilter(q.Filter); err != nil {
		return nil, err
	}
	return func(yield func(control.Filter) bool) {
		for _, f := range n.broker.Subscribed(q.Filter) {
			if !yield(control.Filter{Filter: f.Filter, Subscriptions: f.Subscriptions}) {
				return
			}
		}
	}, nil
}

func (n *api) receivers(_ *http.Request, q control.TopicRequest) (*control.Receivers, error) {
	if err := topic.ValidName(q.Topic); err != nil {
		return nil, control.Invalidf("topic %q %v", q.Topic, err)
	}
	a := &control.Receivers{Topic: q.Topic, Elsewhere: n.broker.WantedElsewhere(q.Topic), Receivers: []control.Receiver{}}
	for _, r := range n.broker.Receivers(q.Topic) {
		a.Receivers = append(a.Receivers, control.Receiver{
			ID: r.Identity.String(), ClientID: r.ClientID, Filter: r.Filter, QoS: r.QoS,
			Connected: r.Connected, Gets: r.Gets, Why: r.Why,
		})
	}
	return a, nil
}

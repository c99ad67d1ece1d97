package node

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/hpmq/hpmq/funcs"
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/peeruser"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/link"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/node/trust"
	"github.com/hpmq/hpmq/policy"
)

// Small adapters between packages that do not know each other. No decisions
// here: each translates one package's question into another's.

// newForeign judges the messages of other sites.
func newForeign(n *Node) *trust.Foreign {
	return trust.NewForeign(trust.ForeignOptions{
		Site: n.trust, Policy: n.policy.Set, Retained: n.messages.Retained,
		Records: func() iter.Seq2[uint64, directory.Policy] { return trust.PolicyRecords(n.directory, time.Now()) },
		Compile: func(files map[string][]byte) *policy.Set {
			set, _ := policy.Load(files, n.id.TrustDomain)
			return set
		},
	})
}

// acceptForeign implements link.Options.Accept.
func (n *Node) acceptForeign(sender identity.ID, m *store.Message) error {
	err := n.foreign.Accept(sender, m)
	if errors.Is(err, trust.ErrUnsettled) {
		return fmt.Errorf("%w: %w", link.ErrUnsettled, err)
	}
	return err
}

// revoked answers every TLS handshake: is the identity behind leaf ended?
func (n *Node) revoked(leaf *x509.Certificate) bool {
	id, err := identity.LeafID(leaf)
	if err != nil {
		return true
	}
	generation, ok := identity.Generation(leaf)
	return !ok || n.directory.Revoked(id, generation)
}

// authorizer lets policy decide for the broker. The sessions of an identity
// share its rights, compiled once per policy, for as long as one of them lives.
type authorizer struct {
	n *Node

	mu    sync.Mutex // guards known
	known map[identity.ID]weak.Pointer[policy.Session]
}

func newAuthorizer(n *Node) *authorizer {
	return &authorizer{n: n, known: make(map[identity.ID]weak.Pointer[policy.Session])}
}

func (a *authorizer) Rights(p mqtt.Principal) mqtt.Rights {
	sub, err := a.n.trust.Subject(p.ID)
	if err != nil || p.Generation != 0 && a.n.directory.Revoked(p.ID, p.Generation) {
		return nil
	}
	set := a.n.policy.Set()
	a.mu.Lock()
	s := a.known[p.ID].Value()
	a.mu.Unlock()
	if s == nil || !s.Is(set, sub) {
		s = set.Session(sub)
		a.shareRights(p.ID, s)
	}
	return rights{trust.NewRights(s)}
}

// shareRights lets further sessions of id use s, until the last session that uses it
// is gone.
func (a *authorizer) shareRights(id identity.ID, s *policy.Session) {
	w := weak.Make(s)
	a.mu.Lock()
	a.known[id] = w
	a.mu.Unlock()
	runtime.AddCleanup(s, func(w weak.Pointer[policy.Session]) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.known[id] == w {
			delete(a.known, id)
		}
	}, w)
}

// rights answers the broker with the decisions of package trust.
type rights struct{ trust.Rights }

func (r rights) Publish(topic string, qos byte, retain bool, size int) mqtt.Verdict {
	return verdict(r.Rights.Publish(topic, qos, retain, size))
}

func (r rights) Subscribe(filter string) mqtt.Verdict { return verdict(r.Rights.Subscribe(filter)) }

func (r rights) Receive(topic string) mqtt.Verdict { return verdict(r.Rights.Receive(topic)) }

func (r rights) Will(topic string, qos byte, retain bool, size int) mqtt.Verdict {
	return verdict(r.Rights.Will(topic, qos, retain, size))
}

// Limits implements mqtt.Limited.
func (r rights) Limits() mqtt.Limits {
	l := r.Rights.Limits()
	return mqtt.Limits{Messages: ceiling(l.PublishMessages), Bytes: ceiling(l.PublishBytes), Connections: ceiling(l.Connections)}
}

func ceiling(l policy.Limit) mqtt.Limit {
	return mqtt.Limit{N: int(min(l.N, math.MaxInt)), Rule: l.Rule}
}

func verdict(d policy.Decision) mqtt.Verdict {
	v := mqtt.Verdict{Allowed: d.Allowed, Filtered: d.Filtered, Rule: d.Rule}
	if !d.Allowed {
		v.Reason, v.Rule = d.Reason(), "" // the reason names the rule, or the nearest grant
	}
	return v
}

// filter lets functions work on the broker's messages. The chain of an identity
// is compiled once per policy and kept in chains.
type filter struct {
	n *Node

	// chains holds *boundChain by chainKey. A new policy brings a new map, so that a
	// chain compiled from the old policy meanwhile is not found again.
	chains atomic.Pointer[sync.Map]
}

type chainKey struct {
	id        identity.ID
	direction mqtt.Direction
}

// boundChain is a chain, or the reason why there is none: then its messages are
// refused.
type boundChain struct {
	chain *funcs.Chain // nil when nothing is bound
	err   error
}

func newFilter(n *Node) *filter {
	f := &filter{n: n}
	f.reset()
	return f
}

func (f *filter) reset() { f.chains.Store(new(sync.Map)) }

func (f *filter) chain(d mqtt.Direction, id identity.ID) *boundChain {
	chains, key := f.chains.Load(), chainKey{id, d}
	if c, ok := chains.Load(key); ok {
		return c.(*boundChain)
	}
	c := new(boundChain)
	c.chain, c.err = f.compile(d, id)
	chains.Store(key, c)
	return c
}

func (f *filter) compile(d mqtt.Direction, id identity.ID) (*funcs.Chain, error) {
	sub, err := f.n.trust.Subject(id)
	if err != nil {
		return nil, err
	}
	way, to := policy.Upstream, funcs.Upstream
	if d == mqtt.Downstream {
		way, to = policy.Downstream, funcs.Downstream
	}
	var bindings []funcs.Binding
	for _, b := range f.n.policy.Set().Bindings(sub, way) {
		bindings = append(bindings, funcs.Binding{
			Name: b.Name, Function: b.Function, Topics: b.Topics(), OnError: funcs.OnError(b.OnError), Optional: b.Optional,
		})
	}
	if len(bindings) == 0 {
		return nil, nil //nolint:nilnil // a nil chain sees nothing
	}
	return funcs.NewChain(to, bindings)
}

// Bound implements mqtt.Filter.
func (f *filter) Bound(d mqtt.Direction, p mqtt.Principal, topic string) bool {
	c := f.chain(d, p.ID)
	return c.err != nil || c.chain.Bound(topic)
}

// Submit implements mqtt.Filter.
func (f *filter) Submit(d mqtt.Direction, p mqtt.Principal, m *store.Message, done func(mqtt.FilterResult)) {
	c := f.chain(d, p.ID)
	switch {
	case c.err != nil:
		done(mqtt.FilterResult{Outcome: mqtt.Reject, Code: packet.NotAuthorized, Reason: c.err.Error()})
		return
	case c.chain == nil: // unbound since the broker asked
		done(mqtt.FilterResult{Outcome: mqtt.Pass})
		return
	}
	from := &funcs.Origin{
		Client:   d.String() + "\x00" + p.ID.String() + "\x00" + p.ClientID,
		Identity: p.ID.String(), ClientID: p.ClientID, Site: f.n.site,
	}
	in := funcs.Message{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain}
	f.n.functions.runtime.Submit(c.chain, from, in, func(r funcs.Result) {
		for _, dead := range r.DeadLetters {
			f.n.broker.Publish(&store.Message{Topic: dead.Topic, Payload: dead.Payload, QoS: dead.QoS, Publisher: functionID(f.n.id.TrustDomain, dead.Function).String()}, nil)
		}
		done(f.answer(m, r))
	})
}

func (f *filter) answer(m *store.Message, r funcs.Result) mqtt.FilterResult {
	if r.Err != nil {
		return mqtt.FilterResult{Err: r.Err}
	}
	out := f.verdict(m, r)
	if len(r.Writes) > 0 {
		out.State = written{r}
	}
	return out
}

// written holds the writes of functions for one message, for its transaction.
type written struct{ funcs.Result }

func (w written) Keep(tx store.Tx) {
	for _, x := range w.Writes {
		tx.PutValue(x.Scope, x.Key, x.Value)
	}
}

// Discard implements mqtt.State.
func (w written) Discard() { w.Result.Discard() }

// remembered is the store from which functions read their values.
type remembered struct{ store.Store }

func (r remembered) Load(scope string) (map[string][]byte, error) { return r.Values(scope), nil }

func (f *filter) verdict(m *store.Message, r funcs.Result) mqtt.FilterResult {
	switch r.Verdict {
	case funcs.Pass:
		return mqtt.FilterResult{Outcome: mqtt.Pass}
	case funcs.Publish:
		props := m.Props // of the original, without the two that described its payload
		props.Clear(packet.PropContentType)
		props.Clear(packet.PropPayloadFormatIndicator)
		out := mqtt.FilterResult{Outcome: mqtt.Publish}
		for _, o := range r.Messages {
			e := mqtt.Emitted{Message: &store.Message{
				Topic: o.Topic, Payload: o.Payload, QoS: o.QoS, Retain: o.Retain, Props: props,
			}}
			if o.Function != "" {
				e.Function = functionID(f.n.id.TrustDomain, o.Function)
			} else {
				e.Message.Props = m.Props
			}
			out.Messages = append(out.Messages, e)
		}
		return out
	case funcs.Reject:
		return mqtt.FilterResult{Outcome: mqtt.Reject, Code: packet.ReasonCode(r.Code), Reason: r.Reason}
	case funcs.Drop:
	}
	return mqtt.FilterResult{Outcome: mqtt.Drop, Reason: r.Reason}
}

func functionID(domain, name string) identity.ID {
	return identity.ID{TrustDomain: domain, Kind: identity.Function, Name: name}
}

// admitTLS takes the identity from the client certificate. A client without one
// has to give a user name and password.
func (n *Node) admitTLS(nc net.Conn) (mqtt.Principal, error) {
	conn, ok := nc.(interface{ ConnectionState() tls.ConnectionState }) // TLS, WebSocket (then it may be none), QUIC
	if !ok {
		return mqtt.Principal{}, errors.New("not a TLS connection")
	}
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return mqtt.Principal{Passwords: true, Remote: nc.RemoteAddr().String()}, nil
	}
	id, err := identity.PeerID(state, n.store.Bundle())
	if err != nil {
		return mqtt.Principal{}, err
	}
	leaf := state.PeerCertificates[0]
	generation, ok := identity.Generation(leaf)
	if !ok {
		return mqtt.Principal{}, fmt.Errorf("the certificate of %s has no generation", id)
	}
	return mqtt.Principal{ID: id, Remote: nc.RemoteAddr().String(), Generation: generation, Until: leaf.NotAfter}, nil
}

// admitPlain takes the identity from the user that owns the other end of a
// loopback connection or unix socket, unless CONNECT has a user name.
func (n *Node) admitPlain(nc net.Conn) (mqtt.Principal, error) {
	name := trust.GuestName
	own, err := peeruser.Own(nc)
	if err != nil {
		n.log.WithError(err).Debug("plain listener: peer's user unknown, taken for a guest")
	}
	if own {
		name = trust.LocalName
	}
	id, err := identity.NewID(n.id.TrustDomain, identity.Service, name)
	if err != nil {
		return mqtt.Principal{}, fmt.Errorf("plain listener: %w", err)
	}
	remote := nc.RemoteAddr().String()
	if nc.LocalAddr().Network() == "unix" {
		remote = "unix" // the other end has no name
	}
	return mqtt.Principal{ID: id, Passwords: true, Remote: remote}, nil
}

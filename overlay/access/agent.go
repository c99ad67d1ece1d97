package access

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

// A Decider says whether caller may reach a port, and which rule says so; rule
// is empty when none does. It must be safe for concurrent use and quick.
type Decider interface {
	Allow(caller identity.ID, network string, port uint16) (rule string, ok bool)
}

// AgentOptions configures an [Agent]. Zero values are usable unless a comment
// says otherwise.
type AgentOptions struct {
	Source  identity.Source    // our identity and the roots that we trust; required
	Expose  []uint16           // TCP ports of the loopback address to offer
	Revoked identity.Revoked   // reports whether a caller was revoked; nil means no revocations
	Log     logrus.FieldLogger // every flow and refusal; nil discards

	// OnChange is called when a flow began or ended. It must not block. Nil is no call.
	OnChange func()

	MaxFlows          int // flows at a time; default 96, three quarters of a connection's streams
	MaxFlowsPerCaller int // flows of one identity; default 48
}

// How long a caller may take to send its request, and the service on the device to
// accept.
const (
	handshakeTimeout = 10 * time.Second
	dialTimeout      = 5 * time.Second
	lingerTimeout    = time.Second // for a refused caller to read the reason and leave
)

var errExpired = errors.New("the caller's certificate has expired")

// maxHandshakes bounds the carriers on which the caller has not proved its identity.
const maxHandshakes = 16

// An Agent serves the ports of one identity to the callers that its [Decider]
// allows. Until it has a Decider it refuses every caller.
type Agent struct {
	opts       AgentOptions
	log        logrus.FieldLogger
	decider    atomic.Pointer[Decider]
	flows      flows
	handshakes atomic.Int64
	counters   struct{ allowed, denied atomic.Uint64 }
}

// NewAgent returns an agent. Register its [Agent.Handle] as the overlay node's
// handler of [Protocol].
func NewAgent(o AgentOptions) *Agent {
	if o.MaxFlows <= 0 {
		o.MaxFlows = 96
	}
	if o.MaxFlowsPerCaller <= 0 {
		o.MaxFlowsPerCaller = 48
	}
	if o.OnChange == nil {
		o.OnChange = func() {}
	}
	a := &Agent{opts: o, log: logfield.OrSilent(o.Log)}
	a.flows.limit, a.flows.limitPerCaller = o.MaxFlows, o.MaxFlowsPerCaller
	return a
}

// SetDecider makes d decide from now on, nil to refuse every caller. It ends the
// open flows that d does not allow.
func (a *Agent) SetDecider(d Decider) {
	if d == nil {
		a.decider.Store(nil)
	} else {
		a.decider.Store(&d)
	}
	a.Recheck()
}

// Recheck ends the open flows that would be refused now. Call it when the answer
// of the decider or of [AgentOptions.Revoked] may have changed.
func (a *Agent) Recheck() {
	for _, f := range a.flows.all() {
		if ans := a.decide(f); ans.Code != codeAllowed {
			f.end(errors.New(ans.Reason))
		}
	}
}

// Flows returns the open flows, oldest first.
func (a *Agent) Flows() []Flow {
	list := []Flow{}
	for _, f := range a.flows.all() {
		if rule := f.rule.Load(); rule != nil {
			list = append(list, f.snapshot(*rule))
		}
	}
	return list
}

// Counters returns how many connections were allowed and how many refused, for
// any reason, since the agent was made.
func (a *Agent) Counters() (allowed, denied uint64) {
	return a.counters.allowed.Load(), a.counters.denied.Load()
}

// Handle serves one carrier. It is for the overlay's nodes only.
func (a *Agent) Handle(ctx context.Context, s *overlay.Stream) {
	if s.PeerID().Kind != identity.Node {
		a.log.WithField(logfield.Peer, s.PeerID().String()).Warn("carrier refused: not from a node")
		s.Reset()
		return
	}
	a.serve(ctx, s)
}

// serve takes a carrier, learns the caller's identity and request, decides, and
// joins the carrier to the port.
func (a *Agent) serve(ctx context.Context, carrier net.Conn) {
	defer abort(carrier) // does nothing to one that was closed in order
	defer context.AfterFunc(ctx, func() { abort(carrier) })()
	f, err := a.greet(ctx, carrier)
	if err != nil {
		a.log.WithField(logfield.Reason, err.Error()).Info("access handshake failed")
		return
	}
	if f == nil {
		return
	}
	ctx, f.end = context.WithCancelCause(ctx)
	defer f.end(nil)
	expiry := time.AfterFunc(time.Until(f.notAfter), func() { f.end(errExpired) })
	defer expiry.Stop()
	service, ans := a.open(ctx, f)
	if service == nil {
		a.counters.denied.Add(1)
		f.entry(a.log).WithFields(logrus.Fields{logfield.Rule: ans.Rule, logfield.Reason: ans.Reason}).Warn("access denied")
		_ = f.answer(&ans) // a caller that left does not matter
		return
	}
	a.counters.allowed.Add(1)
	f.entry(a.log).WithField(logfield.Rule, ans.Rule).Info("access allowed")
	a.opts.OnChange()
	if err = f.answer(&ans); err == nil {
		err = splice(ctx, f.conn, service, &f.received, &f.sent)
	}
	abort(service)
	a.flows.remove(f)
	f.entry(a.log).WithFields(f.totals(err)).Info("access ended")
	a.opts.OnChange()
}

// greet accepts a carrier that is meant for us, makes the inner handshake and
// reads the request. It returns nil for a carrier that it refused.
func (a *Agent) greet(ctx context.Context, carrier net.Conn) (*flow, error) {
	defer a.handshakes.Add(-1)
	busy := a.handshakes.Add(1) > maxHandshakes
	if err := carrier.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	var h header
	if err := readFrame(carrier, &h); err != nil {
		return nil, fmt.Errorf("carrier header: %w", err)
	}
	st := statusOK
	switch svid := a.opts.Source.SVID(); {
	case svid == nil || svid.ID != h.Target:
		st = statusNotHere
	case busy:
		st = statusBusy
	}
	if _, err := carrier.Write([]byte{byte(st)}); err != nil || st != statusOK {
		return nil, err
	}
	return a.identify(ctx, carrier)
}

func (a *Agent) identify(ctx context.Context, carrier net.Conn) (*flow, error) {
	cfg := identity.ServerConfig(a.opts.Source, []string{Protocol}, tls.RequireAnyClientCert, a.opts.Revoked)
	cfg.SessionTicketsDisabled = true // every carrier proves its caller
	conn := tls.Server(carrier, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		linger(carrier) // for the alert to arrive
		return nil, err
	}
	state := conn.ConnectionState()
	caller, err := identity.PeerID(state, a.opts.Source.Bundle())
	if err != nil {
		return nil, err
	}
	f := &flow{conn: conn, caller: caller, leaf: state.PeerCertificates[0], since: time.Now()}
	f.notAfter = f.leaf.NotAfter
	for _, c := range state.PeerCertificates[1:] {
		if c.NotAfter.Before(f.notAfter) {
			f.notAfter = c.NotAfter
		}
	}
	if err := readFrame(conn, &f.request); err != nil {
		return nil, fmt.Errorf("request of %s: %w", caller.Short(), err)
	}
	return f, nil
}

// linger ends our half of c and waits for the other end to leave: closing c with
// unread bytes in it would discard the bytes that we wrote.
func linger(c net.Conn) {
	closeWrite(c)
	if err := c.SetReadDeadline(time.Now().Add(lingerTimeout)); err == nil {
		_, _ = io.Copy(io.Discard, c)
	}
}

// open decides about f and connects to its port. f enters the table before the
// decision, so that a change of the rules meanwhile finds it. It stays there when open
// returns a connection.
func (a *Agent) open(ctx context.Context, f *flow) (net.Conn, answer) {
	if err := a.flows.add(f); err != nil {
		return nil, answer{Code: codeBusy, Reason: err.Error()}
	}
	service, ans := a.connect(ctx, f)
	if service == nil {
		a.flows.remove(f)
	}
	return service, ans
}

func (a *Agent) connect(ctx context.Context, f *flow) (net.Conn, answer) {
	ans := a.decide(f)
	if ans.Code != codeAllowed {
		return nil, ans
	}
	addrs, refusal := a.service(f)
	if refusal != nil {
		return nil, *refusal
	}
	service, err := dialAny(ctx, addrs)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			service.Close()
		}
		return nil, answer{Code: codeDenied, Reason: context.Cause(ctx).Error()}
	case err != nil:
		return nil, answer{Code: codeUnserved, Rule: ans.Rule, Reason: err.Error()}
	}
	f.rule.Store(&ans.Rule)
	return service, ans
}

// decide asks the decider of the moment about f.
func (a *Agent) decide(f *flow) answer {
	self := a.opts.Source.SVID().ID.Short()
	switch {
	case a.opts.Revoked != nil && a.opts.Revoked(f.leaf):
		return answer{Code: codeDenied, Reason: f.caller.Short() + " is revoked"}
	case time.Now().After(f.notAfter): // the timer does not see a clock that was set
		return answer{Code: codeDenied, Reason: errExpired.Error()}
	}
	d := a.decider.Load()
	if d == nil {
		return answer{Code: codeDenied, Reason: self + " has no policy yet: no node has sent it one"}
	}
	rule, ok := (*d).Allow(f.caller, f.request.Network, f.request.Port)
	switch {
	case ok:
		return answer{Code: codeAllowed, Rule: rule}
	case rule != "":
		return answer{Code: codeDenied, Rule: rule, Reason: "denied by " + rule}
	}
	return answer{Code: codeDenied, Reason: fmt.Sprintf("no grant for %s from %s at %s", f.port(), f.caller.Short(), self)}
}

// service returns the addresses on the device that serve an allowed request, or
// why there are none.
func (a *Agent) service(f *flow) ([]string, *answer) {
	self := a.opts.Source.SVID().ID.Short()
	port := strconv.Itoa(int(f.request.Port))
	if f.request.Network != "tcp" {
		return nil, &answer{Code: codeInvalid, Reason: fmt.Sprintf("%s offers tcp ports, not %s", self, f.request.Network)}
	}
	if !slices.Contains(a.opts.Expose, f.request.Port) {
		return nil, &answer{
			Code:   codeUnexposed,
			Reason: fmt.Sprintf("%s is not exposed at %s: add %s to --expose there", f.port(), self, port),
		}
	}
	switch f.request.Host {
	case "", "localhost":
		return []string{"127.0.0.1:" + port, "[::1]:" + port}, nil
	case "127.0.0.1", "::1":
		return []string{net.JoinHostPort(f.request.Host, port)}, nil
	}
	return nil, &answer{Code: codeInvalid, Reason: fmt.Sprintf("%s offers its loopback address, not %q", self, f.request.Host)}
}

// dialAny connects to the first address that accepts; the error is the first's.
func dialAny(ctx context.Context, addrs []string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	var first error
	for _, addr := range addrs {
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return nil, first
}

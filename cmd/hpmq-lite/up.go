package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/node/control"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

const upText = `Usage: hpmq-lite up --expose PORT[,PORT...] [--dir DIR] [--node HOST:PORT]

Connects to a node of the fabric and serves the exposed TCP ports of this
device's loopback address to those whom the policy allows. From elsewhere:
  hpmq forward pump-7:8080
Runs until it is interrupted; a lost connection is made again.
`

// ports is a flag: a comma-separated list, which may also be repeated.
type ports []uint16

func (p *ports) String() string { return portList(*p) }

// Set adds the ports of one flag.
func (p *ports) Set(list string) error {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no port of 1 to 65535", text)
		}
		if !slices.Contains(*p, uint16(n)) {
			*p = append(*p, uint16(n))
		}
	}
	return nil
}

func runUp(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	var expose ports
	flags.Var(&expose, "expose", "TCP `ports` of this device to offer, as 8080,22")
	named := flags.String("dir", "", "`directory` of the identity")
	addr := flags.String("node", "", "UDP `host:port` of a node (default: those named at enrolment)")
	level := flags.String("log", "info", "`level`: error, warn, info or debug")
	if err := parse(flags, args, stdout, upText); err != nil {
		return err
	}
	if len(expose) == 0 {
		return &control.Error{Code: control.Invalid, Err: errors.New("nothing to expose"), Hint: "name the ports to offer, as --expose 8080,22"}
	}
	if *addr != "" {
		if _, _, err := net.SplitHostPort(*addr); err != nil {
			return usagef("--node %s: %w", *addr, err)
		}
	}
	log := logrus.New()
	log.SetOutput(stderr)
	if err := log.Level.UnmarshalText([]byte(*level)); err != nil {
		return usagef("--log: %w", err)
	}
	dir, err := identityDir(*named)
	if err != nil {
		return err
	}
	store, err := openIdentity(dir)
	if err != nil {
		return err
	}
	unlock, err := lockDir(dir)
	if errors.Is(err, errLocked) {
		return &control.Error{Code: control.Conflict, Err: fmt.Errorf("%s: %w", dir, err), Hint: "see hpmq-lite status --dir " + dir}
	}
	if err != nil {
		return err
	}
	defer unlock()
	l, err := newLite(store, expose, *addr, stdout, log)
	if err != nil {
		return err
	}
	return l.run(ctx)
}

// lite is one running agent.
type lite struct {
	store    *identity.Store
	enrolled *identity.Enrolment // nil without a ticket
	fixed    string              // the node's address if it was given
	expose   []uint16
	out      io.Writer
	log      *logrus.Logger

	node   *overlay.Node
	agent  *access.Agent
	rules  *rules
	link   *link
	report *report

	visitInterval time.Duration
}

// newLite opens the agent's socket and starts nothing.
func newLite(store *identity.Store, expose []uint16, node string, out io.Writer, log *logrus.Logger) (*lite, error) {
	enrolled, err := store.Enrolment()
	if err != nil {
		return nil, err
	}
	l := &lite{store: store, enrolled: enrolled, fixed: node, expose: expose, out: out, log: log, visitInterval: visitInterval}
	if len(l.addrs()) == 0 {
		return nil, &control.Error{Code: control.Invalid, Err: fmt.Errorf("%s names no node to connect to", store.Dir()), Hint: "name one, as --node HOST:7844"}
	}
	l.report = &report{dir: store.Dir(), wake: wake.NewToken(), status: l.status, log: log}
	l.agent = access.NewAgent(access.AgentOptions{Source: store, Expose: expose, Log: log, OnChange: l.report.changed})
	l.rules = newRules(store, enrolled, l.agent, log)
	l.node, err = overlay.New(overlay.Options{
		Source: store, Listen: ":0", DialOnly: true, Revoked: l.rules.nodeRevoked, ServeEnded: l.rules.nodeServed, Log: log,
	})
	if err != nil {
		return nil, err
	}
	l.node.Handle(access.Protocol, l.agent.Handle)
	l.node.Handle(access.SliceProtocol, access.ReceiveSlice(l.rules.take, l.rules.tooLarge))
	l.link = &link{
		node: l.node, addrs: l.addrs, giveUp: giveUp, renewed: wake.NewToken(), moved: wake.NewToken(),
		busy:    func() bool { return len(l.agent.Flows()) > 0 },
		revoked: l.peerRevoked, judged: wake.NewToken(),
		changed: l.report.changed, out: out, log: log,
	}
	l.rules.changed, l.rules.counted = l.rulesChanged, l.report.changed
	return l, nil
}

// run serves until ctx is done or a part fails. No part outlives it.
func (l *lite) run(ctx context.Context) error {
	svid := l.store.SVID()
	fmt.Fprintf(l.out, "%s offers %s; connecting to %s\n", svid.ID.Short(), portList(l.expose), strings.Join(l.addrs(), ", "))
	if time.Now().After(svid.NotAfter()) {
		l.log.WithField("not_after", svid.NotAfter()).Warn("the certificate has expired, renewing it first")
	}
	l.rules.load()
	l.report.changed()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.node.Run(ctx) })
	g.Go(func() error { return l.link.run(ctx) })
	g.Go(func() error { return l.report.run(ctx) })
	g.Go(func() error { return l.rules.run(ctx) })
	g.Go(func() error { return l.visitOthers(ctx) })
	if l.enrolled != nil {
		g.Go(func() error { return l.renewer().Run(ctx) })
	} else {
		l.log.Warn("not enrolled with a ticket: the certificate will not be renewed")
	}
	return g.Wait()
}

// renewer keeps the certificate fresh at the addresses that the last answer
// named.
func (l *lite) renewer() *identity.Renewer {
	return &identity.Renewer{
		Store:   l.store,
		Log:     l.log,
		Send:    identity.HTTPRenewal(l.store, func() []string { return l.enrolment().Known().API }, nil),
		CRL:     func() []identity.CRLSource { return identity.HTTPCRL(l.store, l.enrolment().Known().API, nil) },
		OnRenew: func(*identity.SVID) { l.link.certificateRenewed() },
	}
}

// rulesChanged judges the nodes anew to which the agent is connected.
func (l *lite) rulesChanged() {
	l.node.Recheck()
	l.link.judge()
	l.link.addressesChanged()
	l.report.changed()
}

// peerRevoked reports whether a node is revoked that the agent lost for that.
func (l *lite) peerRevoked(id identity.ID) bool {
	s := l.rules.inForce()
	return s != nil && slices.ContainsFunc(s.Revoked, func(r slice.Revoked) bool { return r.ID == id }) && !l.node.Connected(id)
}

// enrolment returns what the last enrolment or renewal said.
func (l *lite) enrolment() *identity.Enrolment {
	e, err := l.store.Enrolment()
	if err != nil || e == nil {
		return l.enrolled // the file was there at the start
	}
	return e
}

// addrs returns the node addresses to dial.
func (l *lite) addrs() []string {
	switch {
	case l.fixed != "":
		return []string{l.fixed}
	case l.enrolled == nil:
		return nil
	}
	return l.enrolment().Known().Mesh
}

func (l *lite) status() status {
	svid := l.store.SVID()
	s := status{
		ID: svid.ID, Expose: l.expose, Node: l.link.status(), NotAfter: svid.NotAfter(),
		Policy: l.rules.status(), Refused: l.rules.refused.Counts(), Flows: l.agent.Flows(), Time: time.Now(),
	}
	s.Allowed, s.Denied = l.agent.Counters()
	if l.enrolled != nil {
		s.Site = l.enrolment().Site
	}
	return s
}

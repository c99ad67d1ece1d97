package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hpmq/hpmq/funcs"
	"github.com/hpmq/hpmq/funcs/wasm"
	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/policy"
)

// What a change of policy or directory means for those who are connected.

// changes wakes up the work that follows a change; many changes wake it once.
type changes struct {
	rights    chan struct{} // policy or labels: sessions and slices are judged anew
	functions chan struct{} // the set of functions
	slices    broadcast     // agents' slices
	sites     broadcast     // which sites there are, and which are reached
}

func newChanges() *changes {
	return &changes{rights: make(chan struct{}, 1), functions: make(chan struct{}, 1), slices: broadcast{c: make(chan struct{})}, sites: broadcast{c: make(chan struct{})}}
}

// broadcast wakes up everybody who waits.
type broadcast struct {
	mu sync.Mutex
	c  chan struct{} // closed and replaced by fire
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.c
}

func (b *broadcast) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.c)
	b.c = make(chan struct{})
}

// wake puts a token into c unless one waits there already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// applyPolicy puts a policy in force before anybody can connect: the one in the
// directory, then on a CA node the files, if they are sound.
func (n *node) applyPolicy() {
	if rec, ok := n.directory.Policy(); ok {
		if _, err := n.policy.Apply(rec.Files); err != nil {
			n.log.WithError(err).Error("the directory's policy does not compile here; everything is denied")
		}
	}
	if n.authority == nil {
		return
	}
	if found, err := n.policy.Reload(); err != nil {
		n.policyRejected(found)
	}
	wake(n.changes.functions)
}

// policyChanged runs after a new policy came into force: on a CA node it
// becomes the fabric's.
func (n *node) policyChanged() {
	now := time.Now()
	n.policySince.Store(&now)
	n.policyError.Store(nil)
	if n.authority != nil {
		if err := n.publishPolicy(); err != nil {
			n.log.WithError(err).Error("the new policy holds on this node only: it could not be recorded")
		}
	}
	n.log.WithField(logfield.Version, n.policyVersion()).Info("policy in force")
	wake(n.changes.rights)
	wake(n.changes.functions)
	n.changes.slices.fire()
}

func (n *node) publishPolicy() error {
	files, err := policy.ReadDir(policyDir(n.cfg.DataDir))
	if err != nil {
		return err
	}
	if policy.HashFiles(files) != n.policy.Set().Hash() {
		return nil // changed again since; that change comes next
	}
	old, _ := n.directory.Policy()
	hash := directory.HashFiles(files)
	if old.Hash == hash {
		return nil
	}
	_, err = n.directory.Put(directory.Policy{Version: old.Version + 1, Files: files, Hash: hash})
	return err
}

func (n *node) policyVersion() uint64 {
	rec, _ := n.directory.Policy()
	return rec.Version
}

// policyRejected tells that files were saved which are not sound, or with no
// diagnostics that they are again.
func (n *node) policyRejected(found policy.Diagnostics) {
	if len(found) == 0 {
		n.policyError.Store(nil)
		return
	}
	text := found.Error()
	n.policyError.Store(&text)
	n.log.WithField(logfield.Reason, text).Error("policy files not put in force; the policy before them stays")
}

// reloadOnHangup reads the policy files again at each SIGHUP, for file systems
// that do not tell of changes.
func (n *node) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
		}
		if n.authority == nil {
			n.log.Info("SIGHUP: nothing to reload here, the policy comes from the CA node")
			continue
		}
		if found, err := n.policy.Reload(); err != nil {
			n.policyRejected(found)
			continue
		}
		n.policyError.Store(nil)
		n.log.WithField(logfield.Version, n.policyVersion()).Info("SIGHUP: policy files read")
	}
}

// watchDirectory acts on each record as it arrives, revocations first of all:
// nothing slow may run here.
func (n *node) watchDirectory(ctx context.Context, from uint64) error {
	for r, err := range n.directory.Watch(ctx, from) {
		if err != nil {
			return err
		}
		content, err := r.Decode()
		if err != nil {
			return err
		}
		switch rec := content.(type) {
		case directory.Revocation:
			n.end(rec)
			n.changes.slices.fire()
		case directory.Identity:
			n.filter.reset()
			wake(n.changes.rights)
			n.changes.slices.fire()
			n.changes.sites.fire()
		case directory.Node:
			n.changes.sites.fire()
		case directory.Policy:
			if n.authority == nil {
				if _, err := n.policy.Apply(rec.Files); err != nil {
					n.log.WithError(err).Error("the fabric's new policy does not compile here; the one before it stays")
				}
			}
		case directory.Function:
			wake(n.changes.functions)
		}
	}
	return nil
}

// end closes everything that a revoked identity has open here.
func (n *node) end(rec directory.Revocation) {
	began := time.Now()
	n.overlay.Recheck()
	reason := rec.ID.Short() + " is revoked"
	if rec.Reason != "" {
		reason += ": " + rec.Reason
	}
	closed := n.broker.Disconnect(rec.ID, mqtt.Removal{Code: packet.NotAuthorized, Reason: reason, EndSessions: true})
	n.log.WithField(logfield.SPIFFEID, rec.ID.String()).WithField(logfield.Reason, rec.Reason).
		WithField("sessions", closed).WithField("took", time.Since(began).String()).Warn("identity revoked")
}

// applyChanges does the work that changes ask for, until ctx is done.
func (n *node) applyChanges(ctx context.Context) error {
	retry := time.NewTicker(5 * time.Second) // a module may become reachable later
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.changes.rights:
			n.filter.reset()
			n.broker.Reauthorize()
			n.broker.Reroute()
		case <-n.changes.functions:
			n.swapFunctions(ctx)
		case <-retry.C:
			if faults := n.faults.Load(); faults != nil && len(*faults) > 0 {
				n.swapFunctions(ctx)
			}
		}
	}
}

// swapFunctions loads what the directory names, with what policy grants. A
// function that cannot be loaded is left out: its bindings' on_error decides.
func (n *node) swapFunctions(ctx context.Context) {
	n.swapping.Lock()
	defer n.swapping.Unlock()
	faults := map[string]string{}
	var all []funcs.Function
	for name, rec := range n.directory.Functions() {
		f, err := n.prepare(ctx, rec)
		if err != nil {
			faults[name] = err.Error()
			n.log.WithField(logfield.Function, name).WithError(err).Error("function not loaded")
			continue
		}
		all = append(all, f)
	}
	for ctx.Err() == nil {
		err := n.funcs.Swap(ctx, all)
		if err == nil {
			break
		}
		bad, ok := errors.AsType[*funcs.LoadError](err)
		if !ok {
			n.log.WithError(err).Error("functions not changed")
			break
		}
		faults[bad.Function] = bad.Error()
		n.log.WithField(logfield.Function, bad.Function).WithError(err).Error("function not loaded")
		all = slices.DeleteFunc(all, func(f funcs.Function) bool { return f.Name == bad.Function })
	}
	n.faults.Store(&faults)
	n.filter.reset()
	n.broker.Reroute()
}

func (n *node) prepare(ctx context.Context, rec directory.Function) (funcs.Function, error) {
	code, err := n.module(ctx, rec)
	if err != nil {
		return funcs.Function{}, err
	}
	rights := n.policy.Set().Session(policy.Subject{ID: n.functionID(rec.Name), SessionSite: n.site}).Function()
	if _, err := wasm.ParseCapabilities(rights.Capabilities); err != nil {
		return funcs.Function{}, fmt.Errorf("policy: %w", err)
	}
	return funcs.Function{
		Name: rec.Name, Code: code, Capabilities: rights.Capabilities,
		Limits: wasm.Limits{Memory: uint64(rights.Memory), Time: rights.Timeout},
	}, nil
}

// acceptPeer decides who may connect to the mesh port: nodes, and the agents of
// devices. What they may say there, protocols decides.
func (n *node) acceptPeer(id identity.ID) error {
	switch id.Kind {
	case identity.Node:
		// A node that has just joined is in no replica yet; its certificate is
		// enough to be told the rest.
		return nil
	case identity.Device:
		if _, ok := n.subject(id); !ok {
			return fmt.Errorf("%s is not enrolled, or not any more", id.Short())
		}
		return nil
	case identity.User, identity.Service, identity.Function:
	}
	return errors.New("only nodes and devices connect to the mesh")
}

// knownNode vouches for a node to gossip.
func (n *node) knownNode(id identity.ID) bool {
	known, ok := n.directory.Identity(id)
	return ok && known.State == directory.Active && id.Kind == identity.Node
}

// protocols lets nodes speak everything and everybody else nothing: agents only
// answer.
type protocols struct{}

// Allow implements overlay.Authorizer.
func (protocols) Allow(peer identity.ID, protocol string) error {
	if peer.Kind != identity.Node {
		return fmt.Errorf("%s may not open %s here", peer.Short(), protocol)
	}
	return nil
}

// subjects yields everybody whom policy may let reach a device.
func (n *node) subjects(yield func(policy.Subject) bool) {
	for _, p := range n.active() {
		sub := policy.Subject{ID: p.ID, Labels: p.Labels, Site: p.Site}
		if !yield(sub) {
			return
		}
	}
}

// agents are the devices that are connected to this node's mesh port.
func (n *node) agents() map[identity.ID]time.Time {
	connected := map[identity.ID]time.Time{}
	for _, p := range n.overlay.Peers() {
		if p.ID.Kind == identity.Device {
			connected[p.ID] = p.Since
		}
	}
	return connected
}

func (n *node) hasAgent(id identity.ID) bool {
	_, ok := n.agents()[id]
	return ok
}

// sessionsOf counts the MQTT sessions of each identity.
func (n *node) sessionsOf() map[identity.ID]int {
	count := map[identity.ID]int{}
	for _, s := range n.broker.Sessions() {
		if s.Connected {
			count[s.Identity]++
		}
	}
	return count
}

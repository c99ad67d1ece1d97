package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/policy"
)

// applyPolicy puts a policy in force before anybody can connect: the one in the
// directory, then on a CA node the files, if they are sound.
func (n *node) applyPolicy() {
	if rec, ok := n.directory.Policy(); ok {
		if _, err := n.policy.Apply(rec.Files); err != nil {
			n.log.WithError(err).Error("the directory's policy does not compile here; everything is denied")
		} else {
			n.directory.SetPolicyInForce(rec.Version)
		}
	}
	if n.authority == nil {
		return
	}
	if found, err := n.policy.Reload(); err != nil {
		n.policyRejected(found)
	}
}

// policyChanged runs after a new policy came into force: on a CA node it
// becomes the fabric's.
func (n *node) policyChanged() {
	n.remote.policyChanged()
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

// publishPolicy records the policy in force, and keeps what is in the way for
// status and for republish.
func (n *node) publishPolicy() error {
	n.publishing.Lock()
	defer n.publishing.Unlock()
	err := n.recordPolicy()
	if err == nil {
		n.policyUnrecorded.Store(nil)
		return nil
	}
	text := err.Error()
	n.policyUnrecorded.Store(&text)
	return err
}

// republish goes on trying to record a policy that the other nodes do not have
// yet: a right that was taken away must not stay there because a disk was full.
func (n *node) republish(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n.policyUnrecorded.Load() != nil && n.publishPolicy() == nil {
			n.log.WithField(logfield.Version, n.policyVersion()).Info("policy recorded")
		}
	}
}

func (n *node) recordPolicy() error {
	files := n.policy.Set().Files()
	old, _ := n.directory.Policy()
	hash := directory.HashFiles(files)
	if old.Hash == hash {
		n.directory.SetPolicyInForce(old.Version)
		return nil
	}
	_, err := n.directory.Put(directory.Policy{Version: old.Version + 1, Files: files, Hash: hash})
	if err == nil {
		n.directory.SetPolicyInForce(old.Version + 1)
	}
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

package node

import (
	"time"

	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/policy"
)

// applyPolicy puts a policy in force before anybody can connect: the one in the
// directory, then on a CA node the files, if they are sound.
func (n *Node) applyPolicy() {
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

// recordPolicy makes a policy the fabric's before it comes into force on this CA
// node, so that a lack of room leaves no node ahead of another.
func (n *Node) recordPolicy(files map[string][]byte) error {
	old, _ := n.directory.Policy()
	hash := directory.HashFiles(files)
	if old.Hash == hash {
		return nil
	}
	_, err := n.directory.Put(directory.Policy{Version: old.Version + 1, Files: files, Hash: hash})
	return err
}

// policyChanged runs after a new policy came into force.
func (n *Node) policyChanged() {
	n.foreign.PolicyChanged()
	now := time.Now()
	n.policySince.Store(&now)
	n.policyError.Store(nil)
	if n.authority != nil {
		n.directory.SetPolicyInForce(n.policyVersion())
	}
	n.log.WithField(logfield.Version, n.policyVersion()).Info("policy in force")
	n.changes.rights.Wake()
	n.changes.functions.Wake()
	if n.rulebook != nil {
		n.rulebook.changed.Fire()
	}
}

func (n *Node) policyVersion() uint64 {
	rec, _ := n.directory.Policy()
	return rec.Version
}

// policyRejected tells that files were saved which are not sound, or with no
// diagnostics that they are again.
func (n *Node) policyRejected(found policy.Diagnostics) {
	if len(found) == 0 {
		n.policyError.Store(nil)
		return
	}
	text := found.Error()
	n.policyError.Store(&text)
	n.log.WithField(logfield.Reason, text).Error("policy files not put in force; the policy before them stays")
}

// ReloadPolicy reads the policy files again, for file systems that do not report
// changes. The log has the result.
func (n *Node) ReloadPolicy() {
	if n.authority == nil {
		n.log.Info("nothing to reload here, the policy comes from the CA node")
		return
	}
	if found, err := n.policy.Reload(); err != nil {
		n.policyRejected(found)
		return
	}
	n.policyError.Store(nil)
	n.log.WithField(logfield.Version, n.policyVersion()).Info("policy files read")
}

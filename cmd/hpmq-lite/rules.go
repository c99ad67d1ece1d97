package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// rules keeps the newest slice that the directory's writer signed, on disk and in
// force at the agent. Callers, nodes and revocations are judged by it.
type rules struct {
	store    *identity.Store
	enrolled *identity.Enrolment // nil without a ticket: no writer is pinned
	agent    *access.Agent
	changed  func() // another slice is in force, or the one in force has ended
	counted  func() // one more slice was refused
	refused  slice.Refusals
	log      logrus.FieldLogger
	now      func() time.Time
	renewed  wake.Token // another slice is in force; drained by run

	taking sync.Mutex                  // one slice at a time
	cur    atomic.Pointer[slice.Slice] // the newest; written while taking
}

func newRules(store *identity.Store, enrolled *identity.Enrolment, agent *access.Agent, log logrus.FieldLogger) *rules {
	return &rules{
		store: store, enrolled: enrolled, agent: agent, log: log, now: time.Now,
		changed: func() {}, counted: func() {}, renewed: wake.NewToken(),
	}
}

// load puts the slice of the last run in force. Without one, or with one that
// cannot be trusted, the agent goes on refusing everybody until a node brings
// one.
func (r *rules) load() {
	f, err := os.Open(filepath.Join(r.store.Dir(), rulesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var s *slice.Slice
	if err == nil {
		defer f.Close()
		var raw []byte
		if raw, err = io.ReadAll(io.LimitReader(f, slice.MaxBytes+1)); err == nil {
			s, err = r.open(raw)
		}
	}
	if err != nil {
		r.log.WithField(logfield.File, rulesFile).WithField(logfield.Reason, err.Error()).
			Warn("kept policy not usable, everybody is refused until a node sends it again")
		return
	}
	r.taking.Lock()
	defer r.taking.Unlock()
	r.install(s)
}

// open reads a slice that the pinned directory's writer signed for this device.
func (r *rules) open(raw []byte) (*slice.Slice, error) {
	if r.enrolled == nil {
		return nil, slice.Refuse(slice.Unpinned, errors.New("no directory key is pinned here: enrol with a ticket"))
	}
	return slice.Open(raw, r.enrolled.Signer, r.store.SVID().ID)
}

// take judges a slice that a node brings, puts it in force and keeps it. Which node
// brings it does not matter.
func (r *rules) take(node identity.ID, raw []byte) error {
	s, err := r.open(raw)
	if err != nil {
		r.log.WithField(logfield.Peer, node.String()).WithField(logfield.Reason, err.Error()).Warn("policy refused")
		return r.refuse(err)
	}
	now := r.now()
	if s.Ended(now) {
		return r.refuse(slice.Refuse(slice.Ended, fmt.Errorf("the policy ended at %s, and the clock of %s says %s",
			s.Until.Format(time.RFC3339), s.Target.Short(), now.UTC().Format(time.RFC3339))))
	}
	r.taking.Lock()
	defer r.taking.Unlock()
	switch cur := r.inForce(); {
	case cur == nil:
	case s.Issued < cur.Issued:
		return r.refuse(slice.Refuse(slice.Earlier, fmt.Errorf("the policy was issued at %s, before the one in force of %s",
			s.IssuedAt().Format(time.RFC3339Nano), cur.IssuedAt().Format(time.RFC3339Nano))))
	case s.Issued == cur.Issued:
		return nil
	}
	r.install(s)
	entry := r.log.WithFields(logrus.Fields{
		"issued": s.IssuedAt(), "until": s.Until, logfield.Peer: node.String(), "rules": len(s.Rules), "revoked": len(s.Revoked),
	})
	entry.Info("policy received")
	if err := atomicfile.Write(filepath.Join(r.store.Dir(), rulesFile), raw, 0o600); err != nil {
		// The new rules are in force, and the old ones must not come back.
		err = errors.Join(err, removeFile(r.store.Dir(), rulesFile))
		entry.WithField(logfield.Reason, err.Error()).Error("policy not kept: after a restart everybody is refused until a node sends it again")
	}
	return nil
}

// refuse counts a refusal and returns it.
func (r *rules) refuse(err error) error {
	r.refused.Count(slice.ReasonOf(err))
	r.counted()
	return err
}

// tooLarge counts a slice that was not read.
func (r *rules) tooLarge(node identity.ID, err error) {
	r.log.WithField(logfield.Peer, node.String()).WithField(logfield.Reason, err.Error()).Warn("policy refused")
	_ = r.refuse(slice.Refuse(slice.TooLarge, err))
}

// install puts s in force, which ends the flows that it does not allow. The
// caller holds taking.
func (r *rules) install(s *slice.Slice) {
	r.cur.Store(s)
	r.agent.SetDecider(timed{s, r.now})
	if err := r.keepAddresses(s); err != nil {
		r.log.WithField(logfield.Reason, err.Error()).Warn("addresses of nodes not kept")
	}
	r.renewed.Wake()
	r.changed()
}

// maxHeard bounds the addresses of each sort that the enrolment keeps.
const maxHeard = 8

// keepAddresses keeps where the nodes of s are reached, the nearest first.
func (r *rules) keepAddresses(s *slice.Slice) error {
	known, err := r.store.Enrolment()
	if err != nil || known == nil {
		return err
	}
	var heard identity.Addresses
	add := func(list *[]string, more []string) {
		for _, addr := range more {
			if len(*list) < maxHeard && !slices.Contains(*list, addr) {
				*list = append(*list, addr)
			}
		}
	}
	for _, n := range s.Nearest(known.Site) {
		add(&heard.API, n.API)
		add(&heard.MQTT, n.MQTT)
		add(&heard.Mesh, n.Mesh)
	}
	if reflect.DeepEqual(known.Heard, heard) {
		return nil
	}
	return r.store.ChangeEnrolment(func(e *identity.Enrolment) { e.Heard = heard })
}

// timed allows nothing once its slice has ended.
type timed struct {
	*slice.Slice

	now func() time.Time
}

// Allow implements access.Decider.
func (t timed) Allow(caller identity.ID, network string, port uint16) (rule string, ok bool) {
	if t.Ended(t.now()) {
		return "policy that ended at " + t.Until.Format(time.RFC3339), false
	}
	return t.Slice.Allow(caller, network, port)
}

// run ends the open flows when the slice in force ends, until ctx is done.
func (r *rules) run(ctx context.Context) error {
	for {
		var ended <-chan time.Time
		if s := r.inForce(); s != nil && !s.Ended(r.now()) {
			timer := time.NewTimer(s.Until.Sub(r.now()) + time.Millisecond)
			defer timer.Stop() // slices come days apart
			ended = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.renewed:
		case <-ended:
			if r.inForce().Ended(r.now()) {
				r.log.Warn("policy has ended: everybody is refused until a node sends a newer one")
				r.agent.Recheck()
				r.changed()
			}
		}
	}
}

// inForce returns the newest slice, nil for none.
func (r *rules) inForce() *slice.Slice {
	return r.cur.Load()
}

// nodeRevoked reports whether leaf is a node's and revoked.
func (r *rules) nodeRevoked(leaf *x509.Certificate) bool {
	id, err := identity.LeafID(leaf)
	if err != nil {
		return true
	}
	generation, _ := identity.Generation(leaf)
	return r.inForce().NodeRevoked(id, generation)
}

// nodeServed reports whether the agent goes on with a node whose certificate has
// ended: its key is in rules that have not.
func (r *rules) nodeServed(leaf *x509.Certificate) bool {
	id, err := identity.LeafID(leaf)
	if err != nil {
		return false
	}
	s := r.inForce()
	return s.NodeKey(id, keyOf(leaf)) && !s.Ended(r.now())
}

// status returns what is in force, nil for nothing.
func (r *rules) status() *policyStatus {
	s := r.inForce()
	if s == nil {
		return nil
	}
	return &policyStatus{Issued: s.IssuedAt(), Until: s.Until, Rules: len(s.Rules), Nodes: len(s.Nodes), Revoked: len(s.Revoked)}
}

// keyOf names the key of a certificate as slices do.
func keyOf(leaf *x509.Certificate) [32]byte { return sha256.Sum256(leaf.RawSubjectPublicKeyInfo) }

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay/access"
	"github.com/hpmq/hpmq/policy/slice"
)

// rules keeps the newest signed slice, on disk and in force at the agent.
type rules struct {
	store   *identity.Store
	agent   *access.Agent
	changed func()
	judgeAt func(node identity.ID) time.Time // when a node's certificate must be valid
	log     logrus.FieldLogger

	mu     sync.Mutex // held while a slice is taken
	cur    *slice.Slice
	signer identity.ID
	since  time.Time // cur is in force in this process
}

// load puts the slice of the last run in force. Without one, or with one that
// cannot be trusted, the agent goes on refusing everybody until a node brings
// one.
func (r *rules) load() {
	raw, err := os.ReadFile(filepath.Join(r.store.Dir(), rulesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var s *slice.Slice
	var signer identity.ID
	if err == nil {
		s, signer, err = slice.VerifyStored(raw, r.store.Bundle(), r.store.SVID().ID)
	}
	if err != nil {
		r.log.WithField(logfield.File, rulesFile).WithField(logfield.Reason, err.Error()).
			Warn("kept policy not usable, everybody is refused until a node sends it again")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.install(s, signer)
}

// take judges a slice that a node brings, puts it in force and keeps it. Nobody
// but the node that we are connected to grants anything here: a node of another
// site that fell into wrong hands cannot.
func (r *rules) take(node identity.ID, raw []byte) error {
	s, signer, err := slice.Verify(raw, r.store.Bundle(), r.store.SVID().ID, r.judgeAt(node))
	if err != nil {
		return err
	}
	if signer != node {
		return fmt.Errorf("%s brings the rules of %s", node.Short(), signer.Short())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	newer := s.Newer(r.cur)
	if !newer && time.Since(r.since) < slice.Overtake {
		return fmt.Errorf("version %d of %s is not newer than version %d of %s, which is in force",
			s.Version, s.Issued.Format(time.RFC3339), r.cur.Version, r.cur.Issued.Format(time.RFC3339))
	}
	news := r.cur == nil || r.cur.Version != s.Version
	r.install(s, signer)
	entry := r.log.WithFields(logrus.Fields{
		logfield.Version: s.Version, logfield.Peer: signer.String(), "rules": len(s.Rules),
	})
	switch {
	case !newer:
		entry.Warn("policy received; it is older than the one before, and what its node insists on")
	case news:
		entry.Info("policy received")
	}
	if err := atomicfile.Write(filepath.Join(r.store.Dir(), rulesFile), raw, 0o600); err != nil {
		// The new rules are in force, and the old ones must not come back.
		err = errors.Join(err, removeFile(r.store.Dir(), rulesFile))
		entry.WithField(logfield.Reason, err.Error()).Error("policy not kept: after a restart everybody is refused until a node sends it again")
	}
	return nil
}

// install puts s in force, which ends the flows that it does not allow. The
// caller holds mu.
func (r *rules) install(s *slice.Slice, signer identity.ID) {
	r.cur, r.signer, r.since = s, signer, time.Now()
	r.agent.SetDecider(s)
	r.changed()
}

// status returns what is in force, nil for nothing.
func (r *rules) status() *policyStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur == nil {
		return nil
	}
	return &policyStatus{Version: r.cur.Version, Issued: r.cur.Issued, Signer: r.signer, Rules: len(r.cur.Rules)}
}

package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/atomicfile"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

const (
	// offlineMax is how long after its own renewal was due an agent goes on with
	// nodes whose certificates have ended. Nodes have the same bound.
	offlineMax = 14 * 24 * time.Hour

	maxNodeKeys = 64
)

// nodes is what the agent knows of nodes that it was connected to while their
// certificates were valid. When no CA can be reached, it goes on with the same key
// of such a node beyond the certificate's end, as nodes do among themselves.
//
// The agent tells that no CA can be reached by its own renewal: that is due, and the
// node's certificate had not ended when the agent last had one.
type nodes struct {
	store *identity.Store
	log   logrus.FieldLogger

	mu   sync.Mutex // guards keys
	keys []nodeKey
}

// nodeKey is one key of a node, as nodes.json keeps it.
type nodeKey struct {
	ID       identity.ID `json:"id"`
	SPKI     string      `json:"spki"`      // hex SHA-256
	NotAfter time.Time   `json:"not_after"` // of the newest certificate with it
}

func openNodes(store *identity.Store, log logrus.FieldLogger) *nodes {
	n := &nodes{store: store, log: log}
	text, err := os.ReadFile(n.path())
	if err == nil {
		err = json.Unmarshal(text, &n.keys)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.WithField(logfield.File, nodesFile).WithField(logfield.Reason, err.Error()).Warn("known nodes not read")
	}
	return n
}

func (n *nodes) path() string { return filepath.Join(n.store.Dir(), nodesFile) }

// watch learns the nodes that o is connected to until ctx is done.
func (n *nodes) watch(ctx context.Context, o *overlay.Node) error {
	for {
		changed := o.Changed()
		for _, p := range o.Peers() {
			if err := n.learn(p.ID, p.Leaf, time.Now()); err != nil {
				n.log.WithField(logfield.Reason, err.Error()).Warn("known nodes not kept")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// learn keeps the key of a node whose certificate is valid.
func (n *nodes) learn(id identity.ID, leaf *x509.Certificate, now time.Time) error {
	if now.After(leaf.NotAfter) || id.Kind != identity.Node {
		return nil
	}
	key := nodeKey{id, spki(leaf), leaf.NotAfter.UTC()}
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Contains(n.keys, key) {
		return nil
	}
	keys := slices.DeleteFunc(slices.Clone(n.keys), func(k nodeKey) bool { return k.SPKI == key.SPKI })
	keys = append(keys, key)
	slices.SortFunc(keys, func(a, b nodeKey) int { return b.NotAfter.Compare(a.NotAfter) })
	n.keys = keys[:min(len(keys), maxNodeKeys)]
	text, err := json.MarshalIndent(n.keys, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", nodesFile, err)
	}
	return atomicfile.Write(n.path(), append(text, '\n'), 0o600)
}

// serves reports whether the agent goes on with the node of leaf, which has ended.
func (n *nodes) serves(leaf *x509.Certificate) bool { return n.servesAt(leaf, time.Now()) }

func (n *nodes) servesAt(leaf *x509.Certificate, now time.Time) bool {
	own := n.store.SVID()
	if own == nil {
		return false
	}
	due, heard := identity.RenewAt(own), identity.Issued(own.Leaf())
	if now.Before(due) || now.After(due.Add(offlineMax)) || !leaf.NotAfter.After(heard) {
		return false
	}
	key := spki(leaf)
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.keys, func(k nodeKey) bool { return k.SPKI == key })
}

// judgeAt is the time at which the certificate of a connected node is judged that
// signs something: now, or its end when the agent goes on with it.
func (n *nodes) judgeAt(leaf *x509.Certificate, now time.Time) time.Time {
	if leaf != nil && now.After(leaf.NotAfter) && n.servesAt(leaf, now) {
		return leaf.NotAfter
	}
	return now
}

func spki(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// leafOf returns the certificate of a connected node, nil without a connection.
func leafOf(o *overlay.Node, id identity.ID) *x509.Certificate {
	for _, p := range o.Peers() {
		if p.ID == id {
			return p.Leaf
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/overlay"
)

// How the agent looks for a node.
const (
	stagger   = time.Second            // between the first dials of one round
	giveUp    = 10 * time.Second       // default of link.giveUp
	minSearch = 100 * time.Millisecond // smallest upper bound of the pause between rounds
	maxSearch = 5 * time.Second        // largest

	nearerInterval = time.Minute // between looks for a nearer node
)

// link holds the connection to a node. The addresses may be of one node or of
// several, the nearest first; whichever answers is taken. From a node that is not
// the nearest the agent moves on when a nearer one answers and nothing would be cut.
type link struct {
	node    *overlay.Node
	addrs   func() []string
	giveUp  time.Duration // without a connection until another node serves as well
	renewed wake.Token    // the certificate is new; drained by keep
	moved   wake.Token    // the addresses are new; drained by seekNearer
	busy    func() bool   // whether connections are open that a move would cut
	judged  wake.Token    // the rules are new; drained by keep
	revoked func(peer identity.ID) bool
	changed func()
	out     io.Writer // one line for each node found
	log     logrus.FieldLogger

	mu    sync.Mutex
	peer  identity.ID // the node that was found
	addr  string      // where it answered
	since time.Time   // of the connection, zero without one
}

// run stays connected until ctx is done.
func (l *link) run(ctx context.Context) error {
	lost, lastErr := time.Now(), ""
	for ctx.Err() == nil {
		found, err := l.find(ctx, l.addrs())
		if err == nil {
			for ok := true; ok; {
				found, ok = l.keep(ctx, found)
			}
			lost, lastErr = time.Now(), ""
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if text := err.Error(); text != lastErr {
			lastErr = text
			l.log.WithField(logfield.Reason, text).Warn("no node reached, trying on")
		}
		pause := rand.N(min(max(time.Since(lost)/8, minSearch), maxSearch))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// reached is a node that answered at an address.
type reached struct {
	peer identity.ID
	addr string
}

// find dials the addresses, one second after each other, and returns the first
// that answers.
func (l *link) find(ctx context.Context, addrs []string) (reached, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		reached
		err error
	}
	results := make(chan result, len(addrs))
	var dials sync.WaitGroup
	defer dials.Wait()
	defer cancel()
	tick := time.NewTimer(0)
	defer tick.Stop()
	started, failed := 0, []string{}
	for len(failed) < len(addrs) {
		select {
		case <-tick.C:
		case r := <-results:
			if r.err == nil {
				return r.reached, nil
			}
			failed = append(failed, r.err.Error())
		}
		if started < len(addrs) {
			addr := addrs[started]
			started++
			dials.Go(func() {
				peer, err := l.node.Dial(ctx, addr, identity.ID{})
				results <- result{reached{peer, addr}, err}
			})
			tick.Reset(stagger)
		}
	}
	if len(failed) == 0 {
		return reached{}, errors.New("no address of a node is known")
	}
	slices.Sort(failed) // the same words whichever failed first
	return reached{}, errors.New(strings.Join(failed, "; "))
}

// keep looks after the connection to one node. It returns when it has been without
// one for long enough to look for another, or with the nearer node that answered.
func (l *link) keep(ctx context.Context, at reached) (next reached, ok bool) {
	peer, addr := at.peer, at.addr
	ctx, cancel := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	defer keeper.Wait()
	defer cancel()
	keeper.Go(func() {
		if err := l.node.Keep(ctx, overlay.Target{ID: peer, Addrs: l.addrs}); err != nil {
			l.log.WithField(logfield.Reason, err.Error()).Error("connection not kept")
			cancel()
		}
	})
	patience := time.NewTimer(l.giveUp)
	defer patience.Stop()
	defer l.set(peer, addr, time.Time{})
	nearer := make(chan reached, 1)
	keeper.Go(func() { l.seekNearer(ctx, at, nearer) })
	connected := false
	for {
		changed := l.node.Changed()
		if now := l.node.Connected(peer); now != connected && ctx.Err() == nil {
			connected = now
			if connected {
				l.set(peer, addr, time.Now())
				fmt.Fprintf(l.out, "connected to %s at %s\n", peer.Short(), addr)
			} else {
				l.set(peer, addr, time.Time{})
				l.log.WithField(logfield.Peer, peer.String()).Warn("connection lost, dialling again")
				patience.Reset(l.giveUp)
			}
		}
		select {
		case <-ctx.Done():
			return reached{}, false
		case <-changed:
		case next := <-nearer:
			cancel()
			keeper.Wait() // or it would dial the node that is left
			l.node.Disconnect(peer, "moved to a nearer node")
			return next, true
		case <-l.renewed:
			// A connection ends with the certificates it was made with: the next
			// one is there before, and streams on the old one may finish.
			if _, err := l.node.Dial(ctx, addr, peer); err != nil {
				l.log.WithField(logfield.Reason, err.Error()).Debug("dial with the new certificate")
			}
		case <-l.judged:
			if l.revoked(peer) {
				l.log.WithField(logfield.Peer, peer.String()).Warn("node is revoked, leaving it")
				return reached{}, false
			}
		case <-patience.C:
			if !connected {
				return reached{}, false
			}
		}
	}
}

// seekNearer sends the first node that is nearer than at and answers, while no
// connection is open that a move would cut.
func (l *link) seekNearer(ctx context.Context, at reached, nearer chan<- reached) {
	tick := time.NewTicker(nearerInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.moved:
		}
		if l.busy() || !l.node.Connected(at.peer) {
			continue
		}
		found, ok := l.findNearer(ctx, at.addr)
		switch {
		case !ok:
		case found.peer == at.peer:
			at.addr = found.addr
		case l.busy():
			l.node.Disconnect(found.peer, "not needed now")
		default:
			nearer <- found
			return
		}
	}
}

// findNearer returns a node that answers at an address before addr, if one does.
func (l *link) findNearer(ctx context.Context, addr string) (reached, bool) {
	addrs := l.addrs()
	if i := slices.Index(addrs, addr); i >= 0 {
		addrs = addrs[:i]
	}
	if len(addrs) == 0 {
		return reached{}, false
	}
	found, err := l.find(ctx, addrs)
	if err != nil {
		l.log.WithField(logfield.Reason, err.Error()).Debug("no nearer node")
	}
	return found, err == nil
}

// addressesChanged makes seekNearer look at once.
func (l *link) addressesChanged() {
	l.moved.Wake()
}

func (l *link) set(peer identity.ID, addr string, since time.Time) {
	l.mu.Lock()
	l.peer, l.addr, l.since = peer, addr, since
	l.mu.Unlock()
	l.changed()
}

// certificateRenewed makes keep connect anew.
func (l *link) certificateRenewed() {
	l.renewed.Wake()
	l.changed()
}

// judge makes keep look whether the node is revoked.
func (l *link) judge() {
	l.judged.Wake()
}

// holds reports whether the agent is connected to peer by the link.
func (l *link) holds(peer identity.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peer == peer
}

// status returns the node that the agent is connected to, nil for none.
func (l *link) status() *nodeStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return nil
	}
	return &nodeStatus{ID: l.peer, Address: l.addr, Since: l.since}
}

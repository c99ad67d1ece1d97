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
	"github.com/hpmq/hpmq/overlay"
)

// How the agent looks for a node.
const (
	stagger   = time.Second            // between the first dials of one round
	giveUp    = 10 * time.Second       // default of link.giveUp
	minSearch = 100 * time.Millisecond // smallest upper bound of the pause between rounds
	maxSearch = 5 * time.Second        // largest
)

// link holds the connection to a node. The addresses may be of one node or of
// several; whichever answers is taken.
type link struct {
	node    *overlay.Node
	addrs   func() []string
	giveUp  time.Duration // without a connection until another node serves as well
	renewed chan struct{} // one token: the certificate is new; drained by keep
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
		peer, addr, err := l.find(ctx)
		if err == nil {
			l.keep(ctx, peer, addr)
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

// find dials the addresses, one second after each other, and returns the first
// that answers.
func (l *link) find(ctx context.Context) (identity.ID, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		peer identity.ID
		addr string
		err  error
	}
	addrs := l.addrs()
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
				return r.peer, r.addr, nil
			}
			failed = append(failed, r.err.Error())
		}
		if started < len(addrs) {
			addr := addrs[started]
			started++
			dials.Go(func() {
				peer, err := l.node.Dial(ctx, addr, identity.ID{})
				results <- result{peer, addr, err}
			})
			tick.Reset(stagger)
		}
	}
	if len(failed) == 0 {
		return identity.ID{}, "", errors.New("no address of a node is known")
	}
	slices.Sort(failed) // the same words whichever failed first
	return identity.ID{}, "", errors.New(strings.Join(failed, "; "))
}

// keep looks after the connection to one node, and returns when it has been
// without one for long enough to look for another.
func (l *link) keep(ctx context.Context, peer identity.ID, addr string) {
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
			return
		case <-changed:
		case <-l.renewed:
			// A connection ends with the certificates it was made with: the next
			// one is there before, and streams on the old one may finish.
			if _, err := l.node.Dial(ctx, addr, peer); err != nil {
				l.log.WithField(logfield.Reason, err.Error()).Debug("dial with the new certificate")
			}
		case <-patience.C:
			if !connected {
				return
			}
		}
	}
}

func (l *link) set(peer identity.ID, addr string, since time.Time) {
	l.mu.Lock()
	l.peer, l.addr, l.since = peer, addr, since
	l.mu.Unlock()
	l.changed()
}

// certificateRenewed makes keep connect anew.
func (l *link) certificateRenewed() {
	select {
	case l.renewed <- struct{}{}:
	default:
	}
	l.changed()
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

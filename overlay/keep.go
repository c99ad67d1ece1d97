package overlay

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
)

// How Keep watches a wanted connection; the package comment gives the total times.
const (
	watchInterval = time.Second            // between looks at the connection
	silentAfter   = 3 * time.Second        // without an answer: dial a second connection
	reviveTime    = 500 * time.Millisecond // for the old connection to answer once the new one does
	stableAfter   = 5 * time.Second        // a connection that ends sooner does not reset the pauses
	minPause      = 100 * time.Millisecond // smallest upper bound of the random pause between dials
	maxPause      = 5 * time.Second        // largest upper bound of it
	maxAttempts   = 4                      // dials of one target at a time
)

// A Target is a peer that [Node.Keep] stays connected to.
type Target struct {
	ID    identity.ID
	Addrs func() []string // current UDP host:port addresses, asked before each round of dials
}

// Keep stays connected to a peer until ctx is done or the node stops. A
// connection that the peer made serves as well as one of ours.
func (n *Node) Keep(ctx context.Context, t Target) error {
	if t.ID.IsZero() || t.ID == n.ID() {
		return fmt.Errorf("keep a connection to %q: not another node", t.ID.Short())
	}
	lost := time.Now() // start of the time without a working connection
	for {
		if n.newest(t.ID) == nil {
			n.redial(ctx, t, nil, lost, nil)
		}
		if ctx.Err() != nil || n.isStopped() {
			return nil
		}
		if c := n.newest(t.ID); c != nil {
			heard := n.watch(ctx, t, c)
			if time.Since(c.since) > stableAfter {
				lost = heard
				continue
			}
		}
		// It ended as soon as it was made, and the next one may end in the same way.
		n.pause(ctx, t, nil, n.Changed(), pauseFor(time.Since(lost)))
	}
}

func (n *Node) isStopped() bool {
	select {
	case <-n.stopped:
		return true
	default:
		return false
	}
}

// watch returns when c has ended or is no longer the newest connection, with the
// time when the peer was last heard on it. While the peer does not answer, watch
// asks, and dials for a successor.
func (n *Node) watch(ctx context.Context, t Target, c *conn) time.Time {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	p := newPulse(c)
	for {
		changed := n.Changed()
		if n.newest(t.ID) != c {
			return p.heard
		}
		select {
		case <-ctx.Done():
			return p.heard
		case <-n.stopped:
			return p.heard
		case <-changed:
			continue
		case now := <-tick.C:
			if p.look(now); !p.asking {
				continue
			}
			c.ping()
			if now.Sub(p.asked) >= silentAfter {
				n.succeed(ctx, t, c, p)
				return p.heard
			}
		}
	}
}

// succeed dials beside a silent connection until that answers again or has a
// successor. A successor shows that the path works, so a connection that does not
// answer is stuck behind its congestion window. succeed ends it, so that its streams
// are opened anew. Packets that the peer sends by itself are no sign of life: our
// direction may be stuck while the peer's is not.
func (n *Node) succeed(ctx context.Context, t Target, c *conn, p *pulse) {
	entry := c.entry()
	entry.Info("overlay peer silent")
	before := c.answers.Load()
	n.redial(ctx, t, c, p.heard, func() bool {
		c.ask()
		p.look(time.Now())
		return c.answers.Load() != before
	})
	if n.newest(t.ID) == c || ctx.Err() != nil {
		return
	}
	c.ask()
	timer := time.NewTimer(reviveTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.qc.Context().Done():
		return
	case <-ctx.Done():
		return
	}
	if p.look(time.Now()); c.answers.Load() == before {
		c.close(codeLost, "silent while a newer connection works")
	}
}

// succession is a connection that was replaced, and its answers since then.
type succession struct {
	since  time.Time // since then the newest has answered at every look
	old    *pulse
	newest *pulse
	before uint64 // answers on the old one when it was replaced or last alive
	alive  bool   // the old one has answered since, and no packet there is unanswered
}

// endReplaced looks after the connections that were replaced. It ends one that does not
// answer while its successor does: a peer that was killed and restarted does not
// report its earlier connections as dead, and their streams would wait in vain until
// the idle timeout. While neither answers the path is cut, and endReplaced ends neither.
func (n *Node) endReplaced(ctx context.Context) {
	tick := time.NewTicker(n.opts.replacedInterval)
	defer tick.Stop()
	open := map[*conn]*succession{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			replaced := n.replaced()
			maps.DeleteFunc(open, func(old *conn, s *succession) bool { return replaced[old] != s.newest.c })
			for old, newest := range replaced {
				if open[old] == nil {
					open[old] = &succession{since: now, old: newPulse(old), newest: newPulse(newest), before: old.answers.Load()}
				}
				open[old].look(now)
			}
		}
	}
}

func (s *succession) look(now time.Time) {
	old := s.old.c
	if s.alive {
		if s.old.look(now); !s.old.asking {
			return
		}
		s.alive, s.since, s.before = false, now, old.answers.Load()
	}
	received := s.newest.received
	if s.newest.look(now); s.newest.received == received {
		s.since = now
	}
	switch {
	case old.answers.Load() != s.before:
		s.alive = true
	case now.Sub(s.since) >= silentAfter:
		old.close(codeLost, "silent while a newer connection works")
	default:
		old.ask()
		s.newest.c.ping()
	}
}

// redial dials every address of t in turn, again and again. It ends when there is a
// connection other than before, revived reports true, ctx is done or the node stops.
// Attempts overlap: an attempt made while the path is cut must not hold up the next.
func (n *Node) redial(ctx context.Context, t Target, before *conn, lost time.Time, revived func() bool) {
	wanted, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()
	slots := make(chan struct{}, maxAttempts)
	report := &dialReport{node: n, peer: t.ID}
	for next := 0; ; {
		changed := n.Changed()
		if c := n.newest(t.ID); c != nil && c != before {
			return
		}
		if revived != nil && revived() {
			return
		}
		addrs := t.Addrs()
		for range addrs {
			select {
			case slots <- struct{}{}:
			default:
				continue // maxAttempts dials are under way
			}
			addr := addrs[next%len(addrs)] // each address in turn: a silent address does not block the next
			next++
			attempts.Go(func() {
				defer func() { <-slots }()
				if _, err := n.attempt(ctx, wanted, addr, t.ID); err != nil && wanted.Err() == nil {
					report.failed(addr, err)
				}
			})
		}
		if !n.pause(ctx, t, before, changed, pauseFor(time.Since(lost))) {
			return
		}
	}
}

// pauseFor returns the pause before the next dial of a peer that has been lost for
// so long. It is random, below an eighth of that time and within bounds. So the wait
// after the end of an outage is a fraction of the outage.
func pauseFor(lost time.Duration) time.Duration {
	return rand.N(min(max(lost/8, minPause), maxPause))
}

// pause waits for d, or less if the newest connection to t changes. It is false
// when there is nothing left to dial for.
func (n *Node) pause(ctx context.Context, t Target, before *conn, changed <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-n.stopped:
			return false
		case <-changed:
			changed = n.Changed()
			if c := n.newest(t.ID); c != nil && c != before {
				return false
			}
		}
	}
}

// pulse follows whether a connection answers.
type pulse struct {
	c        *conn
	received uint64    // packets, at the last look
	sent     uint64    // packets, when received last grew
	heard    time.Time // when received last grew
	asking   bool      // a packet was sent since and has no answer
	asked    time.Time // start of asking
}

func newPulse(c *conn) *pulse {
	p := &pulse{c: c}
	p.look(time.Now())
	return p
}

func (p *pulse) look(now time.Time) {
	stats := p.c.qc.ConnectionStats()
	if p.heard.IsZero() || stats.PacketsReceived != p.received {
		p.received, p.sent, p.heard = stats.PacketsReceived, stats.PacketsSent, now
	}
	asking := stats.PacketsSent > p.sent
	if asking && !p.asking {
		p.asked = now // not heard: an idle connection may have been silent for long without being asked
	}
	p.asking = asking
}

// dialReport logs a target's failures once each, not once per attempt.
type dialReport struct {
	node *Node
	peer identity.ID
	mu   sync.Mutex
	last map[string]string // address to error
}

func (r *dialReport) failed(addr string, err error) {
	entry := r.node.log.WithFields(logrus.Fields{
		logfield.Peer: r.peer.String(), logfield.Remote: addr, logfield.Reason: err.Error(),
	})
	r.mu.Lock()
	if r.last == nil {
		r.last = make(map[string]string)
	}
	known := r.last[addr] == err.Error()
	r.last[addr] = err.Error()
	r.mu.Unlock()
	if known {
		entry.Debug("overlay dial failed")
	} else {
		entry.Info("overlay dial failed")
	}
}

package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/policy/slice"
)

// A node that is in the wrong hands may hold a newer slice back. So the agent
// connects to a second node when it starts and every visitInterval, for visitTime:
// a node brings the newest slice that it can get to each agent that connects. When
// rules near their end and the first node has brought no newer ones, the agent does
// not wait for that long.
const (
	visitInterval = 10 * time.Minute
	visitTime     = 10 * time.Second
)

// visitOthers visits a second node again and again until ctx is done.
func (l *lite) visitOthers(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := l.node.Changed()
		first := l.link.status()
		if first == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			case <-time.After(time.Second): // the link takes note of a connection after it was made
			}
			continue
		}
		l.visit(ctx, first)
		for last := time.Now(); ctx.Err() == nil; {
			wait := time.Until(l.nextVisit(last))
			if wait <= 0 {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
	return nil
}

// nextVisit returns when the visit after the last one is due. The writer signs new
// rules when 0.4 to 0.6 of their time is over: with a quarter of it left they are
// late, and each eighth of it is worth a visit.
func (l *lite) nextVisit(last time.Time) time.Time {
	next := last.Add(l.visitInterval)
	s := l.rules.inForce()
	if s == nil {
		return next
	}
	span := s.Until.Sub(s.IssuedAt())
	late := s.Until.Add(-span / 4)
	if again := last.Add(max(span/8, time.Second)); late.Before(again) {
		late = again
	}
	if late.Before(next) {
		return late
	}
	return next
}

// visit connects to a node other than first, if one answers.
func (l *lite) visit(ctx context.Context, first *nodeStatus) {
	for _, c := range l.candidates(first) {
		peer, err := l.node.Dial(ctx, c.addr, c.id)
		if err != nil {
			l.log.WithField(logfield.Reason, err.Error()).Debug("second node not reached")
			continue
		}
		if peer == first.ID {
			continue
		}
		l.log.WithField(logfield.Peer, peer.String()).Debug("asking a second node for its policy")
		select {
		case <-ctx.Done():
		case <-time.After(visitTime):
		}
		l.leave(ctx, peer)
		return
	}
}

// leave ends the connection to a node that was visited, once no flow uses it. It
// stays when it has become the agent's link.
func (l *lite) leave(ctx context.Context, peer identity.ID) {
	for ctx.Err() == nil {
		if l.link.holds(peer) {
			return
		}
		busy := false
		for _, p := range l.node.Peers() {
			busy = busy || p.ID == peer && p.Streams > 0
		}
		if !busy {
			l.node.Disconnect(peer, "visited")
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(visitTime):
		}
	}
}

// candidate is an address to visit; id is zero when it is not known which node
// answers there.
type candidate struct {
	id   identity.ID
	addr string
}

// candidates lists the nodes to visit in random order: those of the rules, and then
// the addresses of the enrolment.
func (l *lite) candidates(first *nodeStatus) []candidate {
	var all []candidate
	known := map[string]bool{first.Address: true}
	if s := l.rules.inForce(); s != nil {
		nodes := slices.Clone(s.Nodes)
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		for _, n := range nodes {
			all = append(all, addressesOf(n, first.ID, known)...)
		}
	}
	var rest []candidate
	if l.enrolled != nil {
		for _, addr := range l.enrolment().Known().Mesh {
			if !known[addr] {
				rest = append(rest, candidate{addr: addr})
			}
		}
	}
	rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return append(all, rest...)
}

func addressesOf(n slice.Node, first identity.ID, known map[string]bool) []candidate {
	var list []candidate
	for _, addr := range n.Mesh {
		known[addr] = true
		if n.ID != first {
			list = append(list, candidate{n.ID, addr})
		}
	}
	return list
}

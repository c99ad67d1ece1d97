package access

import (
	"context"
	"sync"
	"time"

	"github.com/hpmq/hpmq/identity"
)

// search looks for one target's agent. It asks first on our own connections. If none
// answers at once it asks all connected nodes together. The first that takes the
// carrier wins.
type search struct {
	relay  *Relay
	target identity.ID
	found  chan *carrier // drained by run until every attempt has ended
	failed chan status   // likewise
}

// run returns the winner, or the most telling of the failures. No attempt
// outlives it.
func (s *search) run(ctx context.Context) (*carrier, status) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var attempts sync.WaitGroup
	pending := 0
	try := func(next identity.ID, hops int) {
		pending++
		attempts.Go(func() {
			c, st := s.relay.extend(ctx, next, &header{Target: s.target, Hops: hops})
			if c != nil {
				s.found <- c
			} else {
				s.failed <- st
			}
		})
	}
	timer := time.NewTimer(headStart)
	defer timer.Stop()
	if s.relay.node.Connected(s.target) {
		try(s.target, 0)
	} else {
		timer.Reset(0)
	}
	var winner *carrier
	asked, worst := false, statusNotHere
	for pending > 0 || !asked && winner == nil {
		select {
		case <-timer.C:
		case c := <-s.found:
			pending--
			if winner != nil {
				c.Reset()
				continue
			}
			winner = c
			cancel()
		case st := <-s.failed:
			pending--
			worst = max(worst, st)
		}
		if !asked && winner == nil {
			asked = true
			s.ask(try)
		}
	}
	attempts.Wait()
	return winner, worst
}

// ask tries every connected node.
func (s *search) ask(try func(next identity.ID, hops int)) {
	for _, p := range s.relay.node.Peers() {
		if p.ID.Kind == identity.Node {
			try(p.ID, 1)
		}
	}
}

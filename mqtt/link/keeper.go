package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// change is a change of the peer's interest as it came on the stream.
type change struct {
	kind    changeKind
	filters []string
	answer  packet.Packet // sent once the change is in force; nil is none
}

type changeKind byte

const (
	picture changeKind = iota // filters are the whole interest
	added
	removed
)

// changeInterest hands a change to the keeper. A peer that changes its interest
// faster than the store keeps it loses the stream.
func (s *sender) changeInterest(c change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changeSize > 2*maxInterestSize {
		return errors.New("interest changes faster than it can be kept")
	}
	s.changes = append(s.changes, c)
	s.changeSize += c.size()
	s.changed.Wake()
	return nil
}

// size is the size of a change in the keeper's queue, see filterSize.
func (c *change) size() int {
	n := 64
	for _, f := range c.filters {
		n += filterSize(f)
	}
	return n
}

// nextChange takes the oldest change, if there is one.
func (s *sender) nextChange() (c change, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.changes) == 0 {
		return change{}, false
	}
	c = s.changes[0]
	s.changes[0] = change{}
	s.changes = s.changes[1:]
	s.changeSize -= c.size()
	return c, true
}

// keepInterest puts the changes into the store and into force, in their order,
// until ctx is done. It always returns an error.
func (s *sender) keepInterest(ctx context.Context) error {
	for {
		select {
		case <-s.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		for c, ok := s.nextChange(); ok; c, ok = s.nextChange() {
			if err := s.keepChange(ctx, &c); err != nil {
				return fmt.Errorf("keep the interest of the site: %w", err)
			}
		}
	}
}

// keepChange puts one change into force, and then has the retained messages sent
// that are new to the peer.
func (s *sender) keepChange(ctx context.Context, c *change) (err error) {
	news := c.filters
	switch c.kind {
	case picture:
		if err = s.p.keepPicture(ctx, c.filters, s.epoch); err == nil {
			s.sift.CompareAndSwap(siftWaiting, siftFirst)
			s.clearings.Store(true)
			s.p.setUp()
			s.p.wake.Wake()
		}
	case added:
		news, err = s.p.subscribe(ctx, c.filters)
	case removed:
		news, err = nil, s.p.unsubscribe(ctx, c.filters)
	}
	if err == nil && len(news) > 0 {
		// A retained message that was routed before the change may still be on its way to
		// the store: it is read there, so it must be there.
		err = s.p.updateStore(ctx, func(store.Tx) {})
	}
	if err != nil {
		return err
	}
	if err := s.want(news); err != nil || c.answer == nil {
		return err
	}
	return s.answer(c.answer)
}

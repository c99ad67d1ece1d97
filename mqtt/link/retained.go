package link

import (
	"errors"
	"strings"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// copies are the retained messages that answer one piece of interest. They are
// sent once the peer has acknowledged all that the log held when they were read:
// then it knows by their clock which of them it has already.
type copies struct {
	messages []*store.Message
	clearing clearing // messages are tombstones up to here
	marked   bool
	mark     uint64 // the last number of the log at a time after the reading
}

// want queues filters; the peer may lack the retained messages that match them.
func (s *sender) want(filters []string) error {
	if len(filters) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wantedSize > 2*maxInterestSize {
		return errors.New("interest changes faster than it can be answered")
	}
	s.wanted = append(s.wanted, filters)
	for _, f := range filters {
		s.wantedSize += filterSize(f)
	}
	s.p.wake.Wake()
	return nil
}

// unackedCopies is how many copies are on their way. The next piece waits for them,
// so that the peer can tell if they overlap.
func (s *sender) unackedCopies() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unacked
}

// nextWanted takes the oldest piece of interest.
func (s *sender) nextWanted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wanted) == 0 {
		return nil
	}
	filters := s.wanted[0]
	s.wanted[0] = nil
	s.wanted = s.wanted[1:]
	for _, f := range filters {
		s.wantedSize -= filterSize(f)
	}
	return filters
}

// fillCopies appends copies of retained messages, after the messages of the log.
func (s *sender) fillCopies(buf []byte, drained bool) []byte {
	if s.copies == nil {
		if s.unackedCopies() > 0 {
			return buf
		}
		if s.told != (clearing{}) {
			s.p.cleared, s.told = s.told, clearing{}
		}
		if s.clearings.CompareAndSwap(true, false) {
			s.copies = s.readTombstones()
		} else if filters := s.nextWanted(); filters != nil {
			s.copies = s.readRetained(filters)
		}
		if s.copies != nil {
			s.p.wake.Wake() // for the look at the log that sets the mark
		}
		return buf
	}
	c := s.copies
	if !c.marked && drained {
		c.marked, c.mark = true, s.cursor
	}
	if !c.marked || s.p.acked.Load() < c.mark {
		return buf
	}
	for len(c.messages) > 0 && len(buf) < batchSize {
		if s.windowRoom() == 0 {
			return buf
		}
		buf = s.appendCopy(buf, c.messages[0], time.Now())
		c.messages[0] = nil
		c.messages = c.messages[1:]
	}
	if len(c.messages) == 0 {
		s.copies, s.told = nil, c.clearing
		s.p.wake.Wake() // for the next piece
	}
	return buf
}

func (s *sender) appendCopy(buf []byte, m *store.Message, now time.Time) []byte {
	p := s.stamp.publish(m, 1, laneRetained, 0, now)
	if clears(m) { // the store decides how long a tombstone lives
		p.Properties.Clear(packet.PropMessageExpiryInterval)
	}
	if m.Expired(now) || !s.mayReceive(m) || !s.fits(p) {
		return buf
	}
	s.mu.Lock()
	p.PacketID = s.window.push(slot{})
	s.unacked++
	s.mu.Unlock()
	s.p.count.sent.Add(1)
	return p.Append(buf, packet.V5)
}

// readRetained reads the retained messages of this site's publishers that match
// any of filters, each once.
func (s *sender) readRetained(filters []string) *copies {
	c := &copies{}
	seen := make(map[*store.Message]struct{})
	for _, f := range filters {
		for _, m := range s.p.l.opts.Store.Retained(f) {
			if _, twice := seen[m]; twice || strings.HasPrefix(m.Topic, "$") || !s.p.l.leaves(m) {
				continue
			}
			seen[m] = struct{}{}
			c.messages = append(c.messages, m)
		}
	}
	return c
}

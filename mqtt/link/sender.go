package link

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// sender sends this site's messages on a stream that it opened. One goroutine writes.
// One reads the answers and the peer's interest. One, the keeper, puts the interest
// into the store and into force.
type sender struct {
	p      *peer
	stream *stream
	limit  int // the peer's Maximum Packet Size

	tellsSkips bool // the peer reads the counts of left out numbers

	// Of the writer.
	stamp   stamper
	cursor  uint64 // the last number of the outbound log that was sent
	scratch [64]store.Outbound
	now     []*store.Message // QoS 0, taken from the peer's queue
	copies  *copies          // of retained messages, being sent; nil if none
	told    clearing         // how far the peer was told of tombstones, once it has acknowledged them
	skipped uint64           // numbers of the log that were not sent, up to the next one

	// Of the reader.
	picture     int      // filters missing from the first whole picture
	filters     []string // the part of the picture that has come
	filtersSize int

	epoch   uint64     // of the peer
	changed wake.Token // the keeper has a change of interest to look at

	clearings atomic.Bool  // the peer is to be told which retained messages were cleared
	sift      atomic.Int32 // how the writer takes the log; see siftWaiting

	mu         sync.Mutex // guards all below
	window     window
	unacked    int        // retained copies in the window
	control    []byte     // answers to the peer
	changes    []change   // of the peer's interest, for the keeper
	changeSize int        // of the filters in changes
	wanted     [][]string // filters with retained messages that the peer may lack
	wantedSize int        // of the filters in wanted
}

// Messages that were logged while the peer's interest was unknown are sifted when it is
// known: only messages that the peer asked for are sent.
const (
	siftNothing int32 = iota
	siftWaiting       // for the first picture; nothing is sent
	siftFirst         // up to the end of the log
)

func newSender(p *peer, s *stream, t terms) *sender {
	n := &sender{
		p: p, stream: s, limit: t.packetSize, tellsSkips: t.skips,
		stamp:   stamper{site: p.l.opts.Site, epoch: p.l.epoch},
		cursor:  p.acked.Load(),
		picture: t.filters, epoch: t.epoch,
		changed: wake.NewToken(),
		window:  newWindow(t.receiveMaximum),
	}
	if !p.isHeard() {
		n.sift.Store(siftWaiting)
	}
	return n
}

// run sends until the stream ends.
func (s *sender) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.stream.conn.Close()
	failed := make(chan error, 2)
	s.p.refusal.Store(false)
	wg.Go(func() { failed <- s.read() })
	wg.Go(func() {
		if err := s.keepInterest(ctx); ctx.Err() == nil {
			failed <- err
		}
	})
	return s.write(ctx, failed)
}

// write sends messages and answers until the stream fails or ctx is done.
func (s *sender) write(ctx context.Context, failed <-chan error) error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	committed := s.p.l.opts.Store.Committed(s.p.site)
	buf := make([]byte, 0, batchSize+pieceSize)
	for {
		buf = s.fill(buf[:0])
		if len(buf) == 0 {
			select {
			case <-s.p.wake:
				continue
			case <-committed:
				continue
			case <-ping.C:
				buf = (&packet.Pingreq{}).Append(buf, packet.V5)
			case err := <-failed:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := s.stream.write(buf); err != nil {
			select {
			case because := <-failed: // the reader saw the end before
				return because
			default:
				return err
			}
		}
		if cap(buf) > 4*batchSize {
			buf = make([]byte, 0, batchSize+pieceSize)
		}
	}
}

// fill appends the packets that may be sent now, about a batch of them.
func (s *sender) fill(buf []byte) []byte {
	s.mu.Lock()
	buf = append(buf, s.control...)
	s.control = s.control[:0]
	s.mu.Unlock()
	buf = s.fillNow(buf)
	buf, drained := s.fillLog(buf)
	return s.fillCopies(buf, drained)
}

// fillNow appends QoS 0 messages.
func (s *sender) fillNow(buf []byte) []byte {
	if len(s.now) == 0 {
		s.now = s.p.takeNow()
	}
	for len(s.now) > 0 && len(buf) < batchSize {
		m := s.now[0]
		s.now = s.now[1:]
		if t := time.Now(); !m.Expired(t) && s.mayReceive(m) {
			if p := s.stamp.publish(m, 0, laneLog, 0, t); s.fits(p) {
				s.p.count.sent.Add(1)
				buf = p.Append(buf, packet.V5)
			}
		}
	}
	return buf
}

// fillLog appends from the outbound log as far as the window allows, and reports
// whether the log has no more.
func (s *sender) fillLog(buf []byte) (_ []byte, drained bool) {
	sift := s.sift.Load()
	if sift == siftWaiting {
		return buf, false
	}
	now := time.Now()
	skipped := false
	for len(buf) < batchSize {
		n := min(s.windowRoom(), len(s.scratch))
		if n == 0 {
			break
		}
		got := s.p.l.opts.Store.Outbound(s.p.site, s.cursor, s.scratch[:0:n])
		if drained = len(got) < n; len(got) == 0 {
			break
		}
		for i := range got {
			if len(buf) >= batchSize {
				drained = false
				break
			}
			var sent bool
			buf, sent = s.appendLogged(buf, &got[i], now, sift == siftFirst)
			skipped = skipped || !sent
			s.cursor = got[i].Seq
		}
		clear(got)
		if drained {
			break
		}
	}
	if skipped {
		s.collect()
	}
	if drained {
		s.sift.Store(siftNothing)
	}
	return buf, drained
}

// appendLogged appends an entry of the log with the next packet identifier. An entry
// that is not sent takes a slot too, so that it is acknowledged in its turn.
func (s *sender) appendLogged(buf []byte, o *store.Outbound, now time.Time, sift bool) (_ []byte, sent bool) {
	m := o.Message
	skip := m.Expired(now) || sift && !s.p.wants(m.Topic) || !s.mayReceive(m)
	var p *packet.Publish
	if !skip {
		p = s.stamp.publish(m, 1, laneLog, o.Seq, now)
		skip = !s.fits(p)
	}
	s.mu.Lock()
	id := s.window.push(slot{seq: o.Seq, done: skip})
	s.mu.Unlock()
	if skip {
		s.skipped++
		return buf, false
	}
	if p.PacketID = id; s.skipped > 0 && s.tellsSkips {
		p = s.stamp.tellSkipped(s.skipped)
	}
	s.skipped = 0
	s.p.count.sent.Add(1)
	return p.Append(buf, packet.V5), true
}

// mayReceive reports whether the peer may receive m now; its rights may have changed
// while m waited.
func (s *sender) mayReceive(m *store.Message) bool {
	if s.p.receives(m) {
		return true
	}
	s.p.count.withheld.Add(1)
	return false
}

// fits reports whether the peer takes a packet of that size.
func (s *sender) fits(p *packet.Publish) bool {
	if p.Size(packet.V5) <= s.limit {
		return true
	}
	s.p.count.dropped.Add(1)
	return false
}

func (s *sender) windowRoom() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window.room()
}

// collect removes acknowledged messages from the window and the log. Both the reader
// and the writer call it.
func (s *sender) collect() {
	upTo, sent := uint64(0), 0
	s.mu.Lock()
	for {
		done, ok := s.window.pop()
		if !ok {
			break
		}
		if done.seq == 0 {
			s.unacked--
		} else {
			upTo = done.seq
			sent++
		}
	}
	more := upTo > s.p.acked.Load()
	if more {
		s.p.acked.Store(upTo)
	}
	s.mu.Unlock()
	if more {
		s.p.l.opts.Store.Update(func(tx store.Tx) { tx.Acknowledge(s.p.site, upTo, sent) }, nil)
	}
	s.p.wake.Wake()
}

// refused counts a message that the peer will never keep.
func (s *sender) refused(code packet.ReasonCode, reason string) {
	s.p.count.dropped.Add(1)
	if !s.p.refusal.Swap(true) {
		s.p.entry().WithField(logfield.Reason, fmt.Sprintf("%s %s", code, reason)).Warn("site refused a message")
	}
}

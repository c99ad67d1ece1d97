package link

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/mqtt/store"
)

// peer is another site: its interest, the stream to one of its nodes, and the streams
// from its nodes.
type peer struct {
	l    *Links
	site string

	kick wake.Token // it may be reachable now
	wake wake.Token // the sender has something to look at

	storing chan struct{} // capacity 1: holds a token while no change of the stored interest is on its way

	acked   atomic.Uint64 // the peer keeps all of the outbound log up to here
	alone   atomic.Bool   // the site has no node
	refusal atomic.Bool   // a refusal was logged since the stream was opened
	count   counters

	// Of the one goroutine that may change the interest.
	epoch    uint64 // of the node that told the interest
	unstored bool   // the store has no room for it
	lost     uint64 // messages that the log dropped and that were logged

	cleared clearing // of the sender's writer

	// Of the goroutine in Links.Run.
	end   context.CancelFunc // ends run; nil while run is not running
	ended chan struct{}      // closed when run has ended

	mu           sync.Mutex // guards all below
	id           identity.ID
	interest     map[string]struct{}
	interestSize int
	whole        bool // interest is too large: it gets everything
	heard        bool // interest was told; else it is everything
	sources      map[identity.ID]*source
	up           bool      // the sender may be given QoS 0 messages
	known        bool      // up or reason was set
	reason       string    // why it is not up
	since        time.Time // of the last change of up
	queue        []*store.Message
	queueSize    int
}

// newPeer returns a site that has a node.
func newPeer(l *Links, site string) *peer {
	p := &peer{
		l: l, site: site, interest: make(map[string]struct{}), heard: true,
		sources: make(map[identity.ID]*source), kick: wake.NewToken(), wake: wake.NewToken(),
		storing: make(chan struct{}, 1), since: time.Now(),
	}
	p.storing <- struct{}{}
	p.acked.Store(l.opts.Store.OutboundStats(site).Acknowledged)
	p.loadInterest()
	return p
}

func (p *peer) entry() *logrus.Entry {
	return p.l.log.WithFields(logrus.Fields{logfield.Site: p.site, logfield.Peer: p.node().String()})
}

func (p *peer) node() identity.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

// become makes the node id the other end of the link; without an id the link has no
// other end. If id is the other end already, the link tries it again at once.
func (p *peer) become(ctx context.Context, id identity.ID) {
	old := p.node()
	if old == id {
		p.kick.Wake()
		return
	}
	if p.end != nil {
		p.end()
		<-p.ended
		p.end = nil
	}
	p.mu.Lock()
	p.id = id
	p.mu.Unlock()
	if p.alone.Load() && !id.IsZero() {
		p.expectEverything()
	}
	if p.alone.Store(id.IsZero()); id.IsZero() {
		p.forgetInterest(ctx)
		p.setDown(errors.New("site has no node"))
		return
	}
	ended := make(chan struct{})
	ctx, p.end = context.WithCancel(ctx)
	p.ended = ended
	p.l.work.Go(func() {
		defer close(ended)
		p.run(ctx, id)
	})
}

// run keeps a stream to the node id open until ctx is done.
func (p *peer) run(ctx context.Context, id identity.ID) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-retry.C:
		case <-p.kick:
		case <-ctx.Done():
			p.setDown(ctx.Err())
			return
		}
		begin := time.Now()
		err := p.connect(ctx, id)
		if ctx.Err() == nil {
			p.setDown(err)
		}
		if time.Since(begin) > deadAfter {
			retry.Reset(0) // it was up: perhaps another path is there already
		} else {
			retry.Reset(retryInterval)
		}
	}
}

// connect opens a stream to the node id and sends on it until it ends.
func (p *peer) connect(ctx context.Context, id identity.ID) error {
	greeting, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := p.l.opts.Dialer.Open(greeting, id)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := newStream(conn, interestLimit)
	stop := s.closeWith(greeting)
	t, err := s.greet(hello{site: p.l.opts.Site, epoch: p.l.epoch, acked: p.acked.Load(), told: true})
	if !stop() && ctx.Err() == nil {
		return errors.New("no answer to CONNECT in time")
	}
	if err != nil {
		return err
	}
	defer s.closeWith(ctx)()
	return newSender(p, s, t).run(ctx)
}

func (p *peer) setUp() {
	p.mu.Lock()
	p.up, p.known, p.reason, p.since = true, true, "", time.Now()
	p.mu.Unlock()
	p.entry().Info("link to site is up")
	if lost := p.l.opts.Store.OutboundStats(p.site).Dropped; lost > p.lost {
		p.entry().WithField("messages", lost-p.lost).Warn("outbound log was full and lost messages")
		p.lost = lost
	}
}

// setDown notes why there is no stream to the peer. Only the first of several
// failures is logged.
func (p *peer) setDown(err error) {
	p.mu.Lock()
	first := p.up || !p.known
	if p.up {
		p.since = time.Now()
	}
	p.up, p.known, p.reason = false, true, err.Error()
	p.count.dropped.Add(uint64(len(p.queue)))
	p.queue, p.queueSize = nil, 0
	p.mu.Unlock()
	if first && !errors.Is(err, context.Canceled) {
		p.entry().WithField(logfield.Reason, err.Error()).Warn("link to site is down")
	}
}

// forwardNow hands a QoS 0 message to the stream if there is one. If too many wait, the
// oldest is dropped.
func (p *peer) forwardNow(m *store.Message) {
	limit := p.l.opts.QoS0
	p.mu.Lock()
	defer p.mu.Unlock()
	size := m.Size()
	if !p.up || size > limit.Bytes {
		if p.heard { // else its interest in m is unknown
			p.count.dropped.Add(1)
		}
		return
	}
	for len(p.queue) >= limit.Messages || p.queueSize+size > limit.Bytes {
		p.queueSize -= p.queue[0].Size()
		p.queue[0] = nil
		p.queue = p.queue[1:]
		p.count.dropped.Add(1)
	}
	p.queue = append(p.queue, m)
	p.queueSize += size
	p.wake.Wake()
}

// takeNow takes the QoS 0 messages that wait.
func (p *peer) takeNow() []*store.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queue
	p.queue, p.queueSize = nil, 0
	return q
}

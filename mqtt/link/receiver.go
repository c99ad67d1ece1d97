package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/mqtt/packet"
)

var (
	errEvicted  = errors.New("another stream takes over")
	errResting  = errors.New("takes nothing at present")
	errUnread   = errors.New("peer does not read its acknowledgements")
	errNoSpace  = &packet.Error{Code: packet.QuotaExceeded, Msg: "no disk space at this site"}
	errNotALink = &packet.Error{Code: packet.NotAuthorized, Msg: "not a node of another site"}
)

// receiver takes the messages of a site's node from a stream that the node opened,
// and tells it this site's interest.
type receiver struct {
	l      *Links
	p      *peer
	source *source
	stream *stream
	epoch  uint64
	end    context.CancelCauseFunc
	wake   wake.Token // the writer has something to look at
	room   wake.Token // a message left the store's hands

	told   bool   // a refused message was logged; of the reader
	lastID uint16 // packet identifier of SUBSCRIBE; of the writer

	mu       sync.Mutex          // guards all below, and source.lane while r holds the slot
	users    int                 // messages on their way to the store, and Handle
	inflight int                 // QoS 1 messages among users
	pending  int                 // bytes of all messages on their way to the store
	control  []byte              // acknowledgements and answers
	dirty    map[string]struct{} // filters that the peer may know wrongly
}

// Handle serves a stream that a node opened, after the node has proven its identity. It
// returns when the stream has ended. The end of ctx or of Run ends the stream.
func (l *Links) Handle(ctx context.Context, node identity.ID, conn net.Conn) {
	defer conn.Close()
	select {
	case <-l.ready:
	case <-ctx.Done():
		return
	}
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return
	}
	l.work.Add(1)
	l.mu.Unlock()
	defer l.work.Done()

	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := &receiver{
		l: l, end: end, users: 1,
		stream: newStream(conn, handshakeLimit),
		wake:   wake.NewToken(), room: wake.NewToken(),
	}
	defer r.stream.closeWith(ctx)()
	if r.source = l.sourceOf(node); r.source == nil {
		// As a rule a new site whose record has not reached us; it tries again.
		r.stream.refuse(errNotALink)
		l.log.WithField(logfield.Peer, node.String()).Debug("link stream of no known site refused")
		return
	}
	r.p = r.source.p
	err := r.run(ctx)
	r.source.mu.Lock()
	if r.source.receiver == r {
		r.source.receiver = nil
	}
	r.source.mu.Unlock()
	l.misbehaved(node, err)
}

// misbehaved logs why a stream ended if the peer is to blame. Failures of the path are
// logged by this site's own stream to the other site.
func (l *Links) misbehaved(node identity.ID, err error) {
	if _, fault := errors.AsType[*packet.Error](err); fault && l.warnings.Allow() {
		l.log.WithFields(logrus.Fields{logfield.Peer: node.String(), logfield.Reason: err.Error()}).
			Warn("link stream refused")
	}
}

// run greets the peer and takes its messages. It always returns an error.
func (r *receiver) run(ctx context.Context) error {
	greeting, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := r.stream.closeWith(greeting)
	o, err := r.stream.await(r.p.site)
	if err != nil {
		r.stream.refuse(err)
		return err
	}
	r.epoch = o.epoch
	if err := r.takeOver(greeting, o); err != nil {
		return err
	}
	defer r.release()
	filters := r.interest()
	defer r.l.forget(r)
	err = r.stream.accept(terms{
		receiveMaximum: r.l.opts.ReceiveMaximum, packetSize: r.packetSize(), filters: len(filters), epoch: r.l.epoch,
	})
	if err != nil {
		return err
	}
	if !stop() {
		return context.DeadlineExceeded
	}
	r.stream.limit = r.packetSize()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if err := r.write(ctx, filters); err != nil {
			r.end(err)
		}
	})
	r.end(r.read(ctx))
	return context.Cause(ctx) // the first reason of several
}

func (r *receiver) packetSize() int { return r.l.opts.PacketSize + stampAllowance }

// takeOver ends an earlier stream of the node and waits until the store has answered
// for all messages of that stream: only then are duplicates known.
func (r *receiver) takeOver(ctx context.Context, o hello) error {
	s := r.source
	s.mu.Lock()
	old := s.receiver
	s.receiver = r
	s.mu.Unlock()
	if old != nil {
		old.end(errEvicted)
	}
	if err := r.l.stillSource(r); err != nil { // a change after this line finds r
		return err
	}
	select {
	case <-s.slot:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if time.Now().Before(s.lane.rest) {
		why := s.lane.why
		s.slot <- struct{}{}
		r.stream.refuse(why)
		return errResting
	}
	s.lane.begin(r.l.opts.Store, s.node, o)
	s.receiving.Store(true)
	return nil
}

// stillSource returns an error if the links have stopped or the node is none of the
// site any more.
func (l *Links) stillSource(r *receiver) error {
	l.mu.Lock()
	stopped := l.stopped
	l.mu.Unlock()
	if stopped || l.sourceOf(r.source.node) != r.source {
		return errEvicted
	}
	return nil
}

// use counts a message that goes to the store.
func (r *receiver) use(qos byte, size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.control) > maxControl {
		return errUnread
	}
	if qos > 0 {
		if r.inflight++; r.inflight > int(r.l.opts.ReceiveMaximum) {
			return &packet.Error{Code: packet.ReceiveMaximumExceeded, Msg: "more messages in flight than allowed"}
		}
	}
	r.users++
	r.pending += size
	return nil
}

// release ends one use of the slot: by Handle, or by a message on its way to the store.
// The last one frees the slot.
func (r *receiver) release() {
	r.mu.Lock()
	r.users--
	last := r.users == 0
	r.mu.Unlock()
	if last {
		r.source.receiving.Store(false)
		r.source.slot <- struct{}{}
	}
}

// answer queues a packet for the writer.
func (r *receiver) answer(p packet.Packet) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.control) > maxControl {
		return errUnread
	}
	r.control = p.Append(r.control, packet.V5)
	r.wake.Wake()
	return nil
}

// write sends interest, acknowledgements and signs of life until the stream
// fails or ctx is done.
func (r *receiver) write(ctx context.Context, filters []string) error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	buf := make([]byte, 0, 4<<10)
	for len(filters) > 0 {
		n := fillFilters(filters)
		buf = r.appendSubscribe(buf[:0], filters[:n])
		filters = filters[n:]
		if err := r.stream.write(buf); err != nil {
			return err
		}
	}
	for {
		buf = r.fill(buf[:0])
		if len(buf) == 0 {
			select {
			case <-r.wake:
				continue
			case <-ping.C:
				buf = (&packet.Pingreq{}).Append(buf, packet.V5)
			case <-ctx.Done():
				return nil
			}
		}
		if err := r.stream.write(buf); err != nil {
			return err
		}
	}
}

// fill appends the answers and changes of interest that wait.
func (r *receiver) fill(buf []byte) []byte {
	r.mu.Lock()
	buf = append(buf, r.control...)
	r.control = r.control[:0]
	dirty := r.dirty
	r.dirty = nil
	r.mu.Unlock()
	if len(dirty) == 0 {
		return buf
	}
	subscribed, gone := r.l.sort(dirty)
	for len(subscribed) > 0 {
		n := fillFilters(subscribed)
		buf = r.appendSubscribe(buf, subscribed[:n])
		subscribed = subscribed[n:]
	}
	for len(gone) > 0 {
		n := fillFilters(gone)
		buf = (&packet.Unsubscribe{PacketID: r.nextID(), TopicFilters: gone[:n]}).Append(buf, packet.V5)
		gone = gone[n:]
	}
	return buf
}

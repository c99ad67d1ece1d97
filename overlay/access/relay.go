package access

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/overlay"
)

// How long a carrier may take.
const (
	answerTimeout = 5 * time.Second        // for one hop to take it, and for its header to come
	headStart     = 300 * time.Millisecond // for the agent connected here, before other nodes are asked
)

// RelayOptions configures a [Relay].
type RelayOptions struct {
	Node *overlay.Node      // required
	Log  logrus.FieldLogger // nil discards

	// MaxCarriers bounds the carriers to and from each connected peer, which
	// share its streams with everything else. Zero means 64.
	MaxCarriers int
}

// A Relay is a node's part in access: it finds the agent of an identity and
// passes carriers on.
type Relay struct {
	node  *overlay.Node
	log   logrus.FieldLogger
	limit int

	mu       sync.Mutex
	carriers map[identity.ID]int // by the peer next to us
}

// NewRelay returns a relay. Register its [Relay.Handle] as the node's handler of
// [Protocol].
func NewRelay(o RelayOptions) *Relay {
	r := &Relay{node: o.Node, log: logfield.OrSilent(o.Log), limit: o.MaxCarriers, carriers: make(map[identity.ID]int)}
	if r.limit <= 0 {
		r.limit = 64
	}
	return r
}

// Carrier returns a carrier to the target's agent, which is connected here or to
// a node that is. The caller closes it, or hands it to [Splice]. The errors wrap
// [ErrNotFound], [ErrUnreachable] or [ErrBusy].
func (r *Relay) Carrier(ctx context.Context, target identity.ID) (net.Conn, error) {
	if target.Kind == identity.Node {
		return nil, &carrierError{target.Short() + " is a node, which offers no ports", ErrNotFound}
	}
	s := &search{relay: r, target: target, found: make(chan *carrier), failed: make(chan status)}
	c, worst := s.run(ctx)
	if c != nil {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("find the agent of %s: %w", target.Short(), context.Cause(ctx))
	}
	switch worst {
	case statusBusy:
		return nil, &carrierError{"too many connections on the way to " + target.Short(), ErrBusy}
	case statusSilent:
		return nil, &carrierError{target.Short() + " is connected but its agent does not answer", ErrUnreachable}
	case statusOK, statusNotHere:
	}
	return nil, &carrierError{
		target.Short() + " has no agent connected at any reachable site; is hpmq-lite up running there?", ErrNotFound,
	}
}

// Handle serves a carrier that another node opened. It passes the carrier to the agent
// if the agent is connected here, and never to a further node.
func (r *Relay) Handle(ctx context.Context, s *overlay.Stream) {
	from := s.PeerID()
	log := r.log.WithField(logfield.Peer, from.String())
	if from.Kind != identity.Node {
		log.Warn("carrier refused: not from a node")
		s.Reset()
		return
	}
	h, err := receive(s)
	if err != nil {
		log.WithField(logfield.Reason, err.Error()).Warn("carrier refused: malformed header")
		s.Reset()
		return
	}
	next, st := r.accept(ctx, from, h)
	if next != nil {
		defer r.release(from)
		defer next.Close()
	}
	if _, err := s.Write([]byte{byte(st)}); err != nil || next == nil { // one byte fits any window
		return
	}
	log = log.WithField(logfield.SPIFFEID, h.Target.String())
	log.Debug("carrier open")
	if err := Splice(ctx, s, next); err != nil {
		log = log.WithField(logfield.Reason, err.Error())
	}
	log.Debug("carrier closed")
}

func receive(s *overlay.Stream) (*header, error) {
	if err := s.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	h := new(header)
	if err := readFrame(s, h); err != nil {
		return nil, err
	}
	return h, s.SetReadDeadline(time.Time{})
}

// accept extends a carrier from a node to the agent. The returned carrier counts
// against the limits of both.
func (r *Relay) accept(ctx context.Context, from identity.ID, h *header) (*carrier, status) {
	if h.Hops < 1 || h.Target.Kind == identity.Node || !r.node.Connected(h.Target) {
		return nil, statusNotHere
	}
	if !r.reserve(from) {
		return nil, statusBusy
	}
	c, st := r.extend(ctx, h.Target, &header{Target: h.Target, Hops: h.Hops - 1})
	if c == nil {
		r.release(from)
	}
	return c, st
}

// extend opens a carrier to the connected peer next.
func (r *Relay) extend(ctx context.Context, next identity.ID, h *header) (*carrier, status) {
	if !r.reserve(next) {
		return nil, statusBusy
	}
	s, st := r.offer(ctx, next, h)
	if s == nil {
		r.release(next)
		return nil, st
	}
	return &carrier{Stream: s, done: sync.OnceFunc(func() { r.release(next) })}, statusOK
}

// offer opens a stream to next, sends the header and waits for the answer.
func (r *Relay) offer(ctx context.Context, next identity.ID, h *header) (*overlay.Stream, status) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := r.node.Open(ctx, next, Protocol)
	if err != nil {
		return nil, h.unanswered(err)
	}
	stop := context.AfterFunc(ctx, s.Reset)
	st := exchange(s, h)
	if !stop() && st == statusOK {
		st = h.unanswered(ctx.Err())
	}
	if st != statusOK {
		s.Reset()
		return nil, st
	}
	return s, statusOK
}

func exchange(s io.ReadWriter, h *header) status {
	if err := writeFrame(s, h); err != nil {
		return h.unanswered(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return h.unanswered(err)
	}
	if st := status(b[0]); st <= statusSilent {
		return st
	}
	return h.unanswered(nil)
}

func (r *Relay) reserve(peer identity.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.carriers[peer] >= r.limit {
		return false
	}
	r.carriers[peer]++
	return true
}

func (r *Relay) release(peer identity.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.carriers[peer]--; r.carriers[peer] == 0 {
		delete(r.carriers, peer)
	}
}

// carrier is a stream that counts against its peer until it is closed.
type carrier struct {
	*overlay.Stream
	done func()
}

// Close ends both halves; see [overlay.Stream.Close].
func (c *carrier) Close() error {
	defer c.done()
	return c.Stream.Close()
}

// Reset ends both halves at once; see [overlay.Stream.Reset].
func (c *carrier) Reset() {
	defer c.done()
	c.Stream.Reset()
}

package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/internal/wake"
	"github.com/hpmq/hpmq/overlay"
	"github.com/hpmq/hpmq/policy"
	"github.com/hpmq/hpmq/policy/slice"
)

// How the writer gives out slices.
const (
	rulesPause   = 200 * time.Millisecond // between two looks of one stream: changes gather
	rulesLook    = time.Minute            // the longest time without a look
	rulesTimeout = 30 * time.Second       // for a node to take one slice
	maxRuleWants = 16384                  // devices that one node may ask about

	// keyPatience is how long a node's new key waits for other keys before it brings
	// new slices: this part of the time that the node's certificate has left. See
	// rulebook.nodeRenewed.
	keyPatience = 64
	// maxUsableFabrics bounds the versions of the fabric that differ in keys only.
	maxUsableFabrics = 256
)

// rulebook compiles and signs the slices of agents, on the node that holds the
// directory's writer. Other nodes ask it for the slices of their agents. It
// compiles only when a node asks, and only the parts that have changed.
type rulebook struct {
	directory *directory.Directory
	policy    func() *policy.Set
	now       func() time.Time
	log       logrus.FieldLogger
	changed   wake.Broadcast // fires when there may be new slices

	newsMu sync.Mutex // guards news, and is never held for long
	news   ruleNews

	mu      sync.Mutex // guards the fields below; held while slices are compiled
	set     *policy.Set
	inbound *policy.Inbound
	fabric  slice.Part
	// usableFabrics are the versions of the fabric that an agent may go on with: they
	// differ from the newest in keys of nodes, which the agent does not need yet.
	usableFabrics map[[32]byte]struct{}
}

// ruleNews lists the changes since slices were last compiled.
type ruleNews struct {
	identities map[identity.ID]struct{}
	fabric     bool      // more than keys of nodes has changed
	keys       bool      // keys of nodes have changed
	keysDue    time.Time // when the keys are worth new slices; zero for never
}

func newRulebook(d *directory.Directory, set func() *policy.Set, log logrus.FieldLogger) *rulebook {
	return &rulebook{
		directory: d, policy: set, now: time.Now, log: log,
		news: ruleNews{identities: map[identity.ID]struct{}{}, fabric: true},
	}
}

// identityChanged says that the rights of id may have changed: its labels, its site
// or its state.
func (b *rulebook) identityChanged(id identity.ID) {
	b.newsMu.Lock()
	b.news.identities[id] = struct{}{}
	b.newsMu.Unlock()
	b.changed.Fire()
}

// fabricChanged says that the nodes or their addresses have changed.
func (b *rulebook) fabricChanged() {
	b.newsMu.Lock()
	b.news.fabric = true
	b.newsMu.Unlock()
	b.changed.Fire()
}

// nodeRenewed says that a node has a new key. While a node's certificate is valid an
// agent judges the node by the certificate. It needs the key from its slice only when
// the certificate has ended. So a new key waits for the agent's next slice, unless
// the certificate ends before the slices in force do. Even then it waits for a
// while, so that the keys of several nodes come together.
func (b *rulebook) nodeRenewed(notAfter time.Time) {
	now := b.now()
	b.newsMu.Lock()
	defer b.newsMu.Unlock()
	b.news.keys = true
	left := notAfter.Sub(now)
	if left > slice.MaxStale {
		return
	}
	if due := now.Add(max(left, 0) / keyPatience); b.news.keysDue.IsZero() || due.Before(b.news.keysDue) {
		b.news.keysDue = due
		b.changed.Fire() // for the streams to set their timers
	}
}

// takeNews returns the changes since the last call. A keysDue that has not come yet
// stays, unless more than keys has changed: the new slices have the keys then.
func (b *rulebook) takeNews() (news ruleNews, keysDue bool) {
	b.newsMu.Lock()
	defer b.newsMu.Unlock()
	news = b.news
	keysDue = !news.keysDue.IsZero() && !b.now().Before(news.keysDue)
	b.news = ruleNews{identities: map[identity.ID]struct{}{}, keysDue: news.keysDue}
	if keysDue || news.fabric {
		b.news.keysDue = time.Time{}
	}
	return news, keysDue
}

// refresh compiles the parts that have changed. The caller holds mu.
func (b *rulebook) refresh() error {
	news, keysDue := b.takeNews()
	if set := b.policy(); set != b.set {
		b.set, b.inbound = set, set.Inbound(func(yield func(policy.Subject) bool) {
			for known := range b.directory.Identities() {
				if known.State == directory.Active && !yield(subjectOf(&known)) {
					return
				}
			}
		})
	}
	for id := range news.identities {
		known, ok := b.directory.Identity(id)
		known.ID = id
		b.inbound.Update(subjectOf(&known), ok && known.State == directory.Active)
	}
	if !news.fabric && !news.keys && !keysDue {
		return nil
	}
	nodes, revoked := b.nodes()
	part, err := slice.EncodeFabric(b.set.TrustDomain(), nodes, revoked)
	if err != nil {
		b.fabricChanged() // tried again with the next question
		return err
	}
	if news.fabric || keysDue || len(b.usableFabrics) >= maxUsableFabrics {
		b.usableFabrics = map[[32]byte]struct{}{}
	}
	b.fabric = part
	b.usableFabrics[part.Sum] = struct{}{}
	return nil
}

func subjectOf(known *directory.Identity) policy.Subject {
	return policy.Subject{ID: known.ID, Labels: known.Labels, Site: known.Site}
}

// nodes lists the active nodes, and the revoked nodes with certificates that could
// still be valid by a clock that is a day behind.
func (b *rulebook) nodes() (nodes []slice.Node, revoked []slice.Revoked) {
	for _, rec := range b.directory.Nodes() {
		known, ok := b.directory.Identity(rec.ID)
		if ok && known.State == directory.Active {
			nodes = append(nodes, slice.Node{
				ID: rec.ID, Site: rec.Site, CA: slices.Contains(rec.Roles, roleCA),
				API: rec.API, MQTT: rec.MQTT, Mesh: rec.Mesh, Key: known.SPKI,
			})
		}
	}
	limit := b.now().Add(-24 * time.Hour)
	for _, r := range b.directory.Revocations() {
		known, _ := b.directory.Identity(r.ID)
		if r.ID.Kind == identity.Node && known.NotAfter.After(limit) {
			revoked = append(revoked, slice.Revoked{ID: r.ID, Generation: r.Generation})
		}
	}
	return nodes, revoked
}

// heldSlice describes the slice that a node holds of one device; zero is no slice.
type heldSlice struct {
	Issued        uint64
	Until         time.Time
	Rules, Fabric [32]byte

	renewAt time.Time // set by the writer: a new slice is due then, even with the same content
}

func heldOf(s *slice.Slice) heldSlice {
	return heldSlice{Issued: s.Issued, Until: s.Until, Rules: s.RulesSum, Fabric: s.FabricSum}
}

// slice returns a new slice of device, and the description of the slice that its
// node holds then. The new slice is nil when held is good enough or device is not
// active.
func (b *rulebook) slice(device identity.ID, held heldSlice) ([]byte, heldSlice, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refresh(); err != nil {
		return nil, held, err
	}
	held.renewAt = time.Time{}
	known, ok := b.directory.Identity(device)
	if !ok || known.State != directory.Active {
		return nil, held, nil
	}
	part, err := b.inbound.Part(subjectOf(&known))
	if err != nil {
		return nil, held, err
	}
	now, span := b.now(), b.span(&known)
	_, fine := b.usableFabrics[held.Fabric]
	held.renewAt = renewSliceAt(device, held.Until, span)
	if held.Rules == part.Sum && fine && now.Before(held.renewAt) && !held.Until.After(now.Add(span)) {
		return nil, held, nil
	}
	until := now.Add(span).UTC().Truncate(time.Millisecond) // the precision that the agent reads
	raw, issued, err := slice.Sign(b.directory, device, until, part, b.fabric)
	return raw, heldSlice{issued, until, part.Sum, b.fabric.Sum, renewSliceAt(device, until, span)}, err
}

// span is how long a slice of known holds from its issue on. The max_stale of its
// callers does not matter here. It concerns certificates that have ended, and an agent
// admits no device, service or user with such a certificate.
func (b *rulebook) span(known *directory.Identity) time.Duration {
	if own := b.set.Certificate(subjectOf(known)).MaxStale; own > 0 {
		return min(own, slice.MaxStale)
	}
	return slice.MaxStale
}

// renewSliceAt is half a span before the end of a slice, a tenth earlier or later,
// so that not all agents get one at once.
func renewSliceAt(device identity.ID, until time.Time, span time.Duration) time.Time {
	sum := sha256.Sum256([]byte(device.String()))
	jitter := time.Duration(binary.BigEndian.Uint16(sum[:])) * (span / 5 >> 16)
	return until.Add(jitter - span/2 - span/10)
}

// serve gives a node the slices that it asks for, and new ones as they are due,
// until ctx is done or the node goes away.
func (b *rulebook) serve(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &ruleWants{held: map[identity.ID]heldSlice{}, woken: wake.NewToken()}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })()
	var readErr error
	reading.Go(func() {
		defer cancel()
		readErr = w.read(conn)
	})
	for {
		changed := b.changed.Wait()
		renewAt, err := b.sendDue(ctx, conn, w)
		if err != nil && ctx.Err() == nil {
			return err
		}
		sleep(ctx, rulesPause, nil)
		look := time.NewTimer(b.untilLook(renewAt))
		select {
		case <-ctx.Done():
			look.Stop()
			cancel()
			reading.Wait()
			return readErr
		case <-changed:
		case <-w.woken:
		case <-look.C:
		}
		look.Stop()
	}
}

var longAgo = time.Unix(1, 0) // as a deadline it ends reads and writes in progress

// untilLook is when a stream looks again although nothing has changed. renewAt is
// when the first of its slices is due, zero for never.
func (b *rulebook) untilLook(renewAt time.Time) time.Duration {
	b.newsMu.Lock()
	defer b.newsMu.Unlock()
	next := rulesLook
	for _, due := range []time.Time{b.news.keysDue, renewAt} {
		if !due.IsZero() {
			next = min(next, max(due.Sub(b.now()), 0))
		}
	}
	return next
}

// sendDue sends the slices that a node lacks. It returns when the first slice is
// due, zero for never.
func (b *rulebook) sendDue(ctx context.Context, conn net.Conn, w *ruleWants) (renewAt time.Time, err error) {
	for device, held := range w.all() {
		if ctx.Err() != nil {
			return renewAt, context.Cause(ctx)
		}
		raw, now, err := b.slice(device, held)
		if err != nil {
			b.log.WithField(logfield.SPIFFEID, device.String()).WithError(err).Error("the rules of an agent cannot be compiled, it goes on with those that it has")
			continue
		}
		if !now.renewAt.IsZero() && (renewAt.IsZero() || now.renewAt.Before(renewAt)) {
			renewAt = now.renewAt
		}
		if raw == nil {
			continue
		}
		if err := conn.SetWriteDeadline(time.Now().Add(rulesTimeout)); err != nil {
			return renewAt, err
		}
		if ctx.Err() != nil { // the deadline that ends everything was overwritten
			return renewAt, context.Cause(ctx)
		}
		if err := writeBlock(conn, raw); err != nil {
			return renewAt, fmt.Errorf("send the rules of %s: %w", device.Short(), err)
		}
		w.sent(device, now)
	}
	return renewAt, nil
}

// ruleWants are the devices that a node asks about on one stream.
type ruleWants struct {
	woken wake.Token // the devices in held have changed; drained by serve

	mu   sync.Mutex // guards held
	held map[identity.ID]heldSlice
}

func (w *ruleWants) all() map[identity.ID]heldSlice {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.held)
}

func (w *ruleWants) sent(device identity.ID, now heldSlice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.held[device]; ok {
		w.held[device] = now
	}
}

// read takes the node's questions until the stream ends.
func (w *ruleWants) read(conn net.Conn) error {
	for {
		var q ruleQuestion
		if err := readJSON(conn, &q); err != nil {
			return err
		}
		device, err := q.device()
		if err != nil {
			return err
		}
		w.mu.Lock()
		if q.Drop {
			delete(w.held, device)
		} else {
			w.held[device] = q.heldSlice
		}
		n := len(w.held)
		w.mu.Unlock()
		if n > maxRuleWants {
			return fmt.Errorf("asks for the rules of more than %d devices", maxRuleWants)
		}
		w.woken.Wake()
	}
}

// handle answers the question of another node.
func (b *rulebook) handle(ctx context.Context, s *overlay.Stream) {
	defer s.Close()
	b.logEnd(ctx, s.PeerID(), b.serve(ctx, s))
}

func (b *rulebook) logEnd(ctx context.Context, peer identity.ID, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		b.log.WithField(logfield.Peer, peer.String()).WithError(err).Debug("rules no longer asked for")
	}
}

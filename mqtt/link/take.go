package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// read takes the site's messages until the stream ends. It always returns an
// error.
func (r *receiver) read(ctx context.Context) error {
	var pub packet.Publish
	for {
		h, body, err := r.stream.next()
		if err != nil {
			return err
		}
		switch h.Type { //nolint:exhaustive // other packet types do not belong here
		case packet.TypePublish:
			if err = pub.Decode(packet.V5, h.Flags, body); err == nil {
				err = r.take(ctx, &pub, len(body))
			}
		case packet.TypePingreq:
			err = r.answer(&packet.Pingresp{})
		case packet.TypePingresp:
		case packet.TypeSuback, packet.TypeUnsuback:
			err = r.answeredInterest(h, body)
		case packet.TypeDisconnect:
			err = disconnected(h, body)
		default:
			err = fmt.Errorf("%s from the opening end", h.Type)
		}
		if err != nil {
			return err
		}
	}
}

// answeredInterest notes a filter that the peer refuses: its messages are missed
// here.
func (r *receiver) answeredInterest(h packet.Header, body []byte) error {
	p, err := packet.Decode(packet.V5, h, body)
	if err != nil {
		return err
	}
	ack, ok := p.(*packet.Suback)
	if !ok {
		return nil
	}
	for _, c := range ack.ReasonCodes {
		if c.Failed() && r.l.warnings.Allow() {
			r.p.entry().WithField(logfield.Reason, c.String()).Warn("site refused a topic filter")
			return nil
		}
	}
	return nil
}

// take hands a message to the broker, or refuses it, or acknowledges it as a
// duplicate. An error ends the stream.
func (r *receiver) take(ctx context.Context, p *packet.Publish, size int) error {
	if p.QoS == 2 {
		return &packet.Error{Code: packet.QoSNotSupported, Msg: "QoS 2 on a link"}
	}
	m, err := parse(p, time.Now())
	if err != nil {
		return &packet.Error{Code: packet.ProtocolError, Msg: err.Error()}
	}
	r.p.count.received.Add(1)
	if code, err := r.check(m); err != nil {
		if code == packet.NotAuthorized && ordersClear(m) {
			r.countNumber(p, m)
			return r.puback(p, packet.Success)
		}
		if p.QoS > 0 && errors.Is(err, ErrUnsettled) && r.postpone(err) {
			return fmt.Errorf("%w: %w", errResting, err)
		}
		return r.refuse(p, m, code, err)
	}
	fresh, floor, err := r.admit(p, m)
	if err != nil {
		return err
	}
	if !fresh {
		return r.puback(p, packet.Success)
	}
	return r.inject(ctx, m, p.QoS, p.PacketID, floor, size)
}

// check decides whether the site may send m.
func (r *receiver) check(m *store.Message) (packet.ReasonCode, error) {
	if m.Origin.Site != r.p.site || m.Origin.Epoch != r.epoch {
		return packet.NotAuthorized, fmt.Errorf("origin is %.64q", m.Origin.Site)
	}
	if err := checkTopic(m.Topic); err != nil {
		return packet.TopicNameInvalid, err
	}
	if accept := r.l.opts.Accept; accept != nil {
		if err := accept(r.source.node, m); err != nil {
			return packet.NotAuthorized, err
		}
	}
	return packet.Success, nil
}

// postpone reports whether a message that was refused for want of news shall
// come again, on another stream.
func (r *receiver) postpone(because error) bool {
	r.mu.Lock()
	again, first := r.source.lane.doubtful()
	if again {
		r.source.lane.pause(doubtInterval, &packet.Error{Code: packet.ServerBusy, Msg: because.Error()})
	}
	r.mu.Unlock()
	if first {
		r.p.entry().WithField(logfield.Reason, because.Error()).Warn("message of site waits for news that would allow it")
	}
	return again
}

// refuse counts a message that is not taken. It stays refused however often it
// comes.
func (r *receiver) refuse(p *packet.Publish, m *store.Message, code packet.ReasonCode, because error) error {
	r.p.count.refused.Add(1)
	if !r.told {
		r.told = true
		r.p.entry().WithField(logfield.Reason, because.Error()).Warn("message of site refused")
	}
	r.countNumber(p, m)
	return r.puback(p, code)
}

// countNumber takes the number of a message that is not taken: its absence would look
// like a loss.
func (r *receiver) countNumber(p *packet.Publish, m *store.Message) {
	if m.Origin.Site == r.p.site && m.Origin.Epoch == r.epoch && m.Origin.Lane == laneLog && m.Origin.Seq != 0 {
		r.number(m.Origin.Seq, skippedBefore(p))
	}
}

// admit tells a message that is new here from a duplicate, and whether the floor
// rises with it.
func (r *receiver) admit(p *packet.Publish, m *store.Message) (fresh, floor bool, err error) {
	switch {
	case p.QoS == 0:
		return true, false, nil
	case m.Origin.Lane == laneRetained && m.Retain && m.Origin.Seq == 0:
		return !r.has(m), false, nil
	case m.Origin.Lane != laneLog || m.Origin.Seq == 0:
		return false, false, &packet.Error{Code: packet.ProtocolError, Msg: "number that no lane has"}
	}
	v := r.number(m.Origin.Seq, skippedBefore(p))
	if v == duplicate {
		r.p.count.duplicates.Add(1)
	}
	return v != duplicate, v == next, nil
}

// number decides about a number of the lane, and counts the missing numbers before it.
func (r *receiver) number(seq, skipped uint64) verdict {
	r.mu.Lock()
	v, missing := r.source.lane.take(seq, skipped)
	r.mu.Unlock()
	if missing == 0 {
		return v
	}
	r.p.count.missing.Add(missing)
	if r.l.warnings.Allow() {
		r.p.entry().WithField("messages", missing).
			Warn("messages of site are missing: its outbound log was full")
	}
	return v
}

// has reports whether the store holds a retained message, or a tombstone of the topic,
// at least as new as m.
func (r *receiver) has(m *store.Message) bool {
	known := r.l.opts.Store.Retained(m.Topic) // a topic name is a filter that matches itself
	if t := r.l.opts.Store.Tombstone(m.Topic); t != nil {
		known = append(known, t)
	}
	return slices.ContainsFunc(known, func(k *store.Message) bool { return k.HLC >= m.HLC })
}

// inject hands m to the broker and lets it be acknowledged once it is kept. While
// too much is on its way to the store the stream is not read.
func (r *receiver) inject(ctx context.Context, m *store.Message, qos byte, id uint16, floor bool, size int) error {
	size += m.Size() - len(m.Payload)
	if err := r.use(qos, size); err != nil {
		return err
	}
	var tx func(store.Tx)
	if floor {
		tx = func(tx store.Tx) {
			if r.whole() {
				tx.Floor(store.Origin{Site: floorName(r.source.node), Epoch: m.Origin.Epoch, Lane: laneLog, Seq: m.Origin.Seq})
			}
		}
	}
	// Subscribers learn of a clear that comes late if there was something to clear.
	replayed := m.Origin.Lane == laneRetained && (!clears(m) || r.clearsNothing(m))
	r.l.broker.Inject(m, replayed, tx, func(err error) { r.kept(m, qos, id, size, err) })
	for {
		r.mu.Lock()
		full := r.pending > maxPendingBytes
		r.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-r.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// whole reports whether the store kept all that was taken so far.
func (r *receiver) whole() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.source.lane.failed) == 0
}

// kept is called when the store has answered for m. A message over a limit of the store
// is refused. A message that the store failed to keep, even because the disk is full,
// stays with the sender and comes again on the next stream.
func (r *receiver) kept(m *store.Message, qos byte, id uint16, size int, err error) {
	ack := packet.Puback{PacketID: id}
	noSpace := errors.Is(err, store.ErrNoSpace)
	failed := err != nil && qos > 0 && (noSpace || !errors.Is(err, store.ErrFull))
	switch {
	case failed:
		r.end(err)
	case err != nil:
		r.p.count.refused.Add(1)
		ack.ReasonCode = packet.QuotaExceeded
		ack.Properties.SetReasonString(err.Error())
	}
	r.mu.Lock()
	switch {
	case qos == 0:
	case !failed:
		r.control = ack.Append(r.control, packet.V5)
	case m.Origin.Lane == laneLog:
		r.source.lane.fail(m.Origin.Seq)
	}
	if qos > 0 {
		r.inflight--
	}
	r.pending -= size
	if failed && noSpace {
		r.source.lane.pause(roomInterval, errNoSpace)
	}
	r.mu.Unlock()
	r.wake.Wake()
	r.room.Wake()
	r.release()
}

func (r *receiver) puback(p *packet.Publish, code packet.ReasonCode) error {
	if p.QoS == 0 {
		return nil
	}
	return r.answer(&packet.Puback{PacketID: p.PacketID, ReasonCode: code})
}

package mqtt

import (
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// readWill notes CONNECT's will, if it is allowed. [MQTT-3.1.2-7]
func (c *conn) readWill(p *packet.Connect, rights Rights) error {
	w := p.Will
	if w == nil {
		return nil
	}
	if err := validTopic(w.Topic); err != nil {
		return &refusal{packet.TopicNameInvalid, "will: " + err.Error()}
	}
	v, reserved := Reserved("will", w.Topic)
	if !reserved {
		v = rights.Will(w.Topic, w.QoS, w.Retain, len(w.Payload))
	}
	if !v.Allowed {
		c.b.count.deniedConnect.Add(1)
		c.tellDenied(deniedNotice{Action: "will", Topic: w.Topic, QoS: w.QoS, Retain: w.Retain}, v)
		return &refusal{packet.NotAuthorized, "will: " + v.String()}
	}
	if w.Properties.Has(packet.PropWillDelayInterval) {
		c.willDelay = w.Properties.WillDelayInterval
	}
	c.will = &store.Message{
		Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, // [MQTT-3.1.2-14] [MQTT-3.1.2-15]
		Props:     w.Properties.Forwarded(), // [MQTT-3.1.3-10]
		Publisher: c.principal.ID.String(), ClientID: c.principal.ClientID,
	}
	return nil
}

// setWill gives the session another will, or none, and returns the one that it
// had. The caller holds mu.
func (s *session) setWill(w *store.Message) (before *store.Message) {
	before = s.will
	if s.will = w; w != nil {
		s.chargeMemory(w.Size())
	}
	if before != nil {
		s.chargeMemory(-before.Size())
	}
	return before
}

// scheduleWill decides at the end of a connection when the will is published:
// now, after its delay, or with the session's end if that comes first
// [MQTT-3.1.2-8]. The caller holds mu and publishes the will that is returned.
func (s *session) scheduleWill(expiry uint32) (due *store.Message, at time.Time) {
	switch {
	case s.will == nil:
		return nil, time.Time{}
	case s.willDelay == 0:
		return s.setWill(nil), time.Time{}
	case expiry != never && s.willDelay >= expiry:
		return nil, s.stateSince.Add(time.Duration(expiry) * time.Second)
	}
	at = s.stateSince.Add(time.Duration(s.willDelay) * time.Second)
	s.armWill(time.Until(at)) // [MQTT-3.1.2-8]
	return nil, at
}

// armWill publishes the will after d unless the client comes back before
// [MQTT-3.1.3-9]. The caller holds mu.
func (s *session) armWill(d time.Duration) {
	epoch := s.attachments
	s.armTimer(willTimer, d, func() {
		s.recordToken <- struct{}{}
		s.mu.Lock()
		if s.attachments != epoch || s.ended || s.will == nil || s.b.stopped.Load() {
			s.mu.Unlock()
			<-s.recordToken
			return
		}
		will := s.setWill(nil) // [MQTT-3.1.2-10]
		r := s.storeRecord(s.stateSince, time.Time{})
		s.mu.Unlock()
		s.persistChange(will, func(tx store.Tx) { tx.PutSession(r) }, nil)
	})
}

// willRetry is after how long a will is tried again that the store had no room for.
const willRetry = 10 * time.Second

// postponeWill has a will wait that the store could not keep, as long as its client
// stays away, and reports false if the session has ended. The store gets the change
// that was to come with the will, but keeps the will.
func (s *session) postponeWill(w *store.Message, change func(store.Tx)) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.setWill(w)
	s.armWill(willRetry)
	r := s.storeRecord(s.stateSince, time.Now().Add(willRetry))
	s.mu.Unlock()
	s.updateStore(func(tx store.Tx) {
		change(tx)
		tx.PutSession(r)
	})
	return true
}

// publishWill sends the will on the path of a publish, and reports false if the
// policy of now refuses it: the one at CONNECT may be gone. change is kept in the
// will's transaction, so that a killed broker publishes it after its restart or
// did before; done tells the outcome.
func (s *session) publishWill(w *store.Message, change func(store.Tx), done func(error)) bool {
	m := *w
	m.HLC = s.b.clock.Now()
	m.Expires = expires(&m.Props)
	m.Props.Clear(packet.PropMessageExpiryInterval)
	if v := s.mayPublish(&m, true); !v.Allowed {
		s.b.deniedWill(s, &m, v)
		return false
	}
	e := &entry{stage: filtered, m: &m, forward: true, tx: change, done: done}
	if s.b.opts.Filter != nil && s.b.opts.Filter.Bound(Upstream, s.principal, m.Topic) {
		e.stage = filtering
	}
	s.pipe.push(e)
	return true
}

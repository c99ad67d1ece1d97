package mqtt

import (
	"errors"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hpmq/hpmq/internal/logfield"
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
)

// refusal is the answer to a CONNECT that is not accepted.
type refusal struct {
	code   packet.ReasonCode
	reason string
}

func (r *refusal) Error() string { return r.reason }

// handleConnect takes the first packet of a connection, which is CONNECT
// [MQTT-3.1.0-1], and gives the connection its session.
func (c *conn) handleConnect(h packet.Header, body []byte) error {
	if h.Type != packet.TypeConnect { // [MQTT-3.1.0-1]
		return violation("MQTT-3.1.0-1", "the first packet is "+h.Type.String())
	}
	var p packet.Connect
	err := p.Decode(c.version, h.Flags, body)    // [MQTT-3.1.4-1]
	if p.Version != 0 && p.Version < packet.V5 { // of MQTT 3.1, too, which is refused
		c.version = packet.V311
	}
	if bad, ok := errors.AsType[*packet.Error](err); ok {
		err = &refusal{bad.Code, bad.Error()} // [MQTT-3.1.4-1]
	}
	if err == nil {
		err = c.accept(&p)
	}
	if no, ok := errors.AsType[*refusal](err); ok {
		c.refuseConnect(no) // [MQTT-3.1.4-2]
	}
	return err
}

// accept checks CONNECT and attaches the session.
func (c *conn) accept(p *packet.Connect) error {
	if c.addressRefusal != nil {
		return c.addressRefusal
	}
	if err := c.readAuthMethod(p); err != nil {
		return err
	}
	if err := c.authenticate(p); err != nil {
		return err
	}
	c.readOptions(p)
	assigned := ""
	if c.principal.ClientID = p.ClientID; p.ClientID == "" {
		assigned = c.principal.ID.Name + "-" + strings.ToLower(ulid.Make().String())
		c.principal.ClientID = assigned // [MQTT-3.1.3-6] [MQTT-3.1.3-7]
	}
	policy := c.b.policyChanges.Load()
	rights := c.b.opts.Authorizer.Rights(c.principal)
	if rights == nil { // [MQTT-3.1.4-2] [MQTT-3.1.4-6]
		c.b.count.deniedConnect.Add(1)
		return &refusal{packet.NotAuthorized, "the identity may not connect"}
	}
	if err := c.readWill(p, rights); err != nil {
		return err
	}
	if c.b.memory.full.Load() && !c.b.hasSession(c.claimedKey()) { // a client with a queue here may come and empty it
		c.b.count.refusedConnect.Add(1)
		return &refusal{c.busyCode(), errMemory.Error()}
	}
	if !c.b.claimSession(c) {
		return errClosed // a newer connection has the session
	}
	s, present, err := c.b.attachSession(c, p.CleanStart, c.b.connectExpiry(p), rights)
	if err != nil {
		c.b.releaseClaim(c)
		return err
	}
	c.own = s
	c.earlierUnanswered = s.unanswered()
	c.session.Store(s)
	c.connectTimer.Stop()
	c.lastHeard.Store(int64(time.Since(c.b.start)))
	c.watchKeepAlive()
	c.endWithCredential(c.principal.Until)
	if c.b.policyChanges.Load() != policy {
		c.b.reauthorize(s) // the policy changed while the table did not have the session
		c.b.endExcess()
	}
	return c.welcome(p, s, present, assigned)
}

// busyCode is the Reason Code for a client that another server may have room for.
func (c *conn) busyCode() packet.ReasonCode {
	if c.version == packet.V5 && c.b.opts.ServerReference != "" {
		return packet.UseAnotherServer
	}
	return packet.ServerBusy
}

// readOptions notes CONNECT's options of the connection.
func (c *conn) readOptions(p *packet.Connect) {
	o := &p.Properties
	c.keepAlive = time.Duration(p.KeepAlive) * time.Second
	if limit := c.b.opts.KeepAlive; limit > 0 && c.version == packet.V5 && (p.KeepAlive == 0 || c.keepAlive > limit) {
		c.keepAlive = limit
	}
	c.quota = int(c.b.opts.Inflight)
	if o.Has(packet.PropReceiveMaximum) {
		c.quota = min(c.quota, int(o.ReceiveMaximum)) // [MQTT-3.3.4-9] [MQTT-4.9.0-1]
	}
	if o.Has(packet.PropMaximumPacketSize) {
		c.maxPacket = int(o.MaximumPacketSize) // [MQTT-3.1.2-24]
	}
	if o.Has(packet.PropTopicAliasMaximum) { // [MQTT-3.1.2-26]
		c.out.aliases.limit = int(min(o.TopicAliasMaximum, c.b.opts.TopicAliases))
	}
	c.problemInfo = !o.Has(packet.PropRequestProblemInformation) || o.RequestProblemInformation == 1 // [MQTT-3.1.2-29]
}

// connectExpiry returns the Session Expiry Interval that a CONNECT gets. In 3.1.1
// a session lives as long as its connection, or forever.
func (b *Broker) connectExpiry(p *packet.Connect) uint32 {
	switch {
	case p.Version == packet.V311 && p.CleanStart:
		return 0
	case p.Version == packet.V311:
		return b.capExpiry(never)
	case p.Properties.Has(packet.PropSessionExpiryInterval):
		return b.capExpiry(p.Properties.SessionExpiryInterval)
	}
	return 0
}

func (b *Broker) capExpiry(seconds uint32) uint32 {
	if limit := b.opts.SessionExpiry; limit > 0 {
		return min(seconds, uint32(limit/time.Second))
	}
	return seconds
}

// welcome sends CONNACK, once, and then the messages that wait for the session.
// [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] It announces no Maximum QoS and
// nothing that is not available, since all is [MQTT-3.2.2-9] [MQTT-3.2.2-10]
// [MQTT-3.2.2-12] [MQTT-3.2.2-13].
func (c *conn) welcome(p *packet.Connect, s *session, present bool, assigned string) error {
	ack := &packet.Connack{SessionPresent: present} // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
	o := &ack.Properties
	o.SetReceiveMaximum(c.b.opts.ReceiveMaximum)
	o.SetMaximumPacketSize(uint32(c.b.opts.PacketSize))
	o.SetTopicAliasMaximum(c.b.opts.TopicAliases)
	if c.keepAlive != time.Duration(p.KeepAlive)*time.Second { // [MQTT-3.2.2-21]
		o.SetServerKeepAlive(uint16(c.keepAlive / time.Second))
	}
	if prefix := c.responsePrefix(p, s); prefix != "" {
		o.SetResponseInformation(prefix)
	}
	if c.method != "" { // [MQTT-4.12.0-5]
		o.SetAuthenticationMethod(c.method)
	}
	if assigned != "" { // [MQTT-3.2.2-16]
		o.SetAssignedClientIdentifier(assigned)
	}
	if got := s.expiry.Load(); p.Properties.Has(packet.PropSessionExpiryInterval) && got != p.Properties.SessionExpiryInterval {
		o.SetSessionExpiryInterval(got)
	}
	if err := c.answer(ack); err != nil {
		c.graceful = true // it never was welcome: no will
		return err
	}
	c.ready.Store(true)
	s.pump(&c.batch)
	c.log().WithField(logfield.Version, c.version.String()).Info("client connected")
	return nil
}

// responsePrefix returns where the client may await answers to its requests: a
// branch of its own, if it asks and the policy lets it subscribe there.
func (c *conn) responsePrefix(p *packet.Connect, s *session) string {
	if p.Properties.RequestResponseInformation != 1 {
		return "" // [MQTT-3.1.2-28]
	}
	prefix := "response/" + string(c.principal.ID.Kind) + "/" + c.principal.ID.Name
	if !s.maySubscribe(prefix + "/#").Allowed {
		return ""
	}
	return prefix
}

// refuseConnect sends CONNACK with the reason, if the version has a code for it.
// Session present is 0 [MQTT-3.2.2-6] and the connection ends [MQTT-3.2.2-7].
func (c *conn) refuseConnect(no *refusal) {
	if !no.code.ValidIn(packet.TypeConnack) {
		no.code = packet.UnspecifiedError
	}
	if _, ok := no.code.ReturnCode(); c.version != packet.V5 && !ok {
		return
	}
	ack := &packet.Connack{ReasonCode: no.code}
	if no.reason != "" {
		ack.Properties.SetReasonString(no.reason)
	}
	if no.code == packet.UseAnotherServer {
		ack.Properties.SetServerReference(c.b.opts.ServerReference)
	}
	c.send(&c.batch, ack)
}

// claimSession makes c the owner of its session key and waits until the connection
// that was the owner before has let the session go; its client is told
// [MQTT-3.1.4-3]. There is exactly one owner at any time: each newcomer waits for the
// one before it, and one that was overtaken while it waited is not accepted.
func (b *Broker) claimSession(c *conn) bool {
	key := c.claimedKey()
	b.mu.Lock()
	before := b.owners[key]
	b.owners[key] = c
	b.mu.Unlock()
	if before != nil {
		before.end(packet.SessionTakenOver, "the client connected again") // [MQTT-3.1.4-3]
		<-before.closed
	}
	b.mu.Lock()
	mine := b.owners[key] == c
	b.mu.Unlock()
	if !mine {
		close(c.closed)
	}
	return mine
}

// hasSession reports whether there is a session under key.
func (b *Broker) hasSession(key store.SessionKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[key] != nil
}

// claimedKey returns the key of the session. The client identifier names the session
// [MQTT-3.1.3-2] among those of one identity, so identities cannot take over each
// other's sessions. The key is made once, after CONNECT told the client identifier.
func (c *conn) claimedKey() store.SessionKey {
	if c.sessionKey == (store.SessionKey{}) {
		c.sessionKey = store.SessionKey{Identity: c.principal.ID.String(), ClientID: c.principal.ClientID}
	}
	return c.sessionKey
}

// attachSession gives c, which has the claim, its session. [MQTT-3.1.2-4]
// [MQTT-3.1.2-5] [MQTT-3.1.2-6]
func (b *Broker) attachSession(c *conn, cleanStart bool, expiry uint32, rights Rights) (s *session, present bool, err error) {
	key := c.claimedKey()
	if err := b.countIdentity(c, rights); err != nil {
		return nil, false, err
	}
	b.mu.Lock()
	s = b.sessions[key]
	b.mu.Unlock()
	var before beforeAttach
	if s != nil {
		if cleanStart { // [MQTT-3.1.2-4] [MQTT-3.1.4-4] [MQTT-3.2.2-2]
			s.endSession(true, 0)
		}
		s.rights.Store(&rights)
		before, present = s.attach(c, expiry) // [MQTT-3.1.2-5] [MQTT-3.2.2-3]
	}
	if !present {
		s, err = b.beginSession(c, expiry, rights)
	}
	if err == nil {
		s.reviewGroups()
		err = s.awaitRecord(present && before.expiry == expiry && c.will == nil)
	}
	if err == nil {
		return s, present, nil
	}
	if present {
		s.undoAttach(c, before)
	} else {
		s.endSession(false, 0)
	}
	b.mu.Lock()
	b.uncountIdentity(c.principal.ID)
	b.mu.Unlock()
	return nil, false, err
}

// beginSession makes a session for c, which is returned also with an error.
func (b *Broker) beginSession(c *conn, expiry uint32, rights Rights) (*session, error) {
	s := newSession(b, c.principal, c.claimedKey())
	s.rights.Store(&rights)
	s.attach(c, expiry)
	b.mu.Lock()
	if b.sessionsOf[c.principal.ID] >= b.opts.SessionsPerIdentity {
		b.mu.Unlock()
		return s, &refusal{packet.QuotaExceeded, "too many sessions of the identity, those that are away included"}
	}
	b.addSession(s) // [MQTT-3.1.2-6]
	before := b.draining[s.key]
	b.mu.Unlock()
	if before != nil { // [MQTT-4.6.0-5]: the client is the same
		s.pipe.followPipeline(&before.pipe)
	}
	return s, nil
}

// awaitRecord has the store keep the session before CONNACK promises that. A
// client that comes back as it was is served even if the store cannot write now:
// it comes to empty its queue.
func (s *session) awaitRecord(same bool) error {
	if !s.persistent() && !s.stored.Load() {
		return nil
	}
	kept := make(chan error, 1)
	if !s.putRecord(func(err error) { kept <- err }) {
		return errClosed // an operator ended it, just now
	}
	err := <-kept
	if err == nil {
		return nil
	}
	if same {
		s.putRecord(nil)
		return nil
	}
	return &refusal{packet.ServerUnavailable, err.Error()}
}

// putRecord has the store keep the session of a connection, and reports false if
// it has ended.
func (s *session) putRecord(done func(error)) bool {
	s.recordToken <- struct{}{}
	defer func() { <-s.recordToken }()
	s.mu.Lock()
	r, ended := s.storeRecord(time.Time{}, time.Time{}), s.ended
	s.mu.Unlock()
	if ended {
		return false
	}
	s.stored.Store(true)
	s.b.opts.Store.Update(func(tx store.Tx) { tx.PutSession(r) }, done)
	return true
}

// commitAndWait waits until changes are kept. It is for readers that answer one client;
// deliveries never wait.
func (b *Broker) commitAndWait(add func(store.Tx)) error {
	kept := make(chan error, 1)
	b.opts.Store.Update(add, func(err error) { kept <- err })
	return <-kept
}

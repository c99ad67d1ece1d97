package mqtt

import (
	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// handleSubscribe answers a SUBSCRIBE: many filters act as many SUBSCRIBEs with
// one SUBACK. [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6]
func (c *conn) handleSubscribe(flags byte, body []byte) error {
	var p packet.Subscribe
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	policy, epoch := c.b.policyChanges.Load(), c.b.routeEpoch.Load()
	ack := &packet.Suback{PacketID: p.PacketID}
	granted, why := c.grantAll(&p, ack)
	if err := c.persistSubscriptions(granted, ack); err != nil {
		granted, why = nil, err.Error()
	}
	var replay []store.Delivery
	for _, sub := range granted {
		replay = append(replay, c.b.retainedFor(sub, c.own.subscribe(sub))...)
	}
	if c.b.policyChanges.Load() != policy {
		c.b.reauthorize(c.own) // the policy changed while the tree did not have the subscriptions
	}
	ack.Properties = c.explain(why)
	if err := c.answer(ack); err != nil {
		return err
	}
	c.own.pumpGroups(&c.batch)
	if len(replay) > 0 {
		c.own.pipe.push(&entry{stage: filtered, replay: replay, routeEpoch: epoch})
	}
	return nil
}

// grantAll decides each filter, puts the codes into ack, and returns the granted
// subscriptions and why the first refused one was refused.
func (c *conn) grantAll(p *packet.Subscribe, ack *packet.Suback) (granted []*subscription, why string) {
	fresh := make(map[string]struct{}) // filters that the session does not have yet
	for _, asked := range p.Subscriptions {
		sub, v, code := c.grant(asked, p.Properties.SubscriptionIDs, fresh)
		ack.ReasonCodes = append(ack.ReasonCodes, code) // [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1]
		if sub != nil {
			granted = append(granted, sub)
		} else if why == "" {
			why = asked.TopicFilter + ": " + v.String()
		}
	}
	return granted, why
}

// persistSubscriptions waits until the store has the granted subscriptions, before any
// of them counts. If it cannot keep them, they are refused in ack.
func (c *conn) persistSubscriptions(granted []*subscription, ack *packet.Suback) error {
	if len(granted) == 0 || !c.own.stored.Load() {
		return nil
	}
	err := c.b.commitAndWait(func(tx store.Tx) {
		for _, sub := range granted {
			tx.Subscribe(c.own.key, sub.Subscription)
		}
	})
	if err == nil {
		return nil
	}
	code := packet.UnspecifiedError
	if isFull(err) {
		code = packet.QuotaExceeded
	}
	for i, was := range ack.ReasonCodes {
		if !was.Failed() {
			ack.ReasonCodes[i] = code
		}
	}
	return err
}

// grant decides one filter. Without a subscription the code says why.
func (c *conn) grant(
	asked packet.Subscription, ids []uint32, fresh map[string]struct{},
) (*subscription, Verdict, packet.ReasonCode) {
	name, filter, shared, err := topic.ParseShared(asked.TopicFilter)
	if err == nil {
		err = topic.ValidFilter(filter)
	}
	if err != nil { // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
		return nil, Verdict{Reason: "the filter " + err.Error()}, packet.TopicFilterInvalid
	}
	s := c.own
	have, known := s.subscribed(asked.TopicFilter)
	if _, asked := fresh[asked.TopicFilter]; !known && !asked {
		if have+len(fresh) >= c.b.opts.SubscriptionsPerSession {
			return nil, Verdict{Reason: "too many subscriptions"}, packet.QuotaExceeded
		}
		if c.b.memory.full.Load() {
			c.b.count.refusedSubscribe.Add(1)
			return nil, Verdict{Reason: errMemory.Error()}, packet.QuotaExceeded
		}
	}
	v := s.maySubscribe(asked.TopicFilter)
	if !v.Allowed {
		c.deniedSubscribe(asked.TopicFilter, v)
		return nil, v, packet.NotAuthorized
	}
	if !known {
		fresh[asked.TopicFilter] = struct{}{}
	}
	sub := &subscription{session: s, filter: filter, filtered: v.Filtered}
	sub.Subscription = store.Subscription{
		Filter: asked.TopicFilter, QoS: asked.QoS, NoLocal: asked.NoLocal,
		RetainAsPublished: asked.RetainAsPublished, RetainHandling: asked.RetainHandling,
	}
	if len(ids) > 0 { // [MQTT-3.3.4-3]
		sub.ID = ids[0]
	}
	c.b.completeSubscription(sub, name, shared)
	return sub, v, packet.ReasonCode(asked.QoS)
}

// completeSubscription fills in the fields that follow from the others.
func (b *Broker) completeSubscription(sub *subscription, name string, shared bool) {
	if sub.ID != 0 {
		sub.ids = []uint32{sub.ID}
	}
	if shared {
		sub.shared = groupKey{name, sub.filter}
	}
}

// subscribed returns how many subscriptions the session has, and whether one is
// to filter.
func (s *session) subscribed(filter string) (n int, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known = s.subs[filter]
	return len(s.subs), known
}

// subscribe adds sub or replaces the one of the same filter [MQTT-3.8.4-3], and
// reports whether there was one. Nothing is lost in between [MQTT-3.8.4-4].
func (s *session) subscribe(sub *subscription) (replaced bool) {
	s.subscribing.Lock()
	defer s.subscribing.Unlock()
	s.mu.Lock()
	old := s.subs[sub.Filter]
	if s.subs == nil {
		s.subs = make(map[string]*subscription)
	}
	if s.ended {
		s.mu.Unlock()
		return false
	}
	if s.subs[sub.Filter] = sub; old == nil {
		s.chargeMemory(subscriptionCost(sub.Filter))
	}
	s.mu.Unlock()
	s.b.subscribe(sub)
	return old != nil
}

// subscribe puts sub where messages are matched, unless it sleeps, and tells the
// other sites of a filter that is new here.
func (b *Broker) subscribe(sub *subscription) {
	if sub.filter == deniedTopic {
		b.notices.addReader(sub)
		return
	}
	b.interestMu.Lock()
	defer b.interestMu.Unlock()
	if sub.asleep && sub.shared == (groupKey{}) {
		b.unmatch(sub)
		return
	}
	if sub.shared == (groupKey{}) {
		if _, replaced := b.tree.Add(sub.filter, subscriber{session: sub.session}, sub); !replaced {
			b.countInterest(sub.filter, 1)
		}
		return
	}
	g := b.groups[sub.shared]
	if g == nil {
		id, kept := b.storedGroups[sub.shared]
		g = newGroup(b, sub.shared, kept, id)
		delete(b.storedGroups, sub.shared)
		b.groups[sub.shared] = g
	}
	before := g.memberCount()
	g.putMember(sub)
	if sub.asleep {
		sub.session.removeGroup(g)
	} else {
		sub.session.addGroup(g)
	}
	b.regroup(g, before)
}

// regroup follows a change of a group's members, of which there were before. The
// caller holds interestMu.
func (b *Broker) regroup(g *group, before int) {
	now := g.memberCount()
	if now != before {
		b.countInterest(g.share.filter, now-before)
	}
	g.reviewPersistence()
	switch {
	case before == 0 && now > 0:
		b.tree.Add(g.share.filter, subscriber{group: g}, &subscription{filter: g.share.filter, group: g})
	case before > 0 && now == 0:
		b.tree.Remove(g.share.filter, subscriber{group: g})
	}
	b.routeEpoch.Add(1) // the group's members are not the tree's
}

// unmatch takes a subscription that is not shared out of the tree, if it is there.
// The caller holds interestMu.
func (b *Broker) unmatch(sub *subscription) {
	if _, removed := b.tree.Remove(sub.filter, subscriber{session: sub.session}); removed {
		b.countInterest(sub.filter, -1)
	}
}

// unsubscribe takes sub away from where messages are matched [MQTT-3.10.4-2].
func (b *Broker) unsubscribe(sub *subscription) {
	if sub.filter == deniedTopic {
		b.notices.removeReader(sub)
		return
	}
	b.interestMu.Lock()
	defer b.interestMu.Unlock()
	if sub.shared == (groupKey{}) {
		b.unmatch(sub)
		return
	}
	g := b.groups[sub.shared]
	if g == nil {
		return
	}
	before := g.memberCount()
	left := g.removeMember(sub.session)
	sub.session.removeGroup(g)
	b.regroup(g, before)
	if left == 0 {
		delete(b.groups, sub.shared)
		g.endGroup()
	}
}

// countInterest counts the subscriptions of a filter and tells the other sites of
// the first and the last. The caller holds interestMu, so that they hear it in
// order.
func (b *Broker) countInterest(filter string, n int) {
	was := b.interest[filter]
	b.subscriptions.Add(int64(n))
	if was+n == 0 {
		delete(b.interest, filter)
	} else {
		b.interest[filter] = was + n
	}
	if b.opts.Forwarder == nil || filter[0] == '$' {
		return
	}
	switch {
	case was == 0:
		b.opts.Forwarder.Subscribed(filter)
	case was+n == 0:
		b.opts.Forwarder.Unsubscribed(filter)
	}
}

// handleUnsubscribe answers an UNSUBSCRIBE. Filters are compared byte by byte
// [MQTT-3.10.4-1]; deliveries that began are finished [MQTT-3.10.4-3].
// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]
func (c *conn) handleUnsubscribe(flags byte, body []byte) error {
	var p packet.Unsubscribe
	if err := p.Decode(c.version, flags, body); err != nil {
		return err
	}
	ack := &packet.Unsuback{PacketID: p.PacketID}
	err := c.persistUnsubscribed(p.TopicFilters)
	if err != nil && c.version != packet.V5 {
		return &packet.Error{Code: packet.UnspecifiedError, Msg: err.Error()} // 3.1.1 has no other way to say so
	}
	for _, filter := range p.TopicFilters {
		code := packet.NoSubscriptionExisted
		switch {
		case err != nil:
			code = packet.UnspecifiedError
		case c.own.unsubscribe(filter): // [MQTT-3.10.4-1] [MQTT-3.11.3-2]
			code = packet.Success
		}
		ack.ReasonCodes = append(ack.ReasonCodes, code) // [MQTT-3.11.3-1]
	}
	if err != nil {
		ack.Properties = c.explain(err.Error())
	}
	return c.answer(ack)
}

// persistUnsubscribed waits until the store has forgotten subscriptions.
func (c *conn) persistUnsubscribed(filters []string) error {
	if !c.own.stored.Load() {
		return nil
	}
	return c.b.commitAndWait(func(tx store.Tx) {
		for _, filter := range filters {
			tx.Unsubscribe(c.own.key, filter)
		}
	})
}

// unsubscribe reports whether the session had a subscription to filter.
func (s *session) unsubscribe(filter string) bool {
	s.subscribing.Lock()
	defer s.subscribing.Unlock()
	s.mu.Lock()
	sub := s.subs[filter]
	if sub != nil {
		s.chargeMemory(-subscriptionCost(filter))
	}
	delete(s.subs, filter) // [MQTT-3.10.4-6]
	s.mu.Unlock()
	if sub == nil {
		return false
	}
	s.b.unsubscribe(sub) // [MQTT-3.10.4-2]
	return true
}

package mqtt

import (
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// retainedFor returns the retained messages that a new or repeated subscription
// gets at once, as its Retain Handling says. A shared one gets none.
func (b *Broker) retainedFor(sub *subscription, replaced bool) []store.Delivery {
	const (
		always  = 0 // [MQTT-3.3.1-9]
		ifNew   = 1 // [MQTT-3.3.1-10]
		notSent = 2 // [MQTT-3.3.1-11]
	)
	switch {
	case sub.shared != groupKey{}, sub.filter == deniedTopic:
		return nil
	case sub.RetainHandling == notSent, sub.RetainHandling == ifNew && replaced: // [MQTT-3.3.1-10] [MQTT-3.3.1-11]
		return nil
	}
	found := b.opts.Store.Retained(sub.filter)
	if within(sub.filter, "$SYS") {
		for _, m := range b.statusMessages() {
			if topic.Match(sub.filter, m.Topic) {
				found = append(found, m)
			}
		}
	}
	deliveries := make([]store.Delivery, 0, len(found))
	for _, m := range found {
		if sub.filtered && !sub.session.mayReceive(m.Topic) {
			continue
		}
		deliveries = append(deliveries, store.Delivery{
			Message: m, QoS: min(m.QoS, sub.QoS), Retain: true, IDs: sub.ids,
		})
	}
	return deliveries
}

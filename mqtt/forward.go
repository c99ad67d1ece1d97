package mqtt

import (
	"github.com/hpmq/hpmq/mqtt/store"
)

// Forwarder carries messages to the other sites. None of its methods blocks or
// calls the broker.
type Forwarder interface {
	// Wants reports whether any other site asked for topic. The broker keeps the
	// answer until [Broker.Reroute].
	Wants(topic string) bool
	// Forward takes m, which some other site wants; or which clears a retained message
	// that other sites may have. With a transaction it adds m to the outbound logs: m's
	// acknowledgement depends on it. Without one (nil) m is of QoS 0, nothing persistent
	// needs it, and Forward may drop it.
	Forward(tx store.Tx, m *store.Message)
	// Refuses returns why m, which another site wants, is not to be taken from its
	// publisher, or nil. It is asked before anything of m is kept or delivered.
	Refuses(m *store.Message) error
	// Subscribed tells of the first local subscription to filter, Unsubscribed
	// that the last one is gone. A shared subscription counts by its inner
	// filter. Filters that begin with $ are never told.
	Subscribed(filter string)
	Unsubscribed(filter string)
}

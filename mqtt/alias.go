package mqtt

import (
	"github.com/hpmq/hpmq/mqtt/packet"
)

// aliasTable has the Topic Aliases that one client was told, for as long as its
// connection lasts [MQTT-3.3.2-7]. The first topics that are long enough to gain by it
// get an alias, and keep it. Guarded by outbox.mu: a packet that gives an alias its
// meaning is in the outbox before the packets that use it.
type aliasTable struct {
	limit int // the client's Topic Alias Maximum, or ours if that is lower
	known map[string]uint16
	bytes int // of the topics
}

const (
	// minAliased is the shortest topic that an alias, of three bytes, makes shorter
	// by enough to be looked up.
	minAliased = 6

	maxAliasBytes = 8 << 10 // of all topics of a connection
)

// append appends f to dst, with an alias if its topic has one or may have one.
// largest is the client's Maximum Packet Size, or 0. It allocates only for a new
// alias. [MQTT-3.3.2-8] [MQTT-3.3.2-11] [MQTT-3.1.2-26] [MQTT-3.1.2-27]
func (t *aliasTable) append(dst []byte, f frame, id uint16, dup bool, largest int) []byte {
	topic := f.Topic()
	if len(topic) < minAliased {
		return f.Append(dst, id, dup)
	}
	if alias, ok := t.known[string(topic)]; ok {
		return f.AppendAliased(dst, id, dup, alias, true)
	}
	if len(t.known) >= t.limit || t.bytes+len(topic) > maxAliasBytes || largest > 0 && f.Size()+packet.AliasOverhead > largest {
		return f.Append(dst, id, dup)
	}
	if t.known == nil {
		t.known = make(map[string]uint16)
	}
	alias := uint16(len(t.known) + 1)
	t.known[string(topic)] = alias
	t.bytes += len(topic)
	return f.AppendAliased(dst, id, dup, alias, false)
}

package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/mqtt/store"
)

// Names are the names that a test put into a store; a [Dump] shows their entries.
type Names struct {
	Peers  []string
	Floors []store.Origin // by site and lane
	Values [][2]string    // scope and key
}

// Dump returns all of a store that is still there after a restart, one line for
// each thing.
func Dump(s store.Store, n Names) string {
	var b strings.Builder
	sessions := s.Sessions()
	slices.SortFunc(sessions, func(x, y store.Session) int {
		return cmp.Or(cmp.Compare(x.Key.Identity, y.Key.Identity), cmp.Compare(x.Key.ClientID, y.Key.ClientID))
	})
	for _, x := range sessions {
		dumpSession(&b, s, x)
	}
	retained := s.Retained("#")
	slices.SortFunc(retained, func(x, y *store.Message) int { return cmp.Compare(x.Topic, y.Topic) })
	for _, m := range retained {
		fmt.Fprintf(&b, "retained %s\n", line(m))
	}
	tombstones := s.Tombstones()
	slices.SortFunc(tombstones, func(x, y *store.Message) int { return cmp.Compare(x.Topic, y.Topic) })
	for _, m := range tombstones {
		fmt.Fprintf(&b, "tombstone %s by %s/%s origin %+v hlc %d\n", m.Topic, m.Publisher, m.ClientID, m.Origin, m.HLC)
	}
	for _, p := range n.Peers {
		entries := All(func(after uint64, dst []store.Outbound) []store.Outbound { return s.Outbound(p, after, dst) },
			func(o store.Outbound) uint64 { return o.Seq })
		for _, o := range entries {
			fmt.Fprintf(&b, "outbound %s %d %s\n", p, o.Seq, line(o.Message))
		}
		stats := s.OutboundStats(p)
		fmt.Fprintf(&b, "outbound %s: %d messages, %d bytes, acknowledged up to %d\n", p, stats.Messages, stats.Bytes, stats.Acknowledged)
	}
	for _, o := range n.Floors {
		epoch, seq := s.Floor(o.Site, o.Lane)
		fmt.Fprintf(&b, "floor %s/%d %d %d\n", o.Site, o.Lane, epoch, seq)
	}
	for _, v := range n.Values {
		value, ok := s.Value(v[0], v[1])
		fmt.Fprintf(&b, "value %s/%s %q %t\n", v[0], v[1], value, ok)
	}
	st := s.Stats()
	fmt.Fprintf(&b, "%d sessions, %d/%d queued, %d/%d retained, %d/%d outbound, %d/%d values\n", st.Sessions,
		st.Queued, st.QueuedBytes, st.Retained, st.RetainedBytes, st.Outbound, st.OutboundBytes, st.Values, st.ValueBytes)
	return b.String()
}

func dumpSession(b *strings.Builder, s store.Store, x store.Session) {
	fmt.Fprintf(b, "session %s/%s expiry %d gone %d\n", x.Key.Identity, x.Key.ClientID, x.Expiry, x.Disconnected)
	if x.Will != nil {
		fmt.Fprintf(b, " will %s after %d at %d\n", line(x.Will), x.WillDelay, x.WillAt)
	}
	slices.SortFunc(x.Subscriptions, func(p, q store.Subscription) int { return cmp.Compare(p.Filter, q.Filter) })
	for _, sub := range x.Subscriptions {
		fmt.Fprintf(b, " subscription %+v\n", sub)
	}
	slices.Sort(x.Received)
	fmt.Fprintf(b, " received %v\n", x.Received)
	first := uint64(0)
	for _, e := range Entries(s, x.Key) {
		if first == 0 {
			first = e.Seq // where numbers begin is the store's affair
		}
		fmt.Fprintf(b, " entry +%d qos %d retain %t ids %v sent %d %t: %s\n", e.Seq-first, e.QoS, e.Retain, e.IDs, e.PacketID, e.Released, line(e.Message))
	}
	stats := s.QueueStats(x.Key)
	fmt.Fprintf(b, " %d messages, %d bytes\n", stats.Messages, stats.Bytes)
}

// line shows a message. Properties are shown as they are sent: an absent one has no
// value.
func line(m *store.Message) string {
	return fmt.Sprintf("%s=%q qos %d retain %t props %x expires %d by %s/%s origin %+v hlc %d",
		m.Topic, m.Payload, m.QoS, m.Retain, m.Props.Append(nil), m.Expires, m.Publisher, m.ClientID, m.Origin, m.HLC)
}

// Entries returns the queue of k as far as it can be read, in small pieces.
func Entries(s store.Store, k store.SessionKey) []store.Entry {
	return All(func(after uint64, dst []store.Entry) []store.Entry {
		got, _ := s.Queue(k, after, dst)
		return got
	}, func(e store.Entry) uint64 { return e.Seq })
}

// All reads a queue or a log to its end.
func All[E any](read func(after uint64, dst []E) []E, seq func(E) uint64) []E {
	var all []E
	for after := uint64(0); ; {
		got := read(after, make([]E, 0, 7))
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
		after = seq(got[len(got)-1])
	}
}

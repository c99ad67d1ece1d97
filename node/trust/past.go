package trust

import (
	"iter"
	"time"

	"github.com/hpmq/hpmq/identity"
	"github.com/hpmq/hpmq/identity/directory"
	"github.com/hpmq/hpmq/internal/hlc"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/policy"
)

// A message that waited at its site was sent under the policy of its time. This file
// keeps the policies before the one in force, and the stamps that messages are compared
// with.
//
// A stamp is the hybrid clock of the sending site. The time of a change is the hybrid
// clock of the CA node that recorded it. Both follow wall clocks, and neither runs behind
// its own. Messages of a site with a slow clock, or of a site that lies, count as
// older: the bounds are the stamps that it sent before, and pastPolicyTime on our
// own clock. Messages of a site with a fast clock count as newer: beyond
// clockTolerance they are refused. A site can pull the clocks of its peers ahead by
// up to a day (hlc.MaxAhead), which excuses less and never more.

const (
	pastPolicyTime = 24 * time.Hour
	maxPastPolicy  = 8

	// clockTolerance is how far a stamp may lie behind a change and still count as
	// before it. It covers clocks that NTP keeps, messages that overtake one another
	// on their way into a log, and the time that a record takes to reach a site.
	clockTolerance = 5 * time.Second
)

// pastSet is a policy that was replaced.
type pastSet struct {
	set      *policy.Set
	replaced uint64    // hybrid clock of the record that replaced it
	until    time.Time // it counts, by our own clock
}

// newPastSet bounds how long a policy excuses. A record from ahead of our clock
// counts from now.
func newPastSet(set *policy.Set, replaced uint64, now time.Time) pastSet {
	from := hlc.Time(replaced)
	if now.Before(from) {
		from = now
	}
	return pastSet{set, replaced, from.Add(pastPolicyTime)}
}

// appliesTo reports whether the policy is asked about a message with this stamp.
func (p *pastSet) appliesTo(stamp uint64, now time.Time) bool {
	return !olderThan(p.replaced, stamp) && now.Before(p.until)
}

// olderThan reports whether a lies before b by more than clocks may differ.
func olderThan(a, b uint64) bool { return hlc.Time(a).Add(clockTolerance).Before(hlc.Time(b)) }

// stamps keeps the highest stamp of each sending node, so that a node which has
// sent a new message cannot claim that the next one is old. A restart of this node
// forgets them.
type stamps map[identity.ID]epochStamp

type epochStamp struct{ epoch, highest uint64 }

// raise returns the stamp of m, or a higher one that sender used before in the same
// epoch. It remembers the stamps of numbered messages only: a message without a number
// overtakes the log, and the messages of the log would then seem new.
func (s *stamps) raise(sender identity.ID, m *store.Message) uint64 {
	at := (*s)[sender]
	if at.epoch != m.Origin.Epoch {
		at = epochStamp{epoch: m.Origin.Epoch}
	}
	if m.HLC <= at.highest {
		return at.highest
	}
	if at.highest = m.HLC; m.Origin.Lane != 0 || m.Origin.Seq == 0 {
		return m.HLC
	}
	if _, known := (*s)[sender]; !known && len(*s) >= maxPublishers {
		*s = stamps{}
	}
	(*s)[sender] = at
	return m.HLC
}

// PolicyRecords returns the policies of d that may still excuse a message at now, and
// the one before them if there are any, with their clocks, newest first. It reads back
// over a day of records, and further only when the policy changed in that day.
func PolicyRecords(d *directory.Directory, now time.Time) iter.Seq2[uint64, directory.Policy] {
	return func(yield func(uint64, directory.Policy) bool) {
		some, since := false, now.Add(-pastPolicyTime)
		for seq := d.Tip().Count; seq > 0; seq-- {
			rec, err := d.Record(seq)
			recent := !rec.Time().Before(since)
			if err != nil || !recent && !some {
				return // a record that cannot be read excuses nothing
			}
			if rec.Kind != directory.KindPolicy {
				continue
			}
			content, err := rec.Decode()
			p, ok := content.(directory.Policy)
			if err != nil || !ok || !yield(rec.HLC, p) || !recent || rec.Version == 1 {
				return
			}
			some = true
		}
	}
}

// pastPolicies compiles the policies of records that were replaced within
// pastPolicyTime.
func (o *ForeignOptions) pastPolicies(now time.Time) []pastSet {
	var past []pastSet
	replaced := uint64(0)
	for clock, p := range o.Records() {
		if set := o.Compile(p.Files); replaced != 0 && set != nil {
			past = append(past, newPastSet(set, replaced, now))
		}
		replaced = clock
		age := now.Sub(hlc.Time(replaced))
		if len(past) == maxPastPolicy || age >= pastPolicyTime || age < -pastPolicyTime {
			break // before a clock that far ahead nothing can be told apart
		}
	}
	return past
}

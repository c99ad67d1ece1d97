package link

import (
	"maps"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// everything is the filter of a site whose interest is too large to keep.
const everything = "#"

// filterSize is what a filter counts against maxInterestSize.
func filterSize(filter string) int { return 64 + len(filter) }

// checkFilter returns the Reason Code for a topic filter that a peer sent.
func checkFilter(filter string) packet.ReasonCode {
	if topic.ValidFilter(filter) != nil || strings.HasPrefix(filter, "$") {
		return packet.TopicFilterInvalid
	}
	return packet.GrantedQoS1
}

// setInterest replaces what the peer wants by its whole new picture. The
// interest outlives the stream: what it matches is logged for the peer's return.
func (p *peer) setInterest(filters []string) {
	next, size := make(map[string]struct{}, len(filters)), 0
	for _, f := range filters {
		if _, twice := next[f]; !twice {
			next[f], size = struct{}{}, size+filterSize(f)
		}
	}
	p.mu.Lock()
	old, wasWhole := p.interest, p.whole
	p.interest, p.interestSize = next, size
	p.whole = p.tooMuch()
	changed := p.whole != wasWhole || !maps.Equal(old, next)
	if p.whole {
		p.interest = map[string]struct{}{everything: {}}
	}
	for f := range p.interest {
		p.l.wanted.Add(f, p.site, p)
	}
	for f := range old {
		if _, still := p.interest[f]; !still {
			p.l.wanted.Remove(f, p.site)
		}
	}
	whole := p.whole
	p.mu.Unlock()
	p.rerouted(changed, whole && !wasWhole)
}

// tooMuch reports whether the peer gets everything instead of what it asked for.
// The caller holds mu.
func (p *peer) tooMuch() bool {
	return len(p.interest) > maxInterest || p.interestSize > maxInterestSize
}

// subscribe adds to what the peer wants and returns the filters that are new.
func (p *peer) subscribe(filters []string) []string {
	p.mu.Lock()
	var added []string
	for _, f := range filters {
		if _, known := p.interest[f]; known || p.whole {
			continue
		}
		p.interest[f] = struct{}{}
		p.interestSize += filterSize(f)
		p.l.wanted.Add(f, p.site, p)
		added = append(added, f)
	}
	overflow := !p.whole && p.tooMuch()
	all := p.interest
	p.mu.Unlock()
	if overflow {
		p.setInterest(slices.Collect(maps.Keys(all))) // which sees that it is too much
		return []string{everything}
	}
	p.rerouted(len(added) > 0, false)
	return added
}

// unsubscribe takes filters away from what the peer wants.
func (p *peer) unsubscribe(filters []string) {
	p.mu.Lock()
	removed := false
	for _, f := range filters {
		if _, known := p.interest[f]; known && !p.whole {
			delete(p.interest, f)
			p.interestSize -= filterSize(f)
			p.l.wanted.Remove(f, p.site)
			removed = true
		}
	}
	p.mu.Unlock()
	p.rerouted(removed, false)
}

func (p *peer) rerouted(changed, whole bool) {
	if whole {
		p.entry().Warn("site wants too many topic filters and gets everything")
	}
	if changed {
		p.l.broker.Reroute()
	}
}

// filters returns the topic filters of this site's subscriptions as a peer shall
// learn them, and registers r for their changes. The caller sends them first.
func (l *Links) filters(r *receiver) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receivers[r] = struct{}{}
	return slices.Collect(maps.Keys(l.local))
}

// forget ends the registration of r.
func (l *Links) forget(r *receiver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.receivers, r)
}

// sort tells the filters that are subscribed from those that are not.
func (l *Links) sort(filters map[string]struct{}) (subscribed, gone []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range filters {
		if _, ok := l.local[f]; ok {
			subscribed = append(subscribed, f)
		} else {
			gone = append(gone, f)
		}
	}
	return subscribed, gone
}

package link

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hpmq/hpmq/mqtt/packet"
	"github.com/hpmq/hpmq/mqtt/store"
	"github.com/hpmq/hpmq/mqtt/topic"
)

// everything is the filter of a site that asks for more than can be kept.
const everything = "#"

// filterSize is the size of a filter as maxInterestSize counts it.
func filterSize(filter string) int { return 64 + len(filter) }

// checkFilter returns the Reason Code for a topic filter that a peer sent.
func checkFilter(filter string) packet.ReasonCode {
	if topic.ValidFilter(filter) != nil || strings.HasPrefix(filter, "$") {
		return packet.TopicFilterInvalid
	}
	return packet.GrantedQoS1
}

// keepPicture makes filters the whole interest of the peer: first in the store, then in
// the routes. The interest outlives the stream and the process: messages that match it
// are logged for the peer's return. One goroutine at a time changes the interest of a
// peer.
func (p *peer) keepPicture(ctx context.Context, filters []string, epoch uint64) error {
	next, size := make(map[string]struct{}, len(filters)), 0
	for _, f := range filters {
		if _, twice := next[f]; !twice {
			next[f], size = struct{}{}, size+filterSize(f)
		}
	}
	whole := tooMuch(len(next), size)
	if whole {
		next, size = map[string]struct{}{everything: {}}, filterSize(everything)
	}
	if err := p.storePicture(ctx, next, epoch); err != nil {
		return err
	}
	p.routeInterest(next, size, whole, true)
	return nil
}

// routeInterest replaces the interest by which messages are routed.
func (p *peer) routeInterest(next map[string]struct{}, size int, whole, heard bool) {
	p.mu.Lock()
	old, wasWhole := p.interest, p.whole
	p.interest, p.interestSize, p.whole = next, size, whole
	p.setHeard(heard)
	for f := range next {
		p.l.wanted.Add(f, p.site, p)
	}
	for f := range old {
		if _, still := next[f]; !still {
			p.l.wanted.Remove(f, p.site)
		}
	}
	p.mu.Unlock()
	p.rerouted(whole != wasWhole || !maps.Equal(old, next), whole && !wasWhole)
}

// tooMuch reports whether a peer with so many filters gets everything instead.
func tooMuch(filters, size int) bool { return filters > maxInterest || size > maxInterestSize }

// subscribe adds filters to the peer's interest and returns the new ones.
func (p *peer) subscribe(ctx context.Context, filters []string) ([]string, error) {
	p.mu.Lock()
	added, size := make(map[string]struct{}), p.interestSize
	for _, f := range filters {
		if _, known := p.interest[f]; known || p.whole {
			continue
		}
		if _, twice := added[f]; !twice {
			added[f], size = struct{}{}, size+filterSize(f)
		}
	}
	overflow := tooMuch(len(p.interest)+len(added), size)
	p.mu.Unlock()
	switch {
	case len(added) == 0:
		return nil, nil
	case overflow:
		all := slices.AppendSeq(slices.Collect(maps.Keys(p.interest)), maps.Keys(added))
		return []string{everything}, p.keepPicture(ctx, all, p.epoch)
	}
	if err := p.storeChange(ctx, added, []byte{}); err != nil {
		return nil, err
	}
	p.mu.Lock()
	for f := range added {
		p.interest[f] = struct{}{}
		p.l.wanted.Add(f, p.site, p)
	}
	p.interestSize = size
	p.mu.Unlock()
	p.rerouted(true, false)
	return slices.Collect(maps.Keys(added)), nil
}

// unsubscribe removes filters from the peer's interest.
func (p *peer) unsubscribe(ctx context.Context, filters []string) error {
	p.mu.Lock()
	removed := make(map[string]struct{})
	for _, f := range filters {
		if _, known := p.interest[f]; known && !p.whole {
			removed[f] = struct{}{}
		}
	}
	p.mu.Unlock()
	if len(removed) == 0 {
		return nil
	}
	if err := p.storeChange(ctx, removed, nil); err != nil {
		return err
	}
	p.mu.Lock()
	for f := range removed {
		delete(p.interest, f)
		p.interestSize -= filterSize(f)
		p.l.wanted.Remove(f, p.site)
	}
	p.mu.Unlock()
	p.rerouted(true, false)
	return nil
}

// setHeard notes whether the peer's interest is known. The caller holds mu.
func (p *peer) setHeard(heard bool) {
	switch {
	case p.heard && !heard:
		p.l.unheard.Add(1)
	case !p.heard && heard:
		p.l.unheard.Add(-1)
	}
	p.heard = heard
}

func (p *peer) isHeard() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard
}

// receives reports whether the site may receive m.
func (p *peer) receives(m *store.Message) bool {
	may := p.l.opts.Receives
	return may == nil || may(p.site, m)
}

// wants reports whether the peer asked for topic.
func (p *peer) wants(name string) bool {
	var found [8]*peer
	return slices.Contains(p.l.wanted.Match(found[:0], name), p)
}

func (p *peer) rerouted(changed, whole bool) {
	if whole {
		p.entry().Warn("site wants too many topic filters and gets everything")
	}
	if changed && p.l.broker != nil {
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

// sort separates the filters that are still subscribed from the filters that are gone.
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

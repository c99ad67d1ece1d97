package link

import (
	"sync"
	"sync/atomic"

	"github.com/hpmq/hpmq/identity"
)

// source is a node of another site that sends messages to this site. Each node of a
// site has an outbound log of its own. So each has its own numbers, its own floor and
// its own stream.
type source struct {
	p    *peer
	node identity.ID

	slot      chan struct{} // capacity 1: holds a token while no receiver has messages on their way to the store
	lane      lane          // of the receiver that holds the token
	receiving atomic.Bool   // a receiver holds the token

	mu       sync.Mutex // guards all below
	receiver *receiver  // the newest
}

func newSource(p *peer, node identity.ID) *source {
	s := &source{p: p, node: node, slot: make(chan struct{}, 1)}
	s.slot <- struct{}{}
	return s
}

// sourceOf returns the node id if it may send messages of another site as of now,
// else nil.
func (l *Links) sourceOf(id identity.ID) *source {
	for _, n := range l.opts.Peers() {
		if n.ID != id || n.Site == l.opts.Site || n.Site == "" {
			continue
		}
		l.mu.Lock()
		p := l.peers[n.Site]
		if p == nil { // its stream came before the news of it
			p = newPeer(l, n.Site)
			l.peers[n.Site] = p
		}
		l.mu.Unlock()
		return p.source(id)
	}
	return nil
}

// source returns the site's node id, made at its first stream.
func (p *peer) source(id identity.ID) *source {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sources[id]
	if s == nil {
		s = newSource(p, id)
		p.sources[id] = s
	}
	return s
}

// evictSources ends the streams of the site's nodes that are none any more.
func (p *peer) evictSources(active map[identity.ID]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range p.sources {
		if active[id] != p.site {
			s.evict()
		}
	}
}

// receiving reports whether a node of the site has a stream to us. The caller holds
// mu.
func (p *peer) receiving() bool {
	for _, s := range p.sources {
		if s.receiving.Load() {
			return true
		}
	}
	return false
}

// evict ends the stream that the node opened, if there is one.
func (s *source) evict() {
	s.mu.Lock()
	r := s.receiver
	s.mu.Unlock()
	if r != nil {
		r.end(errEvicted)
	}
}

// floorName is the name of the floors of a node: sites have no such name.
func floorName(node identity.ID) string { return node.String() }

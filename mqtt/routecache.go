package mqtt

import (
	"strings"
	"sync/atomic"
	"unsafe"
)

// routeCache holds the routes of one publisher. It belongs to one goroutine, and
// ends with drop. Its oldest route makes room for a new one.
type routeCache struct {
	routes         map[string]*route
	oldest, newest *route
	bytes          int
	found          []*subscription // scratch of fill
}

const (
	ownRouteBytes = 64 << 10 // that each cache may take
	maxRoutes     = 1 << 16
)

// routeBudget is the memory that all caches together may take beyond their own part:
// a gateway that speaks for 25,000 devices should not match each message anew.
type routeBudget struct {
	limit int64 // a sixteenth of the memory ceiling, or 64 MiB
	held  atomic.Int64
}

func (g *routeBudget) init(ceiling int64) {
	if g.limit = ceiling / 16; ceiling == 0 {
		g.limit = 64 << 20
	}
}

// lookup returns the route of a topic that was seen before, or nil. It does not
// allocate.
func (rc *routeCache) lookup(b *Broker, name []byte, from *session) *route {
	r := rc.routes[string(name)]
	if r != nil && !r.current(b) {
		rc.fill(b, r, from)
	}
	return r
}

// get returns the route of a topic, made if need be.
func (rc *routeCache) get(b *Broker, name string, from *session) *route {
	if r := rc.routes[name]; r != nil {
		if !r.current(b) {
			rc.fill(b, r, from)
		}
		return r
	}
	var r *route
	for rc.oldest != nil && rc.full(b) {
		r = rc.evict(b)
	}
	if r == nil {
		r = new(route)
	}
	r.topic = name
	rc.fill(b, r, from)
	if rc.routes == nil {
		rc.routes = make(map[string]*route)
	}
	rc.routes[name] = r
	if rc.newest == nil {
		rc.oldest = r
	} else {
		rc.newest.newer = r
	}
	rc.newest = r
	return r
}

// full reports whether a route has to go before another comes.
func (rc *routeCache) full(b *Broker) bool {
	return len(rc.routes) >= maxRoutes ||
		rc.bytes >= ownRouteBytes && (b.routes.held.Load() >= b.routes.limit || b.memory.full.Load())
}

// evict takes the oldest route out, and returns it empty.
func (rc *routeCache) evict(b *Broker) *route {
	r := rc.oldest
	delete(rc.routes, r.topic)
	if rc.oldest = r.newer; rc.oldest == nil {
		rc.newest = nil
	}
	rc.charge(b, -r.cost)
	clear(r.receivers)
	if cap(r.receivers) > 64 {
		r.receivers = nil
	}
	*r = route{receivers: r.receivers[:0]}
	return r
}

// drop forgets everything.
func (rc *routeCache) drop(b *Broker) {
	rc.charge(b, -rc.bytes)
	*rc = routeCache{}
}

func (rc *routeCache) charge(b *Broker, n int) {
	rc.bytes += n
	b.routes.held.Add(int64(n))
	b.memory.charge(n)
}

func (r *route) current(b *Broker) bool {
	return r.generation == b.tree.Generation() && r.routeEpoch == b.routeEpoch.Load()
}

// fill asks everything anew. The stamps are read first: a change meanwhile makes them
// differ.
func (rc *routeCache) fill(b *Broker, r *route, from *session) {
	r.generation, r.routeEpoch = b.tree.Generation(), b.routeEpoch.Load()
	r.receivers, r.groups = r.receivers[:0], nil
	r.allowedSizes = [3][2]int{}
	r.downstream, r.persists = false, false
	rc.found = b.tree.Match(rc.found[:0], r.topic)
	var index map[*session]int
	if len(rc.found) > 16 {
		index = make(map[*session]int, len(rc.found))
	}
	for _, sub := range rc.found {
		r.addSubscription(sub, from, index)
	}
	clear(rc.found)
	for i := range r.receivers {
		r.bind(b, &r.receivers[i])
	}
	for _, g := range r.groups {
		r.persists = r.persists || g.persistent.Load()
		r.downstream = r.downstream || g.downstream(r.topic)
	}
	r.upstream = from != nil && b.opts.Filter != nil && b.opts.Filter.Bound(Upstream, from.principal, r.topic)
	r.wantedElsewhere = b.opts.Forwarder != nil && !strings.HasPrefix(r.topic, "$") && b.opts.Forwarder.Wants(r.topic)
	cost := int(unsafe.Sizeof(*r)) + 2*len(r.topic) + cap(r.receivers)*int(unsafe.Sizeof(receiver{})) + 8*len(r.groups)
	rc.charge(b, cost-r.cost)
	r.cost = cost
}

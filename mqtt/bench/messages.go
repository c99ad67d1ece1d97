package bench

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/hpmq/hpmq/mqtt/packet"
)

// run is a load of messages under way.
type run struct {
	load    *Load
	target  *Target
	loop    loop
	result  Result
	refusal packet.ReasonCode // the last one, if result.Refused

	publishers  []*publisher
	subscribers []*subscriber
	kept        []string // sessions to remove at the end

	delivered uint64
	delays    histogram
	read      int64 // the clock at the last turn, or 0 if it must be asked again
}

// now is the clock, asked once per turn's input at most.
func (r *run) now() int64 {
	if r.read == 0 {
		r.read = clock()
	}
	return r.read
}

func (t *Target) messages(ctx context.Context, l *Load) (result *Result, err error) {
	r := &run{load: l, target: t}
	filters := r.plan()
	defer func() {
		if r.loop != nil {
			r.loop.close()
		}
		for _, name := range r.kept {
			if e := t.forget(ctx, name); e != nil && err == nil {
				err = e
			}
		}
	}()
	before := t.usage()
	asked := time.Now()
	if err := r.open(ctx, filters); err != nil {
		return nil, err
	}
	if l.Filters > 0 {
		r.result.SubscribeMicros = micros(t.usage().cpu-before.cpu, uint64(l.Filters))
		r.result.SubscribesPerSecond = float64(l.Filters) / time.Since(asked).Seconds()
	}
	if err := r.drive(ctx); err != nil {
		return nil, err
	}
	return &r.result, nil
}

// plan makes the publishers and returns each subscriber's filters.
func (r *run) plan() [][]string {
	if r.load.Filters > 0 {
		return r.planFilters()
	}
	l, prefix := r.load, r.target.Prefix
	topic := func(k int) string { return prefix + "/" + strconv.Itoa(k%l.Topics) }
	filters := make([][]string, l.Subscribers)
	subscribers := make([]uint64, l.Topics)
	for i := range filters {
		if l.Wildcard {
			filters[i] = []string{prefix + "/+"}
			continue
		}
		filters[i] = []string{topic(i)}
		subscribers[i%l.Topics]++
	}
	sharing := make([]int, l.Topics) // publishers with messages that meet at a subscriber
	for i := range l.Publishers {
		sharing[i%l.Topics]++
	}
	for i := range l.Publishers {
		k := i % l.Topics
		if l.Wildcard {
			subscribers[k], sharing[k] = uint64(l.Subscribers), l.Publishers
		}
		r.addPublisher([]route{newRoute(topic(i), l, r.target.Version, subscribers[k])}, l.Window/sharing[k])
	}
	return filters
}

// planFilters spreads the load's filters so that each topic has four, of four
// forms, at four subscribers.
func (r *run) planFilters() [][]string {
	l, v := r.load, r.target.Version
	filters := make([][]string, l.Subscribers)
	routes := make([]route, l.Filters/matchesPerName)
	for d := range routes {
		area := fmt.Sprintf("%s/area%d", r.target.Prefix, d%100)
		device := fmt.Sprintf("%s/device%d", area, d)
		for i, f := range []string{
			device + "/temperature", device + "/#", device + "/+",
			fmt.Sprintf("%s/+/device%d/temperature", r.target.Prefix, d),
		} {
			at := (matchesPerName*d + i) % l.Subscribers
			filters[at] = append(filters[at], f)
		}
		routes[d] = newRoute(device+"/temperature", l, v, matchesPerName)
	}
	for range l.Publishers {
		r.addPublisher(routes, l.Window/l.Publishers)
	}
	return filters
}

// open connects the subscribers and publishers.
func (r *run) open(ctx context.Context, filters [][]string) error {
	session := cleanSession
	if r.load.Persistent {
		session = keptSession
	}
	for i, mine := range filters {
		name := "-s" + strconv.Itoa(i)
		if r.load.Persistent { // one of an earlier run that was broken off
			if err := r.target.forget(ctx, name); err != nil {
				return err
			}
			r.kept = append(r.kept, name)
		}
		s := r.newSubscriber()
		c, err := r.join(ctx, name, session, mine, s.handle)
		if err != nil {
			return err
		}
		s.c = c
		r.subscribers = append(r.subscribers, s)
	}
	for i, p := range r.publishers {
		c, err := r.join(ctx, "-p"+strconv.Itoa(i), cleanSession, nil, p.handle)
		if err != nil {
			return err
		}
		p.attach(c)
	}
	return nil
}

func (r *run) join(ctx context.Context, name string, session sessionKind, filters []string, handle handler) (*conn, error) {
	l, err := r.target.connect(ctx, name, session)
	if err != nil {
		return nil, err
	}
	if err := l.subscribe(r.target, r.load.QoS, filters); err != nil {
		l.nc.Close()
		return nil, fmt.Errorf("client %s%s: %w", r.target.Prefix, name, err)
	}
	if r.loop == nil {
		if r.loop, err = newLoop(l, r.load.Size); err != nil {
			l.nc.Close()
			return nil, err
		}
	}
	return r.loop.add(l, handle)
}

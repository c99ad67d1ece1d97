package mqtt

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/hpmq/hpmq/mqtt/store"
)

// The clock of [Broker.Run].
const (
	statusInterval = 10 * time.Second
	sweepInterval  = time.Minute
)

// Run does the work that is due by the clock until ctx is done: it publishes
// $SYS/broker/*, tries again where the store refused groups, sweeps expired messages,
// and logs the sessions that lost messages. When it returns, no timer of the broker
// fires any more.
func (b *Broker) Run(ctx context.Context) error {
	defer b.stopTimers()
	b.startTimers()
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { b.watchMemory(ctx) })
	b.moveLoads(time.Now())
	status := time.NewTicker(statusInterval)
	defer status.Stop()
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-status.C:
			b.moveLoads(now)
			b.publishStatus()
			b.pumpRefused()
		case now := <-sweep.C:
			b.opts.Store.Sweep(now)
			b.reportDrops()
		}
	}
}

// stopTimers leaves delayed wills and expiry to the next start.
func (b *Broker) stopTimers() {
	b.stopped.Store(true)
	for _, s := range b.allSessions() {
		s.mu.Lock()
		s.stopTimer(expiryTimer)
		s.stopTimer(willTimer)
		s.stopTimer(retryTimer)
		s.mu.Unlock()
	}
}

// statusMessages returns $SYS/broker/* as of now. They are made for each subscription and
// kept nowhere.
func (b *Broker) statusMessages() []*store.Message {
	c := b.Counters()
	var all []*store.Message
	text := func(name, value string) {
		all = append(all, &store.Message{Topic: "$SYS/broker/" + name, Payload: []byte(value), Retain: true})
	}
	count := func(name string, n uint64) { text(name, strconv.FormatUint(n, 10)) }
	text("version", b.opts.Version)
	text("uptime", strconv.Itoa(int(time.Since(b.start).Seconds()))+" seconds")
	count("clients/connected", uint64(c.Clients))
	count("clients/disconnected", uint64(c.Sessions-c.Clients))
	count("clients/active", uint64(c.Clients)) // mosquitto's older names of the two
	count("clients/inactive", uint64(c.Sessions-c.Clients))
	count("clients/total", uint64(c.Sessions))
	count("clients/expired", c.SessionsExpired)
	count("subscriptions/count", uint64(c.Subscriptions))
	count("shared_subscriptions/count", uint64(c.Shared))
	count("retained messages/count", uint64(c.Store.Retained))
	count("store/messages/count", uint64(c.Store.Queued))
	count("store/messages/bytes", uint64(c.Store.QueuedBytes))
	count("messages/stored", uint64(c.Store.Queued)) // mosquitto's older name of store/messages/count
	count("messages/received", c.MessagesReceived)
	count("messages/sent", c.MessagesSent)
	count("publish/messages/received", c.MessagesReceived)
	count("publish/messages/sent", c.MessagesSent)
	count("publish/messages/dropped", c.MessagesDropped)
	count("bytes/received", c.BytesReceived)
	count("bytes/sent", c.BytesSent)
	b.loads.status(&c, text)
	return all
}

func (b *Broker) moveLoads(now time.Time) {
	c := b.Counters()
	b.loads.move(&c, now)
}

// publishStatus sends $SYS/broker/* to its subscribers.
func (b *Broker) publishStatus() {
	bt := getBatch(b)
	defer bt.done()
	var routes routeCache
	defer routes.drop(b)
	for _, m := range b.statusMessages() {
		r := routes.get(b, m.Topic, nil)
		if len(r.receivers) > 0 {
			bt.out.setMessage(m)
			bt.fanOut(r, 0, true)
		}
	}
}

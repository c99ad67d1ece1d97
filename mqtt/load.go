package mqtt

import (
	"fmt"
	"math"
	"runtime/metrics"
	"sync"
	"time"
)

// The averages of $SYS/broker/load/*, as mosquitto has them: events per minute,
// averaged over each of these spans.
var spans = [...]struct {
	name    string
	minutes float64
}{{"1min", 1}, {"5min", 5}, {"15min", 15}}

// loads holds the moving averages and the highest values seen. All of it moves
// with the clock of [Broker.Run], and only there.
type loads struct {
	mu       sync.Mutex
	at       time.Time
	totals   map[string]uint64 // at that time, by name
	averages map[string][len(spans)]float64
	clients  int    // the most that were connected
	heap     uint64 // the largest heap, bytes
}

// loadTotals are the totals that averages are kept of.
func loadTotals(c *Counters) map[string]uint64 {
	return map[string]uint64{
		"connections":       c.ConnectionsTotal - min(c.ConnectionsRefused, c.ConnectionsTotal),
		"sockets":           c.ConnectionsTotal,
		"bytes/received":    c.BytesReceived,
		"bytes/sent":        c.BytesSent,
		"messages/received": c.MessagesReceived,
		"messages/sent":     c.MessagesSent,
		"publish/received":  c.MessagesReceived,
		"publish/sent":      c.MessagesSent,
		"publish/dropped":   c.MessagesDropped,
	}
}

// move takes the totals of now into the averages.
func (l *loads) move(c *Counters, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peaks(c)
	totals := loadTotals(c)
	minutes := now.Sub(l.at).Minutes()
	if l.averages == nil {
		l.averages = make(map[string][len(spans)]float64)
	}
	if l.totals != nil && minutes > 0 {
		for name, total := range totals {
			perMinute := float64(total-l.totals[name]) / minutes
			average := l.averages[name]
			for i, span := range spans {
				weight := math.Exp(-minutes / span.minutes)
				average[i] = weight*average[i] + (1-weight)*perMinute
			}
			l.averages[name] = average
		}
	}
	l.at, l.totals = now, totals
}

// peaks raises the highest values. The caller holds mu.
func (l *loads) peaks(c *Counters) (heap uint64) {
	heap = heapSize()
	l.clients = max(l.clients, c.Clients)
	l.heap = max(l.heap, heap)
	return heap
}

// status tells all of it.
func (l *loads) status(c *Counters, text func(name, value string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	heap := l.peaks(c)
	text("clients/maximum", fmt.Sprint(l.clients))
	text("heap/current size", fmt.Sprint(heap))
	text("heap/maximum size", fmt.Sprint(l.heap))
	for name := range loadTotals(c) {
		for i, span := range spans {
			text("load/"+name+"/"+span.name, fmt.Sprintf("%.2f", l.averages[name][i]))
		}
	}
}

// heapSize is the size of live and not yet collected objects, in bytes.
func heapSize() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

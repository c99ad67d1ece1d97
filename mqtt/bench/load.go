package bench

import (
	"errors"
	"fmt"
	"time"
)

// Load is one scenario: the publishers and subscribers, their topics and messages, and
// the times. Kind decides which of the fields count.
type Load struct {
	Name  string // one word, such as "pairs-q1"
	Title string // for people
	Kind  Kind

	// Of Messages. Publisher i publishes to topic i mod Topics, and subscriber i
	// subscribes to it, or to all of them with one filter if Wildcard is set.
	Publishers, Subscribers, Topics int
	Wildcard                        bool
	// Filters, when not 0, spreads that many filters over the subscribers: exact
	// ones and ones with each wildcard, four of which match each topic. Topics and
	// Wildcard do not count then.
	Filters    int
	QoS        byte
	Size       int     // bytes of payload, at least 24
	Rate       float64 // messages published per second in all; 0: as fast as flow control allows
	Batch      int     // messages per write at most; 0: no limit
	Window     int     // messages on their way to a subscriber
	Inflight   int     // unacknowledged messages of a publisher, QoS 1 and 2
	Persistent bool    // the subscribers' sessions outlive their connections

	// Of Connects and Idle.
	Connections int
	Concurrency int // connections opened at a time

	Warmup   time.Duration // before the measurement begins
	Duration time.Duration // measured, and on until the first delivery; Idle: how long the connections are held
	Patience time.Duration // without a delivery, before missing ones are given up
}

// Kind is the job of a [Load].
type Kind int

// The kinds of load.
const (
	Messages Kind = iota // publish and subscribe
	Connects             // open connections, and close each at once
	Idle                 // open connections with one subscription each, and hold them
)

const (
	maxSize        = 16 << 20
	maxClients     = 100_000
	maxFilters     = 10_000_000
	matchesPerName = 4 // filters that match each topic with Filters
)

// Loads returns the scenarios that brokers are compared by, in the order of the
// table.
func Loads() []Load {
	messages := func(name, title string, publishers, subscribers, topics int, qos byte, change ...func(*Load)) Load {
		l := Load{
			Name: name, Title: title, Publishers: publishers, Subscribers: subscribers, Topics: topics, QoS: qos,
			Size: 64, Window: 512, Inflight: 100,
			Warmup: 500 * time.Millisecond, Duration: 2 * time.Second, Patience: time.Second,
		}
		for _, c := range change {
			c(&l)
		}
		return l
	}
	alone := func(l *Load) { l.Batch = 1 }
	wildcard := func(l *Load) { l.Wildcard = true }
	size := func(n int) func(*Load) { return func(l *Load) { l.Size = n } }
	rate := func(l *Load) { l.Rate = 5000 }
	return []Load{
		messages("one-q0", "1 -> 1, QoS 0", 1, 1, 1, 0),
		messages("one-alone-q0", "1 -> 1, QoS 0, one write per message", 1, 1, 1, 0, alone),
		messages("one-q1", "1 -> 1, QoS 1", 1, 1, 1, 1),
		messages("one-q2", "1 -> 1, QoS 2", 1, 1, 1, 2),
		messages("fanin-q0", "50 -> 1, QoS 0", 50, 1, 50, 0, wildcard),
		messages("fanin-q1", "50 -> 1, QoS 1", 50, 1, 50, 1, wildcard),
		messages("fanout-q0", "1 -> 100, QoS 0", 1, 100, 1, 0),
		messages("fanout-q1", "1 -> 100, QoS 1", 1, 100, 1, 1),
		messages("pairs-q0", "50 pairs, QoS 0", 50, 50, 50, 0),
		messages("pairs-q1", "50 pairs, QoS 1", 50, 50, 50, 1),
		messages("pairs-q2", "50 pairs, QoS 2", 50, 50, 50, 2),
		messages("pairs10-q0", "10 pairs, QoS 0", 10, 10, 10, 0),
		messages("1kib-q0", "10 pairs, 1 KiB, QoS 0", 10, 10, 10, 0, size(1<<10)),
		messages("64kib-q0", "10 pairs, 64 KiB, QoS 0", 10, 10, 10, 0, size(64<<10), func(l *Load) { l.Window = 64 }),
		messages("steady-q0", "10 pairs, 5,000 messages/s, QoS 0", 10, 10, 10, 0, rate),
		messages("steady-q1", "10 pairs, 5,000 messages/s, QoS 1", 10, 10, 10, 1, rate),
		messages("filters-q0", "1 -> 4 of 100,000 filters, QoS 0", 1, 100, 1, 0, func(l *Load) { l.Filters = 100_000 }),
		messages("durable-q1", "256 -> 8 persistent sessions, QoS 1", 256, 8, 8, 1, func(l *Load) { l.Persistent, l.Window = true, 4096 }),
		{Name: "connect", Title: "connect, one after another on 20 lanes", Kind: Connects, Connections: 3000, Concurrency: 20},
		{Name: "idle", Title: "idle connections", Kind: Idle, Connections: 5000, Concurrency: 20, Duration: 3 * time.Second},
	}
}

// Check returns an error if l is not a valid load.
func (l *Load) Check() error {
	for _, bound := range []struct {
		what         string
		n, low, high int
	}{
		{"publishers", l.Publishers, 1, maxClients},
		{"subscribers", l.Subscribers, 1, maxClients},
		{"topics", l.Topics, 1, maxClients},
		{"filters", l.Filters, 0, maxFilters},
		{"QoS", int(l.QoS), 0, 2},
		{"size", l.Size, markSize, maxSize},
		{"batch", l.Batch, 0, 1 << 20},
		{"window", l.Window, 1, 1 << 20},
		{"inflight", l.Inflight, 1, 65535},
	} {
		if l.Kind == Messages && (bound.n < bound.low || bound.n > bound.high) {
			return fmt.Errorf("%s: %s %d, want %d to %d", l.Name, bound.what, bound.n, bound.low, bound.high)
		}
	}
	switch {
	case l.Kind != Messages && (l.Connections < 1 || l.Connections > maxClients || l.Concurrency < 1):
		return fmt.Errorf("%s: %d connections, %d at a time: want 1 to %d", l.Name, l.Connections, l.Concurrency, maxClients)
	case l.Kind == Messages && l.Duration <= 0:
		return errors.New(l.Name + ": no time to measure")
	case l.Rate < 0:
		return errors.New(l.Name + ": a negative rate")
	case l.Filters > 0 && (l.Filters < matchesPerName || l.Subscribers < matchesPerName):
		return fmt.Errorf("%s: %d filters over %d subscribers: want at least %d of each", l.Name, l.Filters, l.Subscribers, matchesPerName)
	}
	return nil
}

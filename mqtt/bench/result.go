package bench

import (
	"context"
	"fmt"
	"time"
)

// Result is the outcome of a load; its JSON form is stable. Fields that the kind of
// load does not measure are zero and left out.
type Result struct {
	Name  string `json:"name"`
	Title string `json:"title"`

	Seconds       float64 `json:"seconds"`    // measured
	PerSecond     float64 `json:"per_second"` // deliveries, or connections
	SentPerSecond float64 `json:"sent_per_second,omitempty"`

	// Processor time of the broker's process for one delivered message, or connection,
	// in microseconds: all of it, and its two parts.
	BrokerMicros       float64 `json:"broker_us,omitempty"`
	BrokerUserMicros   float64 `json:"broker_user_us,omitempty"`
	BrokerSystemMicros float64 `json:"broker_system_us,omitempty"`
	BrokerCores        float64 `json:"broker_cores,omitempty"`
	BrokerMemory       int64   `json:"broker_rss_bytes,omitempty"` // at the end of the measurement
	OwnCores           float64 `json:"own_cores"`                  // the generator's; near 1 it is the bottleneck

	// Of the whole load, warm-up included.
	Sent           uint64 `json:"sent,omitempty"`
	Acknowledged   uint64 `json:"acknowledged,omitempty"`
	Unacknowledged uint64 `json:"unacknowledged"`
	Expected       uint64 `json:"expected,omitempty"` // deliveries
	Delivered      uint64 `json:"delivered,omitempty"`
	Lost           uint64 `json:"lost"`
	Duplicated     uint64 `json:"duplicated"`
	Reordered      uint64 `json:"reordered"`
	Corrupt        uint64 `json:"corrupt"` // differs from the sent message
	Refused        uint64 `json:"refused"` // acknowledged with a failure
	Refusal        string `json:"refusal,omitempty"`

	Delay *Delay `json:"delay_us,omitempty"` // of a delivery, or of a connection

	SubscribesPerSecond float64 `json:"subscribes_per_second,omitempty"`
	SubscribeMicros     float64 `json:"subscribe_us,omitempty"` // broker, per filter

	Connections         int     `json:"connections,omitempty"`
	MemoryPerConnection float64 `json:"bytes_per_connection,omitempty"`
}

// Delay is a distribution of delays in microseconds.
type Delay struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// Run drives l against t and returns the measurements. It blocks for the load's time
// and some; ctx ends it early, with an error. Errors are the broker's refusals
// ([RefusedError]), connections that broke, and a wrong load; losses are in the result.
func (t *Target) Run(ctx context.Context, l Load) (*Result, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if err := t.checkPID(); err != nil {
		return nil, err
	}
	kinds := map[Kind]func(context.Context, *Load) (*Result, error){
		Messages: t.messages, Connects: t.connects, Idle: t.idle,
	}
	r, err := kinds[l.Kind](ctx, &l)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	r.Name, r.Title = l.Name, l.Title
	return r, nil
}

// Faultless reports whether every message came once, in order, as it was sent.
func (r *Result) Faultless() bool {
	return r.Lost+r.Duplicated+r.Reordered+r.Corrupt+r.Refused+r.Unacknowledged == 0
}

// count fills in the cost of n events in the time took.
func (r *Result) count(n uint64, took time.Duration, before, after usage, own time.Duration) {
	r.Seconds = took.Seconds()
	r.PerSecond = float64(n) / r.Seconds
	r.BrokerMicros = micros(after.cpu-before.cpu, n)
	if ticks := after.user + after.system - before.user - before.system; ticks > 0 {
		r.BrokerUserMicros = r.BrokerMicros * float64(after.user-before.user) / float64(ticks)
		r.BrokerSystemMicros = r.BrokerMicros - r.BrokerUserMicros
	}
	r.BrokerCores = (after.cpu - before.cpu).Seconds() / r.Seconds
	r.BrokerMemory = after.rss
	r.OwnCores = own.Seconds() / r.Seconds
}

func micros(d time.Duration, n uint64) float64 {
	return float64(d.Nanoseconds()) / 1e3 / float64(max(n, 1))
}

func (h *histogram) summary() *Delay {
	us := func(share float64) float64 { return float64(h.at(share)) / 1e3 }
	return &Delay{us(.5), us(.9), us(.99), us(.999)}
}

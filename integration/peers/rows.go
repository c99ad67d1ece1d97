package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
)

// row is a line of the table.
type row struct {
	title    string
	scenario string
	flags    []string
	mtls     bool
	oursOnly string // why there is nothing to compare with
}

func (r row) name() string {
	if r.mtls {
		return r.scenario + "-mtls"
	}
	return r.scenario
}

const noPeer = "the peers acknowledge before anything is on disk"

var rows = []row{
	{title: "1 → 1, QoS 0", scenario: "one-q0"},
	{title: "1 → 1, QoS 0, one write per message", scenario: "one-alone-q0"},
	{title: "1 → 1, QoS 1", scenario: "one-q1"},
	{title: "1 → 1, QoS 2", scenario: "one-q2"},
	{title: "50 → 1, QoS 0", scenario: "fanin-q0"},
	{title: "50 → 1, QoS 1", scenario: "fanin-q1"},
	{title: "1 → 100, QoS 0", scenario: "fanout-q0"},
	{title: "1 → 100, QoS 1", scenario: "fanout-q1"},
	{title: "50 pairs, QoS 0", scenario: "pairs-q0"},
	{title: "50 pairs, QoS 1", scenario: "pairs-q1"},
	{title: "50 pairs, QoS 2", scenario: "pairs-q2"},
	{title: "10 pairs, 1 KiB, QoS 0", scenario: "1kib-q0"},
	{title: "10 pairs, 64 KiB, QoS 0", scenario: "64kib-q0"},
	{title: "10 pairs, 5,000 messages/s, QoS 0", scenario: "steady-q0"},
	{title: "10 pairs, 5,000 messages/s, QoS 1", scenario: "steady-q1"},
	{title: "1 → 4 of 100,000 filters, QoS 0", scenario: "filters-q0"},
	{title: "mTLS, 10 pairs, QoS 0", scenario: "pairs10-q0", mtls: true},
	{title: "mTLS, 50 pairs, QoS 1", scenario: "pairs-q1", mtls: true},
	{title: "mTLS, 1 → 100, QoS 0", scenario: "fanout-q0", mtls: true},
	{title: "256 publishers → 8 persistent sessions, QoS 1, fsync before each acknowledgement", scenario: "durable-q1", oursOnly: noPeer},
	{title: "Plain connect", scenario: "connect"},
	{title: "mTLS connect, full handshake", scenario: "connect", mtls: true},
	{title: "Idle connection, plain", scenario: "idle", flags: []string{"--connections", "10000"}},
	{title: "Idle connection, mTLS", scenario: "idle", flags: []string{"--connections", "3000"}, mtls: true},
}

// result is what of the output of hpmq bench -o json goes into the tables.
type result struct {
	PerSecond           float64 `json:"per_second"`
	BrokerMicros        float64 `json:"broker_us"`
	Delivered           uint64  `json:"delivered"`
	Lost                uint64  `json:"lost"`
	Duplicated          uint64  `json:"duplicated"`
	Reordered           uint64  `json:"reordered"`
	Corrupt             uint64  `json:"corrupt"`
	Refused             uint64  `json:"refused"`
	MemoryPerConnection float64 `json:"bytes_per_connection"`
	Delay               struct {
		P50  float64 `json:"p50"`
		P99  float64 `json:"p99"`
		P999 float64 `json:"p999"`
	} `json:"delay_us"`
	Error string `json:"error"`
}

// figure is what a row is compared by: microseconds of the broker's processor
// time, or bytes.
func (r *result) figure() float64 {
	if r.MemoryPerConnection != 0 {
		return r.MemoryPerConnection
	}
	return r.BrokerMicros
}

// measured is a row and each broker's median, nil where there is none.
type measured struct {
	row     row
	results [len(brokers)]*result
}

// measure runs all rows, each broker in turn, so that what else the machine does
// meets them all.
func (l *lab) measure(ctx context.Context, chosen []row, runs int) ([]measured, error) {
	var all []measured
	for _, r := range chosen {
		var found [len(brokers)][]*result
		for range runs {
			for i, b := range brokers {
				if i > 0 && r.oursOnly != "" {
					continue
				}
				res, err := l.once(ctx, b, r)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", b.name, r.name(), err)
				}
				fmt.Fprintf(os.Stderr, "%-10s %-18s %10.0f/s %9.2f µs  %d lost %d repeated %d reordered %s\n",
					b.name, r.name(), res.PerSecond, res.BrokerMicros, res.Lost, res.Duplicated, res.Reordered, res.Error)
				found[i] = append(found[i], res)
			}
		}
		m := measured{row: r}
		for i := range brokers {
			m.results[i] = median(found[i])
		}
		all = append(all, m)
	}
	return all, nil
}

// median returns the run with the median figure, with the faults of all runs.
func median(of []*result) *result {
	if len(of) == 0 {
		return nil
	}
	slices.SortFunc(of, func(a, b *result) int {
		switch d := a.figure() - b.figure(); {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
		return 0
	})
	m := *of[len(of)/2]
	m.Lost, m.Duplicated, m.Reordered, m.Corrupt, m.Refused, m.Delivered = 0, 0, 0, 0, 0, 0
	for _, r := range of {
		m.Lost += r.Lost
		m.Duplicated += r.Duplicated
		m.Reordered += r.Reordered
		m.Corrupt += r.Corrupt
		m.Refused += r.Refused
		m.Delivered += r.Delivered
		if r.Error != "" {
			m.Error = r.Error
		}
	}
	return &m
}

// once starts a broker, measures a row and stops the broker.
func (l *lab) once(ctx context.Context, b broker, r row) (*result, error) {
	p, err := l.start(ctx, b)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	args := append([]string{"bench", r.scenario, "-o", "json", "--prefix", prefix, "--pid", strconv.Itoa(p.pid())}, r.flags...)
	if r.mtls {
		args = append(args, "--url", "mqtts://localhost:"+strconv.Itoa(b.tls+l.shift),
			"--cafile", l.client("ca.pem"), "--cert", l.client("cert.pem"), "--key", l.client("key.pem"))
	} else {
		args = append(args, "--url", "mqtt://127.0.0.1:"+strconv.Itoa(b.plain+l.shift))
	}
	cmd := exec.CommandContext(ctx, l.program("hpmq"), args...)
	cmd.Env = l.env()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(out) == 0 {
		return &result{Error: string(exit.Stderr)}, ctx.Err()
	}
	if err != nil && exit == nil { // a fault found is in the answer
		return nil, err
	}
	reply := new(result)
	if err := json.Unmarshal(out, reply); err != nil {
		return nil, fmt.Errorf("hpmq bench answered %q: %w", out, err)
	}
	return reply, nil
}

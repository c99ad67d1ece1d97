package node

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hpmq/hpmq/mqtt"
	"github.com/hpmq/hpmq/mqtt/store"
)

// Limits are the broker's limits that an operator has changed. Zero fields keep
// the defaults, which docs/broker.md lists.
type Limits struct {
	Broker  mqtt.Options // its limits only
	Store   store.Limits
	MaxDisk uint64 // bytes of the store's files
}

// limit is one limit by its name on the command line.
type limit struct {
	set   func(l *Limits, n int)
	bytes bool // may have a unit: 64KiB, 16MiB, 2GiB
	most  int  // 0: any
	least int  // bytes, whole MiB
}

var limits = map[string]limit{
	"memory":                    {set: func(l *Limits, n int) { l.Broker.Memory = int64(n) }, bytes: true},
	"packet-size":               {set: func(l *Limits, n int) { l.Broker.PacketSize = n }, bytes: true, most: 268_435_455},
	"outbox-bytes":              {set: func(l *Limits, n int) { l.Broker.Outbox = n }, bytes: true},
	"inflight":                  {set: func(l *Limits, n int) { l.Broker.Inflight = uint16(n) }, most: math.MaxUint16},
	"receive-maximum":           {set: func(l *Limits, n int) { l.Broker.ReceiveMaximum = uint16(n) }, most: math.MaxUint16},
	"connections":               {set: func(l *Limits, n int) { l.Broker.Connections = n }},
	"connections-per-identity":  {set: func(l *Limits, n int) { l.Broker.ConnectionsPerIdentity = n }},
	"connections-per-address":   {set: func(l *Limits, n int) { l.Broker.ConnectionsPerAddress = n }},
	"connects-per-address":      {set: func(l *Limits, n int) { l.Broker.ConnectsPerAddress = n }},
	"subscriptions-per-session": {set: func(l *Limits, n int) { l.Broker.SubscriptionsPerSession = n }},
	"sessions-per-identity":     {set: func(l *Limits, n int) { l.Broker.SessionsPerIdentity = n }},
	"publish-messages":          {set: func(l *Limits, n int) { l.Broker.Publish.Messages = n }},
	"publish-bytes":             {set: func(l *Limits, n int) { l.Broker.Publish.Bytes = n }, bytes: true},
	"queue-messages":            {set: func(l *Limits, n int) { l.Broker.Queue.Messages, l.Store.Queue.Messages = n, n }},
	"queue-bytes":               {set: func(l *Limits, n int) { l.Broker.Queue.Bytes, l.Store.Queue.Bytes = n, n }, bytes: true},
	"retained-messages":         {set: func(l *Limits, n int) { l.Store.Retained.Messages = n }},
	"retained-bytes":            {set: func(l *Limits, n int) { l.Store.Retained.Bytes = n }, bytes: true},
	"store-bytes":               {set: func(l *Limits, n int) { l.MaxDisk = uint64(n) }, bytes: true, least: 256 << 20},
	"site-messages":             {set: func(l *Limits, n int) { l.Store.Outbound.Messages = n }},
	"site-bytes":                {set: func(l *Limits, n int) { l.Store.Outbound.Bytes = n }, bytes: true},
}

// Set changes a limit by its name: "publish-messages=200". docs/broker.md lists them.
func (l *Limits) Set(s string) error {
	name, value, _ := strings.Cut(s, "=")
	one, known := limits[name]
	if !known {
		return fmt.Errorf("no limit %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(limits)), ", "))
	}
	n, err := parseAmount(value, one.bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n < one.least {
		return fmt.Errorf("%s: at least %d MiB", name, one.least>>20)
	}
	if one.most > 0 && n > one.most {
		return fmt.Errorf("%s: at most %d", name, one.most)
	}
	one.set(l, n)
	return nil
}

// parseAmount reads a whole number above 0, with a unit where bytes are meant.
func parseAmount(s string, bytes bool) (int, error) {
	digits, factor := s, 1
	if bytes {
		for unit, f := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
			if d, ok := strings.CutSuffix(s, unit); ok {
				digits, factor = d, f
			}
		}
	}
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil || n <= 0 || n > math.MaxInt/factor:
		if bytes {
			return 0, errors.New("want bytes, as 65536, 64KiB, 16MiB or 2GiB")
		}
		return 0, errors.New("want a number from 1")
	}
	return n * factor, nil
}

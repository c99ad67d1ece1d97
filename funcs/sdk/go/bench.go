//go:build !wasip1

package hpmq

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Host plays the fabric for native tests: it keeps what a function keeps and
// grants every capability. The zero value is ready. It is for one goroutine.
type Host struct {
	// Context is what [Message.Context] answers.
	Context map[string]string
	// Logs collects what the function logged.
	Logs []string

	kv   map[string][]byte
	prev map[string][]byte
}

// host is the one whose Run is on.
var host = &Host{}

// Run calls h with m as a fresh host would.
func Run(h Handler, m Message) Result { return new(Host).Run(h, m) }

// Run calls h with m, with the state that earlier calls left. A call that fails
// leaves none.
func (t *Host) Run(h Handler, m Message) Result {
	defer func(outer *Host) { host = outer }(host)
	host = t
	if t.kv == nil {
		t.kv, t.prev = map[string][]byte{}, map[string][]byte{}
	}
	before := maps.Clone(t.kv)
	m.prev, m.hasPrev = t.prev[m.Topic]
	for _, key := range slices.Sorted(maps.Keys(t.Context)) {
		m.context = append(m.context, entry{key, t.Context[key]})
	}
	input := bytes.Clone(m.Payload)
	r := h.handle(&m)
	if _, err := appendResult(nil, r); err != nil {
		t.kv = before
		return Fail(err)
	}
	t.prev[m.Topic] = input
	return r
}

// Init calls the function registered with the package's [Init].
func (t *Host) Init(config []byte) error { return configure(config) }

// Upstream calls the handler registered with the package's [Upstream].
func (t *Host) Upstream(m Message) Result { return t.Run(upstream, m) }

// Downstream calls the handler registered with the package's [Downstream].
func (t *Host) Downstream(m Message) Result { return t.Run(downstream, m) }

func hostLog(level Level, text string) {
	host.Logs = append(host.Logs, fmt.Sprintf("%d %s", level, text))
}

func hostGet(key string) ([]byte, bool, error) {
	v, ok := host.kv[key]
	return bytes.Clone(v), ok, nil
}

func hostPrev(topic string) ([]byte, bool, error) {
	v, ok := host.prev[topic]
	return bytes.Clone(v), ok, nil
}

func hostPut(key string, value []byte) error {
	if len(key) > 256 || len(value) > 64<<10 {
		return ErrLimit
	}
	host.kv[key] = bytes.Clone(value)
	return nil
}

func hostDelete(key string) error {
	delete(host.kv, key)
	return nil
}

func hostTime() (int64, error) { return time.Now().UnixMilli(), nil }

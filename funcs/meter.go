package funcs

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/hpmq/hpmq/funcs/wasm"
	"github.com/hpmq/hpmq/internal/logfield"
)

// logRate bounds a function's log lines per second, over all its instances.
const logRate = 100

// Stats are the counters of one function since the process started, over all its
// versions.
type Stats struct {
	Function string

	Calls                              uint64
	Passed, Published, Dropped, Denied uint64            // by verdict; Denied is reject
	Faults                             map[string]uint64 // failures by [wasm.Fault], and "backoff", "start", "missing", "state", "limit"

	Seconds       float64       // spent in calls
	P50, P99, Max time.Duration // of a call; upper bounds, within a factor of two

	Instances int64
	Memory    int64 // linear memory of the instances, in bytes

	LogLines, LogSuppressed uint64
}

// meter is the running form of Stats. It is written on every call, so it has
// no locks.
type meter struct {
	function string
	log      logrus.FieldLogger
	limit    *rate.Limiter

	verdicts   [4]atomic.Uint64
	faults     [len(faultNames)]atomic.Uint64
	nanos      atomic.Uint64
	longest    atomic.Int64
	buckets    [65]atomic.Uint64 // calls by bit length of their nanoseconds
	instances  atomic.Int64
	memory     atomic.Int64
	lines      atomic.Uint64
	suppressed atomic.Uint64
}

// Failures that are not a fault of a call.
const (
	faultBackoff wasm.Fault = "backoff" // not run: the client broke it too often
	faultStart   wasm.Fault = "start"   // no instance could be started
	faultMissing wasm.Fault = "missing" // there is no such function
	faultState   wasm.Fault = "state"   // its state could not be read
	faultLimit   wasm.Fault = "limit"   // the chain's output grew too large
)

var faultNames = [...]wasm.Fault{
	wasm.FaultGuest, wasm.FaultTrap, wasm.FaultTimeout, wasm.FaultDepth, wasm.FaultResponse, wasm.FaultRequest,
	faultBackoff, faultStart, faultMissing, faultState, faultLimit,
}

// countCall counts one call that gave a verdict.
func (m *meter) countCall(v Verdict, took time.Duration) {
	m.verdicts[v].Add(1)
	m.countTime(took)
}

// countTime counts the time of one call, failed or not.
func (m *meter) countTime(took time.Duration) {
	n := max(took.Nanoseconds(), 0)
	m.nanos.Add(uint64(n))
	m.buckets[bits.Len64(uint64(n))].Add(1)
	for {
		old := m.longest.Load()
		if n <= old || m.longest.CompareAndSwap(old, n) {
			return
		}
	}
}

func (m *meter) countFailure(f wasm.Fault) {
	if i := slices.Index(faultNames[:], f); i >= 0 {
		m.faults[i].Add(1)
	}
}

// guestLog passes one line of the guest on, unless there were too many.
func (m *meter) guestLog(level wasm.Level, text string) {
	if !m.limit.Allow() {
		m.suppressed.Add(1)
		return
	}
	m.lines.Add(1)
	entry := m.log.WithField(logfield.Function, m.function).WithField("text", text)
	const says = "function says"
	switch level {
	case wasm.LevelDebug:
		entry.Debug(says)
	case wasm.LevelInfo:
		entry.Info(says)
	case wasm.LevelWarning:
		entry.Warn(says)
	case wasm.LevelError:
		entry.Error(says)
	}
}

// quantile is the upper end of the bucket that holds the q-th part of calls.
func (m *meter) quantile(q float64) time.Duration {
	var counts [len(m.buckets)]uint64
	var total uint64
	for i := range m.buckets {
		counts[i] = m.buckets[i].Load()
		total += counts[i]
	}
	longest := time.Duration(m.longest.Load())
	var seen uint64
	for i, n := range counts {
		seen += n
		if n > 0 && float64(seen) >= q*float64(total) {
			return min(time.Duration(uint64(1)<<min(i, 62)), longest)
		}
	}
	return longest
}

func (m *meter) stats() Stats {
	s := Stats{
		Function: m.function, Faults: map[string]uint64{},
		Passed: m.verdicts[Pass].Load(), Published: m.verdicts[Publish].Load(),
		Dropped: m.verdicts[Drop].Load(), Denied: m.verdicts[Reject].Load(),
		Seconds: float64(m.nanos.Load()) / 1e9, P50: m.quantile(0.5), P99: m.quantile(0.99),
		Max: time.Duration(m.longest.Load()), Instances: m.instances.Load(), Memory: m.memory.Load(),
		LogLines: m.lines.Load(), LogSuppressed: m.suppressed.Load(),
	}
	for i := range m.buckets {
		s.Calls += m.buckets[i].Load()
	}
	for i, name := range faultNames {
		if n := m.faults[i].Load(); n > 0 {
			s.Faults[string(name)] = n
		}
	}
	return s
}

// meters holds one meter for each function name, for as long as the process
// runs: counters never go back.
type meters struct {
	mu     sync.Mutex
	byName map[string]*meter
}

func (m *meters) of(name string, log logrus.FieldLogger) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byName == nil {
		m.byName = map[string]*meter{}
	}
	if m.byName[name] == nil {
		m.byName[name] = &meter{function: name, log: log, limit: rate.NewLimiter(logRate, logRate)}
	}
	return m.byName[name]
}

// Stats gives the counters of every function that was ever loaded or bound, by
// name.
func (r *Runtime) Stats() []Stats {
	r.meters.mu.Lock()
	all := slices.Collect(maps.Values(r.meters.byName))
	r.meters.mu.Unlock()
	slices.SortFunc(all, func(a, b *meter) int { return cmp.Compare(a.function, b.function) })
	out := make([]Stats, len(all))
	for i, m := range all {
		out[i] = m.stats()
	}
	return out
}

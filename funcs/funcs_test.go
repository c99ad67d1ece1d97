package funcs

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/hpmq/hpmq/funcs/wasm"
)

// cacheDir keeps what the tests compile: the Go guests take a second each.
var cacheDir string

func TestMain(m *testing.M) {
	var err error
	if cacheDir, err = os.MkdirTemp("", "hpmq-funcs"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(cacheDir)
		os.Exit(code)
	}))
}

// bench is a running runtime.
type bench struct {
	*Runtime
	t    testing.TB
	stop func()
}

func newBench(t testing.TB, o Options, functions ...Function) *bench {
	t.Helper()
	e, err := wasm.NewEngine(t.Context(), wasm.Options{CacheDir: cacheDir})
	if err != nil {
		t.Fatal(err)
	}
	o.Engine = e
	r := New(o)
	if err := r.Swap(t.Context(), functions); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	b := &bench{r, t, sync.OnceFunc(func() {
		cancel()
		group.Wait()
		e.Close(context.Background())
	})}
	t.Cleanup(b.stop)
	return b
}

// do submits one message and waits for its result.
func (b *bench) do(c *Chain, from *Origin, m Message) Result {
	b.t.Helper()
	results := make(chan Result, 1)
	b.Submit(c, from, m, func(r Result) { results <- r })
	return <-results
}

// guest is one of the modules of funcs/wasm, which act on the first byte of the
// payload; their sources are beside them.
func guest(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("wasm/testdata/" + name + ".wasm")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func chain(t testing.TB, d Direction, bindings ...Binding) *Chain {
	t.Helper()
	c, err := NewChain(d, bindings)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var pump = &Origin{Client: "pump\x00c1", Identity: "spiffe://lab.test/device/pump", ClientID: "c1", Site: "home"}

func message(payload string) Message {
	return Message{Topic: "site/home/pump/raw", Payload: []byte(payload), QoS: 1}
}

// build compiles a guest package of another module for WebAssembly.
func build(dir, pkg string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "hpmq-guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w: %s", pkg, err, text)
	}
	return os.ReadFile(out)
}

var buildNormalise = sync.OnceValues(func() ([]byte, error) { return build("../examples/functions", "./normalise") })

func normalise(t testing.TB) Function {
	t.Helper()
	code, err := buildNormalise()
	if err != nil {
		t.Fatal(err)
	}
	// A machine that is busy with other tests stops for longer than the default.
	return Function{Name: "normalise", Code: code, Capabilities: []string{"prev"}, Limits: wasm.Limits{Time: time.Minute, Init: time.Minute}}
}

// TestGoGuest puts recorded vendor payloads through the example function as a
// device would.
func TestGoGuest(t *testing.T) {
	b := newBench(t, Options{Workers: 1}, normalise(t))
	c := chain(t, Upstream, Binding{Name: "raw", Function: "normalise", Topics: []string{"site/+/+/raw"}})
	for _, file := range []string{"tasmota", "modbus"} {
		f, err := os.Open("../examples/functions/testdata/" + file + ".ndjson")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			var record struct {
				Device string  `json:"device"`
				Text   *string `json:"payload_text"`
				Hex    string  `json:"payload_hex"`
				Expect struct {
					Kind      string         `json:"kind"`
					Function  int            `json:"function"`
					Fields    map[string]any `json:"fields"`
					Registers []float64      `json:"registers"`
				} `json:"expect"`
			}
			if err := json.Unmarshal(s.Bytes(), &record); err != nil {
				t.Fatal(err)
			}
			payload, err := hex.DecodeString(record.Hex)
			if err != nil {
				t.Fatal(err)
			}
			if record.Text != nil {
				payload = []byte(*record.Text)
			}
			m := Message{Topic: "site/home/" + record.Device + "/raw", Payload: payload, QoS: 1}
			got := b.do(c, pump, m)
			if file == "modbus" && (record.Expect.Function != 3 || record.Expect.Kind == "request") {
				if got.Verdict != Drop || len(got.DeadLetters) != 1 {
					t.Errorf("%s: got %+v, want a dead letter", payload, got)
				}
				continue
			}
			if got.Verdict != Publish || len(got.Messages) != 1 {
				t.Fatalf("%s: got %+v", payload, got)
			}
			out := got.Messages[0]
			if out.Topic != "site/home/"+record.Device+"/telemetry" || out.Function != "normalise" || out.QoS != 1 {
				t.Errorf("got %+v", out)
			}
			var telemetry struct{ Fields map[string]any }
			if err := json.Unmarshal(out.Payload, &telemetry); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(record.Expect.Fields, telemetry.Fields); file == "tasmota" && diff != "" {
				t.Error(diff)
			}
			for i, want := range record.Expect.Registers {
				if got := telemetry.Fields[fmt.Sprintf("registers.%d", i)]; got != want {
					t.Errorf("%s: register %d is %v, want %v", record.Hex, i, got, want)
				}
			}
			if got := b.do(c, pump, m); got.Verdict != Drop || got.Function != "normalise" || len(got.DeadLetters) != 0 {
				t.Errorf("a repeat got %+v", got)
			}
		}
	}
}

// TestGoGuestSurvives sends what could break a guest that parses JSON.
func TestGoGuestSurvives(t *testing.T) {
	b := newBench(t, Options{Workers: 1}, normalise(t))
	c := chain(t, Upstream, Binding{Function: "normalise"})
	for _, payload := range []string{"", "{", strings.Repeat(`{"a":`, 20_000), strings.Repeat("[", 100_000), "\xff\xfe", strings.Repeat("x", 1<<20)} {
		if got := b.do(c, pump, message(payload)); got.Verdict != Drop || len(got.DeadLetters) != 1 {
			t.Errorf("%d bytes: got verdict %v with %d dead letters", len(payload), got.Verdict, len(got.DeadLetters))
		}
	}
	other := &Origin{Client: "other", Identity: "spiffe://lab.test/device/other"}
	if got := b.do(c, other, message(`{"a":1}`)); got.Verdict != Publish {
		t.Errorf("then %+v", got)
	}
}

// TestSDK runs the SDK's own guest, which reports what each host call gave.
func TestSDK(t *testing.T) {
	code, err := build("sdk/go", "./internal/guest")
	if err != nil {
		t.Fatal(err)
	}
	log, hook := logtest.NewNullLogger()
	all := []string{"prev", "kv:read", "kv:write", "clock", "random"}
	b := newBench(t, Options{Workers: 1, Log: log},
		Function{Name: "all", Code: code, Capabilities: all, Init: []byte("hello")}, Function{Name: "none", Code: code})
	tests := []struct{ function, payload, want string }{
		{"all", "init", "hello"},
		{"none", "init", ""},
		{"none", "sleep", "true"},
		{"all", "get", `0 "" false <nil>`},
		{"all", "put value", "<nil>"},
		{"all", "get", `5 "value" true <nil>`},
		{"all", "fill", "<nil>"},
		{"all", "get", `5000 "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" true <nil>`},
		{"all", "delete", "<nil>"},
		{"all", "get", `0 "" false <nil>`},
		{"all", "prev", `"get" true`},
		{"all", "prevof site/home/pump/raw", `"prev" true <nil>`},
		{"all", "prevof other", `"" false <nil>`},
		{"all", "time", "true <nil>"},
		{"all", "context", "spiffe://lab.test/device/pump c1 home upstream 1 false ."},
		{"none", "get", `0 "" false hpmq: the capability is not granted`},
		{"none", "put x", "hpmq: the capability is not granted"},
		{"none", "prev", `"" false`},
		{"none", "prevof x", `"" false hpmq: the capability is not granted`},
		{"none", "time", "false hpmq: the capability is not granted"},
	}
	for _, tt := range tests {
		got := b.do(chain(t, Upstream, Binding{Function: tt.function}), pump, message(tt.payload))
		if len(got.Messages) != 1 || string(got.Messages[0].Payload) != tt.want || got.Messages[0].QoS != 1 {
			t.Errorf("%s: %s: got %+v, want %s", tt.function, tt.payload, got, tt.want)
		}
	}
	c := chain(t, Upstream, Binding{Function: "none", OnError: OnErrorDrop})
	for payload, want := range map[string]Result{
		"reject too much": {Verdict: Reject, Function: "none", Code: 0x97, Reason: "too much"},
		"none":            {Verdict: Drop, Function: "none"},
		"other":           {Verdict: Pass},
		"fail on purpose": {Verdict: Drop, Function: "none", Reason: "function error: on purpose"},
		"panic oh":        {Verdict: Drop, Function: "none", Reason: "function trap: wasm error: unreachable"},
		"log me":          {Verdict: Drop, Function: "none"},
	} {
		if diff := cmp.Diff(want, b.do(c, pump, message(payload)), cmp.AllowUnexported(Result{})); diff != "" {
			t.Errorf("%s: %s", payload, diff)
		}
	}
	var said []string
	for _, e := range hook.AllEntries() {
		said = append(said, fmt.Sprint(e.Level, " ", e.Data["text"]))
	}
	for _, want := range []string{"warning me", "info standard output me", "warning panic: oh"} {
		if !slices.Contains(said, want) {
			t.Errorf("log %q lacks %q", said, want)
		}
	}
	d := chain(t, Downstream, Binding{Function: "none", OnError: OnErrorDrop})
	if got := b.do(d, pump, message("x")); !strings.Contains(got.Reason, "does not handle this direction") {
		t.Errorf("downstream: %+v", got)
	}
	if err := b.Swap(t.Context(), []Function{{Name: "all", Code: code, Init: []byte("bad")}}); err == nil || !strings.Contains(err.Error(), "bad configuration") {
		t.Errorf("a refused configuration: %v", err)
	}
}

// TestGoGuestCollectsGarbage checks that the clock which guests see does not
// mislead Go's garbage collector (see the clock of funcs/wasm): the guest makes a
// megabyte of garbage for each message and stays within its memory.
func TestGoGuestCollectsGarbage(t *testing.T) {
	code, err := build("sdk/go", "./internal/guest")
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{Workers: 1}, Function{Name: "f", Code: code, Limits: wasm.Limits{Memory: 16 << 20, Time: time.Second}})
	c := chain(t, Upstream, Binding{Function: "f", OnError: OnErrorDrop})
	for n := range 700 {
		if got := b.do(c, pump, message("garbage")); got.Verdict != Drop || got.Reason != "" {
			t.Fatalf("message %d: %+v", n, got)
		}
	}
}

func TestChain(t *testing.T) {
	functions := []Function{
		{Name: "filter", Code: guest(t, "pass")},
		{Name: "echo", Code: guest(t, "echo")},
	}
	tests := []struct {
		name     string
		bindings []Binding
		payload  string
		want     Result
	}{
		{"pass", []Binding{{Function: "filter"}}, "ok", Result{Verdict: Pass}},
		{"drop", []Binding{{Function: "filter"}}, "d", Result{Verdict: Drop, Function: "filter"}},
		{"reject", []Binding{{Function: "filter"}}, "j", Result{Verdict: Reject, Function: "filter", Code: 0x87, Reason: "not here"}},
		{"publish", []Binding{{Function: "echo"}}, "ok", Result{Verdict: Publish, Function: "echo", Messages: []Output{
			{Message{Topic: "out/echo", Payload: []byte("ok"), QoS: 1, Retain: true}, "echo"},
		}}},
		{"publish, then pass", []Binding{{Function: "echo"}, {Function: "filter"}}, "2", Result{Verdict: Publish, Function: "echo", Messages: []Output{
			{Message{Topic: "out/x", Payload: []byte("1")}, "echo"}, {Message{Topic: "out/y", Payload: []byte("2"), QoS: 1}, "echo"},
		}}},
		{"pass, then publish", []Binding{{Function: "filter"}, {Function: "echo"}}, "ok", Result{Verdict: Publish, Function: "echo", Messages: []Output{
			{Message{Topic: "out/echo", Payload: []byte("ok"), QoS: 1, Retain: true}, "echo"},
		}}},
		{"output fans out", []Binding{{Function: "echo"}, {Function: "echo", Topics: []string{"out/y"}}}, "2", Result{Verdict: Publish, Function: "echo", Messages: []Output{
			{Message{Topic: "out/x", Payload: []byte("1")}, "echo"}, {Message{Topic: "out/x", Payload: []byte("1")}, "echo"}, {Message{Topic: "out/y", Payload: []byte("2"), QoS: 1}, "echo"},
		}}},
		{"drop ends it", []Binding{{Function: "filter"}, {Function: "echo"}}, "d", Result{Verdict: Drop, Function: "filter"}},
		{"other topic", []Binding{{Function: "filter", Topics: []string{"site/+/valve/#"}}}, "d", Result{Verdict: Pass}},
		{"on_error drop", []Binding{{Function: "filter", OnError: OnErrorDrop}}, "t", Result{Verdict: Drop, Function: "filter", Reason: "trap"}},
		{"on_error reject", []Binding{{Function: "filter", OnError: OnErrorReject}}, "t", Result{Verdict: Reject, Function: "filter", Code: 0x83, Reason: "trap"}},
		{"on_error pass", []Binding{{Function: "filter", OnError: OnErrorPass, Optional: true}}, "t", Result{Verdict: Pass}},
		{"no such function", []Binding{{Function: "gone", OnError: OnErrorDrop}}, "ok", Result{Verdict: Drop, Function: "gone", Reason: "no such function"}},
		{"no such optional function", []Binding{{Function: "gone", OnError: OnErrorPass, Optional: true}}, "ok", Result{Verdict: Pass}},
	}
	b := newBench(t, Options{}, functions...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from := &Origin{Client: tt.name, Identity: tt.name}
			got := b.do(chain(t, Upstream, tt.bindings...), from, message(tt.payload))
			if tt.want.Verdict == Drop && tt.want.Reason != "" || tt.want.Code == 0x83 {
				if !strings.Contains(got.Reason, tt.want.Reason) {
					t.Errorf("reason %q does not say %q", got.Reason, tt.want.Reason)
				}
				got.Reason = tt.want.Reason
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(Result{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNewChainRefuses(t *testing.T) {
	for name, b := range map[string]Binding{
		"pass of a required function": {Function: "f", OnError: OnErrorPass},
		"unknown on_error":            {Function: "f", OnError: "explode"},
		"# before the end":            {Function: "f", Topics: []string{"a/b", "a/#/b"}},
		"+ beside a word":             {Function: "f", Topics: []string{"a/b+"}},
		"no function":                 {},
	} {
		if _, err := NewChain(Upstream, []Binding{b}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestChainOutputIsBounded(t *testing.T) {
	b := newBench(t, Options{Workers: 1}, Function{Name: "echo", Code: guest(t, "echo")}, Function{Name: "double", Code: guest(t, "echo")})
	bindings := make([]Binding, 8) // "2" becomes "1" and "2", so n stages give n+1 messages
	for i := range bindings {
		bindings[i] = Binding{Function: "double"}
	}
	if got := b.do(chain(t, Upstream, bindings...), pump, message("2")); len(got.Messages) != 9 || len(got.DeadLetters) != 0 {
		t.Errorf("got %d messages and %d dead letters", len(got.Messages), len(got.DeadLetters))
	}
	bindings = make([]Binding, 70)
	for i := range bindings {
		bindings[i] = Binding{Function: "double"}
	}
	got := b.do(chain(t, Upstream, bindings...), pump, message("2"))
	if len(got.Messages) > maxChainOutputs || len(got.DeadLetters) == 0 || !strings.Contains(string(got.DeadLetters[0].Payload), "more than 64 messages") {
		t.Errorf("got %d messages and %d dead letters", len(got.Messages), len(got.DeadLetters))
	}
}

func TestDeadLetter(t *testing.T) {
	f := Function{Name: "filter", Code: guest(t, "pass")}
	b := newBench(t, Options{}, f)
	got := b.do(chain(t, Upstream, Binding{Name: "guard", Function: "filter"}), pump, message("f\x00\xff"))
	if got.Verdict != Drop || len(got.DeadLetters) != 1 || got.DeadLetters[0].Topic != "$hpmq/func/filter/dlq" {
		t.Fatalf("got %+v", got)
	}
	var letter DeadLetter
	if err := json.Unmarshal(got.DeadLetters[0].Payload, &letter); err != nil {
		t.Fatal(err)
	}
	if letter.Time.IsZero() || len(letter.Digest) != 64 {
		t.Errorf("got %+v", letter)
	}
	letter.Time, letter.Digest = time.Time{}, ""
	want := DeadLetter{
		Function: "filter", Binding: "guard", Direction: "upstream", Topic: "site/home/pump/raw", Identity: pump.Identity, ClientID: "c1",
		QoS: 1, Payload: []byte("f\x00\xff"), Error: "function error: cannot read it",
	}
	if diff := cmp.Diff(want, letter); diff != "" {
		t.Error(diff)
	}
}

func TestSwapRefuses(t *testing.T) {
	b := newBench(t, Options{}, Function{Name: "f", Code: guest(t, "pass")})
	for name, set := range map[string][]Function{
		"broken":     {{Name: "f", Code: guest(t, "forbidden")}},
		"capability": {{Name: "f", Code: guest(t, "pass"), Capabilities: []string{"root"}}},
		"twice":      {{Name: "f", Code: guest(t, "pass")}, {Name: "f", Code: guest(t, "echo")}},
		"no name":    {{Code: guest(t, "pass")}},
		"cannot run": {{Name: "f", Code: guest(t, "pass"), Limits: wasm.Limits{Memory: 1}}},
		"later ABI":  {{Name: "f", Code: guest(t, "badabi")}},
	} {
		err := b.Swap(t.Context(), set)
		if err == nil {
			t.Errorf("%s was taken", name)
		}
		if l, ok := errors.AsType[*LoadError](err); set[0].Name == "f" && len(set) == 1 && (!ok || l.Function != "f") {
			t.Errorf("%s: %v does not name the function", name, err)
		}
	}
	if got := b.do(chain(t, Upstream, Binding{Function: "f"}), pump, message("d")); got.Verdict != Drop {
		t.Errorf("the old set is gone: %+v", got)
	}
}

// TestHotSwap changes a function while messages of several clients flow: each
// gets one result, a client's results keep their order, and once it has seen the
// new version it never sees the old one again.
func TestHotSwap(t *testing.T) {
	v1 := Function{Name: "f", Code: guest(t, "pass")} // passes
	v2 := Function{Name: "f", Code: guest(t, "echo")} // publishes
	b := newBench(t, Options{Workers: 2}, v1)
	c := chain(t, Upstream, Binding{Function: "f"})
	const clients, each = 8, 400
	var verdicts [clients][]Verdict
	var all, firsts sync.WaitGroup
	for i := range clients {
		from := &Origin{Client: fmt.Sprint(i), Identity: fmt.Sprint(i)}
		firsts.Add(1)
		all.Go(func() {
			var mine sync.WaitGroup
			for n := range each {
				if n == each/2 {
					firsts.Done()
				}
				mine.Add(1)
				b.Submit(c, from, message("ok"), func(r Result) {
					verdicts[i] = append(verdicts[i], r.Verdict) // by one worker, in order
					mine.Done()
				})
			}
			mine.Wait()
		})
	}
	firsts.Wait()
	if err := b.Swap(t.Context(), []Function{v2}); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for i, vs := range verdicts {
		if len(vs) != each {
			t.Errorf("client %d has %d results", i, len(vs))
		}
		seen := Pass
		for n, v := range vs {
			if v != Pass && v != Publish || seen == Publish && v == Pass {
				t.Errorf("client %d: result %d is %v after %v", i, n, v, seen)
			}
			seen = v
		}
	}
	if got := b.do(c, pump, message("ok")); got.Verdict != Publish {
		t.Errorf("after the swap: %+v", got)
	}
	if s := b.Stats()[0]; s.Calls != clients*each+1 || s.Instances > 2 {
		t.Errorf("stats %+v", s)
	}
}

// TestOffender checks that a client whose messages break the function is put
// off, and that its neighbours on the same worker are not.
func TestOffender(t *testing.T) {
	b := newBench(t, Options{Workers: 1}, Function{Name: "f", Code: guest(t, "pass"), Limits: wasm.Limits{Time: 20 * time.Millisecond}})
	c := chain(t, Upstream, Binding{Function: "f", OnError: OnErrorDrop})
	good := &Origin{Client: "good"}
	for i := range 6 {
		got := b.do(c, pump, message("t"))
		if backoff := strings.Contains(got.Reason, "not run"); backoff != (i >= patience) {
			t.Errorf("message %d: %s", i, got.Reason)
		}
		if got := b.do(c, good, message("ok")); got.Verdict != Pass {
			t.Errorf("neighbour: %+v", got)
		}
	}
	if s := b.Stats()[0]; s.Faults["trap"] != patience || s.Faults["backoff"] != 3 || s.Passed != 6 {
		t.Errorf("stats %+v", s)
	}
}

// TestOffenderIsForgiven needs no waiting: the slot takes its own time.
func TestOffenderIsForgiven(t *testing.T) {
	var s slot
	for range patience {
		s.blame("c")
	}
	if s.admits("c") == nil || s.admits("d") != nil {
		t.Error("the pause does not hold, or holds for others")
	}
	s.offenders["c"].until = time.Now().Add(-time.Second)
	if err := s.admits("c"); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	s.blame("c")
	if left := time.Until(s.offenders["c"].until); left < firstPause || left > 2*firstPause {
		t.Errorf("the next pause is %v", left)
	}
	for range 100 {
		s.blame("c")
	}
	if left := time.Until(s.offenders["c"].until); left > maxPause {
		t.Errorf("the longest pause is %v", left)
	}
	for i := range 3 * maxOffenders {
		s.blame(fmt.Sprint(i))
	}
	if len(s.offenders) > maxOffenders {
		t.Errorf("%d clients are remembered", len(s.offenders))
	}
}

// TestLoopDelaysOnlyItsWorker: a client of another worker is served while a
// guest loops.
func TestLoopDelaysOnlyItsWorker(t *testing.T) {
	b := newBench(t, Options{Workers: 2}, Function{Name: "f", Code: guest(t, "pass"), Limits: wasm.Limits{Time: 2 * time.Second}})
	c := chain(t, Upstream, Binding{Function: "f"})
	order := make(chan string, 2)
	b.Submit(c, pump, message("l"), func(Result) { order <- "loop" })
	var other *Origin
	for i := 0; other == nil; i++ {
		o := &Origin{Client: fmt.Sprint(i)}
		if b.workerOf(o) != b.workerOf(pump) {
			other = o
		}
	}
	b.Submit(c, other, message("ok"), func(Result) { order <- "other" })
	if first := <-order; first != "other" {
		t.Errorf("%s came first", first)
	}
	<-order
}

func TestQueueIsBounded(t *testing.T) {
	e, err := wasm.NewEngine(t.Context(), wasm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	r := New(Options{Engine: e, Workers: 1, QueueLength: 2}) // not running
	c := chain(t, Upstream, Binding{Function: "f"})
	var results []Result
	for range 3 {
		r.Submit(c, pump, message("ok"), func(res Result) { results = append(results, res) })
	}
	if len(results) != 1 || !errors.Is(results[0].Err, ErrBusy) {
		t.Fatalf("got %+v", results)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	r.Submit(c, pump, message("ok"), func(res Result) { results = append(results, res) })
	if len(results) != 4 {
		t.Fatalf("%d results", len(results))
	}
	for _, res := range results[1:] {
		if !errors.Is(res.Err, ErrStopped) {
			t.Errorf("got %+v", res)
		}
	}
}

func TestGuestLog(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	b := newBench(t, Options{Workers: 1, Log: log}, Function{Name: "h", Code: guest(t, "host")})
	c := chain(t, Downstream, Binding{Function: "h"})
	for range 3 * logRate {
		b.do(c, pump, message("l"))
	}
	s := b.Stats()[0]
	if s.LogLines < logRate || s.LogLines+s.LogSuppressed != 3*logRate || int(s.LogLines) != len(hook.AllEntries()) {
		t.Errorf("%d lines, %d suppressed, %d logged", s.LogLines, s.LogSuppressed, len(hook.AllEntries()))
	}
	if e := hook.LastEntry(); e.Data["function"] != "h" || e.Data["text"] != "hello" || e.Level.String() != "info" {
		t.Errorf("got %+v", e)
	}
}

func TestStats(t *testing.T) {
	b := newBench(t, Options{Workers: 1}, Function{Name: "f", Code: guest(t, "pass")})
	c := chain(t, Upstream, Binding{Function: "f"})
	for _, p := range []string{"ok", "ok", "d", "j", "f"} {
		b.do(c, pump, message(p))
	}
	got := b.Stats()[0]
	if got.P50 == 0 || got.P99 < got.P50 || got.Max < got.P99 || got.Seconds <= 0 || got.Memory != 2<<16 {
		t.Errorf("got %+v", got)
	}
	got.P50, got.P99, got.Max, got.Seconds = 0, 0, 0, 0
	want := Stats{Function: "f", Calls: 5, Passed: 2, Dropped: 1, Denied: 1, Faults: map[string]uint64{"error": 1}, Instances: 1, Memory: 2 << 16}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	b.stop()
	if got := b.Stats()[0]; got.Instances != 0 || got.Memory != 0 {
		t.Errorf("after the end: %+v", got)
	}
}

// The rules of topics are MQTT's: see package topic.
func TestBound(t *testing.T) {
	c := chain(t, Upstream, Binding{Function: "f", Topics: []string{"+/#", "$hpmq/x/#"}})
	for name, want := range map[string]bool{"a": true, "a/b": true, "$hpmq": false, "$hpmq/x": true, "$hpmq/x/y": true, "$SYS/x": false} {
		if got := c.Bound(name); got != want {
			t.Errorf("Bound(%q) = %t", name, got)
		}
	}
}

func BenchmarkSubmit(b *testing.B) {
	for _, g := range []struct {
		name string
		f    Function
	}{
		{"wat", Function{Name: "f", Code: guest(b, "pass")}},
		{"wat+prev", Function{Name: "f", Code: guest(b, "pass"), Capabilities: []string{"prev"}}},
		{"go", normalise(b)},
	} {
		bench := newBench(b, Options{Workers: 1}, g.f)
		c := chain(b, Upstream, Binding{Function: g.f.Name})
		for _, size := range []int{64, 1024} {
			payload := []byte(`{"a":1}` + strings.Repeat(" ", size-7))
			b.Run(fmt.Sprintf("guest=%s/size=%d", g.name, size), func(b *testing.B) {
				b.ReportAllocs()
				var failed error
				wg := make(chan struct{}, 64) // messages in flight
				for b.Loop() {
					wg <- struct{}{}
					bench.Submit(c, pump, Message{Topic: "site/home/pump/raw", Payload: payload}, func(r Result) {
						if r.Err != nil || len(r.DeadLetters) > 0 {
							failed = fmt.Errorf("got %+v", r)
						}
						<-wg
					})
				}
				for range cap(wg) {
					wg <- struct{}{}
				}
				if failed != nil {
					b.Error(failed)
				}
			})
		}
	}
}

package wasm

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/wazero/api"
)

func guest(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".wasm") // made from the .wat beside it by wabt's wat2wasm
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// engines gives one engine of each mode that works here.
func engines(t *testing.T, f func(t *testing.T, e *Engine)) {
	for _, interpreter := range []bool{false, true} {
		e, err := NewEngine(t.Context(), Options{Interpreter: interpreter})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close(context.Background()) })
		t.Run(string(e.Mode()), func(t *testing.T) { f(t, e) })
	}
}

func load(t testing.TB, e *Engine, name string) *Module {
	t.Helper()
	m, err := e.Load(t.Context(), guest(t, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(context.Background()) })
	return m
}

func start(t testing.TB, m *Module, c Config) *Instance {
	t.Helper()
	i, err := m.Instantiate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close(context.Background()) })
	return i
}

func request(payload string) *Request {
	return &Request{Topic: "site/home/pump/raw", Payload: []byte(payload), QoS: 1, Context: []Pair{{"identity", "spiffe://lab.test/device/pump"}, {"site", "home"}}}
}

func TestVerdicts(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		i := start(t, load(t, e, "pass"), Config{})
		for payload, want := range map[string]Response{
			"ok": {Verdict: VerdictPass},
			"d":  {Verdict: VerdictDrop},
			"j":  {Verdict: VerdictReject, Code: 0x87, Reason: "not here"},
		} {
			got, err := i.Call(t.Context(), Upstream, request(payload), nil)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%q: %v %s", payload, err, diff)
			}
		}
		if _, err := i.Call(t.Context(), Downstream, request("ok"), nil); err == nil {
			t.Error("a direction without an export was taken")
		}
		if i.Memory() != 2*pageSize {
			t.Errorf("memory is %d bytes", i.Memory())
		}
	})
}

func TestPublish(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		i := start(t, load(t, e, "echo"), Config{})
		for _, size := range []int{0, 1, 5000, 70_000} {
			payload := strings.Repeat("a", size)
			got, err := i.Call(t.Context(), Upstream, request(payload), nil)
			want := Response{Messages: []Message{{Topic: "out/echo", Payload: []byte(payload), QoS: 1, Retain: true}}}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%d bytes: %v %s", size, err, diff)
			}
		}
		got, err := i.Call(t.Context(), Upstream, request("2"), nil)
		want := Response{Messages: []Message{{Topic: "out/x", Payload: []byte("1")}, {Topic: "out/y", Payload: []byte("2"), QoS: 1}}}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("two: %v %s", err, diff)
		}
	})
}

// TestHostile sends one message that breaks the guest, checks that it is
// contained, and that a new instance works as if nothing had happened.
func TestHostile(t *testing.T) {
	tests := []struct {
		name, payload string
		fault         Fault
		spent         bool
	}{
		{"trap", "t", FaultTrap, true},
		{"endless loop", "l", FaultTimeout, true},
		{"endless recursion", "r", FaultDepth, true},
		{"endless tree of calls", "x", FaultTimeout, true},
		{"response outside memory", "p", FaultResponse, true},
		{"response too long", "n", FaultResponse, true},
		{"response with too many messages", "z", FaultResponse, true},
		{"its own failure", "f", FaultGuest, false},
	}
	engines(t, func(t *testing.T, e *Engine) {
		m := load(t, e, "pass")
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				limit := 30 * time.Second
				if tt.fault == FaultTimeout {
					limit = 50 * time.Millisecond
				}
				i := start(t, m, Config{Limits: Limits{Time: limit}})
				_, err := i.Call(t.Context(), Upstream, request(tt.payload), nil)
				var c *CallError
				if !errors.As(err, &c) || c.Fault != tt.fault {
					t.Fatalf("got %v, want fault %s", err, tt.fault)
				}
				if i.Spent() != tt.spent {
					t.Errorf("spent is %t", i.Spent())
				}
				_, err = i.Call(t.Context(), Upstream, request("ok"), nil)
				if (err != nil) != tt.spent {
					t.Errorf("next call: %v", err)
				}
				if got, err := start(t, m, Config{}).Call(t.Context(), Upstream, request("ok"), nil); err != nil || got.Verdict != VerdictPass {
					t.Errorf("a new instance answers %v, %v", got, err)
				}
			})
		}
	})
}

// late is a guest's function that ends after its time was over, before wazero
// noticed.
type late struct{ api.Function }

func (f late) CallWithStack(ctx context.Context, stack []uint64) error {
	err := f.Function.CallWithStack(ctx, stack)
	<-ctx.Done()
	return err
}

// A late answer is none: host calls were refused meanwhile.
func TestLateAnswer(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		i := start(t, load(t, e, "pass"), Config{Limits: Limits{Time: 50 * time.Millisecond}})
		i.entries[Upstream] = late{i.entries[Upstream]}
		got, err := i.Call(t.Context(), Upstream, request("ok"), nil)
		if c := (*CallError)(nil); !errors.As(err, &c) || c.Fault != FaultTimeout || !i.Spent() {
			t.Errorf("got %v, %v, want fault %s", got, err, FaultTimeout)
		}
	})
}

func TestGuestErrorText(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		_, err := start(t, load(t, e, "pass"), Config{}).Call(t.Context(), Upstream, request("f"), nil)
		if err == nil || !strings.Contains(err.Error(), "cannot read it") {
			t.Errorf("got %v", err)
		}
	})
}

func TestMemoryBombs(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		i := start(t, load(t, e, "pass"), Config{Limits: Limits{Memory: 1 << 20, Time: 5 * time.Second}})
		for _, payload := range []string{"m", "g"} { // grows until it is refused, then passes
			if got, err := i.Call(t.Context(), Upstream, request(payload), nil); err != nil || got.Verdict != VerdictPass {
				t.Errorf("%q: %v, %v", payload, got, err)
			}
		}
		if i.Memory() != 1<<20 {
			t.Errorf("memory is %d bytes, want its limit", i.Memory())
		}
		_, err := load(t, e, "bigmemory").Instantiate(t.Context(), Config{Limits: Limits{Memory: 1 << 20}})
		if err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("a module that starts too large: %v", err)
		}
	})
}

func TestRequestTooLarge(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		i := start(t, load(t, e, "pass"), Config{}) // hpmq_alloc gives at most 64 KiB
		var c *CallError
		if _, err := i.Call(t.Context(), Upstream, request(strings.Repeat("a", 70_000)), nil); !errors.As(err, &c) || c.Fault != FaultRequest {
			t.Errorf("got %v", err)
		}
		if got, err := i.Call(t.Context(), Upstream, request("ok"), nil); err != nil || got.Verdict != VerdictPass {
			t.Errorf("then %v, %v", got, err)
		}
	})
}

func TestLoadRefuses(t *testing.T) {
	// The last two are found out when the module first runs.
	tests := []struct {
		name string
		code []byte
		want []string
	}{
		{"nothing", nil, []string{"magic"}},
		{"text", []byte("hello, this is no module"), []string{"magic"}},
		{"version", []byte{0, 'a', 's', 'm', 2, 0, 0, 0}, []string{"version"}},
		{"component", []byte{0, 'a', 's', 'm', 0x0d, 0, 1, 0}, []string{"component", "core module"}},
		{"truncated", guest(t, "pass")[:200], []string{"ends early"}},
		{"too large", make([]byte, MaxModuleBytes+1), []string{"at most"}},
		{"no hpmq_alloc", guest(t, "noalloc"), []string{"hpmq_alloc"}},
		{"no entry", guest(t, "noentry"), []string{"hpmq_upstream", "hpmq_downstream"}},
		{"no memory", guest(t, "nomemory"), []string{"memory"}},
		{"signature", guest(t, "signature"), []string{"hpmq_upstream", "results"}},
		{"imports", guest(t, "forbidden"), []string{"env.abort, hpmq.http, wasi_snapshot_preview1.path_open"}},
		{"later ABI", guest(t, "badabi"), []string{"hpmq/2"}},
		{"endless start", guest(t, "endless"), []string{"start module"}},
	}
	engines(t, func(t *testing.T, e *Engine) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				m, err := e.Load(t.Context(), tt.code)
				if err == nil {
					defer m.Close(t.Context())
					_, err = m.Instantiate(t.Context(), Config{Limits: Limits{Init: 50 * time.Millisecond}})
				}
				if err == nil {
					t.Fatal("it was taken")
				}
				for _, want := range tt.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %q does not say %q", err, want)
					}
				}
			})
		}
	})
}

// bombs are modules of a few bytes whose counts ask for gigabytes.
var bombs = map[string][]byte{
	"results":        []byte("\x00asm\x01\x00\x00\x00\x01\x08\x01\x60\x00\x80\x80\x80\x80\x02"),
	"imports":        []byte("\x00asm\x01\x00\x00\x00\x02\x05\xff\xff\xff\xff\x0f"),
	"functions":      []byte("\x00asm\x01\x00\x00\x00\x03\x05\xff\xff\xff\xff\x0f"),
	"globals":        []byte("\x00asm\x01\x00\x00\x00\x06\x05\xff\xff\xff\xff\x0f"),
	"exports":        []byte("\x00asm\x01\x00\x00\x00\x07\x05\xff\xff\xff\xff\x0f"),
	"elements":       []byte("\x00asm\x01\x00\x00\x00\x09\x05\xff\xff\xff\xff\x0f"),
	"element values": []byte("\x00asm\x01\x00\x00\x00\x09\x08\x01\x01\x00\xff\xff\xff\xff\x0f"),
	"locals":         []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x0a\x01\x08\x01\xff\xff\xff\xff\x0f\x7f\x0b"),
	"table":          []byte("\x00asm\x01\x00\x00\x00\x04\x08\x01\x70\x00\xff\xff\xff\xff\x0f"),
	"data":           []byte("\x00asm\x01\x00\x00\x00\x0b\x07\x01\x01\xff\xff\xff\xff\x0f"),
	"names":          []byte("\x00asm\x01\x00\x00\x00\x00\x0c\x04name\x01\x05\xff\xff\xff\xff\x0f"),
}

// TestModuleBombs checks that such a module is refused without the memory.
func TestModuleBombs(t *testing.T) {
	e, err := NewEngine(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	for name, code := range bombs {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := e.Load(t.Context(), code); err == nil {
			t.Errorf("%s was taken", name)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
			t.Errorf("%s took %d MiB", name, got>>20)
		}
	}
}

func TestInit(t *testing.T) {
	engines(t, func(t *testing.T, e *Engine) {
		m := load(t, e, "globals")
		i := start(t, m, Config{Init: []byte("config")})
		for range 2 {
			if got, err := i.Call(t.Context(), Upstream, request("x"), nil); err != nil || got.Verdict != VerdictPass {
				t.Errorf("got %v, %v", got, err)
			}
		}
		if _, err := m.Instantiate(t.Context(), Config{Init: []byte("wrong length")}); err == nil || !strings.Contains(err.Error(), "hpmq_init") {
			t.Errorf("a refused configuration: %v", err)
		}
		if _, err := load(t, e, "pass").Instantiate(t.Context(), Config{Init: []byte("x")}); err == nil {
			t.Error("a configuration that nobody reads was taken")
		}
	})
}

// memState is a State without quotas.
type memState map[string]string

func (s memState) Get(key string) ([]byte, bool) {
	v, ok := s[key]
	return []byte(v), ok
}
func (s memState) Put(key string, value []byte) bool { s[key] = string(value); return true }
func (s memState) Delete(key string) bool            { delete(s, key); return true }
func (s memState) Prev(topic string) ([]byte, bool)  { return []byte("before " + topic), true }

func TestHostCalls(t *testing.T) {
	all, err := ParseCapabilities([]string{"prev", "kv:read", "kv:write", "clock", "random"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, payload string
		caps          Capabilities
		want          int // the result of the host call
	}{
		{"log", "l", 0, 0},
		{"log outside memory", "L", all, int(StatusLimit)},
		{"get denied", "g", CapKVWrite, int(StatusDenied)},
		{"get nothing", "g", CapKVRead, int(StatusNotFound)},
		{"put denied", "p", CapKVRead, int(StatusDenied)},
		{"put", "p", CapKVWrite, 0},
		{"get", "g", all, 5},
		{"short buffer", "s", all, int(StatusShort)},
		{"long key", "k", all, int(StatusLimit)},
		{"value outside memory", "v", all, int(StatusLimit)},
		{"delete denied", "d", CapKVRead, int(StatusDenied)},
		{"delete", "d", all, 0},
		{"deleted", "g", all, int(StatusNotFound)},
		{"prev denied", "q", CapKVRead, int(StatusDenied)},
		{"prev", "q", CapPrev, len("before site/home/pump/raw")},
		{"time denied", "t", CapPrev, int(StatusDenied)},
		{"time", "t", CapClock, 0},
	}
	engines(t, func(t *testing.T, e *Engine) {
		m, state := load(t, e, "host"), memState{}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				var logged []string
				i := start(t, m, Config{Capabilities: tt.caps, Log: func(_ Level, s string) { logged = append(logged, s) }})
				got, err := i.Call(t.Context(), Downstream, request(tt.payload), state)
				if err != nil {
					t.Fatal(err)
				}
				if n := int(got.Reason[0]-'0')*100 + int(got.Reason[1]-'0')*10 + int(got.Reason[2]-'0') - 100; n != tt.want {
					t.Errorf("host call gave %d, want %d", n, tt.want)
				}
				if tt.payload == "l" && (len(logged) != 1 || logged[0] != "hello") {
					t.Errorf("logged %q", logged)
				}
			})
		}
	})
	if _, err := ParseCapabilities([]string{"root"}); err == nil {
		t.Error("an unknown capability was taken")
	}
}

func TestCacheDir(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		e, err := NewEngine(t.Context(), Options{CacheDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		i := start(t, load(t, e, "pass"), Config{})
		if got, err := i.Call(t.Context(), Upstream, request("d"), nil); err != nil || got.Verdict != VerdictDrop {
			t.Errorf("got %v, %v", got, err)
		}
		if e.Mode() == ModeCompiler {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
				t.Errorf("the cache is empty: %v", err)
			}
		}
		e.Close(t.Context())
	}
}

func TestLines(t *testing.T) {
	var got []string
	l := &lines{deadline: newDeadline(nil), log: func(_ Level, s string) { got = append(got, s) }}
	for _, part := range []string{"one\ntwo", " halves\n\nlast ", strings.Repeat("x", maxLog), "\n"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	}
	want := []string{"one", "two halves", "", "last " + strings.Repeat("x", maxLog-5), "xxxxx"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// encodeResponse is the guest's side of [DecodeResponse].
func encodeResponse(r Response) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(r.Verdict))
	if r.Verdict == VerdictReject {
		return append(le.AppendUint32(b, uint32(r.Code)), r.Reason...)
	}
	b = le.AppendUint32(b, uint32(len(r.Messages)))
	for _, m := range r.Messages {
		var flags byte
		if m.Retain {
			flags = flagRetain
		}
		b = append(b, m.QoS, flags)
		b = le.AppendUint16(b, uint16(len(m.Topic)))
		b = le.AppendUint32(b, uint32(len(m.Payload)))
	}
	for _, m := range r.Messages {
		b = append(append(b, m.Topic...), m.Payload...)
	}
	return b
}

func TestDecodeResponseRefuses(t *testing.T) {
	one := encodeResponse(Response{Messages: []Message{{Topic: "a/b", Payload: []byte("x")}}})
	change := func(at int, to byte) []byte {
		b := append([]byte(nil), one...)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": one[:7], "no header": one[:12], "cut": one[:len(one)-1], "rest": append(slices.Clip(one), 0),
		"verdict": change(0, 9), "count": change(4, 200), "QoS": change(8, 3), "flags": change(9, 2),
		"payload length": change(15, 0xff), "empty topic": change(10, 0), "wildcard": change(16, '+'), "NUL": change(17, 0), "not UTF-8": change(17, 0xff),
		"pass with data": {1, 0, 0, 0, 1, 0, 0, 0}, "code": {3, 0, 0, 0, 0x7f, 0, 0, 0}, "reason": {3, 0, 0, 0, 0x80, 0, 0, 0, 0xff},
		"too long": make([]byte, MaxResponseBytes+1),
	} {
		if r, err := DecodeResponse(b); err == nil {
			t.Errorf("%s was taken: %+v", name, r)
		}
	}
}

func FuzzDecodeResponse(f *testing.F) {
	f.Add(encodeResponse(Response{Verdict: VerdictPass}))
	f.Add(encodeResponse(Response{Verdict: VerdictReject, Code: 0x87, Reason: "no"}))
	f.Add(encodeResponse(Response{Messages: []Message{{Topic: "a/b", Payload: []byte("x"), QoS: 2, Retain: true}, {Topic: "$x"}}}))
	f.Add([]byte{0, 0, 0, 0, 16, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeResponse(b)
		if err != nil {
			return
		}
		if diff := cmp.Diff(b, encodeResponse(r)); diff != "" {
			t.Errorf("decoding and encoding differ: %s", diff)
		}
	})
}

// FuzzGuard checks that the rewriter neither panics on any bytes nor makes an
// invalid module of a valid one.
func FuzzGuard(f *testing.F) {
	for _, name := range []string{"pass", "host", "echo", "globals", "forbidden"} {
		f.Add(guest(f, name))
	}
	e, err := NewEngine(f.Context(), Options{Interpreter: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close(context.Background()) })
	f.Add(bombs["results"])
	f.Add(bombs["locals"])
	f.Fuzz(func(t *testing.T, code []byte) {
		g, err := guard(code)
		if err != nil {
			return
		}
		plain, err := e.checker.CompileModule(t.Context(), g.plain)
		if err != nil {
			return
		}
		plain.Close(t.Context())
		c, err := e.checker.CompileModule(t.Context(), g.code)
		if err != nil {
			t.Fatalf("a valid module became an invalid one: %v", err)
		}
		c.Close(t.Context())
	})
}

func BenchmarkCall(b *testing.B) {
	for _, interpreter := range []bool{false, true} {
		e, err := NewEngine(b.Context(), Options{Interpreter: interpreter})
		if err != nil {
			b.Fatal(err)
		}
		defer e.Close(b.Context())
		for _, size := range []int{64, 1024} {
			i := start(b, load(b, e, "pass"), Config{})
			r := request(strings.Repeat("a", size))
			b.Run(string(e.Mode())+"/pass/size="+map[int]string{64: "64", 1024: "1024"}[size], func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := i.Call(b.Context(), Upstream, r, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

package wasm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// assembly is a guest of 31 MiB whose upstream function runs body and passes the
// message, and that may import one WASI call, function 0.
type assembly struct {
	tables int    // of functions, without a bound
	call   string // the WASI call
	params int    // that it takes
	body   []byte
	more   int // functions with the same body
}

const assemblyBytes = 500 * pageSize

func (a *assembly) module() []byte {
	i32s := func(n int) []byte { return append([]byte{byte(n)}, bytes.Repeat([]byte{0x7f}, n)...) }
	vector := func(items ...[]byte) []byte {
		return slices.Concat(appendU32(nil, uint32(len(items))), bytes.Join(items, nil))
	}
	sized := func(b ...byte) []byte { return append(appendU32(nil, uint32(len(b))), b...) }
	name := func(s string) []byte { return sized([]byte(s)...) }
	out := bytes.Clone(magicCore)
	add := func(id byte, items ...[]byte) { out = appendSection(out, section{id, vector(items...)}) }

	add(secType, []byte{0x60, 0, 1, 0x7f}, []byte{0x60, 1, 0x7f, 1, 0x7f}, []byte{0x60, 2, 0x7f, 0x7f, 1, 0x7e},
		slices.Concat([]byte{0x60}, i32s(a.params), i32s(1)))
	first := byte(0)
	if a.call != "" {
		add(secImport, slices.Concat(name(wasiModule), name(a.call), []byte{0, 3}))
		first = 1
	}
	add(secFunction, slices.Concat([][]byte{{0}, {1}, {2}}, slices.Repeat([][]byte{{2}}, a.more))...)
	if a.tables > 0 {
		add(secTable, slices.Repeat([][]byte{{0x70, 0, 0}}, a.tables)...)
	}
	add(5, append([]byte{0}, appendU32(nil, assemblyBytes/pageSize)...))
	add(secExport, append(name("memory"), 2, 0), append(name("hpmq_abi"), 0, first),
		append(name("hpmq_alloc"), 0, first+1), append(name("hpmq_upstream"), 0, first+2))
	pass := []byte{0x42, 0x88, 0x80, 0x80, 0x80, 0x80, 0x01, 0x0b} // i64.const 8<<32|8, end
	upstream := sized(slices.Concat([]byte{0}, a.body, pass)...)
	add(secCode, slices.Concat([][]byte{sized(0, 0x41, 1, 0x0b), sized(0, 0x41, 0x80, 8, 0x0b), upstream}, slices.Repeat([][]byte{upstream}, a.more))...)
	add(secData, slices.Concat([]byte{0, 0x41, 8, 0x0b}, sized(1, 0, 0, 0, 0, 0, 0, 0)))
	return out
}

// i32 pushes constants.
func push(b []byte, values ...int32) []byte {
	for _, v := range values {
		b = append(b, 0x41)
		for v < -64 || v > 63 {
			b = append(b, byte(v)&0x7f|0x80)
			v >>= 7
		}
		b = append(b, byte(v)&0x7f)
	}
	return b
}

// TestLongInstructions has guests without a loop, each of whose instructions
// takes milliseconds. All of them together would take many times the limit.
func TestLongInstructions(t *testing.T) {
	const all = assemblyBytes - 64
	repeat := func(n int, one []byte) []byte { return bytes.Repeat(one, n) }
	iovec := append(append(push(nil, 16, 64), 0x36, 2, 0), append(push(nil, 20, all), 0x36, 2, 0)...) // i32.store
	for name, a := range map[string]*assembly{
		"memory.fill": {body: repeat(1000, append(push(nil, 64, 0, all), 0xfc, 11, 0))},
		"memory.copy": {body: repeat(1000, append(push(nil, 64, 65, all-1), 0xfc, 10, 0, 0))},
		"random_get":  {call: "random_get", params: 2, body: repeat(100, append(push(nil, 64, all), 0x10, 0, 0x1a))},
		"fd_write":    {call: "fd_write", params: 4, body: append(iovec, repeat(400, append(push(nil, 1, 16, 1, 32), 0x10, 0, 0x1a))...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := NewEngine(t.Context(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close(t.Context())
			m, err := e.Load(t.Context(), a.module())
			if err != nil {
				t.Fatal(err)
			}
			i := start(t, m, Config{Limits: Limits{Time: 50 * time.Millisecond}})
			runtime.LockOSThread() // the guest runs on the caller's thread
			defer runtime.UnlockOSThread()
			before := threadTime(t)
			_, err = i.Call(t.Context(), Upstream, request("x"), nil)
			if c := (*CallError)(nil); !errors.As(err, &c) || c.Fault != FaultTimeout {
				t.Errorf("got %v, want fault %s", err, FaultTimeout)
			}
			if took := threadTime(t) - before; took > time.Second {
				t.Errorf("took %v of CPU time", took)
			}
		})
	}
}

// threadTime is the CPU time of this thread. Beside other work the guest gets less
// of it before its limit, which is wall time, not more.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCompileTimeIsBounded has modules that would take minutes to compile.
func TestCompileTimeIsBounded(t *testing.T) {
	e, err := NewEngine(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	for name, one := range map[string][]byte{
		"memory.fill": append(push(nil, 64, 0, 1), 0xfc, 11, 0),
		"loop":        {0x03, 0x40, 0x0b},
		"if":          {0x41, 0, 0x04, 0x40, 0x0b},
		"br_if":       {0x41, 0, 0x0d, 0},
		"br_table":    append(append([]byte{0x02, 0x40, 0x41, 0, 0x0e, 16}, make([]byte, 17)...), 0x0b),
		"return":      {0x41, 0, 0x04, 0x40, 0x42, 0, 0x0f, 0x0b},
		"unreachable": {0x41, 0, 0x04, 0x40, 0x00, 0x0b},
	} {
		a := assembly{body: bytes.Repeat(one, 20_000)}
		if _, err := e.Load(t.Context(), a.module()); err == nil || !strings.Contains(err.Error(), "too long to compile") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoadEndsWithContext has a module that takes seconds to compile, in 300
// functions.
func TestLoadEndsWithContext(t *testing.T) {
	e, err := NewEngine(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	if e.Mode() != ModeCompiler {
		t.Skip("the interpreter compiles nothing")
	}
	code := (&assembly{body: bytes.Repeat([]byte{0x41, 0, 0x04, 0x40, 0x0b}, 500), more: 300}).module()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := e.Load(ctx, code); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

// TestTablesAreBoundedTogether has a guest with many tables, each of which would
// grow to as much as one may have.
func TestTablesAreBoundedTogether(t *testing.T) {
	a := &assembly{tables: 200}
	for k := range uint32(a.tables) {
		a.body = push(append(a.body, 0xd0, 0x70), maxTable/2)     // ref.null func
		a.body = push(appendU32(append(a.body, 0xfc, 15), k), -1) // table.grow
		a.body = append(a.body, 0x47, 0x04, 0x40, 0x00, 0x0b)     // i32.ne, if, unreachable, end
	}
	engines(t, func(t *testing.T, e *Engine) {
		m, err := e.Load(t.Context(), a.module())
		if err != nil {
			t.Fatal(err)
		}
		i := start(t, m, Config{Limits: Limits{Time: 10 * time.Second}})
		if _, err := i.Call(t.Context(), Upstream, request("x"), nil); err != nil {
			t.Errorf("a table grew beyond its share: %v", err)
		}
	})
}

// TestInstructionsAreWhole decodes the bodies of real guests to their last byte,
// and finds in each what it finds when it reads what it wrote.
func TestInstructionsAreWhole(t *testing.T) {
	for _, name := range []string{"echo", "globals", "host", "pass"} {
		sections, err := splitSections(guest(t, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sections {
			if s.id != secCode {
				continue
			}
			r := &reader{b: s.body}
			for range r.count() {
				body := r.bytes(r.u32())
				_, end, err := checkCode(body)
				if err != nil {
					t.Fatal(err)
				}
				code := body[end:]
				checked, _, err := appendChecked(nil, code)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if plain := bytes.ReplaceAll(checked, checkpoint, nil); !bytes.Equal(plain, code) {
					t.Errorf("%s: %x became %x", name, code, checked)
				}
			}
		}
	}
	for _, bad := range [][]byte{{0xfc, 99}, {0xfd, 0x80, 4}, {0xfe, 0}, {0x41}, {0x41, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0}, binary.AppendUvarint([]byte{0x0e}, 1<<30)} {
		if out, _, err := appendChecked(nil, bad); err == nil {
			t.Errorf("%x became %x", bad, out)
		}
	}
}

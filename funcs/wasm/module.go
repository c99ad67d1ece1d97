package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// MaxModuleBytes bounds the size of a module.
const MaxModuleBytes = 32 << 20

const abiVersion = 1

// entryNames are the exports that a message enters by, for each [Direction].
var entryNames = [2]string{Upstream: "hpmq_upstream", Downstream: "hpmq_downstream"}

// signature is the type that an export must have.
type signature struct{ params, results []api.ValueType }

var (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64

	signatures = map[string]signature{
		"hpmq_abi":             {nil, []api.ValueType{i32}},
		"hpmq_alloc":           {[]api.ValueType{i32}, []api.ValueType{i32}},
		"hpmq_init":            {[]api.ValueType{i32, i32}, []api.ValueType{i32}},
		entryNames[Upstream]:   {[]api.ValueType{i32, i32}, []api.ValueType{i64}},
		entryNames[Downstream]: {[]api.ValueType{i32, i32}, []api.ValueType{i64}},
		"_initialize":          {nil, nil},
	}
)

// Module is a checked and compiled function. It is safe for concurrent use.
type Module struct {
	engine   *Engine
	compiled wazero.CompiledModule
	digest   [sha256.Size]byte
	entries  [2]bool
	memory   uint64 // bytes that it starts with
}

// compileWorkers compile a module. With fewer than two wazero does not look at the
// context; with two it does so before each function of the module. More would take
// the processors from the messages.
const compileWorkers = 2

// Load checks code and compiles it, without running any of it. An error names the
// change that the module needs. When ctx ends, Load ends after the functions in
// compilation: nearly all take milliseconds, and [maxBranchSquares] bounds them.
// Compiling a large guest takes a second; do it before messages depend on it.
func (e *Engine) Load(ctx context.Context, code []byte) (*Module, error) {
	if len(code) > MaxModuleBytes {
		return nil, fmt.Errorf("module of %d bytes, at most %d are allowed", len(code), MaxModuleBytes)
	}
	g, err := guard(code)
	if err != nil {
		return nil, fmt.Errorf("module: %w", err)
	}
	if err := checkImports(g.imports); err != nil {
		return nil, err
	}
	plain, err := e.checker.CompileModule(ctx, g.plain)
	if err != nil {
		return nil, fmt.Errorf("invalid module: %w", err)
	}
	defer plain.Close(ctx)
	m := &Module{engine: e, digest: sha256.Sum256(code)}
	if err := m.checkExports(plain); err != nil {
		return nil, err
	}
	ctx = experimental.WithCompilationWorkers(ctx, compileWorkers)
	if m.compiled, err = e.runtime.CompileModule(ctx, g.code); err != nil {
		return nil, fmt.Errorf("compile module: %w", err)
	}
	return m, nil
}

// checkExports holds the module's exports to ABI hpmq/1.
func (m *Module) checkExports(c wazero.CompiledModule) error {
	mem, ok := c.ExportedMemories()["memory"]
	if !ok {
		return errors.New("the module exports no memory; guests of ABI hpmq/1 export memory, hpmq_abi, hpmq_alloc and hpmq_upstream or hpmq_downstream")
	}
	m.memory = uint64(mem.Min()) * pageSize
	functions := c.ExportedFunctions()
	for name, want := range signatures {
		f, ok := functions[name]
		if ok && (!slices.Equal(f.ParamTypes(), want.params) || !slices.Equal(f.ResultTypes(), want.results)) {
			return fmt.Errorf("export %s has the wrong parameters or results", name)
		}
	}
	for _, name := range []string{"hpmq_abi", "hpmq_alloc"} {
		if _, ok := functions[name]; !ok {
			return fmt.Errorf("the module does not export %s", name)
		}
	}
	for dir, name := range entryNames {
		_, m.entries[dir] = functions[name]
	}
	if !m.entries[Upstream] && !m.entries[Downstream] {
		return errors.New("the module exports neither hpmq_upstream nor hpmq_downstream")
	}
	return nil
}

// checkImports refuses imports that the host does not offer, and names all of them.
func checkImports(imports []imported) error {
	var bad []string
	for _, imp := range imports {
		if !known(imp) {
			bad = append(bad, imp.module+"."+imp.name)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return fmt.Errorf("the module imports what a function may not have: %s", strings.Join(slices.Compact(bad), ", "))
}

// Digest is the SHA-256 of the module as it came, in hexadecimal.
func (m *Module) Digest() string { return hex.EncodeToString(m.digest[:]) }

// Has reports whether the module takes messages of that direction.
func (m *Module) Has(d Direction) bool { return m.entries[d] }

// Close frees the compiled code. Its instances must be closed before.
func (m *Module) Close(ctx context.Context) error { return m.compiled.Close(ctx) }

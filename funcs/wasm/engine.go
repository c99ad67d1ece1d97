package wasm

import (
	"context"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// Mode is how an [Engine] runs guests.
type Mode string

// The modes. The interpreter is tens of times slower on computation; it runs
// where there is no compiler for the processor or where the system forbids
// executable memory (MemoryDenyWriteExecute= of systemd does).
const (
	ModeCompiler    Mode = "compiler"
	ModeInterpreter Mode = "interpreter"
)

// Options configures an [Engine]. The zero value is usable.
type Options struct {
	// CacheDir keeps compiled code between runs, so that a restart does not
	// compile again. It must be writable by this process only: the files in it are
	// executed. Empty keeps nothing.
	CacheDir string

	// Interpreter asks for the interpreter where the compiler would do.
	Interpreter bool
}

// Engine loads modules. It is safe for concurrent use.
type Engine struct {
	mode    Mode
	cache   wazero.CompilationCache
	runtime wazero.Runtime
	checker wazero.Runtime // only validates modules as they came
}

// NewEngine makes an engine, with the compiler where it works.
func NewEngine(ctx context.Context, o Options) (*Engine, error) {
	cache := wazero.NewCompilationCache()
	if o.CacheDir != "" {
		var err error
		if cache, err = wazero.NewCompilationCacheWithDir(o.CacheDir); err != nil {
			return nil, fmt.Errorf("compilation cache: %w", err)
		}
	}
	e := &Engine{mode: ModeInterpreter, cache: cache}
	if !o.Interpreter {
		e.runtime = newCompiler(ctx, cache)
	}
	if e.runtime != nil {
		e.mode = ModeCompiler
	} else {
		e.runtime = wazero.NewRuntimeWithConfig(ctx, configure(wazero.NewRuntimeConfigInterpreter(), cache))
	}
	e.checker = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	if err := e.addImports(ctx); err != nil {
		e.Close(ctx)
		return nil, err
	}
	return e, nil
}

// newCompiler returns nil where wazero's compiler cannot run. wazero says so by
// a panic; its own fallback would hide that the interpreter was taken.
func newCompiler(ctx context.Context, cache wazero.CompilationCache) (r wazero.Runtime) {
	defer func() {
		if recover() != nil {
			r = nil
		}
	}()
	return wazero.NewRuntimeWithConfig(ctx, configure(wazero.NewRuntimeConfigCompiler(), cache))
}

// configure turns on the termination checks that [deadline] relies on.
func configure(c wazero.RuntimeConfig, cache wazero.CompilationCache) wazero.RuntimeConfig {
	return c.WithCompilationCache(cache).WithCloseOnContextDone(true).WithDebugInfoEnabled(false)
}

// Mode says how guests run.
func (e *Engine) Mode() Mode { return e.mode }

// Close frees every module and instance of the engine.
func (e *Engine) Close(ctx context.Context) error {
	err := e.runtime.Close(ctx)
	if cerr := e.checker.Close(ctx); err == nil {
		err = cerr
	}
	if cerr := e.cache.Close(ctx); err == nil {
		err = cerr
	}
	return err
}

// addImports gives the runtime the functions that guests may import.
func (e *Engine) addImports(ctx context.Context) error {
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, e.runtime); err != nil {
		return fmt.Errorf("host module WASI: %w", err)
	}
	b := e.runtime.NewHostModuleBuilder(hostModule)
	for name, f := range hostCalls {
		b.NewFunctionBuilder().WithGoModuleFunction(f.call, f.params, f.results()).Export(name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("host module %s: %w", hostModule, err)
	}
	return nil
}

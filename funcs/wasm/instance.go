package wasm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"
)

// Limits bounds an instance. Zero fields take the default.
type Limits struct {
	Memory uint64        // bytes of linear memory; 32 MiB
	Time   time.Duration // wall time of one call; 100 ms
	Init   time.Duration // wall time of each step of starting; 2 s
}

// The defaults of [Limits]. A call of a warm function takes microseconds. The time
// limit is so much longer because a busy machine delays innocent functions too.
const (
	DefaultMemory = 32 << 20
	DefaultTime   = 100 * time.Millisecond
	DefaultInit   = 2 * time.Second
)

func (l Limits) withDefaults() Limits {
	if l.Memory == 0 {
		l.Memory = DefaultMemory
	}
	if l.Time == 0 {
		l.Time = DefaultTime
	}
	if l.Init == 0 {
		l.Init = DefaultInit
	}
	return l
}

// Config says how one instance runs.
type Config struct {
	Limits       Limits
	Capabilities Capabilities
	Init         []byte                         // handed to hpmq_init, if the guest has one
	Log          func(level Level, text string) // the guest's log lines; nil discards them
}

// Instance is one running copy of a module. Only one goroutine may use it at a
// time.
type Instance struct {
	module   api.Module
	limits   Limits
	caps     Capabilities
	deadline *deadline
	clock    clock
	entries  [2]api.Function
	alloc    api.Function
	depth    api.Global
	log      func(Level, string)

	spent   bool
	state   State  // of the call that runs
	failure string // the guest's text for hpmq.error
	buf     []byte // the request, before it is copied in
	ptr     uint32 // the guest's buffer for requests
	size    uint32
	stack   [2]uint64
}

// Instantiate starts an instance: _initialize, then hpmq_abi, whose answer must
// fit, then hpmq_init with its configuration.
func (m *Module) Instantiate(ctx context.Context, c Config) (*Instance, error) {
	i, err := m.start(ctx, c)
	if err != nil {
		return nil, err
	}
	if err = i.checkABI(ctx); err == nil {
		err = i.configure(ctx, c.Init)
	}
	if err != nil {
		i.Close(ctx)
		return nil, err
	}
	return i, nil
}

// start makes an instance and runs its _initialize.
func (m *Module) start(ctx context.Context, c Config) (*Instance, error) {
	i := &Instance{limits: c.Limits.withDefaults(), caps: c.Capabilities, log: c.Log, state: stateless{}}
	if i.log == nil {
		i.log = func(Level, string) {}
	}
	if m.memory > i.limits.Memory {
		return nil, fmt.Errorf("the module starts with %d bytes of memory, its limit is %d", m.memory, i.limits.Memory)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	i.deadline = newDeadline(i)
	i.deadline.start(i.limits.Init)
	mctx := experimental.WithMemoryAllocator(i.deadline, newMemory(i.limits.Memory))
	mod, err := m.engine.runtime.InstantiateModule(mctx, m.compiled, i.config(c))
	i.deadline.stop()
	if err != nil {
		return nil, fmt.Errorf("start module: %w", brief(err))
	}
	i.module = mod
	for dir, name := range entryNames {
		i.entries[dir] = mod.ExportedFunction(name)
	}
	i.alloc, i.depth = mod.ExportedFunction("hpmq_alloc"), mod.ExportedGlobal(depthExport)
	if f := mod.ExportedFunction("_initialize"); f != nil {
		if _, err := i.invoke(ctx, i.limits.Init, f); err != nil {
			i.Close(ctx)
			return nil, fmt.Errorf("_initialize: %w", err)
		}
	}
	return i, nil
}

// config keeps a guest's world deterministic except for the granted capabilities.
func (i *Instance) config(c Config) wazero.ModuleConfig {
	mc := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithStdout(i.lines(LevelInfo)).WithStderr(i.lines(LevelWarning))
	if c.Capabilities.Has(CapClock) {
		mc = mc.WithSysWalltime().WithSysNanotime()
	} else {
		tick := sys.ClockResolution(tickLook)
		mc = mc.WithWalltime(i.clock.walltime, tick).WithNanotime(i.clock.nanotime, tick).WithNanosleep(i.clock.nanosleep)
	}
	random := rand.Reader
	if !c.Capabilities.Has(CapRandom) {
		random = mathrand.New(mathrand.NewSource(randomSeed)) //nolint:gosec // to be the same each time is its purpose
	}
	return mc.WithRandSource(punctual{random, i.deadline})
}

// randomSeed begins the random numbers of a guest that may have no real ones.
const randomSeed = 42

// punctual gives a guest no more random bytes once its time is over. One call
// can ask for as many as its memory holds, and wazero looks at the deadline in
// loops only.
type punctual struct {
	source   io.Reader
	deadline *deadline
}

// Read implements [io.Reader].
func (p punctual) Read(b []byte) (int, error) {
	if err := p.deadline.Err(); err != nil {
		return 0, err
	}
	return p.source.Read(b[:min(len(b), pageSize)])
}

func (i *Instance) lines(level Level) *lines {
	return &lines{level: level, log: i.log, deadline: i.deadline}
}

func (i *Instance) checkABI(ctx context.Context) error {
	version, err := i.invoke(ctx, i.limits.Init, i.module.ExportedFunction("hpmq_abi"))
	if err != nil {
		return fmt.Errorf("hpmq_abi: %w", err)
	}
	if v := api.DecodeI32(version); v != abiVersion {
		return fmt.Errorf("the module has ABI hpmq/%d, this host runs hpmq/%d", v, abiVersion)
	}
	return nil
}

// configure runs hpmq_init where the guest exports it.
func (i *Instance) configure(ctx context.Context, config []byte) error {
	f := i.module.ExportedFunction("hpmq_init")
	if f == nil {
		if len(config) > 0 {
			return errors.New("the function has a configuration but its module exports no hpmq_init")
		}
		return nil
	}
	if err := i.write(ctx, config, i.limits.Init); err != nil {
		return fmt.Errorf("hpmq_init: %w", err)
	}
	code, err := i.invoke(ctx, i.limits.Init, f, uint64(i.ptr), uint64(len(config)))
	if err != nil {
		return fmt.Errorf("hpmq_init: %w", err)
	}
	if c := api.DecodeI32(code); c < 0 {
		return fmt.Errorf("hpmq_init: %w", i.guestError(int64(c)))
	}
	return nil
}

// Call hands one message to the guest. Every error is a [*CallError]; once
// [Instance.Spent] the instance must be closed and replaced. It runs for at
// most the instance's time limit, during which ctx is not looked at. Without a
// state there is nothing to read and no room to write.
func (i *Instance) Call(ctx context.Context, dir Direction, r *Request, state State) (Response, error) {
	f := i.entries[dir]
	if f == nil {
		return Response{}, &CallError{FaultRequest, fmt.Errorf("the module does not export %s", entryNames[dir])}
	}
	var err error
	if i.buf, err = appendRequest(i.buf[:0], r); err != nil {
		return Response{}, &CallError{FaultRequest, err}
	}
	if state == nil {
		state = stateless{}
	}
	i.state, i.failure = state, ""
	i.clock.elapsed += tickCall
	defer func() { i.state = stateless{} }()
	if err := i.write(ctx, i.buf, i.limits.Time); err != nil {
		return Response{}, err
	}
	result, err := i.invoke(ctx, i.limits.Time, f, uint64(i.ptr), uint64(len(i.buf)))
	if err != nil {
		return Response{}, err
	}
	if int64(result) < 0 {
		return Response{}, i.guestError(int64(result))
	}
	return i.response(uint32(result>>32), uint32(result))
}

// write copies b into the guest's request buffer, asking for a larger one if
// need be.
func (i *Instance) write(ctx context.Context, b []byte, limit time.Duration) error {
	if n := uint32(len(b)); n > i.size || i.ptr == 0 {
		n = max(n, 1024)
		ptr, err := i.invoke(ctx, limit, i.alloc, uint64(n))
		if err != nil {
			return err
		}
		i.ptr, i.size = uint32(ptr), n
	}
	if i.ptr == 0 || !i.module.Memory().Write(i.ptr, b) {
		i.ptr, i.size = 0, 0
		return &CallError{FaultRequest, fmt.Errorf("hpmq_alloc gave no room for %d bytes", len(b))}
	}
	return nil
}

// response copies the guest's answer out of its memory and reads it.
func (i *Instance) response(ptr, size uint32) (Response, error) {
	var view []byte
	err := fmt.Errorf("response of %d bytes, at most %d are allowed", size, MaxResponseBytes)
	if size <= MaxResponseBytes {
		var ok bool
		if view, ok = i.module.Memory().Read(ptr, size); ok {
			err = nil
		} else {
			err = fmt.Errorf("response at %#x with %d bytes lies outside the guest's memory", ptr, size)
		}
	}
	if err == nil {
		if len(view) > responseHeader && binary.LittleEndian.Uint32(view) == uint32(VerdictPublish) {
			view = bytes.Clone(view)
		}
		var r Response
		if r, err = DecodeResponse(view); err == nil {
			return r, nil
		}
	}
	i.spent = true // its idea of its own memory cannot be trusted
	return Response{}, &CallError{FaultResponse, err}
}

// invoke calls f with at most two arguments under a time limit and gives its
// result, if it has one.
func (i *Instance) invoke(ctx context.Context, limit time.Duration, f api.Function, args ...uint64) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, &CallError{FaultRequest, err}
	}
	if i.spent {
		return 0, &CallError{FaultRequest, errors.New("the instance is spent")}
	}
	copy(i.stack[:], args)
	i.deadline.start(limit)
	err := f.CallWithStack(i.deadline, i.stack[:])
	if !i.deadline.stop() { // closed, or about to be; host calls were refused it
		i.spent = true
		return 0, &CallError{FaultTimeout, fmt.Errorf("stopped after %v", limit)}
	}
	if err != nil {
		i.spent = true
		return 0, i.fault(err)
	}
	return i.stack[0], nil
}

// fault sorts the errors of the engine.
func (i *Instance) fault(err error) *CallError {
	var exit *sys.ExitError
	switch {
	case errors.As(err, &exit):
		return &CallError{FaultTrap, fmt.Errorf("the guest left with exit code %d", exit.ExitCode())}
	case i.depth != nil && uint32(i.depth.Get()) >= maxDepth:
		return &CallError{FaultDepth, fmt.Errorf("more than %d nested calls", maxDepth)}
	default:
		return &CallError{FaultTrap, brief(err)}
	}
}

func (i *Instance) guestError(code int64) *CallError {
	text := i.failure
	if text == "" {
		text = fmt.Sprintf("failed with code %d", code)
	}
	return &CallError{FaultGuest, errors.New(text)}
}

// Spent reports whether the instance trapped, ran out of time or answered
// nonsense. Its memory may be damaged, so it takes no more calls.
func (i *Instance) Spent() bool { return i.spent }

// Memory is the size of the guest's linear memory in bytes.
func (i *Instance) Memory() uint64 {
	if i.module.IsClosed() {
		return 0
	}
	return uint64(i.module.Memory().Size())
}

// Close frees the instance.
func (i *Instance) Close(ctx context.Context) error {
	i.spent = true
	return i.module.Close(ctx)
}

// brief keeps the cause of a wazero error; the stack trace behind it names no
// functions, because modules are compiled without their custom sections.
func brief(err error) error {
	cause, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(strings.TrimSpace(cause))
}

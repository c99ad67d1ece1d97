package wasm

import (
	"context"
	"strings"
	"time"

	"github.com/tetratelabs/wazero/api"
)

const (
	hostModule = "hpmq"
	wasiModule = "wasi_snapshot_preview1"
)

// Bounds on the data that crosses in host calls.
const (
	MaxKey   = 256
	MaxValue = 64 << 10
	maxLog   = 1024
	maxTopic = 65535
)

// State is the memory of a function between messages. The caller of
// [Instance.Call] stages the writes and applies them only if the call succeeds.
// A value that State returns must not change afterwards. A value given to State is
// the implementation's to keep.
type State interface {
	Get(key string) ([]byte, bool)
	Put(key string, value []byte) bool // false: over a quota
	Delete(key string) bool            // false: over a quota
	Prev(topic string) ([]byte, bool)
}

// stateless is the State while no message is being handled.
type stateless struct{}

func (stateless) Get(string) ([]byte, bool)  { return nil, false }
func (stateless) Put(string, []byte) bool    { return false }
func (stateless) Delete(string) bool         { return false }
func (stateless) Prev(string) ([]byte, bool) { return nil, false }

// Level is the severity of a guest's log line.
type Level uint32

// The levels.
const (
	LevelDebug Level = iota
	LevelInfo
	LevelWarning
	LevelError
)

// hostCall is one function of module hpmq.
type hostCall struct {
	params []api.ValueType
	call   api.GoModuleFunc
}

func (hostCall) results() []api.ValueType { return []api.ValueType{api.ValueTypeI32} }

func params(n int) []api.ValueType {
	p := make([]api.ValueType, n)
	for i := range p {
		p[i] = api.ValueTypeI32
	}
	return p
}

// hostCalls is the module hpmq. Arguments arrive on the stack, the result
// leaves in its first place.
var hostCalls = map[string]hostCall{
	"log":     {params(3), host(0, hostLog)},
	"error":   {params(2), host(0, hostError)},
	"kv_get":  {params(4), host(CapKVRead, hostGet)},
	"kv_put":  {params(4), host(CapKVWrite, hostPut)},
	"kv_del":  {params(2), host(CapKVWrite, hostDelete)},
	"prev":    {params(4), host(CapPrev, hostPrev)},
	"time_ms": {params(1), host(CapClock, hostTime)},
}

// wasiCalls are the imports that run times of Go, C, Rust and AssemblyScript
// link. There is no file system behind them: every descriptor but the three
// standard ones is refused by WASI itself.
var wasiCalls = map[string]bool{
	"args_get": true, "args_sizes_get": true, "environ_get": true, "environ_sizes_get": true,
	"clock_time_get": true, "clock_res_get": true, "random_get": true, "sched_yield": true, "poll_oneoff": true, "proc_exit": true,
	"fd_write": true, "fd_read": true, "fd_close": true, "fd_seek": true,
	"fd_fdstat_get": true, "fd_fdstat_set_flags": true, "fd_prestat_get": true, "fd_prestat_dir_name": true,
}

// known reports whether a guest may import imp.
func known(imp imported) bool {
	switch imp.module {
	case hostModule:
		_, ok := hostCalls[imp.name]
		return ok
	case wasiModule:
		return wasiCalls[imp.name]
	default:
		return false
	}
}

// host wraps f with the parts that every host call needs: the instance that called,
// and the checks of its capability and its time.
func host(need Capabilities, f func(i *Instance, m api.Memory, args []uint64) Status) api.GoModuleFunc {
	return func(ctx context.Context, mod api.Module, stack []uint64) {
		i, ok := ctx.Value(instanceKey{}).(*Instance)
		status := StatusDenied
		if ok && i.deadline.Err() == nil && i.caps.Has(need) && mod.Memory() != nil {
			status = f(i, mod.Memory(), stack)
		}
		stack[0] = api.EncodeI32(int32(status))
	}
}

// read gives a view of the guest's memory, at most limit bytes long.
func read(m api.Memory, ptr, length uint64, limit uint32) ([]byte, Status) {
	n := api.DecodeU32(length)
	if n > limit {
		return nil, StatusLimit
	}
	b, ok := m.Read(api.DecodeU32(ptr), n)
	if !ok {
		return nil, StatusLimit
	}
	return b, 0
}

// give copies value into the guest's buffer and answers its length.
func give(m api.Memory, value []byte, ptr, capacity uint64) Status {
	if uint64(len(value)) > uint64(api.DecodeU32(capacity)) {
		return StatusShort
	}
	if !m.Write(api.DecodeU32(ptr), value) {
		return StatusLimit
	}
	return Status(len(value))
}

func hostLog(i *Instance, m api.Memory, a []uint64) Status {
	text, status := read(m, a[1], min(a[2]&0xffffffff, maxLog), maxLog)
	if status == 0 {
		i.log(Level(min(api.DecodeU32(a[0]), uint32(LevelError))), strings.ToValidUTF8(string(text), "�"))
	}
	return status
}

func hostError(i *Instance, m api.Memory, a []uint64) Status {
	text, status := read(m, a[0], min(a[1]&0xffffffff, maxLog), maxLog)
	if status == 0 {
		i.failure = strings.ToValidUTF8(string(text), "�")
	}
	return status
}

func hostGet(i *Instance, m api.Memory, a []uint64) Status {
	key, status := read(m, a[0], a[1], MaxKey)
	if status != 0 {
		return status
	}
	value, ok := i.state.Get(string(key))
	if !ok {
		return StatusNotFound
	}
	return give(m, value, a[2], a[3])
}

func hostPut(i *Instance, m api.Memory, a []uint64) Status {
	key, status := read(m, a[0], a[1], MaxKey)
	if status != 0 {
		return status
	}
	value, status := read(m, a[2], a[3], MaxValue)
	if status != 0 {
		return status
	}
	if !i.state.Put(string(key), append([]byte{}, value...)) {
		return StatusLimit
	}
	return 0
}

func hostDelete(i *Instance, m api.Memory, a []uint64) Status {
	key, status := read(m, a[0], a[1], MaxKey)
	if status != 0 {
		return status
	}
	if !i.state.Delete(string(key)) {
		return StatusLimit
	}
	return 0
}

func hostPrev(i *Instance, m api.Memory, a []uint64) Status {
	topic, status := read(m, a[0], a[1], maxTopic)
	if status != 0 {
		return status
	}
	value, ok := i.state.Prev(string(topic))
	if !ok {
		return StatusNotFound
	}
	return give(m, value, a[2], a[3])
}

func hostTime(_ *Instance, m api.Memory, a []uint64) Status {
	if !m.WriteUint64Le(api.DecodeU32(a[0]), uint64(time.Now().UnixMilli())) {
		return StatusLimit
	}
	return 0
}

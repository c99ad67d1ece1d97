package wasm

import "github.com/tetratelabs/wazero/experimental"

const pageSize = 64 << 10

// memory is a guest's linear memory on the Go heap. It grows by doubling, so
// that a guest that grows page by page costs no copy each time, and refuses to
// pass its limit: memory.grow then answers -1, as the guest expects.
//
// Being ordinary heap it may be dropped while a view of it is still held,
// which an unmapped region could not.
type memory struct {
	buf   []byte
	limit uint64
}

// newMemory makes an allocator for one instance.
func newMemory(limit uint64) experimental.MemoryAllocator {
	return experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory {
		return &memory{limit: limit}
	})
}

// Reallocate implements [experimental.LinearMemory].
func (m *memory) Reallocate(size uint64) []byte {
	if size > m.limit {
		return nil
	}
	if size > uint64(cap(m.buf)) {
		buf := make([]byte, size, max(size, min(2*uint64(cap(m.buf)), m.limit)))
		copy(buf, m.buf)
		m.buf = buf
	}
	m.buf = m.buf[:size]
	return m.buf
}

// Free implements [experimental.LinearMemory].
func (m *memory) Free() { m.buf = nil }

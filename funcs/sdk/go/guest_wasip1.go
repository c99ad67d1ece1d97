//go:build wasip1

package hpmq

import (
	"runtime"
	"unsafe"
)

// The buffers that cross the boundary. They are package variables so that they
// stay where they are: the host writes into request between calls and reads
// response after one.
var (
	request  []byte
	response []byte
)

//go:wasmexport hpmq_abi
func exportABI() int32 { return 1 }

//go:wasmexport hpmq_alloc
func exportAlloc(size uint32) uint32 {
	request = make([]byte, size)
	return address(request)
}

//go:wasmexport hpmq_init
func exportInit(ptr, size uint32) int32 {
	config, err := received(ptr, size)
	if err == nil {
		err = configure(config)
	}
	if err != nil {
		return int32(fail(err))
	}
	return 0
}

//go:wasmexport hpmq_upstream
func exportUpstream(ptr, size uint32) int64 { return handle(upstream, ptr, size) }

//go:wasmexport hpmq_downstream
func exportDownstream(ptr, size uint32) int64 { return handle(downstream, ptr, size) }

// handle runs h on the request at ptr and gives the place of the response.
func handle(h Handler, ptr, size uint32) int64 {
	b, err := received(ptr, size)
	if err != nil {
		return fail(err)
	}
	m, err := decodeRequest(b)
	if err != nil {
		return fail(err)
	}
	if response, err = appendResult(response[:0], h.handle(m)); err != nil {
		return fail(err)
	}
	return int64(address(response))<<32 | int64(len(response))
}

// fail tells the host why and gives the result that means failure.
func fail(err error) int64 {
	text := err.Error()
	ptr, size := place(text)
	importError(ptr, size)
	runtime.KeepAlive(text)
	return -1
}

// received is the request that the host wrote. It writes only where exportAlloc
// told it to, so ptr always is the address of request.
func received(ptr, size uint32) ([]byte, error) {
	if size > uint32(len(request)) || size > 0 && ptr != address(request) {
		return nil, errRequest
	}
	return request[:size], nil
}

func address(b []byte) uint32 { return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func place(s string) (ptr, size uint32) {
	return uint32(uintptr(unsafe.Pointer(unsafe.StringData(s)))), uint32(len(s))
}

//go:build wasip1

package hpmq

import (
	"fmt"
	"runtime"
	"unsafe"
)

//go:wasmimport hpmq log
func importLog(level, ptr, size uint32) int32

//go:wasmimport hpmq error
func importError(ptr, size uint32) int32

//go:wasmimport hpmq kv_get
func importGet(keyPtr, keySize, bufPtr, bufSize uint32) int32

//go:wasmimport hpmq kv_put
func importPut(keyPtr, keySize, valuePtr, valueSize uint32) int32

//go:wasmimport hpmq kv_del
func importDelete(keyPtr, keySize uint32) int32

//go:wasmimport hpmq prev
func importPrev(topicPtr, topicSize, bufPtr, bufSize uint32) int32

//go:wasmimport hpmq time_ms
func importTime(ptr uint32) int32

// Statuses of host calls.
const (
	denied   = -1
	notFound = -2
	overflow = -3
	short    = -4
)

const maxValue = 64 << 10

// status turns the result of a host call into an error.
func status(code int32) error {
	switch {
	case code >= 0:
		return nil
	case code == denied:
		return ErrDenied
	case code == overflow:
		return ErrLimit
	default:
		return fmt.Errorf("hpmq: host call failed with %d", code)
	}
}

func hostLog(level Level, text string) {
	ptr, size := place(text)
	importLog(uint32(level), ptr, size)
	runtime.KeepAlive(text)
}

// fetch reads a value of unknown length, with a larger buffer when the host says
// that it did not fit.
func fetch(name string, read func(keyPtr, keySize, bufPtr, bufSize uint32) int32) ([]byte, bool, error) {
	ptr, size := place(name)
	for n := 1024; ; n *= 8 {
		n = min(n, maxValue)
		buf := make([]byte, n)
		code := read(ptr, size, address(buf), uint32(n))
		runtime.KeepAlive(name)
		switch {
		case code == notFound:
			return nil, false, nil
		case code == short && n < maxValue:
			continue
		case code < 0:
			return nil, false, status(code)
		}
		return buf[:code], true, nil
	}
}

func hostGet(key string) ([]byte, bool, error)    { return fetch(key, importGet) }
func hostPrev(topic string) ([]byte, bool, error) { return fetch(topic, importPrev) }

func hostPut(key string, value []byte) error {
	ptr, size := place(key)
	code := importPut(ptr, size, address(value), uint32(len(value)))
	runtime.KeepAlive(key)
	runtime.KeepAlive(value)
	return status(code)
}

func hostDelete(key string) error {
	ptr, size := place(key)
	code := importDelete(ptr, size)
	runtime.KeepAlive(key)
	return status(code)
}

func hostTime() (int64, error) {
	millis := new(int64)
	code := importTime(uint32(uintptr(unsafe.Pointer(millis))))
	return *millis, status(code)
}

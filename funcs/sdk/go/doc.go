// Package hpmq writes HPMQ functions in Go.
//
// A function registers what it does with messages in an init function and is
// built as a WebAssembly reactor:
//
//	package main
//
//	import hpmq "github.com/hpmq/hpmq/funcs/sdk/go"
//
//	func init() {
//		hpmq.Upstream(func(m *hpmq.Message) hpmq.Result {
//			if prev, ok := m.Prev(); ok && bytes.Equal(prev, m.Payload) {
//				return hpmq.Drop()
//			}
//			return hpmq.Pass()
//		})
//	}
//
//	func main() {}
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags='-s -w' -o f.wasm
//
// Between two messages a function may lose its memory: what it must remember
// belongs in [KV] or is the previous payload. Both need a capability from the
// policy of the fabric (kv:read, kv:write, prev); without it they fail with
// [ErrDenied].
//
// Natively the package is a test bench: [Run] and [Host] call a function as the
// fabric would, so that functions have ordinary Go tests.
package hpmq

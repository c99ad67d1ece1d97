// Package wasm runs one WebAssembly function: it checks a module, instantiates
// it and calls it with one message at a time, within limits of memory, time,
// call depth and output that no guest can pass.
//
// It decides whether a module is acceptable and what a guest may call. It knows
// no broker, no policy and no storage: messages, state and log lines cross in
// plain types, and the caller says which capabilities a function holds.
//
// # ABI hpmq/1
//
// A guest is a core WebAssembly module (a reactor, not a command). All integers
// are little endian. It exports
//
//	memory                               its one linear memory
//	hpmq_abi() -> i32                    1
//	hpmq_alloc(len i32) -> ptr i32       a buffer of the guest for the host to write into
//	hpmq_upstream(ptr, len i32) -> i64   one message from a device
//	hpmq_downstream(ptr, len i32) -> i64 one message to a device
//	hpmq_init(ptr, len i32) -> i32       optional: configuration, once; negative fails
//	_initialize()                        optional: run once before anything else
//
// and at least one of hpmq_upstream and hpmq_downstream. A buffer from
// hpmq_alloc stays valid until the next hpmq_alloc; the host keeps it between
// calls and asks for another only when a request does not fit.
//
// A request is
//
//	u16 topic_len, u16 context_entries, u32 payload_len,
//	u32 prev_len (0xFFFFFFFF: there is none), u8 qos, u8 flags (1 retain, 2 dup), u16 zero,
//	context_entries × (u16 key_len, u16 value_len),
//	topic, payload, prev, key, value, key, value …
//
// The result is ptr<<32|len of a response, or a negative number: the function
// failed, with the text it gave to hpmq.error. A response is
//
//	u32 verdict: 0 publish, 1 pass, 2 drop, 3 reject
//	publish:    u32 count, count × (u8 qos, u8 flags (1 retain), u16 topic_len, u32 payload_len),
//	            topic, payload, topic, payload …
//	pass, drop: u32 zero
//	reject:     u32 reason code of MQTT 5 (128 to 255), UTF-8 text for the client
//
// and nothing after it. Pass hands the message on as it was without copying it.
//
// # Host calls
//
// Imports of module "hpmq"; each returns a length or zero, or a negative
// [Status]: -1 denied, -2 not found, -3 over a limit, -4 buffer too small.
//
//	log(level, ptr, len)                              always; 0 debug, 1 info, 2 warning, 3 error
//	error(ptr, len)                                   always; the text of a failure
//	kv_get(key_ptr, key_len, buf_ptr, buf_cap)        capability kv:read
//	kv_put(key_ptr, key_len, value_ptr, value_len)    capability kv:write
//	kv_del(key_ptr, key_len)                          capability kv:write
//	prev(topic_ptr, topic_len, buf_ptr, buf_cap)      capability prev
//	time_ms(ptr)                                      capability clock; writes u64 Unix milliseconds
//
// Capability prev also fills the request's prev. Without clock and random WASI
// shows a clock of its own, which starts in 2022 and moves by small steps, and
// random numbers that repeat, so a function gives the same answer to the same
// messages.
//
// Of wasi_snapshot_preview1 a guest may import only what language run times
// need to start; standard output and error become log lines. Any other import
// is refused when the module is loaded.
package wasm

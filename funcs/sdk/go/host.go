package hpmq

import "errors"

// Errors of host calls.
var (
	ErrDenied = errors.New("hpmq: the capability is not granted")
	ErrLimit  = errors.New("hpmq: over a limit")
)

// Level is the severity of a log line.
type Level uint32

// The levels.
const (
	Debug Level = iota
	Info
	Warning
	Error
)

// Log writes one line to the log of the function. The host cuts it at 1 KiB and
// passes at most 100 lines a second on.
func Log(level Level, text string) { hostLog(level, text) }

// KV is what the function keeps for the identity that the message belongs to.
// A write takes effect when the handler returns without failing; until then only
// the same call sees it.
var KV store

type store struct{}

// Get reads a key; ok is false if there is none. It needs kv:read.
func (store) Get(key string) (value []byte, ok bool, err error) { return hostGet(key) }

// Put writes a key of at most 256 bytes. All keys and values of a function and
// identity may take 64 KiB. It needs kv:write.
func (store) Put(key string, value []byte) error { return hostPut(key, value) }

// Delete removes a key. It needs kv:write.
func (store) Delete(key string) error { return hostDelete(key) }

// Prev is the last payload on another topic, as [Message.Prev] is for the
// message's own. It needs the capability prev.
func Prev(topic string) (payload []byte, ok bool, err error) { return hostPrev(topic) }

// TimeMillis is the time of the host in milliseconds since 1970. It needs the
// capability clock, without which package time shows a clock that is not real.
func TimeMillis() (int64, error) { return hostTime() }

package store

import (
	"maps"
	"strings"
)

// Values holds the values of [Tx.PutValue], by scope and key. The zero value is empty.
// It is not safe for concurrent use.
type Values struct {
	scopes  map[string]map[string][]byte
	count   int
	bytes   int
	history int // bytes of the values of [OfHistory], with their keys
}

// Get returns one value.
func (v *Values) Get(scope, key string) ([]byte, bool) {
	value, ok := v.scopes[scope][key]
	return value, ok
}

// Of returns a copy of a scope: its values by key.
func (v *Values) Of(scope string) map[string][]byte { return maps.Clone(v.scopes[scope]) }

// Len returns how many values there are, without the values of [OfHistory].
func (v *Values) Len() int { return v.count }

// Bytes returns the size of the values that Len counts, without their keys.
func (v *Values) Bytes() int { return v.bytes }

// HistoryBytes returns the size of the values of [OfHistory], with their keys.
func (v *Values) HistoryBytes() int { return v.history }

// Limited reports whether the values of a scope count against [Limits.Values]. The
// values of [OfHistory] do not: their writers limit them.
func Limited(scope string) bool { return !strings.HasPrefix(scope, OfHistory) }

// valueOverhead is the assumed memory of a value beside its bytes.
const valueOverhead = 64

// charge counts n values of a scope, with the sizes of their key and bytes.
func (v *Values) charge(scope string, n, key, value int) {
	if Limited(scope) {
		v.count += n
		v.bytes += n * value
		return
	}
	v.history += n * (valueOverhead + key + value)
}

// Put keeps a value, which is not to be changed any more; nil removes.
func (v *Values) Put(scope, key string, value []byte) {
	of := v.scopes[scope]
	if old, ok := of[key]; ok {
		v.charge(scope, -1, len(key), len(old))
	}
	if value == nil {
		if delete(of, key); len(of) == 0 {
			delete(v.scopes, scope)
		}
		return
	}
	if of == nil {
		if v.scopes == nil {
			v.scopes = make(map[string]map[string][]byte)
		}
		of = make(map[string][]byte)
		v.scopes[scope] = of
	}
	of[key] = value
	v.charge(scope, 1, len(key), len(value))
}

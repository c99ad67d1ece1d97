package store

import "maps"

// Values holds what [Tx.PutValue] keeps, by scope and key. The zero value is
// empty. It is not safe for concurrent use.
type Values struct {
	scopes map[string]map[string][]byte
	count  int
	bytes  int
}

// Get returns one value.
func (v *Values) Get(scope, key string) ([]byte, bool) {
	value, ok := v.scopes[scope][key]
	return value, ok
}

// Of returns a copy of a scope: its values by key.
func (v *Values) Of(scope string) map[string][]byte { return maps.Clone(v.scopes[scope]) }

// Len returns how many values there are.
func (v *Values) Len() int { return v.count }

// Bytes returns the size of all values, without their keys.
func (v *Values) Bytes() int { return v.bytes }

// Put keeps a value, which is not to be changed any more; nil removes.
func (v *Values) Put(scope, key string, value []byte) {
	of := v.scopes[scope]
	if old, ok := of[key]; ok {
		v.count--
		v.bytes -= len(old)
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
	v.count++
	v.bytes += len(value)
}

package funcs

import (
	"bytes"
	"container/list"
	"fmt"
	"sync"
)

// Bounds of the state of one function for one identity.
const (
	maxKVBytes     = 64 << 10 // keys and values of kv_put
	maxPrevEntries = 1024     // topics with a previous payload
	maxPrevBytes   = 1 << 20  // their payloads
	maxPrevPayload = 64 << 10 // a larger payload is not kept
	maxCallWrites  = 64       // keys written by one call

	entryOverhead = 128 // about the size of a map entry and its list element
)

// Write is one change of a function's state.
type Write struct {
	Scope string
	Key   string
	Value []byte // nil deletes
}

// Keys of the two kinds of entries share a scope.
const kvPrefix = "k/"

// prevKey names the previous payload of a topic. Downstream it belongs to one
// session, because every session of an identity gets its own copy of a message,
// which is no repeat; client identifiers hold no U+0000 (MQTT 5.0 §1.5.4).
func prevKey(d Direction, clientID, topic string) string {
	if d == Downstream {
		return "d/" + clientID + "\x00" + topic
	}
	return "u/" + topic
}

// states is a bounded cache of scopes, the least recently used of which go
// first.
type states struct {
	kv    KV
	limit int

	mu     sync.Mutex
	scopes map[string]*scope
	order  *list.List // of *scope, most recent first
	bytes  int
}

func newStates(kv KV, limit int) *states {
	return &states{kv: kv, limit: limit, scopes: map[string]*scope{}, order: list.New()}
}

// scope is the state of one function for one identity.
type scope struct {
	name  string
	owner *states
	place *list.Element // in owner.order; guarded by owner.mu
	size  int           // as counted in owner.bytes; guarded by owner.mu

	mu        sync.Mutex
	read      bool // the store was asked
	entries   map[string]*entry
	kvBytes   int
	prev      *list.List // of *entry, most recent first
	prevBytes int
}

// entry is one key of a scope. Its value never changes once set.
type entry struct {
	key   string
	value []byte
	place *list.Element // in scope.prev, if it is a previous payload
}

// of finds or makes the scope of function and identity. Function names hold no
// slash, so no two pairs share a scope.
func (s *states) of(function, identity string) (*scope, error) {
	name := function + "/" + identity
	s.mu.Lock()
	sc := s.scopes[name]
	if sc == nil {
		sc = &scope{name: name, owner: s, size: entryOverhead, entries: map[string]*entry{}, prev: list.New()}
		sc.place = s.order.PushFront(sc)
		s.scopes[name] = sc
		s.bytes += sc.size
	} else {
		s.order.MoveToFront(sc.place)
	}
	s.mu.Unlock()
	return sc, sc.load(s.kv)
}

// load reads the scope from the store, once.
func (s *scope) load(kv KV) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read {
		return nil
	}
	if kv != nil {
		stored, err := kv.Load(s.name)
		if err != nil {
			return fmt.Errorf("state of %s: %w", s.name, err)
		}
		for key, value := range stored {
			s.set(key, value)
		}
	}
	s.read = true
	s.owner.resize(s, s.weigh())
	return nil
}

func (s *scope) weigh() int {
	return s.kvBytes + s.prevBytes + (len(s.entries)+1)*entryOverhead
}

// resize accounts for a scope's new size and makes room if need be. Scope locks
// may be held: it takes none.
func (s *states) resize(sc *scope, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scopes[sc.name] != sc {
		return // dropped while a worker still used it
	}
	s.bytes += size - sc.size
	sc.size = size
	for s.bytes > s.limit && s.order.Len() > 1 {
		s.drop(s.order.Back().Value.(*scope))
	}
}

// drop forgets a scope. The caller holds s.mu.
func (s *states) drop(sc *scope) {
	s.order.Remove(sc.place)
	delete(s.scopes, sc.name)
	s.bytes -= sc.size
}

func (s *scope) discard() {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	if s.owner.scopes[s.name] == s {
		s.owner.drop(s)
	}
}

func (s *scope) get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		return nil, false
	}
	return e.value, true
}

// set stores one entry; nil deletes it. The caller holds s.mu.
func (s *scope) set(key string, value []byte) {
	isKV := len(key) >= len(kvPrefix) && key[:len(kvPrefix)] == kvPrefix
	if old := s.entries[key]; old != nil {
		delete(s.entries, key)
		if isKV {
			s.kvBytes -= len(key) + len(old.value)
		} else {
			s.prevBytes -= len(key) + len(old.value)
			s.prev.Remove(old.place)
		}
	}
	if value == nil {
		return
	}
	e := &entry{key: key, value: value}
	s.entries[key] = e
	if isKV {
		s.kvBytes += len(key) + len(value)
		return
	}
	s.prevBytes += len(key) + len(value)
	e.place = s.prev.PushFront(e)
}

// apply makes a call's writes and the message's payload part of the scope. It
// appends to out the writes for the store.
func (s *scope) apply(out, staged []Write, prev string, payload []byte) []Write {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range staged {
		s.set(w.Key, w.Value)
		out = append(out, w)
	}
	if prev != "" {
		out = s.remember(out, prev, payload)
	}
	s.owner.resize(s, s.weigh())
	return out
}

// remember keeps payload as the previous one of key and forgets the oldest
// beyond the bounds. The caller holds s.mu.
func (s *scope) remember(out []Write, key string, payload []byte) []Write {
	old := s.entries[key]
	switch {
	case len(payload) > maxPrevPayload && old == nil:
		return out
	case len(payload) > maxPrevPayload:
		s.set(key, nil)
		return append(out, Write{Scope: s.name, Key: key})
	case old != nil && bytes.Equal(old.value, payload):
		s.prev.MoveToFront(old.place)
		return out
	}
	value := append([]byte{}, payload...) // never nil, and free of the packet's buffer
	s.set(key, value)
	out = append(out, Write{Scope: s.name, Key: key, Value: value})
	for s.prev.Len() > maxPrevEntries || s.prevBytes > maxPrevBytes {
		oldest := s.prev.Back().Value.(*entry).key
		s.set(oldest, nil)
		out = append(out, Write{Scope: s.name, Key: oldest})
	}
	return out
}

// view is the state as one call sees it: its own writes over the scope. It
// implements [wasm.State].
type view struct {
	scope     *scope
	direction Direction
	clientID  string
	staged    []Write
	growth    int // bytes that staged adds to the scope
}

func (v *view) reset(s *scope, d Direction, clientID string) {
	*v = view{scope: s, direction: d, clientID: clientID}
}

// Get implements [wasm.State].
func (v *view) Get(key string) ([]byte, bool) {
	key = kvPrefix + key
	for i := range v.staged {
		if v.staged[i].Key == key {
			return v.staged[i].Value, v.staged[i].Value != nil
		}
	}
	return v.scope.get(key)
}

// Put implements [wasm.State].
func (v *view) Put(key string, value []byte) bool {
	if value == nil {
		value = []byte{}
	}
	return v.stage(key, value)
}

// Delete implements [wasm.State].
func (v *view) Delete(key string) bool { return v.stage(key, nil) }

func (v *view) stage(key string, value []byte) bool {
	growth := v.growth
	if old, ok := v.Get(key); ok {
		growth -= len(kvPrefix) + len(key) + len(old)
	}
	if value != nil {
		growth += len(kvPrefix) + len(key) + len(value)
	}
	if growth > v.growth && !v.scope.hasRoom(growth) {
		return false
	}
	key = kvPrefix + key
	for i := range v.staged {
		if v.staged[i].Key == key {
			v.staged[i].Value, v.growth = value, growth
			return true
		}
	}
	if len(v.staged) == maxCallWrites {
		return false
	}
	v.staged = append(v.staged, Write{Scope: v.scope.name, Key: key, Value: value})
	v.growth = growth
	return true
}

func (s *scope) hasRoom(growth int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kvBytes+growth <= maxKVBytes
}

// Prev implements [wasm.State].
func (v *view) Prev(topic string) ([]byte, bool) {
	return v.scope.get(prevKey(v.direction, v.clientID, topic))
}

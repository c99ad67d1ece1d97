package funcs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// memKV is a store in memory; put applies the writes of a result.
type memKV struct {
	scopes map[string]map[string][]byte
	loads  int
	err    error
}

func (m *memKV) Load(scope string) (map[string][]byte, error) {
	m.loads++
	return m.scopes[scope], m.err
}

func (m *memKV) put(writes []Write) {
	for _, w := range writes {
		if m.scopes[w.Scope] == nil {
			m.scopes[w.Scope] = map[string][]byte{}
		}
		if w.Value == nil {
			delete(m.scopes[w.Scope], w.Key)
		} else {
			m.scopes[w.Scope][w.Key] = w.Value
		}
	}
}

const hostScope = "h/spiffe://lab.test/device/pump"

// answer runs one message of the host guest and gives the result of its host
// call.
func answer(t *testing.T, b *bench, payload string) (int, Result) {
	t.Helper()
	res := b.do(chain(t, Downstream, Binding{Function: "h", OnError: OnErrorDrop}), pump, message(payload))
	if res.Verdict != Reject {
		return 0, res
	}
	var n int
	if _, err := fmt.Sscanf(res.Reason, "%d", &n); err != nil {
		t.Fatal(err)
	}
	return n - 100, res
}

// TestWritesAreStaged follows a key through a put, a call that traps after a
// put, a failed commit and a restart.
func TestWritesAreStaged(t *testing.T) {
	kv := &memKV{scopes: map[string]map[string][]byte{}}
	f := Function{Name: "h", Code: guest(t, "host"), Capabilities: []string{"kv:read", "kv:write"}}
	b := newBench(t, Options{Workers: 1, KV: kv}, f)
	if n, res := answer(t, b, "P"); res.Verdict != Drop || len(res.Writes) != 0 {
		t.Errorf("a trapped call left %d, %+v", n, res)
	}
	if n, _ := answer(t, b, "g"); n != -2 {
		t.Errorf("a trapped put is seen: %d", n)
	}
	n, res := answer(t, b, "p")
	if diff := cmp.Diff([]Write{{hostScope, "k/key", []byte("value")}}, res.Writes); n != 0 || diff != "" {
		t.Errorf("put gave %d, %s", n, diff)
	}
	if n, _ := answer(t, b, "g"); n != 5 {
		t.Errorf("a put that is not yet committed is not seen: %d", n)
	}
	res.Discard()
	if n, _ := answer(t, b, "g"); n != -2 {
		t.Errorf("a put whose commit failed is seen: %d", n)
	}
	_, res = answer(t, b, "p")
	kv.put(res.Writes)
	again := newBench(t, Options{Workers: 1, KV: kv}, f)
	if n, _ := answer(t, again, "g"); n != 5 {
		t.Errorf("after a restart: %d", n)
	}
	_, res = answer(t, again, "d")
	if diff := cmp.Diff([]Write{{hostScope, "k/key", nil}}, res.Writes); diff != "" {
		t.Errorf("delete: %s", diff)
	}
}

func TestPrevIsKept(t *testing.T) {
	kv := &memKV{scopes: map[string]map[string][]byte{}}
	f := Function{Name: "h", Code: guest(t, "host"), Capabilities: []string{"prev"}}
	b := newBench(t, Options{Workers: 1, KV: kv}, f)
	n, res := answer(t, b, "q first")
	if diff := cmp.Diff([]Write{{hostScope, "d/c1\x00site/home/pump/raw", []byte("q first")}}, res.Writes); n != -2 || diff != "" {
		t.Errorf("first: %d, %s", n, diff)
	}
	kv.put(res.Writes)
	if n, res := answer(t, b, "q first"); n != 7 || len(res.Writes) != 0 {
		t.Errorf("a repeat: %d, %+v", n, res.Writes)
	}
	other := &Origin{Client: "pump\x00c2", Identity: pump.Identity, ClientID: "c2"}
	if res := b.do(chain(t, Downstream, Binding{Function: "h"}), other, message("q first")); !strings.HasPrefix(res.Reason, "098") {
		t.Errorf("another session's first copy: %+v", res)
	}
	again := newBench(t, Options{Workers: 1, KV: kv}, f)
	if n, _ := answer(t, again, "q"); n != 7 {
		t.Errorf("after a restart: %d", n)
	}
}

func TestStoreFails(t *testing.T) {
	kv := &memKV{err: errors.New("disk gone")}
	b := newBench(t, Options{Workers: 1, KV: kv}, Function{Name: "h", Code: guest(t, "host"), Capabilities: []string{"prev"}})
	if _, res := answer(t, b, "q"); res.Verdict != Drop || !strings.Contains(res.Reason, "disk gone") {
		t.Errorf("got %+v", res)
	}
	if s := b.Stats()[0]; s.Faults["state"] != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestViewQuotas(t *testing.T) {
	s, err := newStates(nil, 1<<20).of("f", "id")
	if err != nil {
		t.Fatal(err)
	}
	var v view
	v.reset(s, Upstream, "c1")
	if !v.Put("a", make([]byte, maxKVBytes-10)) || v.Put("b", make([]byte, 10)) {
		t.Error("the quota of bytes does not hold")
	}
	if !v.Put("a", nil) || !v.Put("b", make([]byte, 10)) {
		t.Error("an overwritten value still counts")
	}
	if value, ok := v.Get("a"); !ok || len(value) != 0 {
		t.Error("an empty value is not a value")
	}
	if !v.Delete("a") {
		t.Error("delete is refused")
	}
	if _, ok := v.Get("a"); ok {
		t.Error("a deleted key is seen")
	}
	for i := range 2 * maxCallWrites {
		v.Put(fmt.Sprint(i), nil)
	}
	if len(v.staged) != maxCallWrites {
		t.Errorf("%d writes in one call", len(v.staged))
	}
	writes := s.apply(nil, v.staged, "", nil)
	if len(writes) != maxCallWrites || s.kvBytes > maxKVBytes {
		t.Errorf("%d writes, %d bytes", len(writes), s.kvBytes)
	}
	if _, ok := s.get("k/b"); !ok {
		t.Error("an applied key is not there")
	}
}

func TestPrevIsBounded(t *testing.T) {
	s, err := newStates(nil, 64<<20).of("f", "id")
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	for i := range maxPrevEntries + 10 {
		for _, w := range s.apply(nil, nil, prevKey(Upstream, "", fmt.Sprint(i)), []byte{1}) {
			if w.Value == nil {
				delete(stored, w.Key)
			} else {
				stored[w.Key] = true
			}
		}
	}
	if s.prev.Len() != maxPrevEntries || len(stored) != maxPrevEntries || stored["u/0"] {
		t.Errorf("%d entries in memory, %d stored", s.prev.Len(), len(stored))
	}
	big := make([]byte, maxPrevPayload+1)
	if w := s.apply(nil, nil, "u/new", big); len(w) != 0 {
		t.Errorf("a payload over the limit is kept: %d writes", len(w))
	}
	if w := s.apply(nil, nil, "u/500", big); len(w) != 1 || w[0].Value != nil {
		t.Errorf("it does not replace the older one: %d writes", len(w))
	}
	for i := range 40 {
		s.apply(nil, nil, prevKey(Downstream, "", fmt.Sprint(i)), make([]byte, maxPrevPayload))
	}
	if s.prevBytes > maxPrevBytes {
		t.Errorf("%d bytes are kept", s.prevBytes)
	}
	if _, ok := s.get("d/\x0039"); !ok {
		t.Error("the newest is gone")
	}
}

func TestStatesAreBounded(t *testing.T) {
	kv := &memKV{scopes: map[string]map[string][]byte{}}
	states := newStates(kv, 100<<10)
	for i := range 100 {
		s, err := states.of("f", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		kv.put(s.apply(nil, []Write{{s.name, "k/x", make([]byte, 10<<10)}}, "", nil))
		if states.bytes > states.limit {
			t.Fatalf("%d bytes after %d scopes", states.bytes, i)
		}
	}
	sum := 0
	for _, s := range states.scopes {
		sum += s.size
	}
	if sum != states.bytes || len(states.scopes) != states.order.Len() || len(states.scopes) > 10 {
		t.Errorf("%d scopes of %d bytes, %d counted", len(states.scopes), sum, states.bytes)
	}
	s, err := states.of("f", "0")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := s.get("k/x"); !ok || len(v) != 10<<10 {
		t.Error("a scope that was dropped does not come back from the store")
	}
}

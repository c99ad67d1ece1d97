//go:build !wasip1

package hpmq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// encodeRequest is the host's side of decodeRequest.
func encodeRequest(m *Message) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, uint16(len(m.Topic)))
	b = le.AppendUint16(b, uint16(len(m.context)))
	b = le.AppendUint32(b, uint32(len(m.Payload)))
	prev := uint32(noPrev)
	if m.hasPrev {
		prev = uint32(len(m.prev))
	}
	b = le.AppendUint32(b, prev)
	var flags byte
	if m.Retain {
		flags |= flagRetain
	}
	if m.Dup {
		flags |= flagDup
	}
	b = append(b, m.QoS, flags, 0, 0)
	for _, e := range m.context {
		b = le.AppendUint16(b, uint16(len(e.key)))
		b = le.AppendUint16(b, uint16(len(e.value)))
	}
	b = append(b, m.Topic...)
	b = append(b, m.Payload...)
	b = append(b, m.prev...)
	for _, e := range m.context {
		b = append(append(b, e.key...), e.value...)
	}
	return b
}

func TestDecodeRequest(t *testing.T) {
	want := &Message{
		Topic: "a/b", Payload: []byte("payload"), QoS: 2, Retain: true, Dup: true,
		prev: []byte("before"), hasPrev: true, context: []entry{{"identity", "x"}, {"site", ""}},
	}
	b := encodeRequest(want)
	got, err := decodeRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	prev, ok := got.Prev()
	if got.Topic != "a/b" || string(got.Payload) != "payload" || got.QoS != 2 || !got.Retain || !got.Dup ||
		string(prev) != "before" || !ok || got.Context("identity") != "x" || got.Context("site") != "" || got.Context("none") != "" {
		t.Errorf("got %+v", got)
	}
	for n := range b {
		if _, err := decodeRequest(b[:n]); err == nil {
			t.Errorf("a request cut at %d was taken", n)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(encodeRequest(&Message{Topic: "a", Payload: []byte("b"), prev: []byte{}, hasPrev: true}))
	f.Add(encodeRequest(&Message{context: []entry{{"k", "v"}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeRequest(b)
		if err != nil {
			return
		}
		again, err := decodeRequest(encodeRequest(m))
		if err != nil || again.Topic != m.Topic || !bytes.Equal(again.Payload, m.Payload) {
			t.Errorf("got %+v, %v, want %+v", again, err, m)
		}
	})
}

func TestAppendResult(t *testing.T) {
	for name, tt := range map[string]struct {
		result Result
		want   string
	}{
		"pass":   {Pass(), "\x01\x00\x00\x00\x00\x00\x00\x00"},
		"drop":   {Drop(), "\x02\x00\x00\x00\x00\x00\x00\x00"},
		"reject": {Reject(NotAuthorized, "no"), "\x03\x00\x00\x00\x87\x00\x00\x00no"},
		"publish": {
			Publish(Message{Topic: "a", Payload: []byte("bc"), QoS: 1, Retain: true}, Message{Topic: "d"}),
			"\x00\x00\x00\x00\x02\x00\x00\x00\x01\x01\x01\x00\x02\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00abcd",
		},
		"publish nothing": {Publish(), "\x02\x00\x00\x00\x00\x00\x00\x00"},
	} {
		got, err := appendResult(nil, tt.result)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for name, r := range map[string]Result{"fail": Fail(errors.New("x")), "fail without an error": Fail(nil), "unknown": {Verdict: 9}} {
		if _, err := appendResult(nil, r); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
}

// TestHost runs a counter as its author would test it.
func TestHost(t *testing.T) {
	count := func(m *Message) Result {
		v, _, err := KV.Get("n")
		if err != nil {
			return Fail(err)
		}
		v = append(v, m.Payload...)
		if err := KV.Put("n", v); err != nil {
			return Fail(err)
		}
		Log(Info, string(v))
		if string(m.Payload) == "bad" {
			return Fail(errors.New("bad"))
		}
		return Publish(Message{Topic: m.Context("site") + "/n", Payload: v})
	}
	h := Host{Context: map[string]string{"site": "home"}}
	for _, tt := range []struct{ payload, want string }{{"a", "a"}, {"b", "ab"}, {"bad", ""}, {"c", "abc"}} {
		r := h.Run(count, Message{Topic: "t", Payload: []byte(tt.payload)})
		if tt.want == "" {
			if r.Err == nil {
				t.Errorf("got %+v", r)
			}
			continue
		}
		if len(r.Messages) != 1 || r.Messages[0].Topic != "home/n" || string(r.Messages[0].Payload) != tt.want {
			t.Errorf("got %+v, want %q", r, tt.want)
		}
	}
	if len(h.Logs) != 4 {
		t.Errorf("logged %q", h.Logs)
	}
	last := h.Run(func(m *Message) Result {
		here, ok := m.Prev()
		there, tok, err := Prev("t")
		if string(here) != "c" || !ok || string(there) != "c" || !tok || err != nil {
			return Fail(errors.New("no previous payload"))
		}
		return Pass()
	}, Message{Topic: "t"})
	if last.Err != nil {
		t.Error(last.Err)
	}
}

func TestRegistered(t *testing.T) {
	var h Host
	if err := h.Init([]byte("x")); err == nil {
		t.Error("a configuration that nobody reads was taken")
	}
	if r := h.Downstream(Message{Topic: "t"}); r.Err == nil {
		t.Errorf("no handler answers %+v", r)
	}
	Init(func(config []byte) error { return errors.New(string(config)) })
	Upstream(func(*Message) Result { return Drop() })
	Downstream(func(*Message) Result { return Pass() })
	defer func() { initialize, upstream, downstream = nil, nil, nil }()
	if err := h.Init([]byte("x")); err == nil || err.Error() != "x" {
		t.Errorf("init gave %v", err)
	}
	if r := h.Upstream(Message{Topic: "t"}); r.Verdict != VerdictDrop {
		t.Errorf("upstream gave %+v", r)
	}
	if r := h.Downstream(Message{Topic: "t"}); r.Verdict != VerdictPass {
		t.Errorf("downstream gave %+v", r)
	}
}

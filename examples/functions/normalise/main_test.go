//go:build !wasip1

package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	hpmq "github.com/hpmq/hpmq/funcs/sdk/go"
)

// record is one line of testdata.
type record struct {
	Device string  `json:"device"`
	Text   *string `json:"payload_text"`
	Hex    string  `json:"payload_hex"`
	Expect struct {
		Kind      string         `json:"kind"`
		Fields    map[string]any `json:"fields"`
		Unit      float64        `json:"unit"`
		Function  float64        `json:"function"`
		Registers []float64      `json:"registers"`
		Exception float64        `json:"exception_code"`
	} `json:"expect"`
}

func records(t *testing.T, name string) []record {
	t.Helper()
	f, err := os.Open("../testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []record
	for s := bufio.NewScanner(f); s.Scan(); {
		var r record
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		t.Fatalf("%s holds no records", name)
	}
	return out
}

func (r record) payload(t *testing.T) []byte {
	t.Helper()
	if r.Text != nil {
		return []byte(*r.Text)
	}
	b, err := hex.DecodeString(r.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// want is the fields that the record must become, or nil if it must fail.
func (r record) want() map[string]any {
	if r.Expect.Fields != nil {
		return r.Expect.Fields
	}
	if r.Expect.Function != readHolding && r.Expect.Function != readInput || r.Expect.Kind == "request" {
		return nil
	}
	want := map[string]any{"unit": r.Expect.Unit, "function": r.Expect.Function}
	for i, v := range r.Expect.Registers {
		want[fmt.Sprintf("registers.%d", i)] = v
	}
	if r.Expect.Kind == "exception" {
		want["exception"] = r.Expect.Exception
	}
	return want
}

func same(a, b any) bool {
	x, xok := a.(float64)
	y, yok := b.(float64)
	if xok && yok {
		return math.Abs(x-y) <= 1e-6*math.Max(math.Abs(x), math.Abs(y))
	}
	return a == b
}

func TestRecords(t *testing.T) {
	for protocol, file := range map[string]string{"tasmota": "tasmota.ndjson", "modbus-rtu": "modbus.ndjson"} {
		for i, r := range records(t, file) {
			t.Run(fmt.Sprintf("%s/%d", protocol, i), func(t *testing.T) {
				got := hpmq.Run(normalise, hpmq.Message{Topic: "site/home/" + r.Device + "/raw", Payload: r.payload(t), QoS: 1})
				want := r.want()
				if want == nil {
					if got.Err == nil {
						t.Fatalf("got %+v, want a failure", got)
					}
					return
				}
				if got.Err != nil || len(got.Messages) != 1 {
					t.Fatalf("got %+v", got)
				}
				m := got.Messages[0]
				if m.Topic != "site/home/"+r.Device+"/telemetry" || m.QoS != 1 {
					t.Errorf("topic %q, QoS %d", m.Topic, m.QoS)
				}
				var out telemetry
				if err := json.Unmarshal(m.Payload, &out); err != nil {
					t.Fatal(err)
				}
				if out.Device != r.Device || out.Protocol != protocol || len(out.Fields) != len(want) {
					t.Errorf("got %s, want fields %v", m.Payload, want)
				}
				for key, w := range want {
					if !same(out.Fields[key], w) {
						t.Errorf("%s = %v, want %v", key, out.Fields[key], w)
					}
				}
			})
		}
	}
}

func TestRepeatIsDropped(t *testing.T) {
	var host hpmq.Host
	m := hpmq.Message{Topic: "site/home/plug/raw", Payload: []byte(`{"POWER":"ON"}`)}
	for i, want := range []hpmq.Verdict{hpmq.VerdictPublish, hpmq.VerdictDrop} {
		if got := host.Run(normalise, m); got.Verdict != want {
			t.Errorf("message %d: verdict %d, want %d", i, got.Verdict, want)
		}
	}
	m.Payload = []byte(`{"POWER":"OFF"}`)
	if got := host.Run(normalise, m); got.Verdict != hpmq.VerdictPublish {
		t.Errorf("a change got verdict %d", got.Verdict)
	}
}

func TestUndecodable(t *testing.T) {
	tests := []struct{ name, topic, payload string }{
		{"text", "site/home/plug/raw", "hello"},
		{"empty", "site/home/plug/raw", ""},
		{"broken JSON", "site/home/plug/raw", `{"POWER":`},
		{"two values", "site/home/plug/raw", `{"a":1}{"b":2}`},
		{"array", "site/home/plug/raw", `[1]`},
		{"empty object", "site/home/plug/raw", `{}`},
		{"flipped bit", "site/home/plug/raw", "\x11\x03\x04\x00\x8d\x00\x8f\xfb\xbd"},
		{"other topic", "site/home/plug/other", `{"a":1}`},
		{"too deep a topic", "site/home/a/b/raw", `{"a":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := hpmq.Run(normalise, hpmq.Message{Topic: tt.topic, Payload: []byte(tt.payload)}); got.Err == nil {
				t.Errorf("got %+v, want a failure", got)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x01\x03\x02\x00\x00\xb8\x44"))
	f.Add([]byte(`{"Time":"2019-10-31T18:55:09","ANALOG":{"Illuminance":8},"L":[1,2]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		protocol, fields, err := decode(payload)
		if err == nil && (len(fields) == 0 || strings.TrimSpace(protocol) == "") {
			t.Errorf("decoded %q to nothing", payload)
		}
	})
}

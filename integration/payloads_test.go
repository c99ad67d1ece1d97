package integration

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
)

// record is one real payload of a device and the values that it decodes to.
type record struct {
	device  string
	payload []byte
	fields  map[string]any
}

// readRecords reads those payloads of one family that are to be converted; the
// others, such as requests, must not be.
func readRecords(t *testing.T, family string) []record {
	t.Helper()
	text, err := os.ReadFile("../examples/functions/testdata/" + family + ".ndjson")
	if err != nil {
		t.Fatal(err)
	}
	var out []record
	for line := range bytes.Lines(text) {
		var r struct {
			Device string
			Text   string `json:"payload_text"`
			Hex    string `json:"payload_hex"`
			Expect struct {
				Kind      string
				Fields    map[string]any
				Unit      float64
				Function  float64
				Registers []float64
				Exception float64 `json:"exception_code"`
			}
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		payload := []byte(r.Text)
		if r.Hex != "" {
			if payload, err = hex.DecodeString(r.Hex); err != nil {
				t.Fatal(err)
			}
		}
		fields := r.Expect.Fields
		if family == "modbus" {
			if r.Expect.Kind == "request" || r.Expect.Function != 3 && r.Expect.Function != 4 {
				continue
			}
			fields = map[string]any{"unit": r.Expect.Unit, "function": r.Expect.Function}
			for i, v := range r.Expect.Registers {
				fields[fmt.Sprintf("registers.%d", i)] = v
			}
			if r.Expect.Kind == "exception" {
				fields["exception"] = r.Expect.Exception
			}
		}
		out = append(out, record{r.Device, payload, fields})
	}
	if len(out) < 2 {
		t.Fatalf("%s has %d records to convert", family, len(out))
	}
	return out
}

// check compares what a function made of the payload with what it decodes to.
func (r record) check(t *testing.T, got string) {
	t.Helper()
	var telemetry struct {
		Device string
		Fields map[string]any
	}
	if err := json.Unmarshal([]byte(got), &telemetry); err != nil {
		t.Errorf("%s: %v in %s", r.device, err, got)
		return
	}
	want := slices.Sorted(maps.Keys(r.fields))
	if have := slices.Sorted(maps.Keys(telemetry.Fields)); !slices.Equal(have, want) {
		t.Errorf("%s: fields %v, want %v", r.device, have, want)
		return
	}
	for _, name := range want {
		if have := telemetry.Fields[name]; have != r.fields[name] {
			t.Errorf("%s: %s = %v, want %v", r.device, name, have, r.fields[name])
		}
	}
	if telemetry.Device != "pump-7" {
		t.Errorf("%s: device %q, want pump-7", r.device, telemetry.Device)
	}
}

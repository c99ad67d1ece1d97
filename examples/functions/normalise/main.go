// Command normalise is an HPMQ function that turns what different devices send
// into one form.
//
// It takes site/<site>/<device>/raw with a Tasmota SENSOR or STATE message (JSON
// text) or a Modbus RTU answer to function 3 or 4 (the frame's bytes), and
// publishes site/<site>/<device>/telemetry with
//
//	{"device":"pump-7","protocol":"modbus-rtu","fields":{"unit":17,"function":3,"registers.0":141}}
//
// Nested values are flattened: keys joined with dots, list positions as numbers.
// A payload equal to the previous one is dropped (capability prev). One that is
// neither protocol fails, so that the binding's on_error decides; by default it
// is kept on $hpmq/func/normalise/dlq.
//
// Build: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags='-s -w' -o normalise.wasm ./normalise
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	hpmq "github.com/hpmq/hpmq/funcs/sdk/go"
)

func init() { hpmq.Upstream(normalise) }

func main() {}

// telemetry is the one form of all payloads.
type telemetry struct {
	Device   string         `json:"device"`
	Protocol string         `json:"protocol"`
	Fields   map[string]any `json:"fields"`
}

func normalise(m *hpmq.Message) hpmq.Result {
	if prev, ok := m.Prev(); ok && bytes.Equal(prev, m.Payload) {
		return hpmq.Drop()
	}
	branch, ok := strings.CutSuffix(m.Topic, "/raw")
	parts := strings.Split(branch, "/")
	if !ok || len(parts) != 3 || parts[0] != "site" {
		return hpmq.Fail(fmt.Errorf("topic %q is not site/<site>/<device>/raw", m.Topic))
	}
	out := telemetry{Device: parts[2]}
	var err error
	if out.Protocol, out.Fields, err = decode(m.Payload); err != nil {
		return hpmq.Fail(err)
	}
	payload, err := json.Marshal(out)
	if err != nil {
		return hpmq.Fail(err)
	}
	return hpmq.Publish(hpmq.Message{Topic: branch + "/telemetry", Payload: payload, QoS: m.QoS, Retain: m.Retain})
}

// decode finds out the protocol. A Modbus frame proves itself by its length and
// checksum, so it is tried first.
func decode(payload []byte) (protocol string, fields map[string]any, err error) {
	fields, frameErr := decodeRTU(payload)
	if frameErr == nil {
		return "modbus-rtu", fields, nil
	}
	if text := bytes.TrimSpace(payload); len(text) == 0 || text[0] != '{' {
		return "", nil, fmt.Errorf("neither a JSON object nor a Modbus RTU answer: %w", frameErr)
	}
	fields, err = decodeTasmota(payload)
	return "tasmota", fields, err
}

// decodeTasmota flattens a JSON object. Numbers keep the digits they came with.
func decodeTasmota(payload []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if d.More() {
		return nil, errors.New("JSON: more than one value")
	}
	fields := map[string]any{}
	flatten(fields, "", object)
	if len(fields) == 0 {
		return nil, errors.New("JSON: an object without values")
	}
	return fields, nil
}

// flatten adds the leaves of v to fields under dotted names.
func flatten(fields map[string]any, name string, v any) {
	under := func(key string) string {
		if name == "" {
			return key
		}
		return name + "." + key
	}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			flatten(fields, under(key), value)
		}
	case []any:
		for i, value := range v {
			flatten(fields, under(fmt.Sprint(i)), value)
		}
	default:
		fields[name] = v
	}
}

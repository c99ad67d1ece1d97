package funcs

import (
	"encoding/json"
	"time"
)

// DeadLetter is the payload of a dead-letter message, as JSON.
type DeadLetter struct {
	Function  string    `json:"function"`
	Digest    string    `json:"digest,omitempty"` // SHA-256 of the module; empty if there is none
	Binding   string    `json:"binding,omitempty"`
	Direction string    `json:"direction"`
	Topic     string    `json:"topic"`
	Identity  string    `json:"identity"`
	ClientID  string    `json:"client_id,omitempty"`
	QoS       byte      `json:"qos"`
	Retain    bool      `json:"retain"`
	Payload   []byte    `json:"payload"` // base64 in JSON
	Error     string    `json:"error"`
	Time      time.Time `json:"time"`
}

// DeadLetterTopic is where messages that a function failed on are kept.
func DeadLetterTopic(function string) string { return "$hpmq/func/" + function + "/dlq" }

// output is the message that carries d.
func (d DeadLetter) output() Output {
	payload, err := json.Marshal(d)
	if err != nil {
		// Strings, bytes and times always encode; should that change, the
		// error is still worth keeping.
		payload = []byte(`{"error":"dead letter does not encode"}`)
	}
	return Output{Message: Message{Topic: DeadLetterTopic(d.Function), Payload: payload, QoS: 1}, Function: d.Function}
}

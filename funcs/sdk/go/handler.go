package hpmq

import "errors"

// Handler handles one message. It runs on one goroutine at a time.
type Handler func(m *Message) Result

var (
	upstream   Handler
	downstream Handler
	initialize func(config []byte) error
)

// Upstream registers the handler of messages from devices. Call it in an init
// function.
func Upstream(h Handler) { upstream = h }

// Downstream registers the handler of messages to devices. Call it in an init
// function.
func Downstream(h Handler) { downstream = h }

// Init registers a function that gets the configuration of the deployment, empty
// if there is none, once and before any message. An error keeps the function from
// starting.
func Init(f func(config []byte) error) { initialize = f }

// handle calls a registered handler.
func (h Handler) handle(m *Message) Result {
	if h == nil {
		return Fail(errors.New("the function does not handle this direction"))
	}
	return h(m)
}

// configure calls the registered Init function.
func configure(config []byte) error {
	if initialize != nil {
		return initialize(config)
	}
	if len(config) > 0 {
		return errors.New("the function takes no configuration")
	}
	return nil
}

// Command loop is a function that never returns from a message "loop" and lets
// every other one pass.
package main

import hpmq "github.com/hpmq/hpmq/funcs/sdk/go"

func init() {
	hpmq.Upstream(func(m *hpmq.Message) hpmq.Result {
		for string(m.Payload) == "loop" {
			turns++
		}
		return hpmq.Pass()
	})
}

var turns int

func main() {}

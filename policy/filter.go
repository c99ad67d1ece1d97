package policy

import (
	"errors"
	"strings"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// validFilter returns the fault of f as a topic filter of a policy, or as the topic of
// a question. Policy refuses control characters, which MQTT only advises against:
// people read policies and decisions on terminals.
func validFilter(f string) error {
	if strings.ContainsFunc(f, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return errors.New("contains a control character")
	}
	return topic.ValidFilter(f)
}

package policy

import (
	"errors"
	"strings"

	"github.com/hpmq/hpmq/mqtt/topic"
)

// validFilter says what is wrong with f as a topic filter of a policy, or as a
// topic that is asked about. Policy refuses control characters, which MQTT only
// advises against: people read policies and decisions on terminals.
func validFilter(f string) error {
	if strings.ContainsFunc(f, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return errors.New("contains a control character")
	}
	return topic.ValidFilter(f)
}
